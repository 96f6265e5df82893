"""The log on RabbitMQ when the broker stops, is full or refuses, and what only streams do. The shared suite proves the
rest."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import aio_pika
import pamqp.encode
import pytest
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from agentq.engine import Page
from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings, Retention
from agentq.errors import Conflict, EngineUnavailable
from agentq.messages import utc_now
from agentq.observing.follower import follow
from tests.brokers.node import Node
from tests.conformance.engines import PATIENCE, an_event

NewEngine = Callable[..., RabbitMQEngine]
SOON = 3.0
"""Seconds within which a reader must notice that the broker is gone."""


@pytest.fixture
def node(rabbitmq: Node) -> Node:
    """The shared node."""
    return rabbitmq


@pytest.fixture
def namespace() -> str:
    return f"log-{secrets.token_hex(4)}"


@pytest.fixture
async def new_engine(namespace: str) -> AsyncIterator[NewEngine]:
    """Makes engines in this test's own namespace and closes them."""
    made: list[RabbitMQEngine] = []

    def new(node: Node, **settings: Any) -> RabbitMQEngine:
        made.append(RabbitMQEngine(RabbitMQSettings(**{"urls": (node.url,), "namespace": namespace, **settings})))
        return made[-1]

    yield new
    await asyncio.gather(*(engine.close() for engine in made))


@pytest.fixture
async def engine(node: Node, new_engine: NewEngine) -> RabbitMQEngine:
    """An engine with a log on a shared node."""
    engine = new_engine(node)
    await engine.declare([], [])
    return engine


@asynccontextmanager
async def foreign(node: Node) -> AsyncIterator[AbstractChannel]:
    """A channel of a client that knows nothing about agentq."""
    connection = await aio_pika.connect(node.url)
    async with connection, connection.channel() as channel:
        yield await channel.get_underlay_channel()


async def delete(node: Node, stream: str) -> None:
    async with foreign(node) as channel:
        await channel.queue_delete(stream)


async def pages_of(engine: RabbitMQEngine, **how: Any) -> list[Page]:
    async with asyncio.timeout(3 * PATIENCE):
        return [page async for page in engine.read(**how)]


def ids(*pages: Page) -> list[str]:
    return [event.id for page in pages for event in page.events]


async def eventually_append(engine: RabbitMQEngine, *names: str) -> None:
    """Append each by itself, again until the broker took it."""
    for name in names:
        async with asyncio.timeout(6 * PATIENCE):
            while True:
                try:
                    await engine.append([an_event(name)])
                    break
                except EngineUnavailable:
                    await asyncio.sleep(0.05)


async def eventually(look: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(6 * PATIENCE):
        while True:
            found = look()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


class Watcher:
    """Follows the log in the background."""

    def __init__(self, engine: RabbitMQEngine) -> None:
        self.ids: list[str] = []
        self.gaps = 0
        self.troubles: list[EngineUnavailable | None] = []
        self._engine = engine
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(follow(self._engine, on_trouble=self.troubles.append)) as pages:
            async for page in pages:
                self.ids += ids(page)
                self.gaps += page.gap

    async def has(self, last: str) -> None:
        """Wait until an event of that id came."""
        await eventually(lambda: last in self.ids or self._task.done())
        assert last in self.ids, self._task

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


# --- the broker goes away ---------------------------------------------------------------------------------------------


@pytest.mark.promise("log-reconnects")
async def test_a_killed_broker_leaves_no_gap_for_who_follows(
    broker_of_my_own: Callable[[], Node], new_engine: NewEngine
) -> None:
    node = broker_of_my_own()
    teller = new_engine(node)
    await teller.declare([], [])
    await asyncio.to_thread(node.flush)
    watcher = Watcher(new_engine(node))
    await eventually_append(teller, "a")
    await watcher.has("a")
    for end, name in ((node.kill, "b"), (node.stop, "c")):
        await asyncio.to_thread(end)
        await asyncio.to_thread(node.start)
        await eventually_append(teller, name, f"{name}-2")
        await watcher.has(f"{name}-2")
    await watcher.stop()
    assert watcher.ids == ["a", "b", "b-2", "c", "c-2"]
    assert watcher.gaps == 0
    assert [trouble is None for trouble in watcher.troubles] == [False, True] * 2


@pytest.mark.promise("log-reconnects")
async def test_connections_that_are_lost_over_and_over_cost_nothing(
    broker_of_my_own: Callable[[], Node], new_engine: NewEngine
) -> None:
    node = broker_of_my_own()
    teller = new_engine(node)
    await teller.declare([], [])
    watcher = Watcher(new_engine(node))
    sent = [f"event-{n}" for n in range(600)]
    telling = asyncio.create_task(eventually_append(teller, *sent))
    for _ in range(4):
        await asyncio.to_thread(node.ctl, "close_all_connections", "test")
    await telling
    await watcher.has(sent[-1])
    await watcher.stop()
    assert watcher.ids == sent
    assert watcher.gaps == 0


@pytest.mark.promise("log-reconnects")
async def test_a_reader_notices_a_broker_that_stops_and_its_position_stays_good(
    broker_of_my_own: Callable[[], Node], new_engine: NewEngine
) -> None:
    node = broker_of_my_own()
    engine = new_engine(node)
    await engine.declare([], [])
    await engine.append([an_event("a")])
    pages = engine.read(follow=True)
    page = await anext(pages)
    while "a" not in ids(page):
        page = await anext(pages)
    waiting = asyncio.create_task(anext(pages))
    await asyncio.to_thread(node.stop)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, SOON)
    with pytest.raises(EngineUnavailable):
        await pages_of(engine, after=page.position)
    await asyncio.to_thread(node.start)
    await eventually_append(engine, "b")
    rest = await pages_of(engine, after=page.position)
    assert (ids(*rest), rest[0].gap) == (["b"], False)


