"""How a task ends: the number, the commit point, and what follows it in any order and any number of times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentq.commit import commit, completion_of, seal
from agentq.errors import EngineUnavailable
from agentq.events import Event
from agentq.lifecycle import Papers
from agentq.messages import Completion, Envelope, sha256_hex
from agentq.records import Records
from agentq.settle import file_papers, settle, settle_in_store
from agentq.stores.file import FileStore
from tests.samples import NOW, TASK, claim, completion, end, registered, report
from tests.simulation import MemoryStore

INBOX = f"inbox/coordinator/{TASK}.json"


@pytest.fixture(params=["memory", "file"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    return Records(MemoryStore() if request.param == "memory" else FileStore(tmp_path / "store"))


class Notices:
    """An engine that only notes what it is told, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.notices: list[tuple[str, str]] = []
        self.dead: list[tuple[str, str]] = []
        self.events: list[str] = []

    async def notify(self, completion: Completion, reply_to: str) -> None:
        self._answer()
        self.notices.append((completion.task_id, reply_to))

    async def append(self, events: Sequence[Event]) -> None:
        self._answer()
        self.events += [event.id for event in events]

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        self._answer()
        self.dead.append((envelope.task_id, reason))

    def _answer(self) -> None:
        if self.away:
            raise EngineUnavailable("away")


def papers(records: Records) -> Papers:
    found = records.papers(TASK)
    assert found
    return found


def done(records: Records, **changes: Any) -> Completion:
    """A committed completion with a report."""
    artifact = report(records)
    records.take(TASK, claim())
    return commit(records, completion(artifacts=(artifact,), result_sha256=artifact.sha256, **changes))


def test_a_completion_names_its_report_and_whom_it_is_for(records: Records) -> None:
    registered(records, **{"from": "planner"})
    artifact = report(records)
    made = completion_of(papers(records), "completed", by="w", attempt=1, artifacts=(artifact,), finished_at=NOW)
    assert (made.to, made.from_, made.result_sha256, made.result_ref) == ("planner", "w", artifact.sha256, None)
    committed = commit(records, made)
    assert committed.result_ref == records.store.ref(f"results/{TASK}.md")
    bare = completion_of(papers(records), "failed", by="w", attempt=1)
    assert (bare.result_sha256, bare.result_ref) == (None, None)


@pytest.mark.promise("one-result")
def test_the_first_commit_holds(records: Records) -> None:
    registered(records)
    first = done(records)
    assert commit(records, completion("failed", attempt=2)) == first == records.manifest(TASK)


def test_a_seal_takes_the_next_number_and_commits(records: Records) -> None:
    registered(records)
    records.take(TASK, claim())
    records.end(TASK, end())
    manifest = seal(records, papers(records), completion("failed", attempt=99), by="hand")
    assert manifest
    assert (manifest.attempt, manifest) == (2, records.manifest(TASK))
    sealed = papers(records).seal
    assert sealed
    assert (sealed.by, sealed.completion) == ("hand", manifest)


def test_a_seal_that_comes_second_changes_nothing(records: Records) -> None:
    registered(records)
    before = papers(records)
    records.take(TASK, claim())
    assert seal(records, before, completion("failed"), by="hand") is None
    assert records.manifest(TASK) is None


def test_a_seal_after_a_late_commit_answers_with_what_holds(records: Records) -> None:
    registered(records)
    records.take(TASK, claim())
    records.end(TASK, end())
    before = papers(records)
    late = records.commit(completion())
    assert seal(records, before, completion("failed"), by="hand") == late


@pytest.mark.promise("inbox-keeps")
def test_settling_files_the_report_and_the_notice_and_closes(records: Records) -> None:
    registered(records)
    manifest = done(records)
    for _ in range(2):
        settle_in_store(records, manifest)
        assert records.store.get(f"results/{TASK}.md") == b"# Done\n"
        assert list(records.inbox("coordinator")) == [TASK]
        assert records.store.get(INBOX) == manifest.to_json()
        assert (records.marks.is_open(TASK), records.marks.is_unpublished(TASK)) == (False, False)


def test_nobody_is_told_who_did_not_ask(records: Records) -> None:
    registered(records, reply_to=None)
    settle_in_store(records, done(records))
    assert list(records.inbox("coordinator")) == []


def test_a_task_that_was_given_up_stays_open_until_it_is_dead_lettered(records: Records) -> None:
    registered(records)
    settle_in_store(records, done(records, status="failed", given_up=True))
    assert records.marks.is_open(TASK)
    assert list(records.inbox("coordinator")) == [TASK]


def test_what_somebody_left_in_the_reports_place_is_kept(records: Records) -> None:
    registered(records)
    manifest = done(records)
    found = b"# Written by the agent itself\n"
    records.store.put(f"results/{TASK}.md", found)
    file_papers(records, manifest)
    assert records.store.get(f"results/{TASK}.md") == b"# Done\n"
    assert records.store.get(f"artifacts/{TASK}/found-{sha256_hex(found)[:12]}/report.md") == found


def test_a_report_that_was_altered_does_not_hold_up_the_notice(records: Records) -> None:
    registered(records)
    manifest = done(records)
    records.store.put(f"artifacts/{TASK}/1/report.md", b"# Forged\n")
    settle_in_store(records, manifest)
    assert records.store.get(f"results/{TASK}.md") is None
    assert list(records.inbox("coordinator")) == [TASK]
    assert not records.marks.is_open(TASK)


async def test_settling_tells_the_engine(records: Records) -> None:
    registered(records)
    engine = Notices()
    await settle(records, engine, done(records))  # type: ignore[arg-type]
    assert (engine.notices, engine.dead) == ([(TASK, "results")], [])
    assert not records.marks.is_open(TASK)


async def test_a_result_that_was_taken_from_the_inbox_does_not_come_back(records: Records) -> None:
    registered(records)
    engine, manifest = Notices(), done(records)
    assert await settle(records, engine, manifest)  # type: ignore[arg-type]
    records.take_from_inbox("coordinator", TASK)
    assert not await settle(records, engine, manifest)  # type: ignore[arg-type]
    assert list(records.inbox("coordinator")) == []
    assert len(engine.notices) == 1


async def test_a_notice_that_is_lost_holds_up_nothing(records: Records) -> None:
    registered(records)
    await settle(records, Notices(away=True), done(records))  # type: ignore[arg-type]
    assert list(records.inbox("coordinator")) == [TASK]
    assert not records.marks.is_open(TASK)


async def test_a_dead_letter_that_is_lost_leaves_the_task_open(records: Records) -> None:
    registered(records)
    manifest = done(records, status="failed", given_up=True, reason="tried twice")
    with pytest.raises(EngineUnavailable):
        await settle(records, Notices(away=True), manifest)  # type: ignore[arg-type]
    assert records.marks.is_open(TASK)
    engine = Notices()
    await settle(records, engine, manifest)  # type: ignore[arg-type]
    assert engine.dead == [(TASK, "tried twice")]
    assert not records.marks.is_open(TASK)
