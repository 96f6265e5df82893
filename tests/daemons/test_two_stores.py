"""A coordinator with one store and a worker with another, on one engine: neither loses a task, nor does it twice."""

from pathlib import Path

import pytest

from agentq.records import Records
from agentq.stores.file import FileStore
from tests.daemons.harness import Deployment, Process, until


@pytest.fixture
def other(deployment: Deployment) -> Records:
    """The papers in the store of a worker that was set up wrongly."""
    folder = deployment.home / "disk" / "other"
    folder.mkdir()
    return Records(FileStore(folder))


def start_elsewhere(deployment: Deployment, other: Records) -> Process:
    """Start a worker on the other store."""
    worker = deployment.start("worker", "run", deployment.agent, "--store", other.store.url)
    deployment.workers.append(worker)
    worker.says(f"{deployment.agent}: ready")
    return worker


def copy(deployment: Deployment, task: str, source: Records, target: Records) -> None:
    """Bring the task from one store to the other."""
    done = deployment.cli("store", "copy", task, "--from", source.store.url, "--to", target.store.url)
    assert done.returncode == 0, done


@pytest.mark.promise("wrong-store")
def test_a_worker_on_another_store_says_so_once_and_leaves_the_task_alone(
    deployment: Deployment, other: Records
) -> None:
    worker = start_elsewhere(deployment, other)
    task = deployment.submit("report done")
    deployment.publish(deployment.papers(task).envelope, copies=3)
    worker.says(f"store copy {task} --to {other.store.url}")
    until(lambda: deployment.depth() == 0, "all copies to be parked")
    assert worker.said().count(f"{task}: parked") == 1
    assert list(other.store.keys("tasks/")) == list(other.store.keys("open/")) == []
    assert deployment.papers(task).attempts == ()
    assert deployment.dead_letters(0) == []
    assert deployment.status(task) == "pending queued"
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.dead_letters(0) == []


@pytest.mark.promise("wrong-store")
@pytest.mark.promise("moved-once")
def test_a_task_is_moved_to_the_workers_store_and_its_result_brought_back(
    deployment: Deployment, other: Records
) -> None:
    worker = start_elsewhere(deployment, other)
    context = deployment.home / "brief.md"
    context.write_text("What the agent has to know.\n")
    task = deployment.submit("cp $AGENTQ_CONTEXT $AGENTQ_OUTPUT/seen.md", "report done", file=str(context))
    worker.says("parked")
    copy(deployment, task, deployment.records, other)
    assert deployment.status(task) == "pending moved"
    assert deployment.cli("cancel", task).returncode == 5
    until(lambda: other.manifest(task) and not other.marks.is_open(task), "its end where it went")
    assert deployment.status(task) == "pending moved"
    copy(deployment, task, other, deployment.records)
    manifest = deployment.check(task, starts=[2], attempt=2)
    assert manifest == other.manifest(task)
    assert manifest.verified
    assert deployment.evidence(task, 2)["seen.md"] == "What the agent has to know.\n"
    path = deployment.cli("result", task, "--path").stdout.strip()
    assert Path(path).is_relative_to(deployment.store_path)
    assert [one["task_id"] for one in deployment.json("inbox")] == [task]
    assert deployment.papers(task).counted == 0
    assert deployment.dead_letters(0) == []


@pytest.mark.promise("wrong-store")
def test_a_running_task_keeps_its_guard_when_it_passes_another_store(deployment: Deployment, other: Records) -> None:
    deployment.start_worker()
    task = deployment.submit("hold go", "report done")
    deployment.has_guard(task)
    start_elsewhere(deployment, other)
    deployment.is_renewed(task, times=30)  # some leases pass, and the guard comes to either of the two
    assert deployment.cli("store", "copy", task, "--to", other.store.url).returncode == 5
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    assert list(other.store.keys("tasks/")) == []
