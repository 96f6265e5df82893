"""Fixtures that give tests a RabbitMQ of their own; a machine without one skips these tests, CI fails them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.brokers.node import Installation, Node, available, release

NEEDED = "4.3"


@pytest.fixture(scope="session")
def rabbitmq_installations() -> dict[str, Installation]:
    """Every RabbitMQ of this machine by its version, the newest first; the newest is 4.3 or later."""
    found = available()
    if not found or release(next(iter(found))) < release(NEEDED):
        reason = (
            f"no RabbitMQ {NEEDED} or later (found: {', '.join(found) or 'none'}): start Docker, "
            "or run `make test`, which installs it with tests/brokers/install.sh"
        )
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def rabbitmq_installation(rabbitmq_installations: dict[str, Installation]) -> Installation:
    """The newest of them, or with TEST_BROKER=oldest the oldest."""
    return list(rabbitmq_installations.values())[-1 if os.environ.get("TEST_BROKER") == "oldest" else 0]


@pytest.fixture(scope="session")
def rabbitmq(rabbitmq_installation: Installation) -> Iterator[Node]:
    """A running node, shared by the whole session: leave it running."""
    with rabbitmq_installation.new() as node:
        yield node


@pytest.fixture
def broker_of_my_own(rabbitmq_installation: Installation) -> Iterator[Callable[[], Node]]:
    """Each call returns another running node, to be stopped, killed or alarmed at will."""
    with ExitStack() as nodes:
        yield lambda: nodes.enter_context(rabbitmq_installation.new())
