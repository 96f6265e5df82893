"""`agentq store copy`, as whoever has two stores meets it; the orders of steps are searched in test_moving.py."""

from datetime import timedelta
from pathlib import Path

import pytest

from agentq.coordinator import Coordinator
from agentq.errors import Conflict, EvidenceError
from agentq.messages import utc_now
from agentq.papers import End, Move, new_token
from agentq.records import Records
from agentq.stores.file import FileStore
from agentq.transfer import Transfer
from agentq.why import Explainer, Queue
from tests.desk import Desk
from tests.object_servers import CREDENTIALS, ObjectServer
from tests.samples import claims_for, registered, request
from tests.simulation import MemoryStore

PLAN = """
tasks:
  one: {to: implementation-worker, type: implementation, instructions: Do it.}
  two: {to: implementation-worker, type: implementation, instructions: Do that., needs: [one]}
"""


@pytest.fixture
def other(tmp_path: Path) -> Records:
    """The papers in a second store."""
    return Records(FileStore(tmp_path / "other"))


def keys(records: Records) -> dict[str, bytes | None]:
    """Everything in a store."""
    root = FileStore(Path(records.store.url.removeprefix("file://"))).root
    found = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    return {key: records.store.get(key) for key in found}


def copy(desk: Desk, other: Records, *arguments: str) -> str:
    return desk.ok("store", "copy", "--to", other.store.url, *arguments)


def fetch(desk: Desk, other: Records, *arguments: str) -> str:
    return desk.ok("store", "copy", "--from", other.store.url, "--to", desk.store.url, *arguments)


# ---------------------------------------------------------------------- finished tasks


def test_a_finished_task_is_copied_to_the_byte_and_is_the_same_there(desk: Desk, other: Records) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    task_id = desk.task("--file", "brief.md")
    desk.finish(task_id, evidence={"patch": b"+1\n"})
    said = copy(desk, other, task_id)
    assert said == f"{task_id}  copied to {other.store.url}: 8 objects, 13 B of evidence; 0 were there"
    assert {k: v for k, v in desk.files().items() if not k.endswith(".lease.json")} == keys(other)
    for command in (("status", task_id), ("result", task_id), ("result", task_id, "--artifact", "patch"), ("inbox",)):
        here, there = desk.run(*command), desk.run(*command, "--store", other.store.url)
        assert there.code == here.code == 0, there
        assert there.out == here.out.replace(desk.store.url, other.store.url)
    path = desk.ok("result", task_id, "--path", "--store", other.store.url)
    assert Path(path).read_bytes() == b"All done.\n"


def test_repeating_brings_only_what_is_missing_and_leaves_what_was_read_as_read(desk: Desk, other: Records) -> None:
    task_id = desk.task()
    desk.finish(task_id)
    copy(desk, other, task_id)
    desk.ok("inbox", "--ack", "--store", other.store.url)
    other.store.delete(f"results/{task_id}.md")
    assert "1 objects" in copy(desk, other, task_id)
    assert "0 objects" in copy(desk, other, task_id)
    assert desk.ok("inbox", "--store", other.store.url) == ""


def test_what_differs_is_a_conflict_that_names_it_and_changes_nothing(desk: Desk, other: Records) -> None:
    task_id = desk.task()
    manifest = desk.finish(task_id)
    key = desk.store.key(manifest.artifacts[0].ref)
    assert key
    other.store.put(key, b"another report")
    before = keys(other)
    done = desk.run("store", "copy", "--to", other.store.url, task_id)
    assert (done.code, done.out) == (5, "")
    assert f"{key} is another one in {other.store.url}" in done.err
    assert keys(other) == before


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damaged_evidence_is_not_spread(desk: Desk, other: Records, damage: str) -> None:
    task_id = desk.task()
    path = desk.path_of(desk.finish(task_id))
    path.write_bytes(b"forged") if damage == "altered" else path.unlink()
    done = desk.run("store", "copy", "--to", other.store.url, task_id)
    assert done.code == 11
    assert damage in done.err
    assert not other.is_registered(task_id)


def test_a_dry_run_writes_nothing(desk: Desk, other: Records) -> None:
    ended, waiting = desk.task(), desk.task()
    desk.finish(ended)
    before = desk.files()
    said = copy(desk, other, "--all", "--dry-run")
    assert f"{ended}  would be copied" in said
    assert f"{waiting}  would be moved" in said
    assert desk.files() == before
    assert list(other.store.keys("tasks/")) == []


def test_all_brings_what_can_be_brought_and_names_the_rest(desk: Desk, other: Records) -> None:
    ended, running = desk.task(), desk.task()
    desk.finish(ended)
    desk.claim(running)
    done = desk.run("store", "copy", "--to", other.store.url, "--all")
    assert done.code == 5
    assert f"{running}  not brought: attempt 1 of {running} is running" in done.err
    assert f"  → Wait for it, or stop it: agentq cancel {running} --wait" in done.err
    assert (other.is_registered(ended), other.is_registered(running)) == (True, False)


