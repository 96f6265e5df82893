"""Figures and metrics of real tasks and workers: what happened, exactly, also while the broker is away."""

import re
import urllib.request
from signal import SIGTERM
from typing import Any

import pytest

from tests.brokers.node import Node
from tests.daemons.harness import Deployment, Process, until
from tests.daemons.test_expiring import overdue
from tests.test_metrics import Samples, parsed, value


def port_of(process: Process) -> int:
    """Where it serves metrics."""
    process.says("serving metrics at ")
    return int(re.findall(r"127\.0\.0\.1:(\d+)/metrics", process.said())[0])


def scrape(process: Process) -> Samples:
    """What Prometheus would be told now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port_of(process)}/metrics", timeout=30) as answer:
        return parsed(answer.read().decode())


def start_metered(deployment: Deployment) -> Process:
    """A worker that serves its own metrics, ready."""
    worker = deployment.start("worker", "run", deployment.agent, "--metrics-port", "0")
    deployment.workers.append(worker)
    worker.says(f"{deployment.agent}: ready")
    return worker


def start_exporter(deployment: Deployment) -> Process:
    """`agentq metrics serve`, killed in the end."""
    exporter = deployment.start("metrics", "serve", "--port", "0")
    deployment.workers.append(exporter)
    port_of(exporter)
    return exporter


def stats(deployment: Deployment) -> dict[str, Any]:
    """The figures of this deployment's agent."""
    found = deployment.json("stats", "--agent", deployment.agent)
    assert isinstance(found, dict)
    total = found["total"]
    assert isinstance(total, dict)
    return total


def a_day(deployment: Deployment) -> Process:
    """Something of everything, to its end: answers with the worker that did it."""
    expired = deployment.submit("report never", ttl="0.1")
    overdue(deployment, expired)
    delayed = deployment.submit("report never", delay="1h")
    assert deployment.cli("cancel", delayed).returncode == 0
    worker = start_metered(deployment)
    done = [deployment.submit("report done") for _ in range(2)]
    retried = deployment.submit('[ "$AGENTQ_ATTEMPT" = 2 ] || exit 1', "report done")
    given_up = deployment.submit("exit 1", max_attempts="2")
    stopped = deployment.submit("hold go", "report never")
    deployment.publish_raw(b"garbage")
    deployment.agent_runs(stopped)
    assert deployment.cli("cancel", stopped).returncode == 0
    for task in (expired, delayed, *done, retried, given_up, stopped):
        deployment.ended(task)
    deployment.dead_letters(2)
    return worker


@pytest.mark.promise("figures")
def test_figures_are_what_happened(deployment: Deployment) -> None:
    a_day(deployment)
    deployment.submit("report later", delay="1h")
    deployment.submit("report later", requires_approval=True)
    running = deployment.submit("hold end", "report done")
    deployment.agent_runs(running)
    until(lambda: stats(deployment)["ended"] == 7, "all that ended in the log")
    found = stats(deployment)
    outcomes = {name: found[name] for name in ("completed", "failed", "cancelled", "expired")}
    assert outcomes == {"completed": 3, "failed": 1, "cancelled": 2, "expired": 1}
    assert (found["started"], found["retried"], found["retry_rate"], found["failure_rate"]) == (5, 2, 0.4, 0.25)
    assert found["dead_letters"] == 1  # the one that names its agent: garbage names nobody
    assert found["wait_seconds"]["count"] == found["run_seconds"]["count"] == 5
    assert 0 <= found["run_seconds"]["p50"] <= found["run_seconds"]["max"] < 60
    assert found["cost_usd"] == {"sum": None, "mean": None, "known": 0, "unknown": 5}
    assert {name: n for name, n in found["now"].items() if n} == {"delayed": 1, "approval": 1, "running": 1}
    text = deployment.cli("stats", "--agent", deployment.agent).stdout
    assert "cost     unknown (5 tasks did not tell)" in text
    assert re.search(r"^queues   messages \d+, dead letters \d+$", text, re.MULTILINE)  # guards come and go


