"""The protocol under orders of steps and faults that a search picks; INTERLEAVINGS=20000 looks further, at random."""

import os

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.simulation import HandPlan, Plan, Scenario, Turn, World

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "400"))

FAULTS = ("crash-before", "crash-after", "lost-answer", "refused", "late")
MOMENTS = (0.0, 4.0, 12.0, 26.0)

turns = st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(1, 12) | st.integers(1, 60),
    fault=st.none() | st.none() | st.sampled_from(FAULTS),
)
plans = st.builds(
    Plan,
    st.integers(0, 8),
    st.sampled_from(("done", "failed", "refused", "drained")),
    st.sampled_from((5.0, 5.0, 24.0)),
)
hands = st.builds(HandPlan, st.sampled_from(MOMENTS), st.sampled_from(("completed", "failed")), st.booleans())
moments = st.none() | st.sampled_from(MOMENTS)


def scenarios(*, stalls: bool) -> st.SearchStrategy[Scenario]:
    return st.builds(
        Scenario,
        turns=st.lists(turns, max_size=40).map(tuple),
        stalls=st.just(stalls),
        submitters=st.sampled_from((("same",), ("same", "same"), ("same", "other"))),
        foreign=st.booleans(),
        forged=st.booleans(),
        copies=st.sampled_from((0, 0, 1, 2, 10)),
        max_attempts=st.integers(1, 3),
        ttl=st.sampled_from((None, None, 3.0, 30.0)),
        reply_to=st.booleans(),
        plans=st.lists(plans, max_size=4).map(tuple),
        hands=st.lists(hands, max_size=2).map(tuple),
        cancel_after=moments,
        lose_after=moments,
        slots=st.integers(1, 2),
        reader=st.booleans(),
        acknowledge=st.booleans(),
        sweeper=st.booleans(),
        doctor=st.booleans(),
        same_host=st.booleans(),
        newcomers=st.integers(0, 7),
    )


searched = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="INTERLEAVINGS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def play(scenario: Scenario) -> None:
    world = World(scenario)
    try:
        world.play()
    except BaseException:
        note("\n".join(world.stage.trace))
        raise


@pytest.mark.promise("one-result")
@pytest.mark.promise("none-lost")
@pytest.mark.promise("not-twice")
@pytest.mark.promise("bounded-attempts")
@searched
@given(scenario=scenarios(stalls=False))
def test_living_owners_that_renew_in_time(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.promise("one-result")
@pytest.mark.promise("none-lost")
@pytest.mark.promise("status-right")
@searched
@given(scenario=scenarios(stalls=True))
def test_owners_that_stall_for_any_time(scenario: Scenario) -> None:
    play(scenario)
