"""The ledger's rows follow from the events alone, in whichever order they come, and say what the papers say."""

import itertools
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.coordinator import Coordinator
from agentq.engine import Page
from agentq.events import Event
from agentq.gates import look_at_gates
from agentq.journal import Journal
from agentq.ledger import Filter, Ledger, Shelf
from agentq.messages import Completion, Outcome, utc_now
from agentq.papers import Approval, Cancel, Claim, End, new_token
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.story import story
from tests.samples import OWNER, request
from tests.simulation import MemoryStore

PLAIN = ("first", "second", "third")
MEMBERS = ("plan.one", "plan.two")
TASKS = (*PLAIN, "plan", *MEMBERS)
HOUR = timedelta(hours=1)
HIDDEN = {"id", "doing_at"}
"""Columns that are places: they say in which order the tasks of one moment came."""


class Heard(Journal):
    """A journal that keeps all that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, Event] = {}

    def tell(self, *events: Event) -> None:
        self.events |= {event.id: event for event in events if event.id not in self.events}


class World:
    """What hands do to some tasks, as far as the papers let them."""

    def __init__(self) -> None:
        self.journal = Heard()
        self.records = Records(MemoryStore(), journal=self.journal)
        self.coordinator = Coordinator(self.records)

    def act(self, what: str, task_id: str, choice: int) -> None:
        """One step; nothing when the task is not there, or not in the state for it."""
        getattr(self, what)(task_id, choice)

    def submit(self, task_id: str, choice: int) -> None:
        if self.records.is_registered(task_id) or task_id in MEMBERS:
            return
        if task_id == "plan":
            common = {"group": "plan", "reply_to": None}
            tasks = (
                request(task_id=MEMBERS[0], **common),
                request(task_id=MEMBERS[1], depends_on=MEMBERS[:1], **common),
            )
            self.coordinator.register_plan(request(task_id="plan", plan=tasks), {})
            return
        needs = [one for one in TASKS if one != task_id and self.records.is_registered(one)][:1]
        kinds: list[dict[str, Any]] = [
            {},
            {"not_before": utc_now() + HOUR},
            {"not_before": utc_now() - HOUR},
            {"requires_approval": True},
            {"depends_on": needs, "run_if": "always"},
            {"depends_on": needs, "requires_approval": True, "not_before": utc_now() + HOUR},
        ]
        self.coordinator.register(request(task_id=task_id, **kinds[choice % len(kinds)]))

    def claim(self, task_id: str, choice: int) -> None:
        papers = self.records.papers(task_id)
        if papers and papers.is_open and not (papers.manifest or papers.running or papers.envelope.is_group):
            number, at = papers.next_number, utc_now()
            claim = Claim(attempt=number, token=new_token(), worker="w", owner=OWNER, at=at, lease_seconds=36000)
            self.records.take(task_id, claim)

    def end(self, task_id: str, choice: int) -> None:
        papers = self.records.papers(task_id)
        if papers and papers.running:
            retry = [None, utc_now() + HOUR, utc_now() - HOUR][choice % 3]
            said = {"by": "w", "at": utc_now(), "reason": "it broke", "counts": choice % 2 == 0, "retry_at": retry}
            self.records.end(task_id, End(attempt=papers.running.attempt, token=new_token(), **said))

    def finish(self, task_id: str, choice: int) -> None:
        papers = self.records.papers(task_id)
        if papers and papers.running:
            status: Outcome = ("completed", "failed")[choice % 2]
            said: dict[str, Any] = {"attempt": papers.running.attempt, "finished_at": utc_now(), "verified": True}
            done = Completion(task_id=task_id, from_="w", to="coordinator", status=status, **said)
            settle_in_store(self.records, self.records.commit(done))

    def cancel(self, task_id: str, choice: int) -> None:
        papers = self.records.papers(task_id)
        if papers and not papers.manifest and not papers.envelope.is_group:
            self.records.ask_cancel(task_id, Cancel(token=new_token(), by="me", at=utc_now()))
            self.look(task_id, choice)

    def approve(self, task_id: str, choice: int) -> None:
        papers = self.records.papers(task_id)
        if papers and papers.digest and not papers.manifest:
            self.records.approve(task_id, Approval(token=new_token(), digest=papers.digest, by="me", at=utc_now()))
            self.look(task_id, choice)

    def look(self, task_id: str, choice: int) -> None:
        if self.records.is_registered(task_id) and isinstance(
            found := look_at_gates(self.records, task_id), Completion
        ):
            settle_in_store(self.records, found)


Act = tuple[str, str, int]
ACTS = ("claim", "claim", "claim", "end", "end", "end", "finish", "cancel", "approve", "look")


@st.composite
def stories(draw: st.DrawFn) -> list[Act]:
    """Some tasks that are submitted, and what is done to them then."""
    submitted = draw(st.lists(st.sampled_from((*PLAIN, "plan")), min_size=1, max_size=2, unique=True))
    acted_upon = [one for task in submitted for one in (MEMBERS if task == "plan" else (task,))]
    acts = st.tuples(st.sampled_from(ACTS), st.sampled_from(acted_upon), st.integers(0, 5))
    return [("submit", one, draw(st.integers(0, 5))) for one in submitted] + draw(st.lists(acts, max_size=14))


def played(acts: Sequence[Act]) -> World:
    world = World()
    for act in acts:
        world.act(*act)
    return world


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    found = ledger.query("SELECT * FROM tasks ORDER BY task_id")
    return [{name: row[name] for name in row.keys() if name not in HIDDEN} for row in found]  # noqa: SIM118 - no dict


def told(folder: str, name: str, pages: Sequence[Sequence[Event]]) -> Ledger:
    ledger = Ledger.on(Shelf(Path(folder), name))
    for number, events in enumerate(pages):
        ledger.apply(Page(tuple(events), str(number)))
    return ledger


@pytest.mark.promise("ledger-order")
@settings(max_examples=60, deadline=None)
@given(stories(), st.data())
def test_any_order_and_any_repetition_of_the_same_events_gives_the_same_rows(
    acts: list[Act], data: st.DataObject
) -> None:
    events = list(played(acts).journal.events.values())
    shuffled = data.draw(st.permutations(events)) + data.draw(st.lists(st.sampled_from(events), max_size=5))
    cut = data.draw(st.integers(0, len(shuffled)))
    with (
        tempfile.TemporaryDirectory() as folder,
        told(folder, "in-order", [events]) as one,
        told(folder, "shuffled", [shuffled[:cut], shuffled[cut:]]) as other,
    ):
        assert rows(one) == rows(other)
        for row in one.tasks(Filter(), 100):
            assert other.tasks(Filter(states=(row.state,), agent=row.agent, type=row.type, text=row.task_id))
            assert one.events(row.task_id) == other.events(row.task_id)


@pytest.mark.promise("ledger-order")
@settings(max_examples=60, deadline=None)
@given(stories())
def test_the_states_are_those_that_the_papers_have(acts: list[Act]) -> None:
    world = played(acts)
    ids = list(world.records.registered_ids())
    for _ in range(2):  # looking at a task may end what is overdue
        statuses = [world.coordinator.status(task_id) for task_id in ids]
    is_open = world.records.marks.is_open
    from_papers = [event for one in ids for event in story(world.records.known(one), is_open=is_open(one))]
    with (
        tempfile.TemporaryDirectory() as folder,
        told(folder, "log", [list(world.journal.events.values())]) as of_the_log,
        told(folder, "papers", [from_papers]) as of_the_papers,
    ):
        for status, ledger in itertools.product(statuses, (of_the_log, of_the_papers)):
            row = ledger.task(status.task_id)
            assert row
            assert (row.state, row.waits_for) == (status.state, status.waits_for), status.task_id
            assert (row.counted, row.agent) == (status.attempts_counted, status.agent)


@pytest.mark.promise("ledger-order")
def test_the_last_attempt_decides_when_it_may_be_tried_again_also_when_told_backwards(tmp_path: Path) -> None:
    world = World()
    acts: list[Act] = [
        ("submit", "first", 1),
        *(one for n in (1, 2, 0) for one in (("claim", "first", 0), ("end", "first", n))),
    ]
    world = played(
        acts[:-2]
    )  # after two attempts it may be tried again since an hour ago, the first one said in an hour
    events = list(world.journal.events.values())
    with told(str(tmp_path), "backwards", [[event] for event in reversed(events)]) as ledger:
        (row,) = ledger.tasks(Filter())
        assert (row.state, row.waits_for, row.attempt) == ("pending", "queued", 2)
    world = played(acts)  # the third said nothing, and what the request said holds again
    with told(str(tmp_path), "thrice", [[event] for event in reversed(list(world.journal.events.values()))]) as ledger:
        (row,) = ledger.tasks(Filter(states=("delayed",)))
        assert (row.attempt, row.counted, row.waits_for) == (3, 2, world.coordinator.status("first").waits_for)
