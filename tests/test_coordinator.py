"""The coordinator's side: submit, read, acknowledge, retry, and end by hand against whoever else is at it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentq.commit import commit
from agentq.coordinator import Coordinator
from agentq.errors import Conflict, EvidenceError, Invalid, NotFound, NothingYet, StoreUnavailable
from agentq.hands import Hand, Hands
from agentq.messages import ENVELOPE_LIMIT, Completion
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.stores.file import FileStore
from tests.samples import NOW, TASK, after, claim, completion, failing, registered, report, request, seal
from tests.simulation import MemoryStore

FAILED = Hand(by="me", status="failed", reason="not needed")
DONE = Hand(by="me", status="completed", summary="Did it myself.", report=b"# By hand\n")


@pytest.fixture(params=["memory", "file"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    return Records(MemoryStore() if request.param == "memory" else FileStore(tmp_path / "store"))


@pytest.fixture
def coordinator(records: Records) -> Coordinator:
    return Coordinator(records)


def finish(records: Records, **changes: Any) -> Completion:
    """The first attempt's committed result; not settled."""
    artifact = report(records)
    records.take(TASK, claim())
    return commit(records, completion(artifacts=(artifact,), result_sha256=artifact.sha256, **changes))


# ---------------------------------------------------------------------- submitting


@pytest.mark.promise("submit-idempotent")
def test_the_same_content_is_the_same_task(records: Records, coordinator: Coordinator) -> None:
    first = coordinator.register(request())
    assert (first.new, bool(first.publish), first.envelope.is_foreign) == (True, True, False)
    again = coordinator.register(request())
    assert (again.envelope, again.new, bool(again.publish)) == (first.envelope, False, True)
    coordinator.published(TASK)
    assert not coordinator.register(request()).publish
    settle_in_store(records, finish(records))
    after_its_end = coordinator.register(request())
    assert (after_its_end.new, bool(after_its_end.publish)) == (False, False)
    assert not records.marks.is_open(TASK)


@pytest.mark.promise("submit-idempotent")
def test_another_content_under_the_same_id_is_a_conflict(records: Records, coordinator: Coordinator) -> None:
    first = coordinator.register(request())
    for change in ({"instructions": "Other."}, {"priority": "high"}, {"extra": 1}):
        with pytest.raises(Conflict, match="another content"):
            coordinator.register(request(**change))
    assert coordinator.envelope(TASK) == first.envelope


class RegisteredMeanwhile(MemoryStore):
    """Another submit of the same id comes in between looking and registering."""

    rival = b""

    def put_new(self, key: str, data: bytes) -> bool:
        if key == f"tasks/{TASK}.json":
            super().put_new(key, self.rival or data.replace(b"Do it.", b"Do that."))
        return super().put_new(key, data)


def test_two_submits_of_one_content_at_once_are_one_task() -> None:
    store = RegisteredMeanwhile()
    store.rival = Coordinator(Records(MemoryStore())).register(request()).envelope.to_json()
    found = Coordinator(Records(store)).register(request())
    assert (found.new, bool(found.publish)) == (False, True)


def test_two_submits_of_two_contents_at_once_are_a_conflict() -> None:
    store = RegisteredMeanwhile()
    store.rival = Coordinator(Records(MemoryStore())).register(request(instructions="Do that.")).envelope.to_json()
    with pytest.raises(Conflict):
        Coordinator(Records(store)).register(request())


