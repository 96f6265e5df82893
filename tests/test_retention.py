"""`agentq store gc`: what it takes, what it leaves, and whom it meets."""

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from agentq.commit import commit
from agentq.coordinator import Coordinator
from agentq.errors import AgentqError, EvidenceError, StoreUnavailable
from agentq.messages import utc_now
from agentq.papers import Lease
from agentq.records import Records
from agentq.retention import Retention
from agentq.settle import settle_in_store
from agentq.transfer import Transfer
from agentq.verdict import Settle
from tests.desk import Desk
from tests.samples import claim, claims_for, completion, end, report, request
from tests.simulation import Actor, MemoryStore, Stage, Turn, _must_be_mutable

NOW = timedelta(0)


def gc(desk: Desk, *flags: str) -> Any:
    return desk.json("store", "gc", "--older-than", "0", *flags)


def ended(desk: Desk, *flags: str, **more: Any) -> str:
    """A task that ended and whose completion was read."""
    task_id = desk.task(*flags)
    desk.finish(task_id, **more)
    desk.ok("inbox", "--ack")
    return task_id


# ---------------------------------------------------------------------- what it takes, and what it leaves


@pytest.mark.promise("gc-keeps")
def test_the_evidence_goes_as_a_whole_and_envelope_and_result_stay(desk: Desk) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    task_id = ended(desk, "--file", "brief.md", "--ttl", "1h", evidence={"patch": b"+1\n"})
    envelope, manifest = desk.store.get(f"tasks/{task_id}.json"), desk.store.get(f"results/{task_id}.json")
    assert gc(desk) == {"tasks": [task_id], "bytes": 13, "unowned": 0, "temporaries": 0, "kept": {}}
    assert desk.files().keys() == {
        f"tasks/{task_id}.json",
        f"results/{task_id}.json",
        f"controls/{task_id}/collected.json",
    }
    assert desk.store.get(f"tasks/{task_id}.json") == envelope
    assert desk.store.get(f"results/{task_id}.json") == manifest
    assert gc(desk) == {"tasks": [], "bytes": 0, "unowned": 0, "temporaries": 0, "kept": {}}


@pytest.mark.promise("gc-keeps")
def test_everybody_says_that_the_evidence_was_collected(desk: Desk) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    task_id = ended(desk, "--file", "brief.md")
    gc(desk)
    today = f"{utc_now():%Y-%m-%d}"
    done = desk.run("result", task_id)
    assert done.code == 0
    assert "| summary: Did it." in done.out
    assert f"its evidence was collected on {today}" in done.out
    assert desk.json("result", task_id)["collected_at"].startswith(today)
    assert desk.ok("status", task_id).endswith(f"; its evidence was collected on {today}")
    for command in (
        ("result", task_id, "--full"),
        ("result", task_id, "--artifact", "report"),
        ("retry", task_id),
        ("submit", "--to", "review-worker", "--type", "review", "-i", "Look.", "--after", task_id),
    ):
        before = desk.files()
        done = desk.run(*command)
        assert done.code == 11, done
        assert f"the evidence of {task_id} was collected on {today}" in done.err
        assert desk.files() == before, "nothing is written"


def test_a_collected_task_without_a_context_can_be_retried(desk: Desk) -> None:
    task_id = ended(desk)
    gc(desk)
    assert desk.json("retry", task_id)["retry_of"] == task_id


@pytest.mark.promise("gc-keeps")
def test_a_stray_message_of_a_collected_task_runs_nothing(desk: Desk) -> None:
    task_id = ended(desk)
    body = desk.envelope(task_id).to_json()
    gc(desk)
    assert isinstance(claims_for(desk.records).pick_up(body, None, None), Settle)
    assert list(desk.store.keys("attempts/")) == []


@pytest.mark.promise("gc-keeps")
def test_nothing_that_a_live_task_needs_is_taken(desk: Desk) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    needed, cited, waiting, running = ended(desk), ended(desk, "--file", "brief.md"), desk.task(), desk.task()
    after = desk.task("--after", needed)
    again = desk.json("retry", cited)["task_id"]
    desk.claim(running)
    before = desk.files()
    assert gc(desk)["kept"] == {"needed": 2}
    assert desk.files() == before
    for task_id in (after, again, waiting):
        desk.ok("cancel", task_id)
    desk.ok("inbox", "--ack")
    assert {needed, cited} < set(gc(desk)["tasks"])
    assert desk.store.get(f"attempts/{running}/1.json")


def test_tasks_of_an_unfinished_plan_are_kept(desk: Desk) -> None:
    (desk.project / "plan.yaml").write_text(
        "tasks:\n"
        "  one: {to: implementation-worker, type: implementation, instructions: Do it.}\n"
        "  two: {to: implementation-worker, type: implementation, instructions: Do that.}\n"
    )
    desk.ok("plan", "submit", "plan.yaml", "--id", "p")
    desk.finish("p.one")
    assert gc(desk) == {"tasks": [], "bytes": 0, "unowned": 0, "temporaries": 0, "kept": {"needed": 1}}
    desk.finish("p.two")
    desk.ok("inbox", "--ack")
    assert gc(desk)["tasks"] == ["p", "p.one", "p.two"]