@pytest.mark.promise("metrics")
def test_metrics_are_what_happened_also_after_a_restart(deployment: Deployment) -> None:
    worker, agent = a_day(deployment), deployment.agent
    exporter = start_exporter(deployment)

    def ended() -> dict[str, float]:
        samples = scrape(exporter)
        return {
            o: value(samples, "tasks_ended_total", agent=agent, outcome=o)
            for o in ("completed", "failed", "cancelled", "expired")
        }

    until(lambda: sum(ended().values()) == 7, "all that ended in the log")
    assert ended() == {"completed": 3, "failed": 1, "cancelled": 2, "expired": 1}
    samples = scrape(exporter)
    told = {
        "tasks_submitted_total": 7,
        "task_attempts_total": 7,
        "tasks_retried_total": 2,
        "tasks_dead_lettered_total": 1,
        "tasks_cost_unknown_total": 5,
        "cost_dollars_total": 0,
        "task_run_seconds_count": 5,
        "queue_messages": 0,
    }
    assert {name: value(samples, name, agent=agent) for name in told} == told
    assert value(samples, "messages_refused_total") >= 1
    assert value(samples, "dead_letters") >= 2
    until(lambda: value(scrape(exporter), "workers", agent=agent, state="up") == 1, "the worker's heartbeat")
    of_worker(scrape(worker), agent)
    before = scrape(exporter)
    exporter.send(SIGTERM)
    assert exporter.wait() == 0
    after = scrape(start_exporter(deployment))
    assert [name for name, n in before.items() if name[0].endswith("_total") and after[name] < n] == []


def of_worker(samples: Samples, agent: str) -> None:
    """Its own metrics tell what it did."""
    assert value(samples, "worker_attempts_started_total", agent=agent) == 7
    outcomes = ("completed", "failed", "cancelled", "no_result")
    ended = {o: value(samples, "worker_attempts_ended_total", agent=agent, outcome=o) for o in outcomes}
    assert ended == {"completed": 3, "failed": 0, "cancelled": 1, "no_result": 3}
    assert value(samples, "worker_run_seconds_count", agent=agent) == 7
    assert value(samples, "worker_running_attempts", agent=agent) == 0
    assert value(samples, "worker_engine_up", agent=agent) == 1
    assert value(samples, "worker_draining", agent=agent) == 0


def test_a_worker_tells_what_it_does_now_and_ends_cleanly(deployment: Deployment) -> None:
    worker, agent = start_metered(deployment), deployment.agent
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    assert value(scrape(worker), "worker_running_attempts", agent=agent) == 1
    worker.send(SIGTERM)
    until(lambda: value(scrape(worker), "worker_draining", agent=agent) == 1, "it drains")
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    assert worker.wait() == 0


def test_a_worker_whose_port_is_taken_takes_nothing(on_sqlite_alone: Deployment) -> None:
    taken = port_of(start_metered(on_sqlite_alone))
    other = on_sqlite_alone.cli("worker", "run", on_sqlite_alone.agent, "--metrics-port", str(taken))
    assert other.returncode == 6
    assert "the port is taken" in other.stderr
    assert "ready" not in other.stderr


@pytest.mark.promise("metrics")
def test_a_killed_worker_is_counted_as_silent(deployment: Deployment) -> None:
    deployment.profile(limits={"heartbeat_seconds": 0.2})
    worker, agent = deployment.start_worker(), deployment.agent
    exporter = start_exporter(deployment)

    def workers(state: str) -> float:
        return value(scrape(exporter), "workers", agent=agent, state=state)

    until(lambda: workers("up") == 1, "its heartbeat")
    worker.kill()
    until(lambda: (workers("silent"), workers("up")) == (1, 0), "its silence")


@pytest.mark.promise("metrics-away")
def test_figures_and_metrics_while_the_broker_is_away(on_broker: Deployment, broker: Node) -> None:
    worker, agent = start_metered(on_broker), on_broker.agent
    task = on_broker.submit("report done")
    on_broker.ended(task)
    until(lambda: stats(on_broker)["completed"] == 1, "the task in the log")
    exporter = start_exporter(on_broker)
    assert value(scrape(exporter), "up") == 1
    broker.stop()
    found = scrape(exporter)
    assert value(found, "up") == 0
    assert value(found, "tasks_ended_total", agent=agent, outcome="completed") == 1
    assert value(scrape(worker), "worker_engine_up", agent=agent) == 0
    done = on_broker.cli("stats", "--agent", agent, seconds=60)
    assert done.returncode == 0, done
    assert "the log cannot be read, this is as of " in done.stderr
    assert "queues   unknown" in done.stdout
    assert "1 completed" in done.stdout
    broker.start()
    until(lambda: value(scrape(exporter), "up") == 1, "the engine again", seconds=60)
    until(lambda: value(scrape(worker), "worker_engine_up", agent=agent) == 1, "the worker's, too", seconds=60)
    later = on_broker.submit("report done")
    on_broker.ended(later)
    until(lambda: value(scrape(exporter), "tasks_ended_total", agent=agent, outcome="completed") == 2)
