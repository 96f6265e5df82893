"""Notices under fire: two bridges that are killed at random, with their broker, beside a server that asks nobody."""

import os
import secrets

import pytest

from tests.brokers.node import Node
from tests.daemons.notices_race import race

JOBS = 300


@pytest.mark.timeout(300)
@pytest.mark.promise("notice-once")
@pytest.mark.parametrize("engine", ["sqlite", "rabbitmq"])
def test_each_of_300_jobs_is_told_once_over_bridges_and_a_broker_killed_at_random(
    engine: str, request: pytest.FixtureRequest
) -> None:
    seed = int(os.environ.get("ENDURANCE_SEED") or secrets.randbits(32))
    node: Node | None = request.getfixturevalue("broker") if engine == "rabbitmq" else None
    tally = race(JOBS, seed, node)
    assert tally.faults == {}
    assert tally.bridge_kills > 2, "no bridge was killed but the last ones: nothing is shown"
    assert tally.broker_kills or not node, "the broker was not killed: nothing is shown of it"
    assert tally.runs, "no thread was woken: nothing is shown"
