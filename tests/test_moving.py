"""Two stores under orders of steps and faults; INTERLEAVINGS=20000 looks further, at random."""

import itertools
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.moving_simulation import Copy, Moving, MovingWorld
from tests.simulation import Fault, Plan, Turn

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "60"))

pytestmark = [pytest.mark.timeout(0)] if "INTERLEAVINGS" in os.environ else []

FAULTS: tuple[Fault, ...] = ("crash-before", "crash-after", "lost-answer", "refused", "late")
MOMENTS = (0.0, 4.0, 12.0, 26.0)

# Who stands where: the workers of store a, those of b, the copiers, the cancellers.
IDLE = Moving(workers=0, workers_b=0)


def writes(who: int, number: int = 1, fault: Fault | None = None) -> Turn:
    """A turn that ends just before the next write after so many."""
    return Turn(who, number, fault, writes=True)


def failures(who: int, most: int = 16) -> list[tuple[Turn, ...]]:
    """Somebody fails at one of its writes, in every way."""
    return [(writes(who, number, fault),) for number in range(1, most) for fault in FAULTS]


def orders(first: int, second: int, most: int = 9) -> list[tuple[Turn, ...]]:
    """One goes some writes far, another some, then the first goes on."""
    both = itertools.product(range(most), range(most))
    return [(writes(first, before), writes(second, between), writes(first, 99)) for before, between in both]


KNOWN: dict[str, tuple[Moving, list[tuple[Turn, ...]]]] = {
    "a copier fails at each of its writes": (IDLE, failures(0)),
    "a copier fails while workers on both sides wait": (Moving(), failures(2)),
    "a claim and a move": (Moving(workers_b=0), orders(first=0, second=1)),
    "a move, and a claim on the other side": (Moving(workers=0), orders(first=1, second=0, most=12)),
    "two copiers": (replace(IDLE, copiers=(Copy(), Copy())), orders(first=0, second=1, most=12)),
    "there and back": (
        replace(IDLE, copiers=(Copy(), Copy("b", 4.0))),
        [(*one, *two) for one in failures(0, 12)[::4] for two in failures(1, 12)[::4]],
    ),
    "it moves out and back in the same moment": (
        replace(IDLE, copiers=(Copy(), Copy("b", 0.0, 9))),
        orders(first=0, second=1, most=12),
    ),
    "a cancel where it leaves": (replace(IDLE, cancels_at=("a",)), orders(0, 1, 12)),
    "a cancel where it arrives": (replace(IDLE, cancels_at=("b",)), orders(0, 1, 12)),
    "an attempt that failed, then a move": (
        Moving(workers_b=0, plans=(Plan(1, "failed"),), copiers=(Copy(after=6.0),)),
        orders(first=0, second=1),
    ),
    "it comes home after an attempt abroad": (
        Moving(workers_b=0, so_far="tried abroad", copiers=(Copy("b", tries=9),)),
        orders(first=1, second=0, most=14),
    ),
    "its end is copied, and a worker there has its message": (
        Moving(workers=0, so_far="ended", copies=2),
        orders(first=1, second=0, most=14),
    ),
    "it ends while it is copied": (Moving(workers_b=0, copiers=(Copy(tries=9),)), orders(first=0, second=1)),
}


@pytest.mark.promise("moved-once")
@pytest.mark.parametrize("name", KNOWN)
def test_every_order_of_two_who_meet_over_a_move(name: str) -> None:
    scenario, turns = KNOWN[name]
    for these in turns:
        MovingWorld(replace(scenario, turns=these)).play()


turns = st.builds(Turn, st.integers(0, 4), st.integers(0, 4), writes=st.just(True)) | st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(0, 4) | st.integers(1, 30),
    fault=st.none() | st.sampled_from(FAULTS),
    writes=st.booleans(),
)
plans = st.builds(
    Plan,
    st.integers(0, 6),
    st.sampled_from(("done", "failed", "refused", "drained")),
    st.sampled_from((5.0, 5.0, 24.0)),
)
copiers = st.builds(Copy, st.sampled_from("aab"), st.sampled_from((0.0, *MOMENTS)), st.integers(1, 4))
worlds = st.builds(
    Moving,
    turns=st.lists(turns, max_size=40).map(tuple),
    stalls=st.sampled_from((False, False, True)),
    max_attempts=st.integers(1, 3),
    plans=st.lists(plans, max_size=4).map(tuple),
    same_host=st.booleans(),
    newcomers=st.integers(0, 7),
    workers=st.integers(0, 2),
    workers_b=st.integers(0, 2),
    copies=st.integers(0, 2),
    ttl=st.sampled_from((None, None, 30.0)),
    copiers=st.lists(copiers, min_size=1, max_size=3).map(tuple),
    cancels_at=st.lists(st.sampled_from("ab"), max_size=1).map(tuple),
    lose_after=st.none() | st.sampled_from(MOMENTS),
    so_far=st.sampled_from(("waits", "waits", "tried abroad", "ended")),
)


@pytest.mark.promise("moved-once")
@pytest.mark.promise("none-lost")
def test_no_order_of_steps_and_faults_starts_a_task_in_two_stores() -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="INTERLEAVINGS" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(worlds)
    def search(scenario: Moving) -> None:
        world = MovingWorld(scenario)
        try:
            world.play()
        finally:
            note("\n".join(world.stage.trace))

    search()
