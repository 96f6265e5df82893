"""A guard is believed only of whoever knows the attempt: one that was made up is a mere copy of the message."""

import pytest

from agentq.engine import Guard
from agentq.guards import guard_id
from agentq.records import Records
from agentq.verdict import Drop, LookAgain, Park, Start
from tests.samples import NOW, TASK, claim, claims_for, lease, registered
from tests.simulation import MemoryStore


@pytest.fixture
def records() -> Records:
    """A task whose first attempt runs, and was renewed once: its guard is not noted yet."""
    records = Records(MemoryStore())
    registered(records)
    records.take(TASK, claim())
    records.renew(TASK, 1, lease(1))
    return records


def pick_up(records: Records, guard: Guard, *, looked: bool = False) -> object:
    envelope = records.envelope(TASK)
    assert envelope
    return claims_for(records).pick_up(envelope.to_json(), guard, NOW, looked, was_delayed=True)


@pytest.mark.promise("forged-copy")
@pytest.mark.parametrize(
    "name",
    ["", ".", "forged", "forged.forged", guard_id("another attempt's token")],
    ids=["nothing", "a dot", "no proof", "a wrong proof", "of another attempt"],
)
def test_a_guard_that_was_made_up_ends_nothing(records: Records, name: str) -> None:
    """Also when it knows the counter: a genuine guard for a whole lease is parked instead."""
    for looked in (False, True):
        verdict = pick_up(records, Guard(1, 1, name), looked=looked)
        assert isinstance(verdict, Park)
        assert verdict.guard
        assert verdict.guard.id != name
        assert verdict.delay == 20
    assert records.ended(TASK, 1) is None


@pytest.mark.promise("taken-over")
def test_a_guard_whose_owner_died_before_noting_it_is_believed(records: Records) -> None:
    guard = Guard(1, 1, guard_id(claim().token))
    assert isinstance(pick_up(records, guard), LookAgain)
    assert isinstance(pick_up(records, guard, looked=True), Start)


@pytest.mark.promise("forged-copy")
def test_a_guard_that_was_made_up_is_dropped_when_there_is_one(records: Records) -> None:
    records.renew(TASK, 1, lease(2, guard=guard_id(claim().token)))
    assert isinstance(pick_up(records, Guard(1, 2, "forged"), looked=True), Drop)


def test_a_guard_that_an_older_version_noted_is_believed(records: Records) -> None:
    records.renew(TASK, 1, lease(2, guard="any text"))
    assert isinstance(pick_up(records, Guard(1, 2, "any text"), looked=True), Start)