def test_what_is_young_or_unread_is_kept_and_said(desk: Desk) -> None:
    unread = desk.task()
    desk.finish(unread)
    assert desk.json("store", "gc", "--older-than", "1h")["kept"] == {"young": 1}
    assert gc(desk)["kept"] == {"unread": 1}
    said = desk.ok("store", "gc", "--older-than", "0").splitlines()
    assert said == [
        "0 tasks collected, 0 B of evidence freed",
        "1 kept: not read by their coordinators (--unread takes them too)",
    ]
    assert gc(desk, "--unread")["tasks"] == [unread]
    assert desk.ok("inbox") == ""


def test_a_dry_run_lists_and_writes_nothing(desk: Desk) -> None:
    task_id = ended(desk)
    before = desk.files()
    said = desk.ok("store", "gc", "--older-than", "0", "--dry-run").splitlines()
    assert said == [f"{task_id}  would be collected", "1 task would be collected, 10 B of evidence would be freed"]
    assert desk.files() == before


def test_an_unfinished_task_is_never_touched(desk: Desk) -> None:
    (desk.project / "brief.md").write_text("Mend it.\n")
    waiting, running, sealed = desk.task(), desk.task("--file", "brief.md"), desk.task()
    desk.claim(running)
    desk.records.renew(running, 1, Lease(token="t", counter=1, at=utc_now()))
    desk.finish(sealed, settled=False)
    before = desk.files()
    assert gc(desk, "--unread") == {"tasks": [], "bytes": 0, "unowned": 0, "temporaries": 0, "kept": {}}
    assert desk.files() == before
    assert waiting


def test_a_damaged_result_is_kept_and_stops_nobody(desk: Desk) -> None:
    damaged, fine = ended(desk), ended(desk)
    (desk.shared / "results" / f"{damaged}.json").write_text("{")
    found = gc(desk)
    assert (found["tasks"], found["kept"]) == ([fine], {"damaged": 1})


@pytest.mark.parametrize("text", ["", "soon", "-1d", "9999d"])
def test_an_age_that_is_none_is_refused(desk: Desk, text: str) -> None:
    assert desk.run("store", "gc", "--older-than", text).code == 3


# ---------------------------------------------------------------------- what nobody owns


def test_what_a_dead_submit_left_goes_when_it_was_found_long_enough_ago(desk: Desk) -> None:
    needed, dead = ended(desk), "task-20260101-000000-0123abcd"
    left = [f"open/{dead}", f"outbox/{dead}", f"waits/{needed}/{dead}", f"expiring/me/20260101T000000Z_{dead}"]
    for key in [*left, f"tasks/{dead}.md"]:
        desk.store.put(key, b"")
    desk.store.put("tasks/brief.md", b"somebody's brief, to be submitted one day")
    first = desk.json("store", "gc", "--older-than", "1h")
    assert first["unowned"] == 0, "it may be a submit that is under way"
    assert all(desk.store.get(key) is not None for key in left)
    second = gc(desk)
    assert second["unowned"] == 6
    assert not [key for key in desk.files() if dead in key]
    assert desk.store.get("tasks/brief.md")


def test_a_task_that_is_registered_after_all_loses_nothing(desk: Desk) -> None:
    desk.store.put("open/late", b"")
    gc(desk)
    desk.task("--id", "late")
    before = desk.files()
    gc(desk)
    assert desk.files().keys() == before.keys() - {"found/late.json"}


def test_what_is_being_copied_here_is_not_taken_for_abandoned(desk: Desk) -> None:
    arriving = "task-20260101-000000-0123abcd"
    desk.records.marks.arrives(arriving)
    desk.store.put(f"tasks/{arriving}.md", b"")
    gc(desk)
    gc(desk)
    assert desk.store.get(f"tasks/{arriving}.md") is not None


def test_marks_that_came_after_the_end_go(desk: Desk) -> None:
    needed, task_id = ended(desk), ended(desk)
    desk.store.put(f"waits/{needed}/{task_id}", b"")
    assert desk.json("store", "gc", "--older-than", "1h")["unowned"] == 1
    assert list(desk.store.keys("waits/")) == []


# ---------------------------------------------------------------------- whom it meets

OLD, NEW = "task-1", "task-2"


class Shelf(MemoryStore):
    """A store in which evidence may be removed, as `gc` does; the papers that stay must not be."""

    def delete(self, key: str) -> None:
        if not key.startswith(("attempts/", "controls/")):
            _must_be_mutable(key)
        self._seam(lambda: self.objects.pop(key, None), writes=True)


