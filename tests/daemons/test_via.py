"""Workers that have nothing but a gateway's URL and a token, as real processes on hosts of their own."""

import time
from collections.abc import Iterator
from signal import SIGTERM

import pytest

from tests.daemons.gateways import ALONE, LIMITS, OTHER, Gateway, gateway_of, nursery
from tests.daemons.harness import Deployment, until
from tests.daemons.lines import line_to

__all__ = ["nursery"]
SUBMIT = "submit --to implementation-worker --type implementation --instructions x"


@pytest.fixture
def gateway(deployment: Deployment) -> Iterator[Gateway]:
    """A gateway of the deployment, on each engine."""
    gateway = gateway_of(deployment)
    yield gateway
    gateway.keeps_nothing_out()


@pytest.fixture
def gateway_alone(on_sqlite_alone: Deployment) -> Iterator[Gateway]:
    """A gateway for what no engine has a part in."""
    gateway = gateway_of(on_sqlite_alone)
    yield gateway
    gateway.keeps_nothing_out()


@pytest.mark.promise("via-same")
def test_a_worker_with_nothing_but_a_url_does_a_task(gateway: Gateway) -> None:
    deployment = gateway.deployment
    far = gateway.place("far")
    worker = far.worker()
    task = deployment.submit("report done", 'echo more > "$AGENTQ_OUTPUT/more.txt"')
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["report.md"] == "done\n"
    assert manifest.verified
    assert "done" in deployment.cli("result", task, "--full").stdout
    (there,) = [one for one in deployment.json("workers")["workers"] if one["host"] == "far"]
    assert there["pid"] == worker.pid
    worker.send(SIGTERM)
    assert worker.wait() == 0, worker.said()
    assert far.rests()
    deployment.rest()


@pytest.mark.promise("via-same")
@pytest.mark.timeout(300)
def test_three_instances_share_the_work_one_task_at_a_time_each(gateway: Gateway) -> None:
    deployment = gateway.deployment
    tasks = [f"task-{number}" for number in range(24)]
    deployment.submit_all(*(deployment.request(task, ALONE, 'note on "$HOME"', "report done") for task in tasks))
    for name in ("one", "two", "three"):
        gateway.place(name).worker(ready=False)
    for task in tasks:
        manifest = until(lambda task=task: deployment.records.manifest(task), task, 60.0)  # type: ignore[misc]
        assert (manifest.status, manifest.attempt, deployment.starts(task)) == ("completed", 1, [1])
        assert not deployment.notes(task, "two"), "two agents ran at once for one worker"
    hosts = {deployment.notes(task, "on")[0][1] for task in tasks}
    assert len(hosts) == 3
    until(lambda: not deployment.keys("open/"), "all to be settled")


@pytest.mark.promise("via-cut")
@pytest.mark.parametrize("how", ["swallow", "reset"])
def test_a_line_that_is_cut_for_longer_than_a_lease_neither_stops_nor_repeats_a_task(
    gateway_alone: Gateway, how: str
) -> None:
    """Another worker of the agent waits all the while, and would take it over."""
    gateway, deployment = gateway_alone, gateway_alone.deployment
    deployment.profile(limits={**LIMITS, "away_seconds": 20.0})
    with line_to(gateway.port) as line:
        far = gateway.place("far", port=line.port)
        far.worker()
        task = deployment.submit("hold go", "report done")
        deployment.agent_runs(task)
        deployment.has_guard(task)
        gateway.place("near").worker()
        getattr(line, how)()
        counter = deployment.records.lease(task, 1).counter  # type: ignore[union-attr]
        until_still(deployment, task, 4 * LIMITS["lease_seconds"])
        assert deployment.status(task) == "processing"
        deployment.open_gate("go")
        line.mend()
        manifest = deployment.check(task, starts=[1], attempt=1)
        assert manifest.verified
        assert deployment.records.lease(task, 1).counter >= counter  # type: ignore[union-attr]
        deployment.workers[-1].send(SIGTERM)
        assert deployment.workers[-1].wait() == 0
        last = deployment.submit("report last")  # which only the one whose line was cut can take
        deployment.check(last, starts=[1], attempt=1)


