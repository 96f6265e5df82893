"""Draining and stopping a worker, also when the engine or the store is away."""

from signal import SIGINT, SIGTERM

import pytest

from tests.daemons.harness import Deployment


@pytest.mark.promise("drain")
def test_sigterm_lets_the_running_task_finish_and_takes_nothing_new(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    running = deployment.submit("hold go", "report done")
    deployment.agent_runs(running)
    worker.send(SIGTERM)
    worker.says("draining")
    waiting = deployment.submit("report done")
    assert (deployment.status(running), deployment.status(waiting)) == ("processing", "pending queued")
    deployment.open_gate("go")
    assert worker.wait() == 0
    deployment.check(running, starts=[1], attempt=1)
    assert deployment.starts(waiting) == []
    deployment.start_worker()
    deployment.check(waiting, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("drain")
def test_a_second_sigterm_releases_the_task_uncounted(deployment: Deployment) -> None:
    """Its agent is stopped first, its work is kept, and another worker runs it as if nothing had been tried."""
    worker = deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }",
        "echo half > $AGENTQ_OUTPUT/half.md",
        "setsid sleep 300 &",
        "note ready",
        "hold never",
        max_attempts="1",
    )
    deployment.noted(task, "ready")
    deployment.start_worker()
    worker.send(SIGTERM)
    worker.says("draining")
    worker.send(SIGTERM)
    assert worker.wait() == 0
    manifest = deployment.check(task, starts=[1, 2], attempt=2)
    assert manifest.status == "completed"
    assert deployment.evidence(task, 1)["half.md"] == "half\n"
    end = deployment.records.ended(task, 1)
    assert end is not None
    assert not end.counts
    deployment.rest()


def test_a_second_sigterm_after_the_guard_releases_the_task_too(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold never", max_attempts="1")
    deployment.agent_runs(task)
    deployment.has_guard(task)
    worker.send(SIGTERM)
    worker.says("draining")
    worker.send(SIGTERM)
    assert worker.wait() == 0
    assert deployment.status(task) == "pending queued"
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    deployment.rest()


def test_the_drain_time_out_stops_the_agent(deployment: Deployment) -> None:
    deployment.profile(limits={"drain_seconds": 0.3})
    worker = deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold never")
    deployment.agent_runs(task)
    worker.send(SIGTERM)
    assert worker.wait() == 0
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    deployment.rest()


def test_an_idle_worker_ends_at_once_and_by_sigint_too(deployment: Deployment) -> None:
    workers = [deployment.start_worker(), deployment.start_worker()]
    for worker, what in zip(workers, (SIGTERM, SIGINT), strict=True):
        worker.send(what)
        assert worker.wait(3.0) == 0


def test_a_worker_ends_although_the_store_is_away(deployment: Deployment) -> None:
    """It holds a message that it cannot decide over; the next worker gets it."""
    worker = deployment.start_worker("refuse before * *")  # all steps of the store
    deployment.raise_flag("away")
    task = deployment.submit("report done")
    deployment.see_flag("refused")
    worker.send(SIGTERM)
    assert worker.wait(10.0) == 0
    deployment.lower_flag("away")
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()