def test_an_id_that_a_foreign_message_registered_is_the_same_task(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    found = coordinator.register(request())
    assert (found.new, bool(found.publish)) == (False, False)


@pytest.mark.promise("none-lost")
def test_a_submit_that_died_before_it_published_is_found_in_the_outbox(
    records: Records, coordinator: Coordinator
) -> None:
    coordinator.register(request())
    assert list(records.marks.unpublished()) == list(records.marks.unsettled()) == [TASK]


@pytest.mark.promise("none-lost")
def test_a_repeated_submit_puts_back_marks_that_were_lost(records: Records, coordinator: Coordinator) -> None:
    coordinator.register(request())
    records.marks.close(TASK)
    assert coordinator.register(request()).publish
    assert records.marks.is_open(TASK)


def test_a_context_lies_beside_its_task(records: Records, coordinator: Coordinator) -> None:
    envelope = coordinator.register(request(), b"# Context\n").envelope
    assert envelope.context_ref == records.store.ref(f"tasks/{TASK}.md")
    assert records.store.get(f"tasks/{TASK}.md") == b"# Context\n"
    assert not coordinator.register(request(), b"# Context\n").new
    with pytest.raises(Conflict):
        coordinator.register(request(), b"# Other\n")


def test_a_context_that_is_somebody_elses_is_a_conflict_and_marks_nothing(
    records: Records, coordinator: Coordinator
) -> None:
    records.store.put_new(f"tasks/{TASK}.md", b"# Notes\n")
    with pytest.raises(Conflict, match="is in the store with another content"):
        coordinator.register(request(), b"# Context\n")
    assert list(records.marks.unsettled()) == list(records.marks.unpublished()) == []
    assert records.store.get(f"tasks/{TASK}.md") == b"# Notes\n"


def test_long_instructions_are_moved_beside_the_task(records: Records, coordinator: Coordinator) -> None:
    long = "Do it. " * 20_000
    first = coordinator.register(request(instructions=long))
    assert records.store.get(f"tasks/{TASK}.md") == long.encode()
    assert len(first.envelope.to_json()) < ENVELOPE_LIMIT
    assert first.envelope.context_sha256
    assert not coordinator.register(request(instructions=long)).new
    with pytest.raises(Conflict):
        coordinator.register(request(instructions=long + "!"))


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"a": "x" * ENVELOPE_LIMIT}},
        {"instructions": "x" * ENVELOPE_LIMIT, "context_ref": "file:///x"},
        {"instructions": "\ud800"},
        {"extra": "\udfff"},
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(change: dict[str, Any]) -> None:
    store = MemoryStore()
    with pytest.raises(Invalid):
        Coordinator(Records(store)).register(request(**change))
    assert store.objects == {}


# ---------------------------------------------------------------------- reading


