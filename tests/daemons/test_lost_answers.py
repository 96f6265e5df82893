"""The store did it and the client saw a time-out; or the store is away, or full, for a while."""

import json
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.daemons.harness import Deployment, foreign, script

PAPERS = (
    "put_new tasks/*.json",
    "put_new attempts/*/1.json",
    "put_new attempts/*/1.end.json",
    "put_new attempts/*/2.json",
    "put_new results/*.json",
    "put_file artifacts/*",
    "put results/*.md",
    "put inbox/*",
    "delete open/*",
    "put attempts/*.lease.json",
)


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("paper", PAPERS)
def test_a_put_whose_answer_was_lost(deployment: Deployment, paper: str) -> None:
    """A foreign message is registered by the worker; the first attempt fails, so that it is ended."""
    deployment.start_worker(f"lose after {paper}")
    steps = script("[ $AGENTQ_ATTEMPT = 1 ] && exit 75", "hold go", "report done")
    message = foreign(deployment.agent, instructions=steps)
    deployment.publish_raw(json.dumps(message).encode())
    task = message["task_id"]
    deployment.agent_runs(task, attempt=2)
    deployment.has_guard(task, attempt=2)
    deployment.open_gate("go")
    deployment.see_flag("lost")
    deployment.check(task, starts=[1, 2], attempt=2)
    deployment.rest()


@pytest.mark.parametrize(
    "step", ["get tasks/*", "put_new attempts/*/1.json", "put* artifacts/*", "put_new results/*", "put inbox/*"]
)
def test_the_store_is_away_at_one_step(deployment: Deployment, step: str) -> None:
    deployment.start_worker(f"refuse before {step}")
    deployment.raise_flag("away")
    task = deployment.submit("report done")
    deployment.see_flag("refused")
    deployment.lower_flag("away")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("outage")
def test_the_store_is_away_while_the_agent_runs(deployment: Deployment) -> None:
    """For longer than a lease, and for all that the worker does; another worker does not take the task over."""
    deployment.start_worker("refuse before * *")  # all steps of the store
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    deployment.has_guard(task)
    deployment.raise_flag("away")
    deployment.see_flag("refused")
    other = deployment.start_worker()
    assert deployment.status(task) == "processing"
    deployment.open_gate("go")
    other.send(SIGTERM)
    other.wait()
    deployment.lower_flag("away")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.parametrize("vanishing", [lambda d: d.store_path, lambda d: d.store_path.parent], ids=["folder", "disk"])
def test_the_store_vanishes_and_comes_back(deployment: Deployment, vanishing: Callable[[Deployment], Path]) -> None:
    worker = deployment.start_worker()
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    moved = vanishing(deployment)
    elsewhere = moved.with_name("elsewhere")
    moved.rename(elsewhere)
    other = deployment.submission("report done")
    deployment.open_gate("go")
    worker.says("the store is unavailable")
    if moved != deployment.store_path:
        assert deployment.cli(*other).returncode == 6
    elsewhere.rename(moved)
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("outage")
def test_a_full_disk_makes_a_worker_wait(deployment: Deployment) -> None:
    deployment.start_worker("refuse before put*")
    deployment.raise_flag("away")
    task = deployment.submit("report done")
    deployment.see_flag("refused")
    assert deployment.status(task) == "pending queued"
    assert deployment.starts(task) == []
    deployment.lower_flag("away")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()
