"""One task and two stores, under orders of steps and faults: copiers, and workers on both sides of one queue.

In which store the task may be acted upon is worked out from the bare objects; nothing here asks `lifecycle`.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from unittest import mock

from agentq import transfer as transfer_module
from agentq.artifacts import evidence_prefix
from agentq.claim import WRONG_STORE_DELAY, Claims, end_of
from agentq.commit import REPORT, commit, completion_of
from agentq.coordinator import Coordinator
from agentq.errors import AgentqError, Conflict, NotFound, StoreUnavailable
from agentq.hands import Hands
from agentq.papers import Claim, Owner
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.transfer import Transfer
from agentq.verdict import Park, Start, Verdict
from tests.simulation import (
    AGENT,
    ENDED,
    LEASE,
    TASK,
    Actor,
    Broken,
    MemoryStore,
    Message,
    Scenario,
    Told,
    World,
    patiently,
)

GONE = 999
"""The process of a worker that is dead."""
Where = Literal["a", "b"]
OTHER: dict[Where, Where] = {"a": "b", "b": "a"}


class Copy(NamedTuple):
    """Somebody copies the task out of a store, and tries again so often when that is not possible."""

    out_of: Where = "a"
    after: float = 0.0
    tries: int = 3


@dataclass(frozen=True)
class Moving(Scenario):
    """Who takes part; the task is registered in store `a`."""

    registered: bool = True
    submitters: tuple[Literal["same", "other"], ...] = ()
    workers: int = 1
    workers_b: int = 1
    copiers: tuple[Copy, ...] = (Copy(),)
    reader: bool = False
    so_far: Literal["waits", "tried abroad", "ended"] = "waits"
    cancels_at: tuple[Where, ...] = ()


class MovingWorld(World):
    """The actors, and the promises: it is started in one store at a time, and its result can be read in both."""

    scenario: Moving

    def __init__(self, scenario: Moving) -> None:
        super().__init__(scenario)
        self.shelves: dict[Where, dict[str, bytes]] = {"a": self.objects, "b": {}}
        self.started: dict[int, Where] = {}
        self.living: dict[int, Actor] = {}
        self.told_cancelled = False
        self._here: Where = "a"
        self._seen: dict[Where, dict[object, float]] = {}
        self.records = self._at("a", watched=False)

    def play(self) -> None:
        with mock.patch.object(transfer_module, "utc_now", self.now):
            super().play()

    # ------------------------------------------------------------------ who takes part

    def _at(self, where: Where, *, watched: bool = True) -> Records:
        """The papers in one of the stores; watched ones take steps, and may fail."""
        more: dict[str, Any] = {"seam": self.stage.step, "written": lambda key: self._look_at_homes()}
        store = MemoryStore(self.shelves[where], **(more if watched else {}))
        store.url = f"memory://{where}"
        store.newcomers = self.scenario.newcomers if watched else 0
        return Records(store, journal=Told(self.told))

    def _my_records(self) -> Records:
        return self._at(self._here)

    def _cast(self) -> None:
        plan = self.scenario
        self._register_before()
        if plan.so_far == "tried abroad":
            self._try_abroad()
        elif plan.so_far == "ended":
            self._end()
        for where, count in (("a", plan.workers), ("b", plan.workers_b)):
            self._here = where
            for number in range(count):
                self._add_worker(f"worker-{where}{number}", slots=plan.slots)
        for number, one in enumerate(plan.copiers):
            self._add(f"copier-{number}", lambda one=one: self._copy(one))
        for where in plan.cancels_at:
            self._add(f"canceller-{where}", lambda where=where: self._cancel_at(where))
        if plan.lose_after is not None:
            self._add("loser", self._lose, immortal=True)
        for where in ("a", "b"):
            self._here = where
            self._add_worker(f"steady-{where}", slots=1, immortal=True)
        self._add("finisher", self._finish, immortal=True)

    def _try_abroad(self) -> None:
        """It was moved to the other store, and one attempt there brought no result."""
        here, there = self._at("a", watched=False), self._at("b", watched=False)
        Transfer(here, there, by="somebody").bring(TASK)
        claim = self._claimed(there, 2)
        there.end(TASK, end_of(claim, "somebody", "drained", counts=False, at=self.now()))

    def _end(self) -> None:
        """It has completed, and its worker is gone: whoever met its attempt without its result would try it again."""
        here = self._at("a", watched=False)
        self._claimed(here, 1)
        report = here.artifacts.add(evidence_prefix(TASK, 1), REPORT, b"# done", suffix=".md", made_by="daemon")
        done = completion_of(here.known(TASK), "completed", by="somebody", attempt=1, artifacts=(report,))
        settle_in_store(here, commit(here, done))

    def _claimed(self, records: Records, number: int) -> Claim:
        self.stage.dead.add(GONE)
        owner = Owner(host="host", pid=GONE, boot="boot", started="somebody")
        claim = Claim(attempt=number, token="somebody", worker=AGENT, owner=owner, at=self.now(), lease_seconds=LEASE)
        assert records.take(TASK, claim)
        return claim

    def _copy(self, plan: Copy) -> None:
        if plan.after:  # to sleep for no time would end its turn, too
            self.stage.sleep(plan.after)
        for _ in range(plan.tries):
            with suppress(AgentqError):
                self._bring(plan.out_of)
                return
            self.stage.sleep(7.0)

    def _bring(self, out_of: Where) -> None:
        source, target = self._at(out_of), self._at(OTHER[out_of])
        Coordinator(source).status(TASK)
        Transfer(source, target, by="copier").bring(TASK)

    def _cancel_at(self, where: Where) -> None:
        """A cancel that was taken holds, wherever the task goes; one that comes too late is told so."""
        hands = Hands(self._at(where), is_gone=self._is_gone)
        with suppress(Conflict, NotFound, StoreUnavailable):
            if hands.cancel(TASK, "canceller") is not None:
                self.told_cancelled = True

    def _sweep(self, rounds: int) -> None:
        """A sweep on each side."""
        sides = {where: self._side(where) for where in ("a", "b")}
        for _ in range(rounds):
            for where, claims in sides.items():
                with suppress(AgentqError):
                    self._sweep_once(claims, self._seen_at(where))
            self.stage.sleep(41.0)

    def _finish(self) -> None:
        """Somebody repeats what a copier left half-done: until then its message goes round."""
        for _ in range(6):
            self.stage.sleep(500.0)
            self._finish_moves()

    def _side(self, where: Where) -> Claims:
        self._here = where
        return self._claims(f"sweeper-{where}", self.stage.current.process)

    def _seen_at(self, where: Where) -> dict[object, float]:
        return self._seen.setdefault(where, {})

    def _finish_moves(self) -> None:
        for where in ("a", "b"):
            move = self._last_move(where)
            if move and move["to"] != f"memory://{where}" and f"open/{TASK}" in self.shelves[where]:
                patiently(lambda where=where: self._bring(where))

    def _apply(self, records: Records, verdict: Verdict, message: Message) -> None:
        """Whoever parked a message for the other side is not the first one to get it back, every time."""
        super()._apply(records, verdict, message)
        if isinstance(verdict, Park) and verdict.delay == WRONG_STORE_DELAY:
            self.stage.sleep(5 * WRONG_STORE_DELAY)

    # ------------------------------------------------------------------ what the objects say

    def _papers_at(self, where: Where, prefix: str) -> Iterator[dict[str, Any]]:
        for key in sorted(self.shelves[where]):
            if key.startswith(prefix) and key.rsplit("/", 1)[1].removesuffix(".json").isdigit():
                yield json.loads(self.shelves[where][key])

    def _last_move(self, where: Where) -> dict[str, Any] | None:
        papers = sorted(self._papers_at(where, f"attempts/{TASK}/"), key=lambda paper: paper["attempt"])
        return next((paper for paper in reversed(papers) if paper["kind"] == "moved"), None)

    def _is_home(self, where: Where) -> bool:
        """Whether the task exists in that store and nothing says that it went on."""
        move = self._last_move(where)
        return f"tasks/{TASK}.json" in self.shelves[where] and (move is None or move["to"] == f"memory://{where}")

    def _look_at_homes(self) -> None:
        """At every paper: one home at most, unless it has ended and is only copied."""
        ended = any(f"results/{TASK}.json" in shelf for shelf in self.shelves.values())
        if not ended and self._is_home("a") and self._is_home("b"):
            raise Broken("the task is at home in both stores")

    # ------------------------------------------------------------------ promises that hold at every step

    def hands_out(self, start: Start) -> None:
        where: Where = "a" if start.papers.store.endswith("a") else "b"
        if start.claim.attempt in self.started:
            raise Broken(f"attempt {start.claim.attempt} was claimed twice, in {self.started[start.claim.attempt]}")
        self.started[start.claim.attempt] = where

    def starts(self, start: Start) -> None:
        if any(f"results/{TASK}.json" in shelf for shelf in self.shelves.values()) and not self.scenario.stalls:
            raise Broken("it is started although it has ended")
        number, where = start.claim.attempt, self.started[start.claim.attempt]
        if not self._is_home(where):
            raise Broken(f"attempt {number} starts in {where}, which the task has left")
        if not self.scenario.stalls:
            for other, actor in self.living.items():
                if actor.process not in self.stage.dead and (TASK, other) not in self.unheard:
                    raise Broken(f"attempt {number} starts in {where} while attempt {other} lives")
        self.living[number] = self.stage.current

    def ends(self, start: Start, pace: float) -> None:
        self.living.pop(start.claim.attempt)

    def _time_passes(self) -> None:
        self._look_at_homes()

    # ------------------------------------------------------------------ promises that hold at the end

    def _check_the_end(self) -> None:
        ended = [where for where in ("a", "b") if f"results/{TASK}.json" in self.shelves[where]]
        if not ended:
            raise Broken(f"the task never ends: {sorted(self.shelves['a'])} {sorted(self.shelves['b'])}")
        manifests = {self.shelves[where][f"results/{TASK}.json"] for where in ended}
        if len(manifests) > 1 and not self.scenario.stalls:
            raise Broken("two results")
        if self.engine.messages:
            raise Broken(f"{len(self.engine.messages)} messages go round for ever")
        for where in ("a", "b"):
            left = {f"{top}/{TASK}" for top in ("open", "outbox")} & self.shelves[where].keys()
            if left:
                raise Broken(f"{left} is left in {where}")
        if self.told_cancelled and any(json.loads(data)["status"] != "cancelled" for data in manifests):
            raise Broken("somebody was told that it is cancelled, and it is not")
        self._check_that_it_can_be_read(ended[0], noticed=len(manifests) > 1)

    def _check_that_it_can_be_read(self, where: Where, *, noticed: bool) -> None:
        """Copied to the other side, the result is there too; two results never pass unnoticed."""
        source, target = self._at(where, watched=False), self._at(OTHER[where], watched=False)
        try:
            Transfer(source, target, by="reader").bring(TASK)
        except Conflict:
            if not noticed:
                raise
            return
        if noticed:
            raise Broken("two results, and nobody was told")
        if f"arriving/{TASK}" in self.shelves[OTHER[where]]:
            raise Broken("it has arrived, and is still said to arrive")
        for records in (source, target):
            coordinator = Coordinator(records)
            manifest = coordinator.result(TASK)
            coordinator.check(manifest)
            if coordinator.status(TASK).state not in ENDED:
                raise Broken("a result, and the state is another")
            if f"inbox/{manifest.to}/{TASK}.json" not in records.store.keys(f"inbox/{manifest.to}/"):
                raise Broken(f"the inbox of {records.store.url} lacks the completion")
