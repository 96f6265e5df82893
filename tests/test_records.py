"""The papers of a task over a store: agreement, and what a damaged or half-listed store may not hide."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentq.errors import EvidenceError, StoreUnavailable
from agentq.messages import Message
from agentq.records import Records
from agentq.stores.file import FileStore
from tests.samples import TASK, claim, completion, end, failing, lease, registered, report, request, seal
from tests.simulation import MemoryStore


@pytest.fixture(params=["memory", "file"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    return Records(MemoryStore() if request.param == "memory" else FileStore(tmp_path / "store"))


@pytest.mark.promise("put-if-absent")
def test_the_first_creator_wins_and_the_second_reads_who_it_was(records: Records) -> None:
    assert records.create("controls/a/x.json", b"first") is None
    assert records.create("controls/a/x.json", b"second") == b"first"
    assert records.create("controls/a/x.json", b"first") is None


@pytest.mark.promise("put-if-absent")
def test_a_lost_answer_is_read_back_as_ours() -> None:
    records, _ = failing("lost")
    assert records.create("controls/a/x.json", b"mine") is None


def test_a_lost_answer_that_hides_a_loss_is_read_back_as_anothers() -> None:
    records, seam = failing()
    records.create("controls/a/x.json", b"first")
    seam.script = ["lost"]
    assert records.create("controls/a/x.json", b"mine") == b"first"


def test_a_put_that_did_not_happen_is_raised_and_may_be_repeated() -> None:
    records, _ = failing("refused")
    with pytest.raises(StoreUnavailable):
        records.create("controls/a/x.json", b"mine")
    assert records.create("controls/a/x.json", b"mine") is None


def test_what_cannot_be_told_is_raised_and_the_repetition_finds_it_ours() -> None:
    records, _ = failing("lost", "refused")
    with pytest.raises(StoreUnavailable):
        records.create("controls/a/x.json", b"mine")
    assert records.create("controls/a/x.json", b"mine") is None


def test_a_task_is_open_and_unpublished_before_it_is_registered(records: Records) -> None:
    envelope = request()
    assert records.register(envelope) is envelope
    assert (records.marks.is_open(TASK), records.marks.is_unpublished(TASK)) == (True, True)
    assert list(records.marks.unsettled()) == list(records.marks.unpublished()) == [TASK]
    records.marks.published(TASK)
    assert (records.marks.is_open(TASK), records.marks.is_unpublished(TASK)) == (True, False)
    records.marks.close(TASK)
    assert list(records.marks.unsettled()) == []


def test_the_first_registration_holds(records: Records) -> None:
    first = records.register(request())
    assert records.register(request(instructions="Other.")) == first


@pytest.mark.promise("none-lost")
def test_forgetting_a_task_that_was_registered_meanwhile_puts_its_marks_back(records: Records) -> None:
    records.marks.open(TASK)
    records.forget(TASK)
    assert not records.marks.is_open(TASK)
    registered(records)
    records.forget(TASK)
    assert (records.marks.is_open(TASK), records.marks.is_unpublished(TASK)) == (True, True)


def test_papers_of_an_unknown_task_are_none(records: Records) -> None:
    assert records.papers(TASK) is None


def test_attempts_come_in_the_order_of_their_numbers(records: Records) -> None:
    registered(records)
    for number in range(1, 12):
        assert records.take(TASK, claim(number))
        records.end(TASK, end(number))
    assert records.take(TASK, seal(12))
    papers = records.papers(TASK)
    assert papers
    assert [attempt.number for attempt in papers.attempts] == list(range(1, 13))
    assert (papers.counted, papers.next_number, papers.seal) == (11, 13, seal(12))


def test_a_taken_number_is_lost_to_everyone_else(records: Records) -> None:
    assert records.take(TASK, claim(token="a"))
    assert not records.take(TASK, claim(token="b"))
    assert not records.take(TASK, seal(1))
    assert records.take(TASK, claim(token="a"))


def test_the_first_end_and_the_first_manifest_hold(records: Records) -> None:
    first = records.end(TASK, end(reason="first"))
    assert records.end(TASK, end(reason="second")) == first == records.ended(TASK, 1)
    manifest = records.commit(completion())
    assert records.commit(completion("failed")) == manifest == records.manifest(TASK)


def test_only_the_last_attempts_lease_is_read(records: Records) -> None:
    for number in (1, 2):
        records.take(TASK, claim(number))
        records.renew(TASK, number, lease(7))
        if number == 1:
            records.end(TASK, end(number))
    first, second = records.attempts(TASK)
    assert (first.lease, second.lease) == (None, lease(7))


class Overtaken(MemoryStore):
    """Its listings lack what `hidden` ends with, as one may that began before those papers were created."""

    hidden = ("/1.json", "/1.end.json")

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key in super().keys(prefix) if not key.endswith(self.hidden))


@pytest.mark.promise("bounded-attempts")
def test_a_listing_that_was_overtaken_hides_no_attempt_and_no_end() -> None:
    records = Records(Overtaken())
    registered(records)
    for number in (1, 2):
        records.take(TASK, claim(number))
        records.end(TASK, end(number))
    papers = records.papers(TASK)
    assert papers
    assert (papers.counted, papers.next_number) == (2, 3)


class CommittedWhileListed(MemoryStore):
    """The owner commits while somebody lists the attempts."""

    def keys(self, prefix: str) -> Iterator[str]:
        if prefix.startswith("attempts/"):
            self.put_new(f"results/{TASK}.json", completion().to_json())
        return super().keys(prefix)


@pytest.mark.promise("status-right")
def test_a_result_that_comes_while_the_papers_are_read_is_seen() -> None:
    records = Records(CommittedWhileListed())
    registered(records)
    records.take(TASK, claim())
    papers = records.papers(TASK)
    assert papers
    assert papers.manifest == completion()


@pytest.mark.parametrize(
    "key", [f"tasks/{TASK}.json", f"attempts/{TASK}/1.json", f"attempts/{TASK}/1.end.json", f"results/{TASK}.json"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"\xff", b"[]"])
def test_a_damaged_paper_is_named(records: Records, key: str, damage: bytes) -> None:
    if not key.startswith("tasks/"):
        registered(records)
    if key.endswith("end.json"):
        records.take(TASK, claim())
    records.store.put_new(key, damage)
    with pytest.raises(EvidenceError, match=key):
        records.papers(TASK)


@pytest.mark.parametrize(
    ("key", "paper"),
    [
        (f"attempts/{TASK}/1.json", claim(2)),
        (f"attempts/{TASK}/1.json", seal(2)),
        (f"attempts/{TASK}/1.end.json", end(2)),
        (f"attempts/{TASK}/1.json", seal().model_copy(update={"completion": completion(task_id="task-2")})),
    ],
)
def test_a_paper_of_another_task_or_attempt_is_named(records: Records, key: str, paper: Message) -> None:
    """A seal that names another task's completion would be committed for that one again and again."""
    registered(records)
    if key.endswith("end.json"):
        records.take(TASK, claim())
    records.store.put_new(key, paper.to_json())
    with pytest.raises(EvidenceError, match=f"the paper {key} is .*'s, not its"):
        records.papers(TASK)


def test_losing_to_a_damaged_paper_is_named_too(records: Records) -> None:
    records.store.put_new(f"results/{TASK}.json", b"{}")
    with pytest.raises(EvidenceError, match=f"results/{TASK}.json is damaged"):
        records.commit(completion())


@pytest.mark.promise("evidence-checked")
def test_evidence_is_checked_against_its_digest(records: Records) -> None:
    artifact = report(records)
    records.artifacts.check(artifact)
    assert records.artifacts.read(artifact) == b"# Done\n"
    records.store.put(f"artifacts/{TASK}/1/report.md", b"# Forged\n")
    for look in (records.artifacts.check, records.artifacts.read):
        with pytest.raises(EvidenceError, match="was altered"):
            look(artifact)
    records.store.delete(f"artifacts/{TASK}/1/report.md")
    with pytest.raises(EvidenceError, match="is missing"):
        records.artifacts.read(artifact)
    with pytest.raises(EvidenceError, match="another store"):
        records.artifacts.read(artifact.model_copy(update={"ref": "s3://elsewhere/report.md"}))