def test_an_unknown_task_is_told_as_such(records: Records, coordinator: Coordinator) -> None:
    hands = Hands(records)
    calls: list[Callable[[str], object]] = [
        coordinator.status,
        coordinator.result,
        coordinator.envelope,
        coordinator.retry,
        lambda task_id: coordinator.wait([task_id], 5),
        lambda task_id: hands.end_by_hand(task_id, DONE),
        lambda task_id: hands.cancel(task_id, "me"),
        lambda task_id: hands.approve(task_id, "me"),
        lambda task_id: hands.reject(task_id, "me", "no"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="no task nothing"):
            call("nothing")


@pytest.mark.promise("status-right")
def test_a_seal_is_committed_by_whoever_looks(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    records.take(TASK, seal())
    assert coordinator.status(TASK).state == "cancelled"
    assert coordinator.result(TASK) == records.manifest(TASK) == seal().completion
    assert not records.marks.is_open(TASK)


def test_an_expired_task_is_sealed_by_whoever_looks(records: Records, coordinator: Coordinator) -> None:
    registered(records, ttl_seconds=1)  # at a moment long past
    assert coordinator.status(TASK).state == "expired"
    papers = records.papers(TASK)
    assert papers
    assert papers.seal
    assert papers.manifest == papers.seal.completion
    assert list(records.inbox("coordinator")) == [TASK]


@pytest.mark.parametrize("sealed", [False, True])
def test_the_status_is_told_even_when_nothing_can_be_written(sealed: bool) -> None:
    records, seam = failing()
    registered(records, ttl_seconds=1)
    if sealed:
        records.take(TASK, seal())
    store = records.store
    store.put_new = _full  # type: ignore[method-assign]
    status = Coordinator(records).status(TASK)
    assert (status.state, seam.script) == ("pending", [])
    assert "ended as" in (status.reason or "")
    with pytest.raises(NothingYet):
        Coordinator(records).result(TASK)


def _full(key: str, data: bytes) -> bool:
    raise StoreUnavailable("the disk is full")


@pytest.mark.promise("taken-over")
def test_an_owner_that_is_known_to_be_gone_is_waited_for(records: Records) -> None:
    registered(records)
    records.take(TASK, claim())
    status = Coordinator(records, is_gone=lambda _: True).status(TASK)
    assert (status.state, status.waits_for) == ("pending", "lease")


def test_no_result_yet_says_what_is_waited_for(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    with pytest.raises(NothingYet, match="pending, waits for: queued"):
        coordinator.result(TASK)
    assert coordinator.wait([TASK], 0) == []
    manifest = finish(records)
    assert coordinator.wait([TASK], 5) == [manifest]


@pytest.mark.promise("evidence-checked")
def test_evidence_is_checked_with_the_reports_copy(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    manifest = finish(records)
    coordinator.check(manifest)
    settle_in_store(records, manifest)
    coordinator.check(manifest)
    assert coordinator.read(manifest.artifacts[0]) == b"# Done\n"
    records.store.put(f"results/{TASK}.md", b"# Forged\n")
    with pytest.raises(EvidenceError, match="the report's copy"):
        coordinator.check(manifest)


def test_late_evidence_is_what_the_result_does_not_name(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    manifest = finish(records)
    records.artifacts.add(f"artifacts/{TASK}/2/", "report", b"late", suffix=".md", made_by="daemon")
    assert coordinator.late_evidence(manifest) == [records.store.ref(f"artifacts/{TASK}/2/report.md")]


# ---------------------------------------------------------------------- inbox


@pytest.mark.promise("inbox-keeps")
def test_a_completion_is_unread_until_it_is_acknowledged(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    manifest = finish(records)
    settle_in_store(records, manifest)
    for _ in range(3):
        assert list(coordinator.inbox("coordinator")) == [manifest]
    assert list(coordinator.inbox("somebody-else")) == []
    for _ in range(2):
        coordinator.acknowledge("coordinator", TASK)
        assert list(coordinator.inbox("coordinator")) == []


@pytest.mark.promise("inbox-keeps")
def test_what_was_acknowledged_stays_so_when_its_settling_was_half_done(
    records: Records, coordinator: Coordinator
) -> None:
    registered(records)
    manifest = finish(records)
    records.put_in_inbox(manifest)
    coordinator.acknowledge("coordinator", TASK)
    assert not records.marks.is_open(TASK)
    assert list(coordinator.inbox("coordinator")) == []


def test_the_inbox_is_in_the_order_of_ends(records: Records, coordinator: Coordinator) -> None:
    for number, moment in enumerate((3, 1, 2)):
        manifest = completion(task_id=f"task-{number}", finished_at=after(moment))
        registered(records, task_id=manifest.task_id)
        settle_in_store(records, records.commit(manifest))
    assert [m.task_id for m in coordinator.inbox("coordinator")] == ["task-1", "task-2", "task-0"]


# ---------------------------------------------------------------------- retry


def test_a_retry_is_a_new_task_that_cites_the_old_one(records: Records, coordinator: Coordinator) -> None:
    old = registered(records, not_before=NOW, labels={"repo": "/x"})
    finish(records, status="failed")
    again = coordinator.retry(TASK)
    assert (again.retry_of, again.is_foreign, again.created_at, again.not_before) == (TASK, True, None, None)
    assert (again.instructions, again.labels) == (old.instructions, old.labels)
    assert again.task_id != TASK
    assert coordinator.retry(TASK, "task-2").task_id == "task-2"
    assert coordinator.register(again).new


def test_a_task_that_has_not_ended_is_not_retried(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    with pytest.raises(Conflict, match="has not ended"):
        coordinator.retry(TASK)


# ---------------------------------------------------------------------- by hand


@pytest.mark.promise("hand-unverified")
def test_a_task_that_waits_is_ended_by_hand(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    manifest = Hands(records).end_by_hand(TASK, DONE)
    assert (manifest.status, manifest.from_, manifest.attempt, manifest.verified) == ("completed", "me", 1, False)
    assert records.store.get(f"results/{TASK}.md") == b"# By hand\n"
    assert manifest.artifacts[0].made_by == "hand"
    assert not records.marks.is_open(TASK)
    assert list(records.inbox("coordinator")) == [TASK]


@pytest.mark.promise("result-stands")
@pytest.mark.parametrize("before", ["result", "seal"])
def test_a_task_that_has_ended_stays_so_and_what_was_brought_is_kept(
    records: Records, coordinator: Coordinator, before: str
) -> None:
    registered(records)
    if before == "result":
        finish(records)
    else:
        records.take(TASK, seal())
    with pytest.raises(Conflict, match=r"was already (completed|cancelled)"):
        Hands(records).end_by_hand(TASK, DONE, take_over=True)
    manifest = records.manifest(TASK)
    assert manifest
    assert manifest.from_ != "me"
    assert any("/hand-" in ref for ref in coordinator.late_evidence(manifest))


def test_an_attempt_that_runs_is_ended_only_when_it_is_taken_over(records: Records, coordinator: Coordinator) -> None:
    registered(records)
    records.take(TASK, claim())
    with pytest.raises(Conflict, match="is running at implementation-worker on here"):
        Hands(records).end_by_hand(TASK, FAILED)
    assert records.ended(TASK, 1) is None
    manifest = Hands(records).end_by_hand(TASK, FAILED, take_over=True)
    assert (manifest.status, manifest.attempt, manifest.reason) == ("failed", 2, "not needed")
    ended = records.ended(TASK, 1)
    assert ended
    assert (ended.by, ended.counts) == ("me", False)


def test_an_attempt_whose_worker_is_gone_needs_no_taking_over(records: Records) -> None:
    registered(records)
    records.take(TASK, claim())
    assert Hands(records, is_gone=lambda _: True).end_by_hand(TASK, FAILED).attempt == 2


class Meanwhile(MemoryStore):
    """Something happens just before a key is created, once."""

    def __init__(self, key: str, act: Callable[[], object]) -> None:
        super().__init__()
        self._key = key
        self._act: Callable[[], object] | None = act

    def put_new(self, key: str, data: bytes) -> bool:
        if key == self._key and (act := self._act):
            self._act = None
            act()
        return super().put_new(key, data)


def test_a_hand_that_loses_the_number_to_a_start_is_told_so() -> None:
    records: Records
    store = Meanwhile(f"attempts/{TASK}/1.json", lambda: records.take(TASK, claim()))
    records = Records(store)
    registered(records)
    with pytest.raises(Conflict, match="is running"):
        Hands(records).end_by_hand(TASK, DONE)
    assert records.manifest(TASK) is None


def test_a_hand_that_takes_over_and_loses_the_number_takes_over_again() -> None:
    records: Records
    store = Meanwhile(f"attempts/{TASK}/2.json", lambda: records.take(TASK, claim(2, token="next")))
    records = Records(store)
    registered(records)
    records.take(TASK, claim())
    manifest = Hands(records).end_by_hand(TASK, FAILED, take_over=True)
    assert manifest.attempt == 3
    assert [bool(attempt.end) for attempt in records.attempts(TASK)] == [True, True, False]


@pytest.mark.promise("result-stands")
def test_a_hand_that_is_overtaken_by_the_owners_commit_is_told_so() -> None:
    records: Records
    store = Meanwhile(f"results/{TASK}.json", lambda: finish(records))
    records = Records(store)
    registered(records)
    records.take(TASK, claim())
    with pytest.raises(Conflict, match="was already completed by implementation-worker"):
        Hands(records).end_by_hand(TASK, FAILED, take_over=True)
    manifest = records.manifest(TASK)
    assert manifest
    assert (manifest.status, manifest.attempt) == ("completed", 1)
    assert not records.marks.is_open(TASK)


def test_two_hands_are_decided_by_one_number() -> None:
    records: Records
    store = Meanwhile(
        f"attempts/{TASK}/1.json", lambda: Hands(records).end_by_hand(TASK, Hand(by="you", status="completed"))
    )
    records = Records(store)
    registered(records)
    with pytest.raises(Conflict, match="was already completed by you"):
        Hands(records).end_by_hand(TASK, FAILED)