@pytest.mark.parametrize("arguments", [(), ("--all", "x"), ("../x",)])
def test_what_cannot_be_meant_is_refused(desk: Desk, other: Records, arguments: tuple[str, ...]) -> None:
    assert desk.run("store", "copy", "--to", other.store.url, *arguments).code == 3
    assert desk.run("store", "copy", "--to", desk.store.url, "x").code == 3
    assert desk.run("store", "copy", "--to", other.store.url, "nobody").code == 4


def test_a_plan_is_copied_whole_when_it_has_ended(desk: Desk, other: Records) -> None:
    (desk.project / "plan.yaml").write_text(PLAN)
    desk.ok("plan", "submit", "plan.yaml", "--id", "p")
    for part in ("p", "p.one"):
        assert desk.run("store", "copy", "--to", other.store.url, part).code == 5
    desk.finish("p.one")
    desk.finish("p.two")
    assert len(copy(desk, other, "p").splitlines()) == 3
    assert desk.ok("result", "p", "--store", other.store.url).startswith("p completed")
    assert desk.ok("result", "p.two", "--store", other.store.url).startswith("p.two completed")


def test_a_retry_of_a_copied_task_finds_its_context(desk: Desk, other: Records) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    task_id = desk.task("--file", "brief.md")
    desk.finish(task_id, "failed", reason="no")
    copy(desk, other, task_id)
    again = desk.json("retry", task_id, "--store", other.store.url)
    assert again["context_ref"] == other.store.ref(f"tasks/{task_id}.md")


# ---------------------------------------------------------------------- unfinished tasks


def test_an_unfinished_task_moves_and_acts_only_where_it_is(desk: Desk, other: Records) -> None:
    task_id = desk.task("--requires-approval", "--ttl", "1h")
    copy(desk, other, task_id, "--by", "alice")
    assert desk.ok("status", task_id) == f"{task_id}  pending  moved to {other.store.url}"
    why = desk.json("why", task_id)
    assert why["reason"] == f"it was moved to {other.store.url} by alice, and is at home there"
    assert why["next"] == f"agentq why {task_id} --store {other.store.url}"
    marks = ("open/", "outbox/", "waits/", "expiring/", "arriving/")
    assert [key for mark in marks for key in desk.store.keys(mark)] == []
    hands = ("cancel", task_id), ("approve", task_id, "--by", "me"), ("reject", task_id, "--reason", "no")
    for command in (*hands, ("complete", task_id, "--from", "me", "--summary", "Done.")):
        done = desk.run(*command)
        assert done.code == 5, done
        assert f"  → Repeat the command with --store {other.store.url}" in done.err
    assert desk.run("doctor").code == 0
    desk.ok("approve", task_id, "--by", "me", "--store", other.store.url)
    assert desk.json("status", task_id, "--store", other.store.url)["waits_for"] == "queued"
    assert fetch(desk, other, task_id).startswith(f"{task_id}  moved")
    assert desk.json("status", task_id)["waits_for"] == "queued"
    assert desk.ok("cancel", task_id) == f"{task_id}  cancelled"


def test_submitting_again_what_was_moved_changes_nothing(desk: Desk, other: Records) -> None:
    task_id = desk.task("--id", "mine")
    copy(desk, other, task_id)
    before = desk.files()
    assert desk.task("--id", "mine") == task_id
    assert desk.files() == before


def test_what_it_needs_comes_with_it(desk: Desk, other: Records) -> None:
    needed = desk.task()
    task_id = desk.task("--after", needed)
    assert desk.run("store", "copy", "--to", other.store.url, task_id).code == 5
    assert desk.run("store", "copy", "--to", other.store.url, needed).code == 5, "somebody waits for it"
    desk.finish(needed)
    assert [line.split()[1] for line in copy(desk, other, task_id).splitlines()] == ["copied", "moved"]
    verdict = other.papers(task_id)
    assert verdict
    assert verdict.is_open
    assert list(other.marks.waiting_for(needed)) == [task_id]


def test_attempts_count_on_and_a_move_does_not(desk: Desk, other: Records) -> None:
    task_id = desk.task("--max-attempts", "2")
    claim = desk.claim(task_id)
    end = End(attempt=claim.attempt, token=new_token(), by="x", at=utc_now(), reason="it broke", counts=True)
    desk.records.end(task_id, end)
    copy(desk, other, task_id)
    papers = other.known(task_id)
    assert (papers.counted, papers.next_number, papers.was_started) == (1, 3, True)
    assert [attempt.end.reason for attempt in papers.earlier if attempt.end] == ["it broke"]


