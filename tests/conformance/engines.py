"""The harness of the engine suite: every engine, and what the port cannot do but a test needs.

Run as a module it is a process to be killed: `python -m tests.conformance.engines hold|publish|… AGENT WHERE…`.
"""

import asyncio
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentq.engine import Delivery, Engine
from agentq.engines.log import Retention
from agentq.events import Event
from agentq.messages import Envelope, parse_envelope, utc_now

NAMES = ("sqlite", "rabbitmq", "gateway-sqlite")
if os.environ.get("TEST_GATEWAY") == "rabbitmq":
    NAMES = ("gateway-rabbitmq",)
APPENDED = 250
"""How many events a process appends."""
PATIENCE = 10.0
"""Seconds after which something that should have happened has not."""

_ROOT = Path(__file__).parents[2]


class EngineUnderTest(ABC):
    """One queue system; every instance that `new` returns stands for another process that uses it."""

    looks = 1000
    """How often dead letters are looked at to show that looking changes nothing."""

    def __init__(self) -> None:
        self.agent = f"worker-{secrets.token_hex(4)}"
        self.retention = Retention()
        self.engines: list[Engine] = []

    def new(self) -> Engine:
        """A fresh instance, closed at the end of the test."""
        self.engines.append(self.make())
        return self.engines[-1]

    async def close(self) -> None:
        """Close every instance, in the order in which they were made."""
        for engine in self.engines:
            await engine.close()

    @abstractmethod
    def make(self) -> Engine:
        """An instance that the caller closes."""

    @abstractmethod
    def where(self) -> list[str]:
        """Arguments from which a child process makes an instance, see `engine_at`."""

    @abstractmethod
    async def publish_raw(self, agent: str, body: bytes) -> None:
        """Publish any bytes, as a program would that knows nothing of agentq."""

    @abstractmethod
    async def append_raw(self, body: bytes) -> None:
        """Put any bytes into the log of events."""

    @abstractmethod
    async def replace_log(self) -> None:
        """Take the log of events away and make another, as somebody would who knows nothing of agentq."""


class GatewayUnderTest(EngineUnderTest):
    """Another engine, behind the gateway at a port of this machine; what is done past the port goes past that too."""

    def __init__(self, inner: EngineUnderTest, port: int) -> None:
        super().__init__()
        self.inner, self.port = inner, port
        self.looks = inner.looks

    def make(self) -> Engine:
        return engine_at(*self.where())

    def where(self) -> list[str]:
        kind, *where = self.inner.where()
        log = {name: getattr(self.retention, name) for name in self.retention.__dataclass_fields__}
        broker = {"broker": f"sqlite://{where[0]}"} if kind == "sqlite" else {"broker": where[0], "namespace": where[1]}
        path = json.dumps({**broker, "log": log}).encode().hex()
        return ["gateway", f"ws://127.0.0.1:{self.port}/{path}/engine"]

    async def publish_raw(self, agent: str, body: bytes) -> None:
        await self.inner.publish_raw(agent, body)

    async def append_raw(self, body: bytes) -> None:
        await self.inner.append_raw(body)

    async def replace_log(self) -> None:
        await self.inner.replace_log()


