"""A worker is killed with SIGKILL at every step; the next one carries the task to its one result."""

from signal import SIGKILL
from typing import NamedTuple

import pytest

from tests.daemons.harness import Deployment

WORK = ("echo half > $AGENTQ_OUTPUT/half.md", "note working", "hold go", "report done")


class Death(NamedTuple):
    """Where the worker dies, what `status` says then, and in which attempts an agent was started at the end."""

    fault: str
    status: str
    starts: list[int]
    attempt: int


BEFORE_THE_AGENT = (
    Death("die before put_new attempts/*/1.json", "pending queued", [1], 1),
    Death("die after put_new attempts/*/1.json", "pending lease", [2], 2),
)

WITH_THE_AGENT = (
    Death("die before publish guard", "pending lease", [1, 2], 2),
    Death("die after publish guard", "pending lease", [1, 2], 2),
    Death("die after 2 put attempts/*/1.lease.json", "pending lease", [1, 2], 2),
    Death("die before ack", "pending lease", [1, 2], 2),
    Death("die after ack", "pending lease", [1, 2], 2),
)

AFTER_THE_AGENT = (
    Death("die before put_file artifacts/*/report.md", "pending lease", [1, 2], 2),
    Death("die after put_file artifacts/*/report.md", "pending lease", [1, 2], 2),
    Death("die before put_new results/*.json", "pending lease", [1, 2], 2),
)

SETTLING = tuple(
    Death(f"die {when} {step}", "completed", [1], 1)
    for step in ("put_new results/*.json", "put results/*.md", "put inbox/*", "notify", "delete open/*", "ack")
    for when in ("before", "after")
    if (when, step) != ("before", "put_new results/*.json")
)


def named(deaths: tuple[Death, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("death", deaths, ids=[death.fault for death in deaths])


@named(BEFORE_THE_AGENT)
@pytest.mark.promise("none-lost")
def test_killed_around_the_claim(deployment: Deployment, death: Death) -> None:
    task = die(deployment, death)
    finish(deployment, task, death)


@named(WITH_THE_AGENT)
@pytest.mark.promise("none-lost")
def test_killed_around_the_guard(deployment: Deployment, death: Death) -> None:
    worker = deployment.start_worker("stall before put attempts/*/1.lease.json", death.fault)
    task = deployment.submit(*WORK)
    deployment.noted(task, "working")  # also on a busy machine the agent is there before the first renewal
    deployment.raise_flag("go")
    assert worker.wait() == -SIGKILL
    assert deployment.status(task) == death.status
    finish(deployment, task, death)
    assert deployment.evidence(task, 1)["half.md"] == "half\n"


@named(AFTER_THE_AGENT)
@pytest.mark.promise("one-result")
def test_killed_between_the_report_and_the_commit(deployment: Deployment, death: Death) -> None:
    deployment.open_gate("go")
    task = die(deployment, death)
    finish(deployment, task, death)
    assert deployment.evidence(task, 1)["report.md"] == "done\n"


@named(SETTLING)
@pytest.mark.promise("one-result")
def test_killed_while_settling(deployment: Deployment, death: Death) -> None:
    deployment.profile(limits={"renew_seconds": 1.0, "lease_seconds": 3.0})  # the ack is the last, not the guard's
    deployment.open_gate("go")
    task = die(deployment, death)
    assert deployment.cli("result", task).returncode == 0
    finish(deployment, task, death)


@pytest.mark.promise("taken-over")
def test_killed_while_the_agent_runs(deployment: Deployment) -> None:
    """Its agent, and what that started in a session of its own, are gone before the next one is started."""
    worker = deployment.start_worker()
    task = deployment.submit(
        'if [ $AGENTQ_ATTEMPT = 1 ]; then setsid sh -c "sleep 300" & fi', "note child", *WORK, id="task-1"
    )
    deployment.noted(task, "child")
    deployment.has_guard(task)
    assert deployment.status(task) == "processing"
    worker.kill()
    assert deployment.status(task) == "pending lease"
    finish(deployment, task, Death("", "", [1, 2], 2))
    assert deployment.evidence(task, 1)["half.md"] == "half\n"
    assert "worker's process died" in deployment.prompt(task, 2)


@pytest.mark.promise("none-lost")
def test_all_processes_of_the_machine_are_killed(deployment: Deployment) -> None:
    """Two workers and a submit die at once; one worker afterwards does everything that was registered."""
    workers = [deployment.start_worker(), deployment.start_worker()]
    running = [deployment.submit(*WORK), deployment.submit(*WORK)]
    for task in running:
        deployment.agent_runs(task)
    waiting = deployment.submit(*WORK)
    submitting = deployment.start(
        *deployment.submission(*WORK, id="task-late"), faults=("stall after put_new tasks/*.json",)
    )
    deployment.see_flag("stalled")
    for process in (*workers, submitting):
        process.send(SIGKILL)
    for process in (*workers, submitting):
        process.wait()
    assert [deployment.status(task) for task in (*running, waiting)] == ["pending lease"] * 2 + ["pending queued"]
    deployment.open_gate("go")
    deployment.start_worker()
    for task in running:
        deployment.check(task, starts=[1, 2], attempt=2)
    for task in (waiting, "task-late"):
        deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


def die(deployment: Deployment, death: Death) -> str:
    worker = deployment.start_worker(death.fault)
    task = deployment.submit(*WORK)
    assert worker.wait() == -SIGKILL
    assert deployment.status(task) == death.status
    return task


def finish(deployment: Deployment, task: str, death: Death) -> None:
    deployment.open_gate("go")
    deployment.start_worker()
    deployment.check(task, starts=death.starts, attempt=death.attempt)
    deployment.rest()
