"""The protocol under orders of steps and faults that a search picks; INTERLEAVINGS=20000 looks further, at random."""

import itertools
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.gates_simulation import DIAMOND, Act, Gated, GatedWorld, Node
from tests.simulation import Fault, HandPlan, Plan, Scenario, Turn, World

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "100"))

pytestmark = [pytest.mark.timeout(0)] if "INTERLEAVINGS" in os.environ else []

FAULTS = ("crash-before", "crash-after", "lost-answer", "refused", "late")
MOMENTS = (0.0, 4.0, 12.0, 26.0)

turns = st.builds(Turn, st.integers(0, 3), st.integers(0, 4), writes=st.just(True)) | st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(0, 4) | st.integers(1, 20),
    fault=st.none() | st.sampled_from(FAULTS),
    writes=st.booleans(),
)
plans = st.builds(
    Plan,
    st.integers(0, 8),
    st.sampled_from(("done", "failed", "refused", "drained")),
    st.sampled_from((5.0, 5.0, 24.0)),
)
reviews = st.builds(Plan, st.integers(0, 2), st.sampled_from(("approve", "request-changes")), st.just(5.0))
hands = st.builds(HandPlan, st.sampled_from(MOMENTS), st.sampled_from(("completed", "failed")), st.booleans())
moments = st.sampled_from(MOMENTS)

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "turns": st.lists(turns, max_size=40).map(tuple),
    "stalls": st.booleans(),
    "max_attempts": st.integers(1, 3),
    "plans": st.lists(plans, max_size=4).map(tuple),
    "same_host": st.booleans(),
    "newcomers": st.integers(0, 7),
    "far": st.booleans(),
}
WAITING: dict[str, st.SearchStrategy[Any]] = {
    "registered": st.just(True),
    "submitters": st.just(()),
    "workers": st.just(1),
    "reader": st.just(False),
}
MEETINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "workers and copies": {
        **WAITING,
        "workers": st.just(2),
        "slots": st.integers(1, 2),
        "copies": st.integers(1, 3),
    },
    "hands and owners": {
        **WAITING,
        "hands": st.lists(hands, min_size=1, max_size=2).map(tuple),
        "reader": st.booleans(),
        "sweeper": st.booleans(),
    },
    "ends and starts": {
        **WAITING,
        "ttl": st.sampled_from((3.0, 5.0)) | st.none(),
        "cancel_after": moments | st.none(),
        "reader": st.just(True),
        "acknowledge": st.booleans(),
    },
    "submitters and menders": {
        "submitters": st.sampled_from((("same",), ("same", "same"), ("same", "other"))),
        "foreign": st.booleans(),
        "forged": st.booleans(),
        "workers": st.just(0),
        "reader": st.just(False),
        "sweeper": st.booleans(),
        "doctor": st.just(True),
    },
    "everybody": {
        "submitters": st.sampled_from((("same",), ("same", "same"), ("same", "other"))),
        "foreign": st.booleans(),
        "forged": st.booleans(),
        "copies": st.sampled_from((0, 1, 10)),
        "ttl": st.sampled_from((None, None, 3.0, 30.0)),
        "reply_to": st.booleans(),
        "hands": st.lists(hands, max_size=2).map(tuple),
        "cancel_after": st.none() | moments,
        "lose_after": st.none() | moments,
        "slots": st.integers(1, 2),
        "acknowledge": st.booleans(),
        "sweeper": st.booleans(),
        "doctor": st.booleans(),
    },
}


def writes(who: int, number: int = 1, fault: Fault | None = None) -> Turn:
    """A turn that ends just before the next write after so many."""
    return Turn(who, number, fault, writes=True)


