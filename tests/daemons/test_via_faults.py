"""Workers whose lines are cut at random and whose gateway is killed: nothing is lost, and nothing is done twice."""

import random
import time
from contextlib import ExitStack

import pytest

from tests.daemons.gateways import ALONE, LIMITS, Gateway, gateway_of, nursery
from tests.daemons.harness import Deployment, until
from tests.daemons.lines import line_to

LONG = 150.0
"""Seconds within which all tasks of a test have ended."""
__all__ = ["nursery"]


@pytest.fixture
def gateway(deployment: Deployment) -> Gateway:
    """A gateway of the deployment, on each engine, whose workers may be away for long."""
    gateway = gateway_of(deployment)
    deployment.profile(limits={**LIMITS, "lease_seconds": 3.0, "renew_seconds": 0.25, "away_seconds": 60.0})
    return gateway


@pytest.mark.promise("via-cut")
@pytest.mark.timeout(300)
def test_lines_that_are_cut_and_a_gateway_that_is_killed_at_random(gateway: Gateway) -> None:
    deployment, dice = gateway.deployment, random.Random(7)
    tasks = [f"task-{number}" for number in range(40)]
    with ExitStack() as stack:
        lines = [stack.enter_context(line_to(gateway.port)) for _ in range(3)]
        for number, line in enumerate(lines):
            gateway.place(f"far-{number}", port=line.port).worker(ready=False)
        deployment.submit_all(
            *(deployment.request(task, ALONE, "sleep 0.3", "report done", timeout_seconds=100) for task in tasks)
        )
        until(lambda: deployment.starts(tasks[0]), "the first start", 60.0)
        for turn in range(24):
            if turn % 8 == 7:
                gateway.kill()
                time.sleep(dice.uniform(0, 1))
                gateway.start()
                continue
            line = dice.choice(lines)
            dice.choice((line.swallow, line.reset))()
            time.sleep(dice.choice((0.05, 0.3, 1.0, 3.0)))
            line.mend()
            time.sleep(dice.uniform(0, 0.5))
        for task in tasks:
            until(lambda task=task: deployment.records.manifest(task), task, LONG)  # type: ignore[misc]
        until(lambda: not deployment.keys("open/"), "all to be settled", LONG)
        for task in tasks:
            manifest = deployment.records.manifest(task)
            assert manifest
            assert (manifest.status, manifest.attempt, deployment.starts(task)) == ("completed", 1, [1])
            assert not deployment.notes(task, "two"), "two agents ran at once for one worker"


@pytest.mark.promise("via-cut")
@pytest.mark.parametrize("how", ["swallow", "reset"])
@pytest.mark.parametrize("guarded", [False, True], ids=["before-its-guard", "after-its-guard"])
def test_a_line_is_cut_on_each_engine(gateway: Gateway, how: str, guarded: bool) -> None:
    """Another worker waits all the while; before its guard the gateway gives it the message that was held."""
    deployment = gateway.deployment
    renew = 0.25 if guarded else 4.0
    deployment.profile(limits={**LIMITS, "lease_seconds": 9.0, "renew_seconds": renew, "away_seconds": 60.0})
    with line_to(gateway.port) as line:
        gateway.place("far", port=line.port).worker()
        task = deployment.submit("hold go", "report done")
        deployment.agent_runs(task)
        if guarded:
            deployment.has_guard(task)
        gateway.place("near").worker()
        getattr(line, how)()
        time.sleep(12.0)  # longer than the lease, without what it may be away for
        assert deployment.status(task) == "processing"
        line.mend()
        deployment.open_gate("go")
        deployment.check(task, starts=[1], attempt=1)


@pytest.mark.promise("none-lost")
def test_the_gateways_gateway_is_killed_with_messages_in_its_hands(gateway: Gateway) -> None:
    """What it held for a worker that was just about to start goes back to the queue and is done once."""
    deployment = gateway.deployment
    for number in range(3):
        gateway.place(f"far-{number}").worker("stall before put_new attempts/*/1.json", ready=True)
    tasks = [deployment.submit("report done") for _ in range(3)]
    deployment.see_flag("stalled")
    gateway.kill()
    deployment.raise_flag("go")
    gateway.start()
    for task in tasks:
        deployment.check(task, starts=[1], attempt=1)
