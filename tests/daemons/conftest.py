"""The deployments of these tests, on both engines."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.node import Installation, Node
from tests.conformance.engines import RabbitMQUnderTest, SQLiteUnderTest
from tests.daemons.harness import Deployment, Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks the processes of all tests."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(params=["sqlite", "rabbitmq"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path, nursery: Nursery) -> Iterator[Deployment]:
    """A deployment on each engine; on RabbitMQ a node and a namespace are shared, and the agent is its own."""
    if request.param == "sqlite":
        yield from running(on_sqlite(tmp_path, nursery))
    else:
        yield from running(on_rabbitmq(request.getfixturevalue("rabbitmq"), tmp_path, nursery))


@pytest.fixture
def on_sqlite_alone(tmp_path: Path, nursery: Nursery) -> Iterator[Deployment]:
    """A deployment for what no engine has a part in."""
    yield from running(on_sqlite(tmp_path, nursery))


@pytest.fixture(scope="session")
def stopped_broker(rabbitmq_installations: dict[str, Installation]) -> Iterator[Node]:
    """One node for all tests that stop and kill it."""
    with next(iter(rabbitmq_installations.values())).new() as node:
        yield node


@pytest.fixture
def broker(stopped_broker: Node) -> Node:
    """That broker, running."""
    return stopped_broker.start()


@pytest.fixture
def on_broker(broker: Node, tmp_path: Path, nursery: Nursery) -> Iterator[Deployment]:
    """A deployment on that broker."""
    yield from running(on_rabbitmq(broker, tmp_path, nursery))


def running(deployment: Deployment) -> Iterator[Deployment]:
    """The deployment until the test is over; then what its processes said is shown, and they are killed."""
    yield deployment
    deployment.close()
    for log in sorted(deployment.logs.glob("*.err")):
        print(f"--- {log.name}\n{log.read_text()}")


def on_sqlite(home: Path, nursery: Nursery) -> Deployment:
    """A deployment with a queue of its own."""
    path = home / "queue.db"
    system = SQLiteUnderTest(path)
    return Deployment(home, nursery, system, {"AGENTQ_BROKER": f"sqlite://{path}"})


def on_rabbitmq(node: Node, home: Path, nursery: Nursery) -> Deployment:
    """A deployment with an agent of its own."""
    namespace = "daemons"
    system = RabbitMQUnderTest(node.url, namespace)
    system.agent = f"worker-{secrets.token_hex(4)}"
    return Deployment(home, nursery, system, {"AGENTQ_BROKER": node.url, "AGENTQ_NAMESPACE": namespace})