ALONE = Scenario(registered=True, submitters=(), workers=1, reader=False)
TAKEN_OVER = replace(ALONE, hands=(HandPlan(0.0, "failed", take_over=True),))
KNOWN = {
    "an owner that stalled commits between the end of its attempt and the claim of the next": replace(
        ALONE,
        stalls=True,
        copies=1,
        # The owner stops before its commit; the copy guards it, time passes twice, and it is buried.
        turns=(writes(0, 2), writes(1, 2), Turn(1, 0), writes(1), Turn(1, 0), writes(1), writes(0)),
    ),
    "an owner commits between a hand's seal and its manifest": replace(
        TAKEN_OVER, turns=(writes(0, 2), Turn(1, 1), Turn(1, 1), writes(1, 3), writes(0))
    ),
    "a worker that stalled claims a task whose TTL ran out": replace(
        ALONE,
        stalls=True,
        ttl=3.0,
        hands=(HandPlan(4.0, "failed", False),),
        turns=(Turn(2, 1), writes(0, 0), Turn(2, 0)),
    ),
    "a hand is about to seal when the task is started": replace(
        TAKEN_OVER, turns=(Turn(2, 1), writes(2), writes(0), writes(2, 2))
    ),
    "a worker dies after it sealed a task that it gave up, and a reader commits the seal": replace(
        ALONE,
        max_attempts=1,
        plans=(Plan(0, "failed"),),
        reader=True,
        turns=(writes(0, 4, "crash-after"), writes(1, 20)),
    ),
    "the answer to a claim is lost, and so is the look whose it is": replace(
        ALONE, turns=(writes(0, 1, "lost-answer"), Turn(0, 1, "refused"))
    ),
    "a claim is ours, and the store is away when the result is looked for": replace(
        ALONE, turns=(writes(0, 1), Turn(0, 2), Turn(0, 1, "refused"))
    ),
    "a claim is written after its answer was given up": replace(ALONE, turns=(writes(0, 1, "late"), Turn(1, 0))),
    "a submit is about to register while its marks are removed": Scenario(
        workers=0, reader=False, doctor=True, turns=(writes(0, 2), writes(2, 1), writes(0, 3), writes(1, 1))
    ),
    "a submit registers just after its marks were removed": Scenario(
        workers=0, reader=False, doctor=True, turns=(writes(0, 2), writes(2, 9))
    ),
    "a submit dies between registering and publishing": Scenario(turns=(writes(0, 3, "crash-after"),)),
    "a submit dies between publishing and noting it": Scenario(turns=(writes(0, 4, "crash-after"),)),
}


