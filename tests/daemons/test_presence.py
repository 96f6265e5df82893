"""`agentq workers` and `agentq doctor` about real daemons: killed, stopped, drained, idle, and without a broker."""

from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from agentq.process_table import process_of
from tests.brokers.node import Node
from tests.daemons.harness import Deployment, Process, until

QUICK = {"heartbeat_seconds": 0.2}
WORK = ("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold go", "report done")


def listed(deployment: Deployment, *flags: str) -> dict[int, dict[str, Any]]:
    """The workers that are listed, by their pids."""
    found = deployment.json("workers", "--agent", deployment.agent, *flags)["workers"]
    return {one["pid"]: one for one in found}


def stands(deployment: Deployment, worker: Process, how: str, *flags: str) -> dict[str, Any]:
    """Wait until a worker stands like that."""
    one = until(lambda: (seen := listed(deployment, *flags).get(worker.pid)) and seen["state"] == how and seen, how)
    assert isinstance(one, dict)
    return one


def tasks_of(one: dict[str, Any], which: str) -> list[tuple[str, int]]:
    return [(run["task_id"], run["attempt"]) for run in one[which]]


def kinds(deployment: Deployment, *flags: str) -> dict[str, dict[str, Any]]:
    """What doctor finds of this deployment, by kind."""
    import json

    done = deployment.cli("doctor", "--json", *flags)
    assert done.returncode in (0, 13), done
    return {ailment["kind"]: ailment for ailment in json.loads(done.stdout)["ailments"]}


def state_in_list(deployment: Deployment, task_id: str) -> tuple[str, str | None]:
    tasks = deployment.json("list", "--agent", deployment.agent)["tasks"]
    (row,) = [row for row in tasks if row["task_id"] == task_id]
    return row["state"], row["waits_for"]


@pytest.mark.promise("no-ghosts")
def test_a_killed_worker_works_on_nothing_and_is_succeeded(deployment: Deployment) -> None:
    deployment.profile(limits=QUICK)
    worker = deployment.start_worker()
    task = deployment.submit(*WORK)
    deployment.agent_runs(task)
    up = until(lambda: (one := listed(deployment)[worker.pid])["running"] and one, "a task that it works on")
    assert (up["state"], tasks_of(up, "running"), up["parallel"]) == ("up", [(task, 1)], 1)
    assert state_in_list(deployment, task) == ("processing", None)
    assert not kinds(deployment)

    worker.kill()
    gone = listed(deployment)[worker.pid]
    assert (gone["state"], gone["running"], tasks_of(gone, "was_running")) == ("gone", [], [(task, 1)])
    found = kinds(deployment)["lease"]
    assert found["task_id"] == task
    assert found["what"].endswith("is gone; no worker is up to take it over")
    assert found["remedy"] == f"agentq worker run {deployment.agent}"
    until(lambda: state_in_list(deployment, task) == ("pending", "lease"), "that the list knows it")

    second = deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    stands(deployment, second, "up")
    assert set(listed(deployment)) == {second.pid}, "the new one took the dead one's place"
    assert listed(deployment, "--all")[worker.pid]["state"] == "gone"
    until(lambda: not kinds(deployment), "nothing to mend")
    assert state_in_list(deployment, task) == ("completed", None)
    deployment.rest()


@pytest.mark.promise("no-ghosts")
def test_a_stopped_worker_is_silent_and_comes_back(deployment: Deployment) -> None:
    deployment.profile(limits=QUICK | {"lease_seconds": 60})
    worker = deployment.start_worker()
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    until(lambda: listed(deployment)[worker.pid]["running"], "a heartbeat with the task")
    worker.send(SIGSTOP)
    silent = stands(deployment, worker, "silent")
    assert (silent["running"], tasks_of(silent, "was_running")) == ([], [(task, 1)])
    printed = deployment.cli("workers", "--agent", deployment.agent)
    assert f"was on {task}, attempt 1" in printed.stdout
    assert "no worker of" in printed.stderr
    worker.send(SIGCONT)
    assert tasks_of(stands(deployment, worker, "up"), "running") == [(task, 1)]
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


