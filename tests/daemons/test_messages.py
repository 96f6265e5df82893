"""Copies, forgeries, foreign and unreadable messages: the papers decide, and a worker goes on."""

import json

import pytest

from agentq.messages import Envelope
from tests.daemons.harness import Deployment, foreign, script, until


@pytest.mark.promise("not-twice")
def test_ten_copies_and_two_workers(deployment: Deployment) -> None:
    task = deployment.submit("hold go", "report done")
    deployment.publish(deployment.papers(task).envelope, copies=9)
    deployment.start_worker()
    deployment.start_worker()
    deployment.agent_runs(task)
    assert deployment.status(task) == "processing"
    other = deployment.submit("report other")
    deployment.ended(other)
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    deployment.check(other, starts=[1], attempt=1)
    deployment.rest()


def test_copies_of_a_finished_task_change_nothing(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("report done")
    manifest = deployment.check(task, starts=[1], attempt=1)
    deployment.publish(deployment.papers(task).envelope, copies=3)
    last = deployment.submit("report last", priority="low")
    deployment.check(last, starts=[1], attempt=1)
    assert deployment.check(task, starts=[1], attempt=1) == manifest
    deployment.rest()


def test_another_content_under_a_known_id_is_refused_alone(deployment: Deployment) -> None:
    task = deployment.submit("report done")
    forged = deployment.papers(task).envelope.model_copy(update={"instructions": script("report forged")})
    deployment.publish(forged)
    deployment.publish_raw(json.dumps(foreign(deployment.agent, task_id=task)).encode())
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["report.md"] == "done\n"
    letters = deployment.dead_letters(2)
    assert all(json.loads(letter.body)["task_id"] == task for letter in letters)
    assert all("another task is registered" in letter.reason for letter in letters)
    deployment.rest()


@pytest.mark.promise("foreign")
def test_the_ten_fields_of_a_foreign_producer_are_served(deployment: Deployment) -> None:
    deployment.start_worker()
    message = foreign(deployment.agent)
    deployment.publish_raw(*[json.dumps(message).encode()] * 2)
    task = message["task_id"]
    until(lambda: deployment.records.manifest(task))
    deployment.check(task, starts=[1], attempt=1)
    assert [one["task_id"] for one in deployment.json("inbox")] == [task]
    deployment.rest()


@pytest.mark.promise("garbage")
def test_garbage_is_dead_lettered_at_once_and_the_worker_goes_on(deployment: Deployment) -> None:
    deployment.start_worker()
    garbage = (
        b"",
        b"\xff\xfe\x00",
        b"{not json",
        b"[]",
        b'"text"',
        b"[" * 30_000,
        json.dumps(foreign(deployment.agent, instructions="  ")).encode(),
        json.dumps(foreign(deployment.agent, task_id="../../etc/passwd")).encode(),
        json.dumps(foreign(deployment.agent, version=99)).encode(),
        json.dumps(foreign("somebody-else")).encode(),
        json.dumps(foreign(deployment.agent, type="unknown")).encode(),
        json.dumps(foreign(deployment.agent, instructions="x" * 70_000)).encode(),
    )
    deployment.publish_raw(*garbage)
    task = deployment.submit("report done")
    deployment.check(task, starts=[1], attempt=1)
    letters = deployment.dead_letters(len(garbage))
    assert sorted(letter.body for letter in letters) == sorted(garbage)
    assert all(letter.reason for letter in letters)
    deployment.rest()


def test_a_message_of_ours_without_papers_is_refused(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("report done")
    deployment.check(task, starts=[1], attempt=1)
    orphan = deployment.papers(task).envelope.model_copy(update={"task_id": "task-gone"})
    deployment.publish(Envelope.model_validate(orphan.model_dump(by_alias=True)))
    letters = deployment.dead_letters(1)
    assert "no papers" in letters[0].reason
    deployment.rest()


def test_a_damaged_paper_ends_its_message_and_not_the_worker(deployment: Deployment) -> None:
    task = deployment.submit("report done")
    (deployment.store_path / "attempts" / task).mkdir(parents=True)
    (deployment.store_path / "attempts" / task / "1.json").write_text("{")
    worker = deployment.start_worker()
    other = deployment.submit("report done")
    deployment.ended(other)
    letters = deployment.dead_letters(1)
    assert [letter.task_id for letter in letters] == [task]
    assert worker.code is None
    assert deployment.cli("doctor").returncode == 13
