"""Notices: each in its thread exactly once, whoever dies or writes in between. INTERLEAVINGS=20000 looks further."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.errors import EvidenceError
from agentq.integrations.notices import UNATTENDED_LIMIT, Bringer, HeldTurn, Job, Passed, Ways
from agentq.integrations.threads import Mode, Notice, Thread, View
from agentq.messages import Completion
from tests.integrations.notices_simulation import (
    THREAD,
    ChatWorld,
    Checkpoint,
    Ended,
    FakeThreads,
    SimulatedTurn,
    Story,
    UserTurn,
    WakeRun,
    drive,
    job_id,
)
from tests.simulation import Actor, Broken, Turn

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "100"))

pytestmark = [pytest.mark.timeout(0)] if "INTERLEAVINGS" in os.environ else []

FAULTS = ("crash-before", "crash-after", "lost-answer", "refused")
MOMENTS, PACES = (0.0, 0.0, 0.5, 3.0, 8.0), (0.0, 0.5, 5.0)
turns = st.builds(Turn, st.integers(0, 4), st.integers(0, 4), st.none(), st.just(True)) | st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(0, 4) | st.integers(1, 20),
    fault=st.none() | st.sampled_from(FAULTS),
    writes=st.booleans(),
)
STORY: dict[str, st.SearchStrategy[Any]] = {
    "jobs": st.lists(
        st.builds(Ended, st.sampled_from(MOMENTS), st.sampled_from(("notify", "wake", "notify+wake"))),
        min_size=1,
        max_size=3,
    ).map(tuple),
    "turns": st.lists(turns, max_size=40).map(tuple),
    "stalls": st.booleans(),
    "bridges": st.integers(1, 2),
    "users": st.lists(
        st.builds(
            UserTurn,
            st.sampled_from(MOMENTS),
            st.integers(1, 3),
            st.sampled_from(PACES),
            st.sampled_from(("done", "done", "interrupted", "unanswered")),
        ),
        max_size=3,
    ).map(tuple),
    "holds_turn": st.booleans(),
    "wakes": st.lists(
        st.builds(WakeRun, st.integers(1, 3), st.sampled_from(PACES), st.none() | st.integers(0, 1)),
        max_size=4,
    ).map(tuple),
    "thefts": st.lists(st.sampled_from(MOMENTS), max_size=2).map(tuple),
    "gone": st.sampled_from((False, False, False, True)),
}
searched = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.promise("notice-once")
@searched
@given(st.builds(Story, **STORY))
def test_a_notice_is_there_exactly_once(story: Story) -> None:
    ChatWorld(story).play()


@pytest.mark.promise("notice-once")
@pytest.mark.parametrize("mode", ["notify", "wake", "notify+wake"])
def test_two_bridges_die_between_any_two_steps(mode: Mode) -> None:
    wakes, deaths, runs = (WakeRun(2, 0.5), WakeRun(2, 0.5)), Counter[int](), set[int]()
    for first in range(1, 25):
        for second in range(1, 25):
            dying = {"bridge-0": first, "bridge-1": second}
            world = ChatWorld(Story((Ended(0.0, mode), Ended(0.6, mode)), wakes=wakes, deaths=dying)).play()
            deaths[len(world.stage.dead)] += 1
            runs.add(world.ended)
    assert deaths[2] > 400, "nearly all of these steps are taken"
    assert runs <= ({0} if mode == "notify" else {1, 2}), "woken for each at most, or once for both"


# ---------------------------------------------------------------------- the search finds what is wrong


class Hasty(Bringer):
    """Acknowledges what it appended at once."""

    def __init__(self, ways: Ways, thread: Thread) -> None:
        super().__init__(replace(ways, confirm_seconds=0.0), thread)


class Forgetful(Bringer):
    """Leaves what somebody began who died."""

    async def _write(self, turn: HeldTurn, jobs: Sequence[Job], passed: Passed) -> None:
        if not (await self._threads.look(self._thread)).noticed:
            await super()._write(turn, jobs, passed)


class Alone(Bringer):
    """Takes no turn."""

    def __init__(self, ways: Ways, thread: Thread) -> None:
        world = ways.threads._world  # type: ignore[attr-defined]

        class NoTurn(SimulatedTurn):
            is_lost = False

            async def __aenter__(self) -> SimulatedTurn:
                world.holder = self
                return self

            async def __aexit__(self, *_: object) -> None:
                pass

        super().__init__(replace(ways, turn=lambda thread: NoTurn(world)), thread)


class Blind(Bringer):
    """Does not see the runs beside the last checkpoint."""

    def __init__(self, ways: Ways, thread: Thread) -> None:
        class Threads(FakeThreads):
            async def look(self, thread: Thread) -> View:
                return replace(await super().look(thread), beside=False)

        super().__init__(replace(ways, threads=Threads(ways.threads._world)), thread)  # type: ignore[attr-defined]


class Careless(Bringer):
    """Acknowledges while somebody runs the thread."""

    async def _confirm(self, view: View, there: Sequence[Job], passed: Passed) -> None:
        await super()._confirm(View("idle"), there, passed)


@pytest.mark.parametrize("bringer", [Hasty, Forgetful, Alone, Blind, Careless])
def test_the_search_finds_what_is_wrong(bringer: type[Bringer]) -> None:
    chance = Random(1)
    assert any(_breaks(_any_story(chance), bringer) for _ in range(4000))


def _breaks(story: Story, bringer: type[Bringer]) -> bool:
    try:
        ChatWorld(story, bringer).play()
    except Broken:
        return True
    return False


def _any_story(chance: Random) -> Story:
    pick, number = chance.choice, chance.randint
    lefts: tuple[Any, ...] = ("done", "done", "interrupted", "unanswered")
    modes: tuple[Any, ...] = ("notify", "wake", "notify+wake")
    faults: tuple[Any, ...] = (None, None, None, *FAULTS)
    return Story(
        jobs=tuple(Ended(pick(MOMENTS), pick(modes)) for _ in range(number(1, 3))),
        turns=tuple(
            Turn(number(0, 9), pick((number(0, 4), number(1, 20))), pick(faults), pick((True, False)))
            for _ in range(number(0, 40))
        ),
        stalls=pick((True, False)),
        bridges=number(1, 2),
        users=tuple(UserTurn(pick(MOMENTS), number(1, 3), pick(PACES), pick(lefts)) for _ in range(number(0, 3))),
        holds_turn=pick((True, False)),
        wakes=tuple(WakeRun(number(1, 3), pick(PACES), pick((None, 0, 1))) for _ in range(number(0, 4))),
        thefts=tuple(pick(MOMENTS) for _ in range(pick((0, 0, 1, 2)))),
    )


# ---------------------------------------------------------------------- one step after another


class Script:
    """A thread that is looked at and written to without anybody else, whose runs may be made to fail."""

    def __init__(self, *, thread: Checkpoint | None = None, failures: int = 0) -> None:
        self.world = ChatWorld(Story((), wakes=tuple(WakeRun(1, 0.0, 0) for _ in range(failures))))
        self.world.tip = thread or Checkpoint(None, "person")
        self.world.stage.step = lambda effect, **how: effect()  # type: ignore[method-assign]
        self.world.stage.sleep = self._sleep  # type: ignore[method-assign]
        self.world.stage._current = Actor("bridge", 1, lambda: None)
        self.between: Callable[[], object] = lambda: None
        self.ways = self.world._ways()
        self.bringer = Bringer(self.ways, THREAD)
        self.acknowledged = list[str]()
        self.ways.acknowledge = self._acknowledge

    def bring(self, *modes: Mode, after: float = 0.0) -> Passed:
        """One pass for so many jobs."""
        self.world.stage.clock += after
        jobs = [
            Job(Completion.model_construct(task_id=job_id(number), status="completed"), THREAD, mode)
            for number, mode in enumerate(modes)
        ]
        self.world.inbox = {job.task_id: job for job in jobs}
        return drive(self.bringer.bring(jobs))

    async def _acknowledge(self, task_id: str) -> None:
        self.acknowledged.append(task_id)

    def _sleep(self, seconds: float) -> None:
        self.world.stage.clock += seconds
        self.between()


def by(script: Script) -> list[str]:
    """What was put into the thread, oldest first."""
    return [one.by for one in script.world.tip.history()][::-1]


def test_a_notice_rests_in_the_thread_and_is_acknowledged_when_it_is_sure_to_be_there() -> None:
    script = Script()
    assert script.bring("notify") == Passed(appended=["job-0"], again=2.0)
    assert by(script) == ["person", "notice", "rest"]
    assert script.bring("notify", after=1.5) == Passed(again=0.5)
    assert script.bring("notify", after=0.5) == Passed(acknowledged=["job-0"])
    assert script.acknowledged == ["job-0"]


def test_several_notices_come_in_order_and_the_thread_is_woken_once() -> None:
    script = Script()
    assert script.bring("notify", "wake", "notify+wake").ran
    assert by(script) == ["person", "notice", "notice", "notice", "run"]
    assert script.world.tip.notices == ["job-2", "job-1", "job-0"]
    assert script.world.began == 1


def test_a_notice_that_was_written_over_is_appended_again_and_has_to_be_confirmed_anew() -> None:
    script = Script()
    script.bring("notify")
    script.world.tip = Checkpoint(script.world.tip.parent.parent, "person")  # type: ignore[union-attr]
    assert script.bring("notify", after=2.0) == Passed(appended=["job-0"], again=2.0)
    assert not script.acknowledged


def test_a_run_that_fails_is_tried_again_for_wake_and_nothing_is_acknowledged_meanwhile() -> None:
    script = Script(failures=2)
    for _ in range(2):
        passed = script.bring("wake", after=10.0)
        assert (passed.stand, passed.why) == ("failed", "the graph's own code failed")
    assert script.bring("wake").ran
    assert by(script) == ["person", "notice", "run"]
    assert script.bring("wake", after=2.0).acknowledged == ["job-0"]


def test_a_run_that_fails_is_left_to_the_next_turn_for_notify_and_wake() -> None:
    script = Script(failures=1)
    passed = script.bring("notify+wake")
    assert (passed.stand, passed.ran) == ("done", False)
    assert passed.why == "its run failed, and is left to the next turn: the graph's own code failed"
    assert by(script) == ["person", "notice", "rest"]
    assert script.bring("notify+wake", after=2.0).acknowledged == ["job-0"]
    assert script.world.began == 1


def test_after_ten_notices_without_a_word_of_a_person_the_thread_is_only_told() -> None:
    script = Script()
    for number in range(12):
        script.bring(*["wake"] * (number + 1))  # type: ignore[list-item]
    assert script.world.began == UNATTENDED_LIMIT
    assert by(script)[-4:] == ["notice", "rest", "notice", "rest"]
    script.world.tip = Checkpoint(script.world.tip, "person")
    script.bring(*["wake"] * 13)  # type: ignore[list-item]
    assert script.world.began == UNATTENDED_LIMIT + 1


def test_what_a_notice_is_to_do_is_read_anew_when_somebody_else_appended_it() -> None:
    script = Script()
    script.bring("notify", "wake")
    script.world.tip = script.world.tip.parent  # type: ignore[assignment] - whoever appended these died
    script.world.began = 0
    stale = [job for job in script.world.inbox.values() if job.mode == "notify"]
    assert drive(Bringer(script.ways, THREAD).bring(stale)).ran
    assert script.world.began == 1


def test_fifteen_jobs_that_end_together_wake_the_thread() -> None:
    script = Script()
    assert script.bring(*["wake"] * 15).ran  # type: ignore[list-item]


def test_a_turn_that_began_beside_the_notice_is_not_run_for_it() -> None:
    script = Script()
    idle = script.world.tip

    def begin() -> None:
        script.between = lambda: None
        script.world.put(Checkpoint(idle, "person", pending=True))

    script.between = begin
    passed = script.bring("wake")
    assert (passed.stand, passed.why, script.world.began) == ("waits", "it is running", 0)


@pytest.mark.promise("notice-waits")
@pytest.mark.parametrize(
    ("thread", "why"),
    [
        (Checkpoint(None, "step", pending=True), "it is running"),
        (Checkpoint(None, "step", pending=True, interrupted=True), "it is interrupted for a human"),
        (Checkpoint(None, "step", unanswered=True), "a tool call in it has no answer yet"),
    ],
    ids=["running", "interrupted", "unanswered"],
)
def test_a_thread_that_is_not_at_rest_is_left_as_it_is(thread: Checkpoint, why: str) -> None:
    script = Script(thread=thread)
    passed = script.bring("wake")
    assert (passed.stand, passed.why, passed.appended) == ("waits", why, [])
    assert script.world.tip is thread


def test_a_text_that_cannot_be_made_does_not_hold_up_the_notice() -> None:
    script, said = Script(), list[str]()

    async def text_of(completion: Completion) -> str:
        raise EvidenceError("the report is gone")

    async def append(thread: Thread, notices: Sequence[Notice]) -> None:
        said.extend(notice.text for notice in notices)

    script.ways.text_of = text_of
    script.bringer._threads.append = append  # type: ignore[method-assign]
    script.bring("notify")
    assert said == ["job-0 completed; its result cannot be shown: the report is gone"]
