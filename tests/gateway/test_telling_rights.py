"""What a worker's token may tell the log: all that an honest worker tells, and nothing of others but what is true."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq import story
from agentq.claim import end_of
from agentq.errors import StoreUnavailable
from agentq.events import Event, TaskKind
from agentq.gates import look_at_gates
from agentq.gateway.reach import Reach
from agentq.gateway.telling_rights import TellingRights
from agentq.groups import plant
from agentq.messages import Completion, utc_now
from agentq.papers import Cancel, Claim, Demand
from agentq.retention import Retention
from agentq.settle import settle_in_store
from agentq.verdict import Settle
from tests import simulation
from tests.gateway.test_rights import A, B, World, carry_out, finish
from tests.samples import OWNER, request


@pytest.fixture
def world() -> World:
    return World()


def told(world: World, events: Iterable[Event]) -> list[Event]:
    """What goes into the log of what a worker of A tells, as a gateway sees it that was just started."""
    return TellingRights(A, world.truth, Reach(world.truth)).told([*events])


def heard(world: World) -> list[Event]:
    """What A's worker tells from now on."""
    found: list[Event] = []
    world.far.journal.listeners.append(found.append)
    return found


def event(name: str, kind: str, task_id: str | None = None, agent: str | None = None, **more: Any) -> Event:
    return Event(id=name, kind=kind, at=utc_now(), task_id=task_id, agent=agent, **more)


def a_day_of_work(world: World) -> list[Event]:
    """What an honest worker tells that does all that one does: for its own tasks, what waits for them, and plans."""
    events = heard(world)
    world.task("theirs", B)
    world.ended("theirs")
    for task_id, status in (("own", "completed"), ("worse", "failed")):
        world.task(task_id, A, ttl_seconds=3600)
        world.task(f"next-of-{task_id}", B, depends_on=(task_id, "theirs"), ttl_seconds=3600)
        world.task(f"last-of-{task_id}", B, depends_on=(f"next-of-{task_id}",))
        finish(world.far, world.start(task_id), status)
    world.task("tried", A)
    for _ in range(2):
        world.far.end("tried", end_of(world.start("tried").claim, A, "it broke", retry_at=utc_now()))
    verdict = world.claims.decide("tried")
    assert isinstance(verdict, Settle)
    settle_in_store(world.far, verdict.manifest)
    world.task("asked", A)
    world.far.demand_approval("asked", Demand(token="d", by=A, at=utc_now(), reason="it is dangerous"))
    world.claims.pick_up(request(task_id="raw", to=A, not_before=utc_now() + timedelta(hours=1)).to_json(), None, None)
    _a_plan(world)
    events += [
        event("raw/progress/1/1", "progress", "raw", A, attempt=1),
        event("own/output/1/0", "output", "own", A, attempt=1),
        event("own/reply/1/0", "reply", "own", A, attempt=1),
        event("own/dead_lettered/0123456789abcdef", "dead_lettered", "own", data={"reason": "another one's id"}),
        event("message/dead_lettered/0123456789abcdef", "dead_lettered", data={"reason": "no envelope"}),
        event("foreign/dead_lettered/0123456789abcdef", "dead_lettered", "foreign", data={"reason": "not signed"}),
        *(event(f"{A}@far:1/{kind}/1", f"worker_{kind}", agent=A, worker=f"{A}@far:1") for kind in ("up", "down")),
        event(f"{A}@far:1/heartbeat/1/0", "worker_heartbeat", agent=A, worker=f"{A}@far:1"),
    ]
    return events


def _a_plan(world: World) -> None:
    tasks = (
        request(task_id="p.a", to=A, group="p", reply_to=None),
        request(task_id="p.b", to=B, group="p", reply_to=None, depends_on=("p.a",)),
        request(task_id="p.c", to=B, group="p", reply_to=None, not_before=utc_now()),
    )
    group = world.task("p", "agentq", type="plan", plan=tasks)
    world.far.journal.tell(*story.submitted(group))
    plant(world.far, group)
    carry_out(world.truth, "p.c")
    cancel = world.truth.ask_cancel("p", Cancel(token="c", by="ann", at=utc_now()))
    for task_id in ("p.b", "p.a"):
        world.far.ask_cancel(task_id, cancel)
    for task_id in ("p.a", "p.b"):
        if isinstance(ended := look_at_gates(world.far, task_id), Completion):
            settle_in_store(world.far, ended)


# ---------------------------------------------------------------------- what it has to be able to tell


@pytest.mark.promise("via-same")
def test_all_that_an_honest_worker_tells_goes_into_the_log_as_it_is(world: World) -> None:
    events = a_day_of_work(world)
    kinds = {event.kind for event in events}
    assert kinds >= {*get_args(TaskKind)} - {"approved", "rejected", "expired", "approval_requested"}
    assert told(world, events) == events