@pytest.mark.promise("log-gap")
async def test_a_stream_that_is_deleted_ends_the_reading_and_another_is_a_gap(
    node: Node, engine: RabbitMQEngine, new_engine: NewEngine, namespace: str
) -> None:
    await engine.append([an_event(f"old-{n}") for n in range(20)])
    watcher = Watcher(new_engine(node))
    await watcher.has("old-19")
    await delete(node, f"{namespace}.events")
    await eventually(lambda: bool(watcher.troubles))
    assert watcher.troubles[0] is not None
    assert "agentq init" in watcher.troubles[0].hint
    await engine.declare([], [])
    await engine.append([an_event("new")])
    await watcher.has("new")
    await watcher.stop()
    assert (watcher.gaps, watcher.ids[-1]) == (1, "new")


async def test_an_alarm_is_an_error_for_who_tells_and_none_for_who_reads(
    broker_of_my_own: Callable[[], Node], new_engine: NewEngine
) -> None:
    node = broker_of_my_own()
    engine = new_engine(node, timeout=1.0)
    await engine.declare([], [])
    await engine.append([an_event("before")])

    async def append_for_ever() -> None:
        while True:
            await engine.append([an_event("until-it-is-heard")])

    node.ctl("set_vm_memory_high_watermark", "absolute", "1")
    with pytest.raises(EngineUnavailable, match="blocks publishers"):
        await asyncio.wait_for(append_for_ever(), 30)
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match="blocks publishers"):
        await engine.append([an_event("during")])
    assert time.monotonic() - began < 2
    pages = await pages_of(new_engine(node))
    assert ids(*pages)[0] == "before"
    assert pages[-1].caught_up
    assert time.monotonic() - began < 5


# --- what is not there ------------------------------------------------------------------------------------------------


async def test_without_streams_nothing_is_told_or_read(node: Node, new_engine: NewEngine, namespace: str) -> None:
    engine = new_engine(node)
    for _ in range(2):
        with pytest.raises(EngineUnavailable) as caught:
            await engine.append([an_event("a")])
        assert "agentq init" in caught.value.hint
        with pytest.raises(EngineUnavailable) as caught:
            await pages_of(engine)
        assert "agentq init" in caught.value.hint
    await engine.declare([], [])
    await engine.append([an_event("b")])
    assert ids(*await pages_of(engine)) == ["b"]
    await delete(node, f"{namespace}.events")
    with pytest.raises(EngineUnavailable, match="no stream") as caught:
        await engine.append([an_event("c"), an_event("c"), an_event("d")])
    assert "agentq init" in caught.value.hint
    await engine.append([an_event("e", "output")])
    assert ids(*await pages_of(engine, log="output")) == ["e"]


