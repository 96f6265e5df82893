"""`agentq doctor`: what it finds, what it mends, and what it leaves alone."""

import os
import re
import time
from collections.abc import Callable

import pytest

from agentq.claim import end_of
from agentq.commit import completion_of
from agentq.lifecycle import Papers
from agentq.messages import Envelope, utc_now
from agentq.papers import Cancel, Seal, new_token
from tests.desk import Desk


def papers_of(desk: Desk, task_id: str) -> Papers:
    papers = desk.records.papers(task_id)
    assert papers
    return papers


def healthy(desk: Desk) -> str:
    return desk.task()


def delayed(desk: Desk) -> str:
    return desk.task("--delay", "1h")


def running(desk: Desk) -> str:
    task_id = desk.task()
    desk.claim(task_id)
    return task_id


def settled(desk: Desk) -> str:
    task_id = desk.task()
    desk.finish(task_id)
    return task_id


@pytest.mark.parametrize("make", [healthy, delayed, running, settled])
def test_what_is_well_is_left_alone(any_desk: Desk, make: Callable[[Desk], str]) -> None:
    make(any_desk)
    before = any_desk.files()
    found = any_desk.json("doctor")
    assert found["well"]
    assert (found["ailments"], found["mended"], found["engine_error"], found["store_error"]) == ([], [], None, None)
    assert found["engine"]["version"]
    assert found["engine"]["missing"] == []
    assert any_desk.files() == before
    printed = any_desk.ok("doctor")
    assert "engine    ok: " in printed
    assert f"store     ok: file://{any_desk.shared}" in printed
    assert "papers    ok" in printed
    assert "guest:guest" not in printed


def unregistered(desk: Desk) -> str:
    desk.records.marks.open("ghost")
    return "ghost"


def unpublished(desk: Desk) -> str:
    task_id = desk.task()
    desk.records.marks.open(task_id)
    return task_id


def unsettled(desk: Desk) -> str:
    task_id = desk.task()
    desk.finish(task_id, settled=False)
    return task_id


def uncommitted(desk: Desk) -> str:
    task_id = desk.task()
    papers = papers_of(desk, task_id)
    completion = completion_of(papers, "cancelled", by="me", attempt=1, reason="not needed")
    seal = Seal(attempt=1, token=new_token(), by="me", at=utc_now(), completion=completion)
    assert desk.records.take(task_id, seal)
    return task_id


def unreleased(desk: Desk) -> str:
    first = desk.task()
    task_id = desk.task("--after", first)
    desk.finish(first, settled=False)
    desk.records.marks.close(first)  # as if it had been settled by somebody who knew nothing of gates
    return task_id


def overdue(desk: Desk) -> str:
    task_id = desk.task()
    desk.records.ask_cancel(task_id, Cancel(token="t", by="me", at=utc_now()))
    return task_id


def unplanted(desk: Desk) -> str:
    tasks = ({"task_id": "p.a", "group": "p", "to": "implementation-worker", "type": "test", "instructions": "Do it."},)
    plan = {"task_id": "p", "to": "agentq", "type": "plan", "instructions": "All.", "plan": tasks}
    desk.records.register(Envelope.model_validate(plan).registered(desk.records.store.url, utc_now()))
    return "p"


AILMENTS: list[tuple[Callable[[Desk], str], str, str]] = [
    (unregistered, "unregistered", "forgotten: it was never registered"),
    (unpublished, "unpublished", "published again"),
    (unsettled, "unsettled", "settled as completed"),
    (uncommitted, "uncommitted", "settled as cancelled"),
    (unreleased, "unreleased", "released"),
    (overdue, "overdue", "settled as cancelled"),
    (unplanted, "unplanted", "its tasks are registered"),
]


@pytest.mark.parametrize(("make", "kind", "mended"), AILMENTS, ids=[kind for _, kind, _ in AILMENTS])
def test_what_is_half_done_is_found_and_mended(
    any_desk: Desk, make: Callable[[Desk], str], kind: str, mended: str
) -> None:
    task_id = make(any_desk)
    before = any_desk.files()
    for _ in range(2):
        found = any_desk.run("doctor")
        assert found.code == 13
        assert f"papers    {task_id} " in found.out
        assert "agentq doctor --repair" in found.err
    (ailment,) = any_desk.run("doctor", "--json").json["ailments"]
    assert (ailment["task_id"], ailment["kind"], ailment["mendable"]) == (task_id, kind, True)
    assert any_desk.files() == before

    repaired = any_desk.json("doctor", "--repair")
    assert repaired["well"]
    assert f"{task_id}  {mended}" in repaired["mended"]
    assert any_desk.run("doctor").code == 0