def test_a_draining_worker_is_there_until_it_ends(deployment: Deployment) -> None:
    deployment.profile(limits=QUICK)
    worker = deployment.start_worker()
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    worker.send(SIGTERM)
    until(lambda: tasks_of(stands(deployment, worker, "draining"), "running") == [(task, 1)], "its task")
    waiting = deployment.submit("report done")
    found = kinds(deployment, "--stuck", "0.01")["no-worker"]
    assert f"the first ({waiting})" in found["what"]
    deployment.open_gate("go")
    assert worker.wait() == 0
    assert listed(deployment) == {}
    down = listed(deployment, "--all")[worker.pid]
    assert (down["state"], down["reason"], down["running"]) == ("down", "drained", [])
    deployment.start_worker()
    deployment.check(waiting, starts=[1], attempt=1)
    deployment.rest()


def test_two_workers_on_one_host(deployment: Deployment) -> None:
    deployment.profile(limits=QUICK | {"parallel": 2})
    both = [deployment.start_worker(), deployment.start_worker()]
    tasks = {deployment.submit("hold go", "report done") for _ in range(3)}
    for task in tasks:
        deployment.agent_runs(task)

    def at_work() -> set[tuple[str, int]]:
        return {work for one in listed(deployment).values() for work in tasks_of(one, "running")}

    until(lambda: at_work() == {(task, 1) for task in tasks}, "all tasks at work")
    seen = listed(deployment)
    assert set(seen) == {worker.pid for worker in both}
    assert len({one["host"] for one in seen.values()}) == 1
    assert all(len(one["running"]) <= one["parallel"] == 2 for one in seen.values())
    deployment.open_gate("go")
    for task in tasks:
        deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("health")
def test_an_idle_worker_that_does_not_take_what_waits(deployment: Deployment) -> None:
    deployment.profile(limits=QUICK)
    worker = deployment.start_worker("stall before receive")
    task = deployment.submit("report done")
    deployment.see_flag("stalled")
    stands(deployment, worker, "up")
    assert not kinds(deployment)
    found = kinds(deployment, "--stuck", "0.01")["stuck"]
    assert found["what"].endswith(f":{worker.pid} is idle")
    assert found["agent"] == deployment.agent
    deployment.raise_flag("go")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("health")
def test_nobody_is_up_for_what_waits(deployment: Deployment) -> None:
    task = deployment.submit("report done")
    found = kinds(deployment, "--stuck", "0.01")["no-worker"]
    assert f"1 task of {deployment.agent} could start, the first ({task})" in found["what"]
    assert found["remedy"] == f"agentq worker run {deployment.agent}"
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    assert not kinds(deployment, "--stuck", "0.01")
    deployment.rest()


def test_without_a_broker_the_ledger_tells_what_was(on_broker: Deployment, stopped_broker: Node) -> None:
    on_broker.profile(limits=QUICK)
    worker = on_broker.start_worker()
    task = on_broker.submit("hold go", "report done")
    on_broker.agent_runs(task)
    until(lambda: listed(on_broker)[worker.pid]["running"], "a heartbeat with the task")
    stopped_broker.stop()
    done = on_broker.cli("workers")
    assert done.returncode == 0
    assert "the log cannot be read, this is as of " in done.stderr
    assert f"on {task}, attempt 1" in done.stdout
    doctor = on_broker.cli("doctor")
    assert doctor.returncode == 6
    assert "papers    ok" in doctor.stdout
    worker.send(SIGKILL)
    worker.wait()
    assert listed(on_broker)[worker.pid]["running"] == [], "this host knows better than the ledger"
    until(lambda: process_of(worker.pid) is None, "the process to be gone")
    doctor = on_broker.cli("doctor")
    assert f"workers   {task} attempt 1: the process of " in doctor.stdout
    stopped_broker.start()
    on_broker.open_gate("go")
    on_broker.start_worker()
    on_broker.check(task, starts=[1, 2], attempt=2)
    on_broker.rest()
