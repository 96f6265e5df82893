"""Gateways that the tests of their parts share."""

from collections.abc import Iterator

import pytest

from tests.desk import Desk
from tests.gateway.serving import Served, serving


@pytest.fixture
def served(desk: Desk) -> Iterator[Served]:
    """A gateway in this process over the embedded engine, which serves this machine; nobody has a token."""
    with serving(desk) as gateway:
        yield gateway


@pytest.fixture
def any_served(any_desk: Desk) -> Iterator[Served]:
    """The same with each engine in turn."""
    with serving(any_desk) as gateway:
        yield gateway
