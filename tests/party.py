"""A user of the broker for every role, as `agentq access export` makes them."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika
import pytest
from aiormq.abc import AbstractChannel

from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings
from tests.brokers.node import Node
from tests.desk import Desk

AGENTS = ("implementation-worker", "review-worker")
WORKER, OTHER = AGENTS


@dataclass(frozen=True)
class Party:
    """One namespace on a node, with a user for each role."""

    node: Node
    namespace: str
    passwords: Mapping[str, str]

    def url(self, kind: str, name: str | None = None) -> str:
        """The broker's URL for a role."""
        user = f"{self.namespace}.{kind}.{name or kind}"
        return f"amqp://{user}:{self.passwords[user]}@127.0.0.1:{self.node.port}/"

    def engine(self, kind: str, name: str | None = None) -> RabbitMQEngine:
        """An engine of a role, to be closed."""
        return RabbitMQEngine(RabbitMQSettings(urls=(self.url(kind, name),), namespace=self.namespace))

    @asynccontextmanager
    async def acting(self, kind: str, name: str | None = None) -> AsyncIterator[RabbitMQEngine]:
        """The same, closed at the end."""
        engine = self.engine(kind, name)
        try:
            yield engine
        finally:
            await engine.close()

    @asynccontextmanager
    async def channels(
        self, kind: str, name: str | None = None
    ) -> AsyncIterator[Callable[[], Awaitable[AbstractChannel]]]:
        """What opens a channel for that user: a refusal ends the one it was asked on."""
        async with await aio_pika.connect(self.url(kind, name)) as connection:

            async def opened() -> AbstractChannel:
                assert connection.transport
                return await connection.transport.connection.channel(publisher_confirms=True, on_return_raises=True)

            yield opened


@pytest.fixture(scope="module")
def party(rabbitmq: Node, tmp_path_factory: pytest.TempPathFactory) -> Party:
    """A namespace whose users were made by what `agentq access export` prints."""
    return made_party(rabbitmq, Desk(tmp_path_factory.mktemp("party")))


def made_party(node: Node, desk: Desk) -> Party:
    namespace = f"access-{secrets.token_hex(4)}"
    desk.environment |= {"AGENTQ_BROKER": node.url, "AGENTQ_NAMESPACE": namespace}
    desk.ok("init")
    definitions = desk.ok("access", "export", "--gateway", "gateway", "--generate", "passwords")
    node.load(definitions)
    lines = (desk.project / "passwords").read_text().splitlines()
    return Party(node, namespace, dict(line.split() for line in lines))
