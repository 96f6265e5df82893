"""A chat thread as a tree of checkpoints, and all who write to it, for searching orders of steps, crashes and faults.

Whoever writes loads the last checkpoint in one step and puts the next one in another: in between somebody else may do
the same, and the later one wins. Nobody stalls between these two for as long as a notice is given to be confirmed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from agentq.contest import TurnLost, TurnTaken
from agentq.errors import StoreUnavailable
from agentq.integrations.notices import Bringer, Job, Passed, Ways
from agentq.integrations.threads import Mode, Notice, Thread, ThreadFailed, View
from agentq.messages import Completion
from tests.simulation import START, Actor, Broken, Stage, Turn

T = TypeVar("T")

THREAD = Thread("thread-1", "acme")
By = Literal["seed", "person", "step", "notice", "run", "rest"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One state of the thread; `pending` says that something would run next."""

    parent: "Checkpoint | None"
    by: By
    job: str | None = None
    pending: bool = False
    interrupted: bool = False
    unanswered: bool = False

    def history(self) -> "Iterator[Checkpoint]":
        """It and its ancestors, newest first."""
        one: Checkpoint | None = self
        while one:
            yield one
            one = one.parent

    @property
    def notices(self) -> list[str]:
        """The jobs whose notices are in it, newest first."""
        return [one.job for one in self.history() if one.job]


class Ended(NamedTuple):
    """A job of the thread: when it ends, and what its notice is to do."""

    after: float
    mode: Mode


class UserTurn(NamedTuple):
    """A server's run for a person: when, for how many steps, how far apart, and how it is left."""

    after: float
    steps: int
    pace: float
    left: Literal["done", "interrupted", "unanswered"] = "done"


class WakeRun(NamedTuple):
    """A run that a bridge begins: for how many steps, how far apart, and before which of them it fails."""

    steps: int
    pace: float
    fails_at: int | None = None


@dataclass(frozen=True)
class Story:
    """Who takes part. Times are seconds."""

    jobs: tuple[Ended, ...]
    turns: tuple[Turn, ...] = ()
    stalls: bool = False
    bridges: int = 2
    users: tuple[UserTurn, ...] = ()
    holds_turn: bool = False
    wakes: tuple[WakeRun, ...] = ()
    thefts: tuple[float, ...] = ()
    gone: bool = False
    deaths: Mapping[str, int] = field(default_factory=dict)


class FlowingStage(Stage):
    """A stage on which time stands still while somebody is between loading and putting a checkpoint, and on which
    actors may die before the step of that number."""

    gaps = 0

    def __init__(self, story: "Story") -> None:
        super().__init__(story.turns, stalls=story.stalls)
        self.deaths = story.deaths
        self.taken = Counter[str]()

    def step(self, effect: Callable[[], T], **how: Any) -> T:
        self.taken[self.current.name] += 1
        if self.taken[self.current.name] == self.deaths.get(self.current.name):
            self._crash()
        return super().step(effect, **how)

    def _advance(self) -> bool:
        return self.gaps == 0 and super()._advance()