def until_still(deployment: Deployment, task: str, seconds: float) -> None:
    """Wait until the attempt was not renewed for so many seconds."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        lease = deployment.records.lease(task, 1)
        if lease and lease.counter != seen:
            seen, since = lease.counter, time.monotonic()
        time.sleep(0.05)


@pytest.mark.promise("via-again")
def test_a_worker_that_waits_for_a_message_over_a_cut_consumes_again(gateway_alone: Gateway) -> None:
    gateway, deployment = gateway_alone, gateway_alone.deployment
    with line_to(gateway.port) as line:
        worker = gateway.place("far", port=line.port).worker()
        line.reset()
        worker.says("the engine is unavailable")
        task = deployment.submit("report done")
        line.mend()
        deployment.check(task, starts=[1], attempt=1)


@pytest.mark.promise("taken-over")
def test_a_killed_worker_is_taken_over_by_the_next_one_of_its_host_at_once(gateway: Gateway) -> None:
    deployment = gateway.deployment
    deployment.profile(limits={**LIMITS, "away_seconds": 300.0})
    far = gateway.place("far")
    worker = far.worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "hold never")
    deployment.agent_runs(task)
    deployment.has_guard(task)
    worker.kill()
    far.worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "worker's process died" in deployment.prompt(task, 2)


@pytest.mark.promise("taken-over")
def test_a_killed_worker_is_taken_over_on_another_host_after_its_lease(gateway: Gateway) -> None:
    deployment = gateway.deployment
    worker = gateway.place("far").worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "hold go")
    deployment.agent_runs(task)
    deployment.has_guard(task)
    gateway.place("near").worker()
    worker.kill()
    deployment.open_gate("go")  # what the dead one's agent still does there counts for nothing
    manifest = deployment.ended(task)
    assert (manifest.status, manifest.attempt, deployment.starts(task)) == ("completed", 2, [1, 2])
    assert "silent for over 3 s" in deployment.prompt(task, 2)


def test_a_gateway_that_is_killed_and_restarted_in_the_middle_of_a_task(gateway: Gateway) -> None:
    deployment = gateway.deployment
    deployment.profile(limits={**LIMITS, "away_seconds": 20.0})
    gateway.place("far").worker()
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    gateway.kill()
    deployment.open_gate("go")
    gateway.start()
    deployment.check(task, starts=[1], attempt=1)
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)


def test_a_running_task_is_cancelled_over_the_gateway(gateway_alone: Gateway) -> None:
    deployment = gateway_alone.deployment
    gateway_alone.place("far").worker()
    task = deployment.submit("hold never")
    deployment.agent_runs(task)
    assert deployment.cli("cancel", task).returncode == 0
    manifest = deployment.ended(task)
    assert (manifest.status, manifest.stopped) == ("cancelled", "proven")
    assert not deployment.left_processes()


def test_a_wrong_token_is_told_with_what_to_do_and_asked_about_now_and_then(gateway_alone: Gateway) -> None:
    gateway = gateway_alone
    gateway.token("somebody")
    with line_to(gateway.port) as line:
        far = gateway.place("far", "aqt_0123456789ab_" + "x" * 43, line.port)
        worker = far.worker(ready=False)
        worker.says("agentq token new")
        before = line.carried
        with pytest.raises(AssertionError):
            worker.wait(3.0)
        assert line.carried - before < 8
        worker.send(SIGTERM)
        assert worker.wait() == 0


def test_a_token_of_another_agent_takes_nothing(gateway_alone: Gateway) -> None:
    gateway, deployment = gateway_alone, gateway_alone.deployment
    worker = gateway.place("far", gateway.token(OTHER, agent="other-worker")).worker(ready=False)
    task = deployment.submit("report done")
    worker.says("may not")
    assert deployment.starts(task) == []
    assert deployment.status(task) == "pending queued"


@pytest.mark.promise("via-revoked")
def test_a_revoked_token_cuts_its_worker_off(gateway: Gateway) -> None:
    """What it has in hand is not its own any more: somebody else does it after the lease."""
    deployment = gateway.deployment
    worker = gateway.place("far").worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "hold never")
    deployment.agent_runs(task)
    deployment.has_guard(task)
    assert deployment.cli("token", "revoke", "far").returncode == 0
    worker.says("token")
    gateway.place("near").worker()
    manifest = deployment.ended(task)
    assert (manifest.status, manifest.attempt) == ("completed", 2)
    worker.send(SIGTERM)
    worker.says("draining")
    worker.send(SIGTERM)
    assert worker.wait(30.0) == 0


@pytest.mark.promise("via-revoked")
def test_a_new_token_in_its_file_lets_a_worker_in_again(gateway_alone: Gateway) -> None:
    gateway, deployment = gateway_alone, gateway_alone.deployment
    far = gateway.place("far")
    worker = far.worker()
    assert deployment.cli("token", "revoke", "far").returncode == 0
    worker.says("a token that counts")
    task = deployment.submit("report done")
    far.give(gateway.token("far-again"))
    deployment.check(task, starts=[1], attempt=1)


def test_an_agent_on_another_host_finds_no_way_around_its_worker(gateway_alone: Gateway) -> None:
    """Whatever it asks agentq for is refused, and lands in no store of that host's own."""
    gateway, deployment = gateway_alone, gateway_alone.deployment
    far = gateway.place("far")
    far.worker()
    asks = (f"agentq {what} 2>> $AGENTQ_OUTPUT/said.txt && note did" for what in ("status $AGENTQ_TASK_ID", SUBMIT))
    task = deployment.submit(*asks, "report done")
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["said.txt"].count("a token that counts") == 2
    assert not deployment.notes(task, "did")
    assert not list(far.home.rglob("tasks/*"))


def test_a_worker_drains_over_the_gateway(gateway_alone: Gateway) -> None:
    deployment = gateway_alone.deployment
    worker = gateway_alone.place("far").worker()
    task = deployment.submit("hold go", "report done")
    deployment.agent_runs(task)
    later = deployment.submit("report later")
    worker.send(SIGTERM)
    worker.says("draining")
    deployment.open_gate("go")
    assert worker.wait() == 0
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.status(later) == "pending queued"
