"""A broker with TLS and the management API, and the authority that it and its clients trust."""

from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from tests.brokers.node import Equipment, Installation, Node


def served(authority: trustme.CA, name: str, **how: Any) -> Equipment:
    """A broker with TLS and the management API, whose certificate is for that name."""
    issued = authority.issue_cert(name, **how)
    key, certificate = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    tls = {"ca.pem": authority.cert_pem.bytes(), "certificate.pem": certificate, "key.pem": key}
    return Equipment(management=True, tls=tls)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The authority that issued the certificates."""
    return trustme.CA()


@pytest.fixture(scope="session")
def secured(rabbitmq_installation: Installation, authority: trustme.CA) -> Iterator[Node]:
    """A node whose certificate is for localhost, and for no address: leave it running."""
    with rabbitmq_installation.new(served(authority, "localhost")) as node:
        yield node
