"""The broker goes and comes back while an agent runs: it is not started twice, and its result is accepted."""

from signal import SIGTERM

import pytest

from tests.brokers.node import Node
from tests.daemons.harness import Deployment


@pytest.mark.promise("not-twice")
@pytest.mark.parametrize("ends", ["stop", "kill"])
@pytest.mark.parametrize("guarded", [False, True], ids=["before-its-guard", "after-its-guard"])
def test_the_broker_goes_while_an_agent_runs(on_broker: Deployment, broker: Node, ends: str, guarded: bool) -> None:
    if not guarded:
        on_broker.profile(limits={"renew_seconds": 1.0, "lease_seconds": 3.0})
    broker.flush()
    on_broker.start_worker()
    task = on_broker.submit("hold go", "report done")
    on_broker.agent_runs(task)
    if guarded:
        on_broker.has_guard(task)
    getattr(broker, ends)()
    assert on_broker.status(task) == "processing"
    assert on_broker.cli("submit", "--to", on_broker.agent, "--type", "work", "-i", "x").returncode == 6
    broker.start()
    on_broker.open_gate("go")
    on_broker.check(task, starts=[1], attempt=1)
    last = on_broker.submit("report last")
    on_broker.check(last, starts=[1], attempt=1)
    on_broker.rest()


@pytest.mark.promise("outage")
def test_a_graceful_stop_with_the_broker_down_does_not_hang(on_broker: Deployment, broker: Node) -> None:
    """The agent is stopped and its attempt ended; the message that could not be sent is made up for by the sweep."""
    worker = on_broker.start_worker()
    task = on_broker.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold never")
    on_broker.agent_runs(task)
    on_broker.has_guard(task)
    broker.stop()
    worker.send(SIGTERM)
    worker.says("draining")
    worker.send(SIGTERM)
    assert worker.wait(15.0) == 0
    assert not on_broker.left_processes()
    assert on_broker.status(task) == "pending queued"
    broker.start()
    on_broker.start_worker()
    on_broker.check(task, starts=[1, 2], attempt=2)
    on_broker.rest()


def test_a_task_ends_and_is_read_and_workers_end_while_the_broker_is_away(on_broker: Deployment, broker: Node) -> None:
    on_broker.start_worker()
    task = on_broker.submit("hold go", "report done")
    on_broker.agent_runs(task)
    broker.stop()
    on_broker.open_gate("go")
    on_broker.check(task, starts=[1], attempt=1)
    assert [one["task_id"] for one in on_broker.json("inbox")] == [task]
    late = on_broker.start_worker(ready=False)
    late.says("the engine is unavailable")
    for worker in on_broker.workers:
        worker.send(SIGTERM)
        assert worker.wait(10.0) == 0