class SQLiteUnderTest(EngineUnderTest):
    """One database file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self) -> Engine:
        return engine_at("sqlite", str(self.path), retention=self.retention)

    def where(self) -> list[str]:
        return ["sqlite", str(self.path)]

    async def publish_raw(self, agent: str, body: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("INSERT INTO messages (agent, body) VALUES (?, ?)", (agent, body))

    async def append_raw(self, body: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("INSERT INTO events (at, body) VALUES (?, ?)", (time.time(), body))

    async def replace_log(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)


class RabbitMQUnderTest(EngineUnderTest):
    """One namespace on a broker."""

    looks = 30  # each is a connection of its own; more than the 20 returns after which a broker gives a message up

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__()
        self.url, self.namespace = url, namespace

    def make(self) -> Engine:
        return engine_at("rabbitmq", self.url, self.namespace, retention=self.retention)

    def where(self) -> list[str]:
        return ["rabbitmq", self.url, self.namespace]

    async def publish_raw(self, agent: str, body: bytes) -> None:
        import aio_pika

        async with await aio_pika.connect(self.url) as connection, connection.channel() as channel:
            exchange = await channel.get_exchange(f"{self.namespace}.tasks", ensure=False)
            await exchange.publish(aio_pika.Message(body), routing_key=agent)

    async def append_raw(self, body: bytes) -> None:
        import aio_pika

        async with await aio_pika.connect(self.url) as connection, connection.channel() as channel:
            exchange = await channel.get_exchange(f"{self.namespace}.events", ensure=False)
            await exchange.publish(aio_pika.Message(body), routing_key="event.foreign")

    async def replace_log(self) -> None:
        import aio_pika

        async with await aio_pika.connect(self.url) as connection, connection.channel() as channel:
            stream = await channel.get_queue(f"{self.namespace}.events", ensure=False)
            await stream.delete(if_unused=False, if_empty=False)
        engine = self.make()
        await engine.declare([], [])
        await engine.close()


def engine_at(kind: str, *where: str, retention: Retention = Retention()) -> Engine:
    """The instance that `EngineUnderTest.where` describes."""
    if kind == "sqlite":
        from agentq.engines.sqlite import SQLiteEngine

        return SQLiteEngine(Path(where[0]), retention)
    if kind == "gateway":
        from agentq.engines.gateway import GatewayEngine
        from agentq.remote import Remote

        return GatewayEngine(Remote(where[0]))
    from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings

    return RabbitMQEngine(RabbitMQSettings(urls=(where[0],), namespace=where[1], retention=retention))


def under_test(name: str, request: pytest.FixtureRequest, namespace: str) -> EngineUnderTest:
    """The engine of that name, see `NAMES`; one that is RabbitMQ in that namespace."""
    behind, name = name.startswith("gateway-"), name.removeprefix("gateway-")
    if name == "sqlite":
        factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        system: EngineUnderTest = SQLiteUnderTest(factory.mktemp("queue") / "queue.db")
    else:
        system = RabbitMQUnderTest(request.getfixturevalue("rabbitmq").url, namespace)
    return GatewayUnderTest(system, request.getfixturevalue("engine_gateway")) if behind else system


def an_envelope(agent: str, task_id: str = "task-1", **more: Any) -> Envelope:
    """A small task for the agent."""
    return Envelope(task_id=task_id, to=agent, type="implementation", instructions="Do it.", **more)


def an_event(name: str, kind: str = "progress", task_id: str | None = "task-1", **more: Any) -> Event:
    """A small event of that id."""
    return Event(id=name, kind=kind, at=utc_now(), task_id=task_id, **more)


async def take(engine: Engine, agent: str) -> Delivery:
    """The next message, which must be there or come soon."""
    async with asyncio.timeout(PATIENCE):
        return await engine.receive(agent)


async def drain(engine: Engine, agent: str, count: int) -> list[str]:
    """The task ids of the next messages, each acknowledged before the next is received."""
    ids = []
    for _ in range(count):
        delivery = await take(engine, agent)
        ids.append(task_of(delivery))
        await delivery.ack()
    return ids


async def nothing_waits(engine: Engine, agent: str) -> bool:
    """Whether a message published now, at the lowest priority, is the next that comes."""
    last = an_envelope(agent, f"last-{secrets.token_hex(4)}", priority="low")
    await engine.publish(last)
    return await drain(engine, agent, 1) == [last.task_id]


def task_of(delivery: Delivery) -> str:
    """The task id in a delivery's body."""
    return parse_envelope(delivery.body).task_id


@contextmanager
def another_process(does: str, engine: EngineUnderTest, what: str = "") -> Iterator["Child"]:
    """A process that does one thing (see `ACTS`), says so, waits, and is then killed without warning."""
    command = [sys.executable, "-m", "tests.conformance.engines", does, what or engine.agent, *engine.where()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


class Child:
    """A process of the suite, seen from the test."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    async def has_done(self) -> str:
        """What it published, holds, appended or read, as soon as it says so."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        return str(json.loads(line))

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()


async def _hold(engine: Engine, agent: str) -> str:
    return task_of(await take(engine, agent))


async def _publish(engine: Engine, agent: str) -> str:
    await engine.publish(an_envelope(agent, "task-of-a-child"))
    return "task-of-a-child"


async def _append(engine: Engine, prefix: str) -> str:
    """One by one, so that what several processes append is mixed."""
    for number in range(APPENDED):
        await engine.append([an_event(f"{prefix}-{number}")])
    return prefix


async def _read(engine: Engine, position: str) -> str:
    pages = [page async for page in engine.read(after=position)]
    return " ".join(event.id for page in pages for event in page.events)


ACTS = {"hold": _hold, "publish": _publish, "append": _append, "read": _read}


async def _main(does: str, agent: str, *where: str) -> None:
    task = await ACTS[does](engine_at(*where), agent)
    print(json.dumps(task), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