@pytest.mark.promise("via-same")
def test_so_it_does_when_it_is_told_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gc` has removed what some of it was read from."""
    events = a_day_of_work(world)
    for task_id in ("next-of-own", "last-of-own"):
        carry_out(world.truth, task_id)
    world.truth.marks.close("tried")
    monkeypatch.setattr(simulation, "_must_be_mutable", len)
    gathered = Retention(world.truth, timedelta(0), unread=True).collect()
    assert {"own", "tried", "next-of-own", "next-of-worse", "p", "p.b"} <= {*gathered.tasks}
    assert told(world, events) == events


@pytest.mark.promise("via-same")
def test_a_paper_that_is_damaged_holds_up_no_other_event(world: World) -> None:
    events = a_day_of_work(world)
    world.task("below", B)
    world.task("above", B, depends_on=("below",))
    world.store.objects["tasks/below.json"] = world.store.objects["attempts/own/1.json"] = b"{"
    theirs = [event("below/submitted", "submitted", "below", B), event("above/submitted", "submitted", "above", B)]
    assert told(world, [*theirs, *events]) == events


def test_nothing_is_left_out_while_the_store_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told again when it is back."""

    def away(_: str) -> bytes | None:
        raise StoreUnavailable("away")

    events = a_day_of_work(world)
    monkeypatch.setattr(world.store, "get", away)
    with pytest.raises(StoreUnavailable):
        told(world, events)


# ---------------------------------------------------------------------- what it must not


@pytest.mark.promise("via-rights")
def test_a_message_that_is_refused_is_no_word_of_the_task_whose_id_it_bore(world: World) -> None:
    world.task("theirs", B)
    data = {"reason": "another one", "thread": "x"}
    (found,) = told(world, [event("theirs/dead_lettered/ab", "dead_lettered", "theirs", B, data=data)])
    assert (found.id, found.task_id, found.agent) == ("message/dead_lettered/ab", None, None)
    assert found.data == {"reason": "another one"}


@pytest.mark.promise("via-rights")
def test_what_is_told_before_it_is_so_keeps_no_place(world: World) -> None:
    """Not of its own tasks either: the true event would be dropped for it."""
    world.task("own", A)
    early = [event(f"own/{kind}", kind, "own", A) for kind in ("released", "cancel_requested", "completed", "settled")]
    early += [event("own/claimed/1", "claimed", "own", A, attempt=1), event("new/submitted", "submitted", "new", A)]
    assert told(world, early) == []


@pytest.mark.promise("via-rights")
@pytest.mark.parametrize(
    "forged",
    [
        event(f"{B}@far:1/up/1", "worker_up", agent=B),
        event(f"{B}@far:1/up/1", "worker_up", agent=A),
        event(f"{A}@far:1/down/1", "worker_down", agent=A, worker=f"{B}@far:1"),
        event(f"{A}@far:1/down/1", "worker_down", "theirs", A),
        event("own/approved/x", "approved", "own"),
        event("own/rejected", "rejected", "own"),
        event("own/completed", "progress", "own"),
        event("own/completed", "unheard_of", "own"),
        event("own/completed/1", "completed/1", "own"),
        event("theirs/completed", "progress", "own"),
        event("own/output/1/0", "output", "own", B),
        event("theirs/unheard_of", "unheard_of", "theirs"),
        event("message/submitted", "submitted"),
        event("x/thread_opened", "thread_opened"),
        event("own/thread_opened", "thread_opened", "own"),
        event("m-9.aaa/failed", "failed", "m-9.aaa", A, data={"thread": "x"}),
    ],
    ids=lambda event: event.id,
)
def test_what_is_nobodys_word_is_left_out(world: World, forged: Event) -> None:
    world.task("own", A)
    world.task("theirs", B)
    assert told(world, [forged]) == []


KINDS = st.sampled_from([*get_args(TaskKind), "worker_up", "thread_opened", "unheard_of"])
TASKS = ("theirs", "running", "next", "waits", "new")
WORDS = st.fixed_dictionaries({}, optional={"labels": st.just({"thread": "x"}), "summary": st.just("forged")})


def _hostile() -> World:
    """One in which there is something to forge."""
    world = World()
    world.task("own", A)
    world.task("next", B, depends_on=("own",))
    world.task("theirs", B)
    world.task("running", B)
    carry_out(world.truth, "theirs")
    claim = Claim(attempt=1, token="t", worker=B, owner=OWNER, at=utc_now(), lease_seconds=20)
    assert world.truth.take("running", claim)
    world.task("waits", B, depends_on=("running",))
    return world


@pytest.mark.promise("via-rights")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_it_tells_of_others_is_what_their_papers_say(data: st.DataObject) -> None:
    world = _hostile()
    task_id, kind = data.draw(st.sampled_from(TASKS)), data.draw(KINDS)
    which = data.draw(st.sampled_from(["", "/0", "/1", "/2", "/ab", "/1/0"]))
    said = event(
        f"{data.draw(st.sampled_from([task_id, task_id, 'own']))}/{kind}{which}",
        kind,
        data.draw(st.sampled_from([task_id, task_id, task_id, "own"])),
        data.draw(st.sampled_from([None, A, B])),
        attempt=data.draw(st.sampled_from([None, 1, 2])),
        by=data.draw(st.sampled_from([None, "coordinator", A, B])),
        data=data.draw(WORDS),
    )
    papers = {one: world.truth.papers(one) for one in TASKS}
    true = [one for found in papers.values() if found for one in story.story(found, is_open=True)]
    for found in told(world, [said]):
        if found.task_id in TASKS and papers[found.task_id or ""]:
            assert found in true
            assert found.task_id == "next"
        elif found.task_id == "new":
            assert (found.kind, found.id) == ("dead_lettered", "new/dead_lettered/" + which[1:])
        assert not any(found.id.startswith(f"{one}/") for one in TASKS if one != found.task_id)
        assert not {"labels", "thread"} & found.data.keys() or found in true or found.task_id == "own"