async def test_a_reader_lets_go_of_its_channel(node: Node, engine: RabbitMQEngine) -> None:
    async def are_open(channels: int) -> bool:
        return (await asyncio.to_thread(node.ctl, "list_channels", "pid")).count("<") == channels

    before = (await asyncio.to_thread(node.ctl, "list_channels", "pid")).count("<")
    for after in ("", "5:0123456789abcdef"):
        pages = engine.read(after=after, follow=True)
        await anext(pages)
        await eventually(lambda: are_open(before + 1))
        await pages.aclose()
        await eventually(lambda: are_open(before))


# --- how long it is kept ----------------------------------------------------------------------------------------------


async def test_health_names_a_stream_that_nothing_bounds(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    assert (await engine.health([])).unbounded == ()
    for arguments in ({}, {"x-stream-max-segment-size-bytes": 1_000_000}):
        await delete(node, f"{namespace}.output")
        async with foreign(node) as channel:
            await channel.queue_declare(
                f"{namespace}.output", durable=True, arguments={"x-queue-type": "stream", **arguments}
            )
        health = await engine.health([])
        assert (health.unbounded, health.missing) == ((f"{namespace}.output",), ())
    await delete(node, f"{namespace}.output")
    health = await engine.health([])
    assert (health.unbounded, health.missing) == ((), (f"queue {namespace}.output",))


@pytest.mark.parametrize("other", [{"events_days": 7}, {"output_bytes": 4_000_000}])
async def test_other_bounds_are_a_conflict_with_a_remedy(
    node: Node, engine: RabbitMQEngine, new_engine: NewEngine, other: dict[str, int]
) -> None:
    with pytest.raises(Conflict) as caught:
        await new_engine(node, retention=Retention(**other)).declare([], [])
    assert "[log]" in caught.value.hint
    assert "no task" in caught.value.hint
    await engine.append([an_event("a")])


# --- what others put into the stream ----------------------------------------------------------------------------------


async def test_nobody_can_say_where_in_the_stream_a_message_is(
    node: Node, engine: RabbitMQEngine, namespace: str
) -> None:
    await engine.append([an_event("a")])
    async with foreign(node) as channel:
        for offset in (0, 10_000, -5, "first"):
            properties = Basic.Properties(headers={"x-stream-offset": offset}, message_id="forged")
            await channel.basic_publish(
                an_event("b").to_json(), exchange=f"{namespace}.events", routing_key="event.x", properties=properties
            )
    pages = await pages_of(engine)
    assert ids(*pages) == ["a", "b", "b", "b", "b"]
    async with foreign(node) as channel:
        await channel.basic_publish(b"", exchange=f"{namespace}.events", routing_key="event.x", properties=properties)
    position = (await pages_of(engine))[-1].position
    await engine.append([an_event("c")])
    rest = await pages_of(engine, after=position)
    assert (ids(*rest), rest[0].gap) == (["c"], False)


async def test_unreadable_headers_stop_nobody(
    node: Node, engine: RabbitMQEngine, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.append([an_event("a")])
    with monkeypatch.context() as patch:
        usual = pamqp.encode.short_string
        patch.setattr(pamqp.encode, "short_string", lambda text: b"\x02\xff\xfe" if text == "odd" else usual(text))
        async with foreign(node) as channel:
            for _ in range(3):
                await channel.basic_publish(
                    an_event("b").to_json(),
                    exchange=f"{namespace}.events",
                    routing_key="event.x",
                    properties=Basic.Properties(headers={"odd": 1}),
                )
    await engine.append([an_event("c")])
    pages = await pages_of(engine)
    assert ids(*pages) == ["a", "b", "b", "b", "c"]
    assert ids(*await pages_of(engine, since=utc_now() - timedelta(minutes=1))) == ["a", "b", "b", "b", "c"]
    assert ids(*await pages_of(engine, after=pages[-1].position)) == []


async def test_output_can_be_filtered_by_the_broker(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    await engine.append([an_event("a", "output", "task-7"), an_event("b", "output", None)])
    came: asyncio.Queue[Any] = asyncio.Queue()
    async with foreign(node) as channel:
        await channel.basic_qos(prefetch_count=10)
        await channel.basic_consume(f"{namespace}.output", came.put, arguments={"x-stream-offset": "first"})
        headers = [(await asyncio.wait_for(came.get(), PATIENCE)).header.properties.headers for _ in range(2)]
    assert [found.get("x-stream-filter-value") for found in headers] == ["task-7", None]