def test_the_ttl_goes_on_after_a_move(desk: Desk, other: Records) -> None:
    task_id = desk.task("--ttl", "0.2")
    transfer = Transfer(desk.records, other, by="me")
    transfer.bring(task_id)
    assert other.known(task_id).was_started is False
    ended = Coordinator(other).wait([task_id], 10)
    assert [manifest.status for manifest in ended] == ["expired"]


def test_a_move_that_broke_off_is_told_and_finished_by_repeating(desk: Desk, other: Records) -> None:
    task_id = desk.task()
    move = Move(attempt=1, token=new_token(), to=other.store.url, by="alice", at=utc_now())
    assert desk.records.take(task_id, move)
    assert desk.json("why", task_id)["next"] == f"agentq store copy {task_id} --to {other.store.url}"
    done = desk.run("doctor")
    assert done.code == 13
    assert f"agentq store copy {task_id} --to {other.store.url} goes on" in done.out
    third = Records(FileStore(desk.folder / "third"))
    with pytest.raises(Conflict, match="is at home there"):
        Transfer(desk.records, third, by="me").bring(task_id)
    copy(desk, other, task_id)
    assert other.known(task_id).moved_to is None
    assert desk.run("doctor").code == 0


def test_why_tells_what_it_cannot_know_of_a_task_that_nobody_picks_up() -> None:
    records = Records(MemoryStore())
    registered(records)
    explain = Explainer(records, Coordinator(records), lambda agent: Queue(1, 0))
    why = explain.why("task-1")
    assert "its queue is empty, and nobody has picked this up" in why.reason
    assert f"another store than {records.store.url}" in why.reason
    assert "agentq store copy task-1" in why.next
    registered(records, task_id="task-2", not_before=utc_now() - timedelta(seconds=1))
    assert "takes it now" in explain.why("task-2").reason or "queued" in explain.why("task-2").reason


# ---------------------------------------------------------------------- messages of another store


@pytest.mark.promise("wrong-store")
@pytest.mark.parametrize("made_by", ["agentq", "foreign"])
def test_a_message_of_another_store_is_parked_with_its_guard_and_registers_nothing(made_by: str) -> None:
    from agentq.claim import WRONG_STORE_DELAY
    from agentq.engine import Guard
    from agentq.verdict import Park

    store = MemoryStore()
    message = request(store="file:///elsewhere", request_sha256="0" * 64 if made_by == "agentq" else None)
    guard = Guard(2, 7, "guard")
    claims = claims_for(Records(store))
    verdicts = [claims.pick_up(message.to_json(), guard, None) for _ in range(3)]
    parked = [one for one in verdicts if isinstance(one, Park)]
    assert [(one.delay, one.guard) for one in parked] == [(WRONG_STORE_DELAY, guard)] * 3
    assert [one.level for one in parked] == [30, 10, 10], "said once"
    assert store.objects == {}


def test_a_ref_of_nowhere_is_no_key_of_this_store(desk: Desk, other: Records) -> None:
    task_id = desk.task()
    manifest = desk.finish(task_id)
    copy(desk, other, task_id)
    for ref in (f"file:///elsewhere/artifacts/{task_id}/1/report.md", f"{desk.store.url}x/artifacts/{task_id}/1/r.md"):
        forged = manifest.artifacts[0].model_copy(update={"ref": ref})
        with pytest.raises(EvidenceError, match="another store"):
            other.artifacts.read(forged)


# ---------------------------------------------------------------------- files and S3


@pytest.mark.promise("moved-once")
def test_between_files_and_s3_with_parts_and_back(desk: Desk, moto: ObjectServer) -> None:
    bucket = Records(moto.store())
    desk.environment |= {**CREDENTIALS, "AWS_ENDPOINT_URL": moto.url, "AWS_REGION": "us-east-1"}
    large = bytes(range(256)) * 4096 * 20  # 20 MiB, more than one part
    ended, waiting = desk.task(), desk.task()
    manifest = desk.finish(ended, evidence={"patch": large})
    copy(desk, bucket, ended, waiting)
    assert bucket.artifacts.read(manifest.artifacts[1]) == large
    assert desk.ok("result", ended, "--store", bucket.store.url).startswith(f"{ended} completed")
    assert desk.json("status", waiting)["moved_to"] == bucket.store.url
    assert desk.json("status", waiting, "--store", bucket.store.url)["waits_for"] == "queued"
    fetch(desk, bucket, waiting)
    assert desk.json("status", waiting)["waits_for"] == "queued"
    fetched = Records(FileStore(desk.folder / "third"))
    desk.ok("store", "copy", "--from", bucket.store.url, "--to", fetched.store.url, ended)
    assert fetched.artifacts.read(manifest.artifacts[1]) == large
    desk.ok("inbox", "--ack", "--store", bucket.store.url)
    gathered = desk.json("store", "gc", "--older-than", "0", "--store", bucket.store.url)
    assert (gathered["tasks"], gathered["bytes"]) == ([ended], len(large) + 10)
    assert list(bucket.store.keys("artifacts/")) == []