def test_what_was_mended_is_right(any_desk: Desk) -> None:
    waiting, ended, sealed = unpublished(any_desk), unsettled(any_desk), uncommitted(any_desk)
    any_desk.ok("doctor", "--repair")
    assert any_desk.waiting() >= 2, "a copy too many is harmless"
    assert any_desk.json("status", waiting)["waits_for"] == "queued"
    assert [m["task_id"] for m in any_desk.json("inbox")] == sorted(
        (ended, sealed),
        key=lambda task_id: papers_of(any_desk, task_id).manifest.finished_at,  # type: ignore[union-attr]
    )
    assert any_desk.ok("result", ended)
    assert any_desk.run("result", sealed).code == 9


def test_a_task_that_waits_for_its_next_attempt_is_published_with_its_delay(desk: Desk) -> None:
    from datetime import timedelta

    task_id = desk.task()
    claim = desk.claim(task_id)
    retry_at = utc_now() + timedelta(hours=1)
    desk.records.end(task_id, end_of(claim, "implementation-worker", "no luck", retry_at=retry_at))
    before = desk.waiting()
    desk.ok("doctor", "--repair")
    assert desk.waiting() == before, "the copy is delayed"


@pytest.mark.parametrize("paper", ["tasks/{}.json", "attempts/{}/1.json", "results/{}.json"])
def test_a_damaged_paper_is_told_and_the_others_are_mended(desk: Desk, paper: str) -> None:
    damaged, other = desk.task(), unsettled(desk)
    desk.store.put(paper.format(damaged), b"{}")
    found = desk.run("doctor", "--json")
    assert found.code == 13
    ailments = {each["task_id"]: each for each in found.json["ailments"]}
    assert ailments[damaged]["kind"] == "damaged"
    assert not ailments[damaged]["mendable"]
    assert paper.format(damaged) in ailments[damaged]["what"]
    assert ailments[other]["mendable"]

    repaired = desk.run("doctor", "--repair", "--json")
    assert repaired.code == 13
    assert repaired.json["mended"] == [f"{other}  settled as completed"]
    printed = desk.run("doctor")
    assert "(not by --repair)" in printed.out
    assert printed.err == "", "there is nothing left that --repair could mend"


def test_missing_queues_are_found_and_declared(rabbit_desk: Desk) -> None:
    found = rabbit_desk.run("doctor")
    assert found.code == 13
    namespace = rabbit_desk.environment["AGENTQ_NAMESPACE"]
    assert re.search(rf"^missing   .*{namespace}\..* and \d+ more$", found.out, re.MULTILINE)
    assert f"queue {namespace}.tasks.review-worker" in rabbit_desk.run("doctor", "--json").json["engine"]["missing"]
    assert "agentq doctor --repair" in found.err
    repaired = rabbit_desk.json("doctor", "--repair")
    assert repaired["well"]
    assert "missing parts of the topology" in repaired["mended"][0]
    rabbit_desk.task()
    assert rabbit_desk.waiting() == 1


def test_an_engine_that_cannot_be_reached(desk: Desk) -> None:
    unsettled(desk)
    desk.environment["AGENTQ_BROKER"] = "amqp://u:s3cret@127.0.0.1:1/"
    for more in ((), ("--repair",)):
        found = desk.run("doctor", *more)
        assert found.code == 6
        assert "engine    RabbitMQ at amqp://u@127.0.0.1:1/" in found.out
        assert "\n          → check that it runs" in found.out
        assert "papers    " in found.out, "the papers are looked at all the same"
        assert "s3cret" not in found.out + found.err
    assert "s3cret" not in desk.run("doctor", "--json").out
    assert desk.run("doctor", "--json").json["engine"] is None


def test_a_store_that_cannot_be_used(desk: Desk) -> None:
    (desk.folder / "file").write_text("")
    found = desk.run("doctor", "--store", str(desk.folder / "file"))
    assert found.code == 6
    assert "store     cannot " in found.out
    assert "a file stands where a folder should be\n          → choose a folder" in found.out
    assert "engine    ok: sqlite" in found.out
    assert desk.run("doctor", "--store", str(desk.folder / "file"), "--json").json["store_error"]


def test_what_dead_writers_left_half_written_is_removed_and_younger_ones_stay(desk: Desk) -> None:
    desk.task()
    old, young = (desk.shared / "tasks" / f".tmp-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    desk.ok("doctor")
    assert old.exists()
    assert "1 half-written objects of dead writers removed" in desk.ok("doctor", "--repair")
    assert (old.exists(), young.exists()) == (False, True)