def _searched(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize="INTERLEAVINGS" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.parametrize("name", KNOWN)
def test_an_interleaving_that_was_thought_of(name: str) -> None:
    World(KNOWN[name]).play()


@pytest.mark.promise("one-result")
@pytest.mark.promise("none-lost")
@pytest.mark.promise("not-twice")
@pytest.mark.promise("bounded-attempts")
@pytest.mark.promise("status-right")
@pytest.mark.promise("via-refused")
@pytest.mark.parametrize("meeting", MEETINGS)
def test_no_order_of_steps_and_faults_breaks_a_promise(meeting: str) -> None:
    @_searched(EXAMPLES)
    @given(st.builds(Scenario, **(COMMON | MEETINGS[meeting])))
    def search(scenario: Scenario) -> None:
        world = World(scenario)
        try:
            world.play()
        finally:
            note("\n".join(world.stage.trace))

    search()


# ---------------------------------------------------------------------- gates


def orders(*fault: Fault, first: int = 0, second: int = 1, most: int = 9) -> list[tuple[Turn, ...]]:
    """One goes some writes far, another some, then the first goes on, or fails at its next or a later write."""
    ends = [(writes(first, after, how),) for after in (1, 2, 3) for how in fault] or [
        (writes(first, 99), writes(second, 99))
    ]
    both = itertools.product(range(most), range(most), ends)
    return [(writes(first, before), writes(second, between), *end) for before, between, end in both]


def failures(who: int, *fault: Fault, most: int = 16) -> list[tuple[Turn, ...]]:
    """Somebody fails at one of its writes."""
    return [(writes(who, number, how),) for number in range(1, most) for how in fault]


# Who stands where: submitters, workers, "steady", acts, readers, sweepers, doctor.
BY_HAND = Gated(tasks=DIAMOND[:3], workers=0)
CHAIN = (Node("a"), Node("b", ("a",)))
LOOP = (*CHAIN, Node("c", ("a", "b"), asked=True), Node("d", ("c", "b")))
APPROVED = Gated(tasks=(Node("a", approval=True),), workers=0)
SUBMITTED = Gated(tasks=DIAMOND[:3], plan=True, registered=False, submitters=1, workers=0)
KNOWN_OVER_GATES: dict[str, tuple[Gated, list[tuple[Turn, ...]]]] = {
    "two dependencies finish in the same moment": (
        replace(BY_HAND, workers=2),
        orders(first=0, second=1),
    ),
    "two dependencies are completed by hand in the same moment": (
        replace(BY_HAND, acts=(Act("completed"), Act("completed", target=1))),
        orders(first=1, second=2),
    ),
    "an approval and the last dependency come together": (
        Gated(
            tasks=(Node("a"), Node("b", ("a",), approval=True)),
            workers=0,
            acts=(Act("completed"), Act("approve", target=1)),
        ),
        orders(first=1, second=2),
    ),
    "a worker dies between commit and release": (
        Gated(tasks=CHAIN),
        failures(0, "crash-before", "crash-after"),
    ),
    "a hand dies while it completes a dependency": (
        replace(BY_HAND, tasks=CHAIN, acts=(Act("completed"),)),
        failures(1, "crash-before", "crash-after", "lost-answer"),
    ),
    "a dependency is completed by hand while its worker does": (
        Gated(tasks=CHAIN, acts=(Act("take over"),)),
        orders(first=0, second=2),
    ),
    "a task is registered while the one that it needs ends": (
        Gated(tasks=CHAIN, registered=False, submitters=1, workers=0),
        orders(first=0, second=1, most=12),
    ),
    "a submit dies while the task ends that it needs": (
        Gated(tasks=CHAIN, registered=False, submitters=1, workers=0),
        orders("crash-after", first=0, second=1),
    ),
    "a foreign task is registered while the one that it needs ends": (
        Gated(tasks=CHAIN, registered=False, submitters=1, foreign=(1,), workers=2),
        orders(first=1, second=2),
    ),
    "a foreign message is refused while its task is submitted, and a write comes late": (
        replace(APPROVED, registered=False, submitters=1, foreign=(0,), acts=(Act("approve", 4.0),), far=True),
        failures(1, "late", most=8),
    ),
    "a context is altered while its task is approved": (
        replace(APPROVED, acts=(Act("approve"), Act("alter"), Act("approve", 4.0))),
        orders(first=1, second=2),
    ),
    "a context is altered while its task is claimed": (
        replace(APPROVED, acts=(Act("approve"), Act("alter"))),
        [(writes(1, 9), writes(0, steps), writes(1), writes(0, 99)) for steps in range(6)],
    ),
    "one approves and another rejects": (
        replace(APPROVED, acts=(Act("approve"), Act("reject"))),
        orders(first=1, second=2),
    ),
    "an approver dies": (
        replace(APPROVED, acts=(Act("approve"),)),
        failures(1, "crash-before", "crash-after", "lost-answer", most=8),
    ),
    "a demand for an approval and a cancel": (
        Gated(tasks=(Node("a", irreversible=True), Node("b", ("a",))), acts=(Act("cancel"), Act("approve"))),
        orders(first=0, second=2),
    ),
    "what cannot be undone fails, or whoever runs it dies": (
        Gated(
            tasks=(Node("a", irreversible=True),),
            workers=1,
            acts=(Act("approve"),),
            plans=(Plan(1, "failed"), Plan(1, "drained")),
        ),
        failures(0, "crash-before", "crash-after", "lost-answer"),
    ),
    "a plan is cancelled while it is registered": (
        replace(SUBMITTED, acts=(Act("cancel", target=3),)),
        orders(first=0, second=2, most=12),
    ),
    "a submit of a plan dies, and another repeats it": (
        replace(SUBMITTED, submitters=2),
        failures(0, "crash-before", "crash-after", "lost-answer"),
    ),
    "a submit of a plan dies while doctor removes the marks of what is not registered": (
        replace(SUBMITTED, doctor=True, stalls=True),
        orders("crash-after", first=0, second=2),
    ),
    "a submit of a plan dies, and doctor has removed its mark": (
        replace(SUBMITTED, doctor=True, stalls=True),
        [(writes(0, 1), writes(2, 3), writes(0, number, "crash-after")) for number in range(1, 16)],
    ),
    "the last two tasks of a plan end in the same moment": (
        Gated(tasks=DIAMOND[:2], plan=True, workers=0, acts=(Act("completed"), Act("failed", target=1))),
        orders(first=1, second=2),
    ),
    "a review approves while it is completed by hand without a verdict": (
        Gated(tasks=LOOP, plan=True, plans=(Plan(1, "done"), Plan(2, "approve")), acts=(Act("take over", 4.0, 1),)),
        orders(first=0, second=2),
    ),
    "who seals what a review made needless dies": (
        Gated(tasks=LOOP, plan=True, plans=(Plan(0, "done"), Plan(0, "approve")), sweepers=1),
        failures(0, "crash-before", "crash-after", "lost-answer"),
    ),
    "a dependent expires while it is released": (
        Gated(tasks=(Node("a"), Node("b", ("a",), ttl=5.0)), stalls=True, acts=(Act("completed"),), readers=1),
        orders(first=2, second=3),
    ),
}


@pytest.mark.promise("gates")
@pytest.mark.promise("approval")
@pytest.mark.promise("plan")
@pytest.mark.parametrize("name", KNOWN_OVER_GATES)
def test_every_order_of_two_who_meet_over_a_gate(name: str) -> None:
    scenario, turns = KNOWN_OVER_GATES[name]
    for these in turns:
        GatedWorld(replace(scenario, turns=these)).play()


def _chance(one_in: int) -> st.SearchStrategy[bool]:
    return st.sampled_from([True] + [False] * (one_in - 1))


def _graph(approval: st.SearchStrategy[bool], irreversible: st.SearchStrategy[bool]) -> st.SearchStrategy[Any]:
    """`a` and `b`, `c` that needs both, and `d` that needs `c`, or some of these."""
    least = {"always": _chance(3), "asked": _chance(3), "approval": approval, "irreversible": irreversible}
    ttl = st.sampled_from((None, None, None, 5.0, 30.0))
    nodes = [st.builds(Node, st.just(node.name), st.just(node.needs), ttl=ttl, **least) for node in DIAMOND]
    return st.tuples(*nodes) | st.tuples(*nodes[:3])


def _acts(*what: str, least: int = 0, most: int = 3) -> st.SearchStrategy[Any]:
    acts = st.builds(Act, st.sampled_from(what), moments, st.integers(0, 4))
    return st.lists(acts, min_size=least, max_size=most).map(tuple)


never = st.just(False)
numbers = st.lists(st.integers(0, 3), max_size=2).map(tuple)
GATED: dict[str, st.SearchStrategy[Any]] = {
    "turns": st.lists(turns, max_size=40).map(tuple),
    "stalls": _chance(3),
    "max_attempts": st.integers(1, 2),
    "plans": st.lists(reviews | plans, max_size=6).map(tuple),
    "same_host": st.booleans(),
    "newcomers": st.integers(0, 7),
    "far": st.booleans(),
}
GATED_MEETINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "dependencies": {
        "tasks": _graph(never, never),
        "workers": st.integers(0, 2),
        "slots": st.integers(1, 2),
        "copies": st.integers(0, 1),
        "acts": _acts("completed", "failed", "take over", "cancel", "lose everything", least=1),
        "readers": st.integers(0, 1),
        "sweepers": st.integers(0, 1),
    },
    "approvals": {
        "tasks": _graph(_chance(2), _chance(3)),
        "forged": numbers,
        "acts": _acts("approve", "approve", "approve", "reject", "alter", "completed", "cancel", least=2, most=6),
        "readers": st.integers(0, 1),
        "sweepers": st.integers(0, 1),
        "doctor": st.booleans(),
    },
    "plans": {
        "tasks": _graph(_chance(6), never),
        "plan": st.just(True),
        "registered": st.booleans(),
        "submitters": st.integers(1, 2),
        "workers": st.integers(0, 1),
        "acts": _acts("cancel", "completed", "failed", "approve", "lose everything"),
        "readers": st.integers(0, 1),
        "acknowledge": st.booleans(),
        "sweepers": st.integers(0, 1),
        "doctor": st.booleans(),
    },
    "submitters and foreign producers": {
        "tasks": _graph(_chance(4), _chance(6)),
        "registered": st.just(False),
        "submitters": st.integers(1, 2),
        "foreign": numbers,
        "forged": numbers,
        "copies": st.integers(0, 1),
        "workers": st.integers(0, 1),
        "acts": _acts("cancel", "completed", "approve", "lose everything"),
        "readers": st.integers(0, 1),
        "sweepers": st.integers(0, 1),
        "doctor": st.booleans(),
    },
    "everybody over gates": {
        "tasks": _graph(_chance(3), _chance(3)),
        "plan": st.booleans(),
        "registered": st.booleans(),
        "submitters": st.integers(0, 2),
        "foreign": numbers,
        "forged": numbers,
        "copies": st.integers(0, 1),
        "workers": st.integers(0, 2),
        "slots": st.integers(1, 2),
        "acts": _acts(
            "approve",
            "approve",
            "reject",
            "cancel",
            "completed",
            "failed",
            "take over",
            "alter",
            "lose everything",
            most=6,
        ),
        "readers": st.integers(0, 2),
        "acknowledge": st.booleans(),
        "sweepers": st.integers(0, 2),
        "doctor": st.booleans(),
    },
}


@pytest.mark.promise("gates")
@pytest.mark.promise("approval")
@pytest.mark.promise("cancel")
@pytest.mark.promise("plan")
@pytest.mark.parametrize("meeting", GATED_MEETINGS)
def test_no_order_of_steps_and_faults_breaks_a_gate(meeting: str) -> None:
    @_searched(EXAMPLES // 2)
    @given(st.builds(Gated, **(GATED | GATED_MEETINGS[meeting])))
    def search(scenario: Gated) -> None:
        world = GatedWorld(scenario)
        try:
            world.play()
        finally:
            note("\n".join(world.stage.trace))

    search()