class ChatWorld:
    """One thread, its jobs, its server and its bridges."""

    def __init__(self, story: Story, bringer: type[Bringer] = Bringer) -> None:
        self.story = story
        self.stage = FlowingStage(story)
        self.tip = self.theirs = Checkpoint(None, "seed")
        self.inbox: dict[str, Job] = {}
        self.left = len(story.jobs)
        self.holder: object = None
        self.holder_process = -1
        self.began = self.ended = 0
        self.log: list[str] = []
        self._bringer = bringer
        self._wakes = iter(story.wakes)
        self._numbers = iter(range(1, 1000))

    def play(self) -> "ChatWorld":
        """Play it to its end; raises Broken."""
        try:
            self._cast()
            self.stage.run()
            self.stage.no_more_turns()
            self._check_wakes()
            if not self.story.gone:
                for body in (lambda: self._serve((UserTurn(0.0, 1, 0.0),)), self._bridge):
                    self._add("last", body, spared=True, immortal=True)
                    self.stage.run()
            self._check_the_end()
        finally:
            self.stage.close()
        return self

    def _cast(self) -> None:
        for number, ended in enumerate(self.story.jobs):
            self._add(
                f"job-{number}", lambda number=number, ended=ended: self._end(number, ended), immortal=True, spared=True
            )
        for number in range(self.story.bridges):
            self._add(f"bridge-{number}", self._bridge)
        self._add("steady", self._bridge, immortal=True)
        if self.story.users:
            self._add("server", lambda: self._serve(self.story.users))
        for moment in self.story.thefts:
            self._add("thief", lambda moment=moment: self._steal(moment), immortal=True, spared=True)

    def _add(self, name: str, body: Callable[[], object], **kind: bool) -> None:
        self.stage.add(Actor(name, next(self._numbers), body, **kind))

    # ------------------------------------------------------------------ promises

    def put(self, checkpoint: Checkpoint) -> Checkpoint:
        """Make a checkpoint the thread's last one."""
        self.tip = checkpoint
        if checkpoint.by in ("person", "step"):
            self.theirs = checkpoint
        self.log.append(f"{self.stage.clock:g} {self.stage.actor_name}: {checkpoint.by} {checkpoint.job or ''}")
        if len(set(checkpoint.notices)) < len(checkpoint.notices):
            raise Broken(f"twice in one history: {checkpoint.notices}; {self.log}")
        return checkpoint

    def acknowledge(self, task_id: str) -> None:
        """A job is marked as read."""
        self.log.append(f"{self.stage.clock:g} {self.stage.actor_name}: acknowledges {task_id}")
        if task_id not in self.tip.notices:
            raise Broken(f"{task_id} is acknowledged and not in the thread; {self.log}")
        self.inbox.pop(task_id, None)

    def _check_wakes(self) -> None:
        """What was to wake the thread did, unless somebody died in his own run there, or it was left to a turn."""
        wanted = {job_id(n) for n, ended in enumerate(self.story.jobs) if ended.mode == "wake"}
        read, before = False, set[str]()
        for one in self.tip.history():
            read = read or one.by in ("run", "step")
            if one.job in wanted and not read:
                before.add(one.job)
        if before and not self.tip.pending and not self.story.gone:
            raise Broken(f"nobody ran the thread for {before}; {self.log}")
        if all(ended.mode == "notify" for ended in self.story.jobs) and self.began:
            raise Broken(f"nobody asked for a run; {self.log}")

    def _check_the_end(self) -> None:
        """Each job's notice is there once, and none is left; nothing was taken from a thread that is gone."""
        jobs = sorted(job_id(number) for number in range(len(self.story.jobs)))
        if self.story.gone:
            if sorted(self.inbox) != jobs:
                raise Broken(f"lost with the thread: {self.inbox}")
            return
        if sorted(self.tip.notices) != jobs:
            raise Broken(f"in the thread at the end: {self.tip.notices}; {self.log}")
        if self.inbox:
            raise Broken(f"unread at the end: {list(self.inbox)}; {self.log}")

    # ------------------------------------------------------------------ actors

    def _end(self, number: int, ended: Ended) -> None:
        self.stage.sleep(ended.after)
        completion = Completion.model_construct(task_id=job_id(number), finished_at=START)
        self.inbox[job_id(number)] = Job(completion, THREAD, ended.mode)
        self.left -= 1

    def _steal(self, moment: float) -> None:
        """Take the turn away, as from somebody who stood still for too long."""
        self.stage.sleep(moment)
        self.stage.step(lambda: setattr(self, "holder", None))

    def _serve(self, users: Sequence[UserTurn]) -> None:
        for user in users:
            self.stage.sleep(user.after)
            with suppress(ThreadFailed):
                if self.story.holds_turn:
                    self._serve_in_turn(user)
                else:
                    self._take_user_turn(user)

    def _serve_in_turn(self, user: UserTurn) -> None:
        while True:
            try:
                drive(self._in_turn(user))
            except (TurnTaken, StoreUnavailable):
                self.stage.sleep(0.5)
            except TurnLost:
                return
            else:
                return

    async def _in_turn(self, user: UserTurn) -> None:
        async with SimulatedTurn(self) as turn:
            self._take_user_turn(user, turn)

    def _take_user_turn(self, user: UserTurn, turn: "SimulatedTurn | None" = None) -> None:
        with self.gap():
            one = self.load()
            one = self.write(lambda: Checkpoint(one, "person", pending=True))
        for number in range(user.steps):
            self.stage.sleep(user.pace)
            last = number == user.steps - 1
            left = user.left if last else "done"
            parent = one
            following = Checkpoint(
                parent, "step", None, not last or left == "interrupted", left == "interrupted", left == "unanswered"
            )
            one = self.write(lambda following=following: following, turn)

    def _bridge(self) -> None:
        bringer, fruitless = self._bringer(self._ways(), THREAD), 0
        while fruitless < 25 and (self.inbox or self.left):
            if not self.inbox:
                self.stage.wait(lambda: bool(self.inbox))
            again = min(5.0, 0.3 * 2**fruitless)
            with suppress(StoreUnavailable):
                jobs = self.stage.step(lambda: list(self.inbox.values()))
                passed = drive(bringer.bring(jobs))
                moved = passed.appended or passed.acknowledged or passed.stand == "done"
                fruitless = 0 if moved and not self.story.gone else fruitless + 1
                again = passed.again or again
                self._check_words(passed)
            self.stage.sleep(again)

    def _check_words(self, passed: Passed) -> None:
        if self.story.gone and passed.stand not in ("gone", "failed"):
            raise Broken(f"the thread is gone: {passed}")

    def _ways(self) -> Ways:
        async def text_of(completion: Completion) -> str:
            return self.stage.step(lambda: f"{completion.task_id} ended")

        async def unread(thread: Thread) -> list[Job]:
            return self.stage.step(lambda: list(self.inbox.values()))

        async def acknowledge(task_id: str) -> None:
            self.stage.step(lambda: self.acknowledge(task_id), writes=True)

        async def pause(seconds: float) -> None:
            self.stage.sleep(seconds)

        @contextmanager
        def running(thread: Thread) -> Iterator[None]:
            yield

        return Ways(
            FakeThreads(self),
            unread,
            lambda thread: SimulatedTurn(self),
            text_of,
            acknowledge,
            running,
            self._now,
            pause,
        )

    def _now(self) -> float:
        return self.stage.clock

    # ------------------------------------------------------------------ steps

    @contextmanager
    def gap(self) -> Iterator[None]:
        """Between loading a checkpoint and putting the next one."""
        self.stage.gaps += 1
        try:
            yield
        finally:
            self.stage.gaps -= 1

    def load(self) -> Checkpoint:
        """The thread's last checkpoint."""
        return self.stage.step(lambda: self.tip, error=ThreadFailed)

    def write(self, make: Callable[[], Checkpoint], turn: "SimulatedTurn | None" = None) -> Checkpoint:
        """Put a checkpoint; who holds the turn is cancelled when it was taken away."""

        def put() -> Checkpoint:
            if turn and turn.is_lost:
                raise asyncio.CancelledError
            return self.put(make())

        return self.stage.step(put, writes=True, error=ThreadFailed)

    def next_wake(self) -> WakeRun:
        """How the next run of a bridge goes."""
        self.began += 1
        return next(self._wakes, WakeRun(1, 0.0))


