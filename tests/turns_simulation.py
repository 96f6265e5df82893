"""A world of processes that want the same turn, for searching orders of steps, crashes and stalls.

A store call takes effect in one step and is answered in a later one, so that time may pass before and after. Never do
two processes hold the turn for all that they know, and when nothing goes wrong any more everybody has had it.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from unittest import mock

from agentq import contest as contest_module
from agentq.contest import Contest, Flag, Ground, TurnTaken
from agentq.errors import StoreUnavailable
from agentq.papers import Owner
from tests.simulation import START, Actor, Broken, Crashed, MemoryStore, Stage, Turn

T = TypeVar("T")

KEY = "thread 1"
LEASE = 20.0
PATIENCE = 1000.0


class Wish(NamedTuple):
    """When a process wants the turn, and what it does with it: so many steps, so far apart."""

    after: float
    steps: int
    pace: float


@dataclass(frozen=True)
class Meeting:
    """Who meets, and what goes wrong. Times are seconds."""

    wishes: tuple[Wish, ...]
    turns: tuple[Turn, ...] = ()
    jumps: tuple[float, ...] = ()
    same_host: bool = False
    newcomers: int = 0


class StallingStage(Stage):
    """A stage on which time may also jump while somebody is about to act."""

    def __init__(self, turns: Sequence[Turn], jumps: Sequence[float]) -> None:
        super().__init__(turns, stalls=bool(jumps))
        self._jumps = iter(jumps)

    def _advance(self) -> bool:
        jump = next(self._jumps, 0.0) if any(self._is_able(actor) for actor in self.actors) else 0.0
        self.clock += jump
        return bool(jump) or super()._advance()


class TurnsWorld:
    """The processes of a meeting, over one store."""

    def __init__(self, meeting: Meeting, contest: type[Contest] = Contest) -> None:
        self.meeting = meeting
        self.stage = StallingStage(meeting.turns, meeting.jumps)
        self.objects: dict[str, bytes] = {}
        self.contests: dict[int, list[Contest]] = {}
        self.served: list[int] = []
        self._make = contest
        self._store = MemoryStore(self.objects, seam=self._seam)
        self._store.newcomers = meeting.newcomers

    def play(self) -> "TurnsWorld":
        """Play it to its end; raises Broken."""
        tokens, chance = itertools.count(1), random.Random(7)
        with ExitStack() as stack:
            stack.callback(self.stage.close)
            for name, value in {
                "new_token": lambda: f"{next(tokens) * 7919 % 10007:032x}",
                "utc_now": lambda: START,
                "this_process": self._owner,
                "random": chance,
            }.items():
                stack.enter_context(mock.patch.object(contest_module, name, value))
            for number, wish in enumerate(self.meeting.wishes):
                self._add(number, wish)
            self.stage.run()
            self._check_the_end()
        return self

    def _add(self, process: int, wish: Wish, *, spared: bool = False) -> None:
        ground = Ground(self._store, LEASE, self._now, self._is_gone)
        self.contests[process] = []
        self.stage.add(Actor(f"process-{process}", process, lambda: self._want(process, wish, ground), spared=spared))
        self.stage.add(Actor(f"renewer-{process}", process, lambda: self._renew(process), spared=spared))

    def _check_the_end(self) -> None:
        """Whoever comes last finds the turn free in the end, and leaves nothing behind."""
        alive = set(range(len(self.meeting.wishes))) - self.stage.dead
        if missing := alive - set(self.served):
            raise Broken(f"never had the turn: {missing}")
        self.stage.no_more_turns()
        self._add(99, Wish(0.0, 1, 0.0), spared=True)
        self.stage.run()
        while self.stage._land():
            pass
        self._add(100, Wish(3 * LEASE, 1, 0.0), spared=True)
        self.stage.run()
        if self.objects:
            raise Broken(f"left behind: {sorted(self.objects)}")

    # ------------------------------------------------------------------ what processes do

    def _want(self, process: int, wish: Wish, ground: Ground) -> None:
        self.stage.sleep(wish.after)
        while process not in self.served:
            contest = self._make(ground, KEY)
            self.contests[process].append(contest)
            try:
                contest.take(PATIENCE, self._pause)
            except (StoreUnavailable, TurnTaken):
                self.stage.sleep(1.0)
                continue
            self._use(process, wish, contest)
            self._let_go(contest)
        self.contests[process].append(contest)

    def _use(self, process: int, wish: Wish, contest: Contest) -> None:
        for _ in range(wish.steps):
            with suppress(StoreUnavailable):
                self.stage.step(self._check)
            self.stage.sleep(wish.pace)
            if not contest.is_held:
                return
        self.served.append(process)

    def _let_go(self, contest: Contest) -> None:
        for _ in range(20):
            try:
                contest.let_go()
            except StoreUnavailable:
                self.stage.sleep(0.5)
            else:
                return

    def _renew(self, process: int) -> None:
        mine = self.contests[process]
        while process not in self.served:
            self.stage.wait(lambda: process in self.served or bool(mine and mine[-1].is_held))
            if process in self.served:
                return
            contest = mine[-1]
            self.stage.sleep(LEASE / 4)
            try:
                if contest.is_held:
                    contest.renew()
            except StoreUnavailable:
                continue

    def _check(self) -> None:
        """Only one may think that it has the turn."""
        living = {process: contests for process, contests in self.contests.items() if process not in self.stage.dead}
        holders = [process for process, contests in living.items() if any(one.is_held for one in contests)]
        if len(holders) > 1:
            raise Broken(f"{holders} hold the turn at {self.stage.clock}")

    # ------------------------------------------------------------------ what they stand on

    def _seam(self, effect: Callable[[], T], **how: Any) -> T:
        answer = self.stage.step(effect, **how)
        self.stage.step(self._check)
        return answer

    def _now(self) -> float:
        return self.stage.clock

    def _pause(self, seconds: float) -> bool:
        self.stage.sleep(seconds)
        return False

    def _owner(self) -> Owner:
        process = self.stage.current.process
        return Owner(host=f"host-{process}", pid=process, boot="boot", started=str(process))

    def _is_gone(self, flag: Flag) -> bool:
        return self.meeting.same_host and flag.owner.pid in self.stage.dead


__all__ = ["KEY", "LEASE", "Broken", "Crashed", "Meeting", "Turn", "TurnsWorld", "Wish"]