def before() -> dict[str, bytes]:
    """A task with a context and two attempts, that ended and was read."""
    records = Records(MemoryStore())
    Coordinator(records).register(request(reply_to=None), b"the context")
    assert records.take(OLD, claim())
    records.end(OLD, end())
    assert records.take(OLD, claim(2))
    artifact = report(records)
    settle_in_store(
        records, commit(records, completion(attempt=2, artifacts=(artifact,), result_sha256=artifact.sha256))
    )
    return records.store.objects  # type: ignore[attr-defined, no-any-return]


def meet(turns: tuple[Turn, ...], *bodies: Callable[[Records], object]) -> tuple[dict[str, bytes], list[object]]:
    """Let several act on one store in that order of steps; what is there in the end, and what came of each."""
    objects, outcomes = before(), list[object]([None] * len(bodies))
    stage = Stage(turns, stalls=False)

    def act(number: int) -> None:
        try:
            outcomes[number] = bodies[number](Records(Shelf(objects, seam=stage.step)))
        except AgentqError as error:
            outcomes[number] = error

    for number in range(len(bodies)):
        stage.add(Actor(f"actor-{number}", number, lambda number=number: act(number)))
    try:
        stage.run()
    finally:
        stage.close()
    return objects, outcomes


def collect(records: Records) -> object:
    return Retention(records, NOW).collect()


def orders(most: int) -> Iterator[tuple[Turn, ...]]:
    """`gc` goes some steps, the other some, then `gc` to its end."""
    for first, second in itertools.product(range(0, most, 2), range(0, 30, 2)):
        yield Turn(0, first), Turn(1, second), Turn(0, 999), Turn(1, 999)


def steps_of_gc() -> int:
    count = itertools.count()

    def seam(effect: Callable[[], Any], **_: Any) -> Any:
        next(count)
        return effect()

    collect(Records(Shelf(before(), seam=seam)))
    return next(count) + 2


def submit_after(records: Records) -> object:
    return Coordinator(records).register(request(task_id=NEW, depends_on=(OLD,), context_ref=None))


def retry(records: Records) -> object:
    coordinator = Coordinator(records)
    return coordinator.register(coordinator.retry(OLD, NEW))


@pytest.mark.promise("gc-keeps")
@pytest.mark.parametrize("come", [submit_after, retry])
def test_whoever_comes_while_it_collects_is_refused_or_finds_all_of_it(come: Callable[[Records], object]) -> None:
    refused = 0
    for turns in orders(steps_of_gc()):
        objects, (_, came) = meet(turns, collect, come)
        if f"tasks/{NEW}.json" in objects:
            assert not isinstance(came, AgentqError), came
            assert f"artifacts/{OLD}/1/report.md" in objects, turns
            assert objects[f"tasks/{OLD}.md"] == b"the context"
        else:
            refused += 1
            assert isinstance(came, EvidenceError | StoreUnavailable), came
            assert {key for key in objects if NEW in key} <= {f"found/{NEW}.json"}, "nothing is left of it"
    assert refused


@pytest.mark.promise("gc-keeps")
def test_a_copy_made_while_it_collects_is_whole_or_says_so() -> None:
    outcomes = set()
    for turns in orders(steps_of_gc()):
        target = Records(MemoryStore())
        target.store.url = "memory://target"

        def bring(records: Records, target: Records = target) -> object:
            return Transfer(records, target, by="copier").bring(OLD)

        _, (_, came) = meet(turns, collect, bring)
        if not isinstance(came, list):
            assert isinstance(came, EvidenceError | StoreUnavailable), came
            assert not target.is_registered(OLD)
            continue
        whole = target.store.get(f"artifacts/{OLD}/1/report.md") is not None
        assert whole or target.collected(OLD), turns
        outcomes.add(whole)
    assert outcomes == {True, False}


def test_a_collector_that_dies_anywhere_is_finished_by_the_next() -> None:
    for after in range(1, steps_of_gc()):
        objects, _ = meet((Turn(0, after, "crash-after"),), collect)
        records = Records(Shelf(objects))
        assert records.manifest(OLD)
        assert Coordinator(records).status(OLD).state == "completed", "no gap is seen in its attempts"
        collect(records)
        assert objects.keys() == {f"tasks/{OLD}.json", f"results/{OLD}.json", f"controls/{OLD}/collected.json"}


def test_two_collectors_do_not_disturb_each_other() -> None:
    for turns in orders(steps_of_gc()):
        objects, outcomes = meet(turns, collect, collect)
        assert not [one for one in outcomes if isinstance(one, AgentqError)]
        assert objects.keys() == {f"tasks/{OLD}.json", f"results/{OLD}.json", f"controls/{OLD}/collected.json"}


def test_what_a_late_owner_leaves_goes_with_the_next(desk: Desk) -> None:
    task_id = ended(desk)
    gc(desk)
    desk.records.artifacts.add(f"artifacts/{task_id}/1/", "late", b"late", suffix=".md", made_by="agent")
    assert gc(desk)["tasks"] == [task_id]
    assert list(desk.store.keys("artifacts/")) == []