class SimulatedTurn:
    """The thread's turn: a lock that a process loses when it dies, and that may be taken away."""

    def __init__(self, world: ChatWorld) -> None:
        self._world = world

    @property
    def is_lost(self) -> bool:
        return self._world.holder is not self

    def check(self) -> None:
        if self.is_lost:
            raise TurnLost("taken away")

    async def __aenter__(self) -> "SimulatedTurn":
        def take() -> None:
            held = self._world.holder and self._world.holder_process not in self._world.stage.dead
            if held:
                raise TurnTaken("somebody else has it")
            self._world.holder, self._world.holder_process = self, self._world.stage.current.process

        try:
            self._world.stage.step(take, writes=True)
        except StoreUnavailable:  # it is not known to be held, so it is given back
            self._world.holder = None if self._world.holder is self else self._world.holder
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        was_lost = self.is_lost
        if not was_lost:
            self._world.holder = None
        if was_lost and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise TurnLost("taken away") from error


class FakeThreads:
    """The port over the world's thread, for one bridge."""

    def __init__(self, world: ChatWorld) -> None:
        self._world = world

    async def look(self, thread: Thread) -> View:
        tip, theirs = self._world.load(), self._world.theirs
        if self._world.story.gone:
            return View("gone")
        state = "unanswered" if tip.unanswered else "idle"
        state = "interrupted" if tip.interrupted else "running" if tip.pending else state
        unattended = 0
        for one in tip.history():
            if one.by == "person":
                break
            unattended += one.job is not None
        return View(
            state,  # type: ignore[arg-type]
            noticed=tip.pending and tip.by == "notice",
            woken=tip.pending and tip.by == "run",
            unattended=unattended,
            beside=theirs is not tip and theirs.pending and not theirs.interrupted,
        )

    async def missing(self, thread: Thread, task_ids: Sequence[str]) -> list[str]:
        there = self._world.load().notices
        return [task_id for task_id in task_ids if task_id not in there]

    async def append(self, thread: Thread, notices: Sequence[Notice]) -> None:
        for notice in notices:
            with self._world.gap():
                tip = self._world.load()
                if notice.task_id not in tip.notices:
                    self._world.write(lambda tip=tip, notice=notice: Checkpoint(tip, "notice", notice.task_id, True))

    async def rest(self, thread: Thread) -> None:
        with self._world.gap():
            tip = self._world.load()
            self._world.write(lambda: Checkpoint(tip, "rest"))

    async def run(self, thread: Thread, task_ids: Sequence[str]) -> None:
        turn = self._world.holder
        assert isinstance(turn, SimulatedTurn)
        tip, plan = self._world.load(), self._world.next_wake()
        if not tip.pending:
            return
        for number in range(plan.steps):
            self._world.stage.sleep(plan.pace)
            if number == plan.fails_at:
                raise ThreadFailed("the graph's own code failed")
            following = Checkpoint(tip, "run", pending=number < plan.steps - 1)
            tip = self._world.write(lambda following=following: following, turn)
        self._world.ended += 1


def job_id(number: int) -> str:
    """The id of a story's job."""
    return f"job-{number}"


def drive(step: Coroutine[Any, Any, T]) -> T:
    """What a coroutine answers that never really waits."""
    try:
        step.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits for something outside the world")
