"""The log on RabbitMQ: two streams behind one topic exchange."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiormq import exceptions as amqp
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.common import FieldTable

from agentq.engine import Log, Page
from agentq.engines import rabbitmq_wire as wire
from agentq.engines.log import PAGE, log_of, readable, written
from agentq.engines.rabbitmq_link import Link, NotPermitted, Slot, close_channel, translated, twice
from agentq.engines.topology import BOUNDS, EVENT_KEY, OUTPUT_KEY, Names, Queue, RabbitMQSettings
from agentq.errors import Conflict, EngineUnavailable
from agentq.events import Event
from agentq.messages import sha256_hex, utc_now

AHEAD = 2 * PAGE
"""How many messages the broker may send before they are acknowledged."""
GATHER_SECONDS = 0.05
"""How long a page waits to be filled while its reader catches up."""
ARRIVE_SECONDS = 2.0
"""How long to wait for a message that should be there before asking whether it is."""
QUIET_SECONDS = 0.2
MARK_SECONDS = 3.0
SLACK = timedelta(minutes=1)
"""How much earlier than asked a reading begins: a stream knows the time of a chunk only, by the broker's clock."""
MARKER = "marker"

Start = int | str | datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A message of a stream: where it is, and the position that stands for it."""

    offset: int
    position: str

    @classmethod
    def of(cls, message: DeliveredMessage) -> "Found | None":
        """None for a message whose headers cannot be read."""
        offset = wire.headers_of(message.header.properties).get("x-stream-offset")
        if not isinstance(offset, int):
            return None
        digest = sha256_hex((message.header.properties.message_id or "").encode())[:16]
        return cls(offset, f"{offset}:{digest}")


class RabbitMQLog:
    """Both streams of one namespace: appended to on the engine's connection, read on another."""

    def __init__(self, settings: RabbitMQSettings, publishing: Link) -> None:
        self._names = Names(settings.namespace)
        self._timeout = settings.timeout
        self._publishing = publishing
        self._reading = Link(settings, "read")

    async def append(self, events: Sequence[Event]) -> None:
        """Publish events, many at once and in this order; returns once the broker confirmed all of them."""
        messages = [(_key(event), body, _properties(event)) for event, body in written(events)]
        for start in range(0, len(messages), PAGE):
            await self._publish(messages[start : start + PAGE])

    async def read(
        self, log: Log, after: str | None, since: datetime | None, tasks: Collection[str], *, follow: bool
    ) -> AsyncGenerator[Page, None]:
        """Read a stream; see the port."""
        stream = Stream(self._reading, self._names, log)
        marker = secrets.token_hex(16)
        end = End(marker) if await self._mark(stream.key, marker) else End(None, await stream.last())
        begin = await stream.find(after, since)
        position, gap = begin.position, begin.gap
        caught_up = begin.is_end or end.is_before(begin.start)
        slot = await stream.open(begin.start, tasks=tasks if end.marker else ())
        try:
            if caught_up:
                yield Page((), position, caught_up, gap)
            while follow or not caught_up:
                seconds, gather = (None, 0.0) if caught_up else (self._timeout, GATHER_SECONDS)
                messages = await stream.next(slot, seconds, gather, end)
                position = next((found.position for found in map(Found.of, reversed(messages)) if found), position)
                caught_up = caught_up or any(map(end.is_at, messages))
                yield Page(_events(messages, tasks), position, caught_up, gap)
                gap = False
                await stream.acknowledge(slot, messages[-1])
        finally:
            await slot.abandon()

    async def unbounded(self, streams: Iterable[Queue]) -> tuple[str, ...]:
        """The names of those streams that nothing in their arguments bounds, as far as the broker tells this user."""
        return tuple([stream.name for stream in streams if await self._is_unbounded(stream.name)])

    async def _is_unbounded(self, name: str) -> bool:
        # It is declared without bounds: of the arguments that differ, the broker names these first.
        try:
            async with self._reading.question(f"look at what bounds {name}") as channel:
                await channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
        except NotPermitted:
            return False
        except Conflict as differs:
            return not any(bound in str(differs) for bound in BOUNDS)
        return True

    async def close(self) -> None:
        """End whoever reads."""
        await self._reading.close()

    async def _mark(self, key: str, marker: str) -> bool:
        """Put a marker behind all that is durable now; False for whom the broker lets put none, or not in time.

        It has no body, so that the broker takes it while it blocks publishers; on a channel of its own, because a
        refusal ends the channel.
        """
        properties = Basic.Properties(message_id=marker, delivery_mode=2, timestamp=utc_now())
        try:
            async with translated("mark the end of the log", self._publishing.where, MARK_SECONDS):
                connection = await self._publishing.connection()
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                try:
                    await channel.basic_publish(
                        b"",
                        exchange=self._names.events,
                        routing_key=f"{key}.{MARKER}",
                        properties=properties,
                        mandatory=True,
                    )
                finally:
                    await close_channel(channel)
        except EngineUnavailable:
            return False
        return True

    async def _publish(self, messages: Iterable[tuple[str, bytes, Basic.Properties]]) -> None:
        exchange = self._names.events

        async def send() -> None:
            channel = await self._publishing.publisher(exchange)
            await _all(
                channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties, mandatory=True)
                for key, body, properties in messages
            )

        async with self._publishing.asking(f"append to the log through {exchange}"):
            try:
                await twice(send)
            except amqp.PublishError as error:
                what = f"no stream keeps what goes through {exchange} at {self._publishing.where}"
                raise EngineUnavailable(what, hint="run `agentq init`") from error


@dataclass(frozen=True, slots=True)
class End:
    """What tells a reader that it has caught up: a marker of its own, or else what was last when it began."""

    marker: str | None
    last: Found | None = None

    def is_before(self, start: Start) -> bool:
        """Whether all is read before anything comes."""
        if self.marker is not None:
            return False
        return self.last is None or (isinstance(start, int) and self.last.offset < start)

    def is_at(self, message: DeliveredMessage) -> bool:
        """Whether all is read with this message."""
        if self.marker is not None:
            return message.header.properties.message_id == self.marker
        found = Found.of(message)
        return self.last is not None and found is not None and found.offset >= self.last.offset


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a reader begins: the position before that, whether something is missing there, whether nothing follows."""

    start: Start
    position: str = ""
    gap: bool = False
    is_end: bool = False


class Stream:
    """One of the streams, for one reader."""

    def __init__(self, link: Link, names: Names, log: Log) -> None:
        self._link = link
        self._name, self.key = (names.output, OUTPUT_KEY) if log == "output" else (names.events, EVENT_KEY)

    async def find(self, after: str | None, since: datetime | None) -> Begin:
        """Where to begin."""
        if after:
            return await self._behind(after)
        if since:
            return await self._from(since)
        return Begin("first")

    async def _behind(self, position: str) -> Begin:
        offset = _offset(position)
        first = None if offset is None else await self._first_from(offset)
        if first and first.position == position:
            return Begin(first.offset + 1, position)
        if first and offset is not None and first.offset > offset:
            return Begin(first.offset, gap=True)
        return Begin("first", gap=True)

    async def _from(self, since: datetime) -> Begin:
        start = since.astimezone(UTC) - SLACK
        with suppress(TimeoutError):
            async with self.arrivals(start, ahead=1) as slot:
                await self._arrival(slot, ARRIVE_SECONDS)
            return Begin(start)
        last = await self.last()
        return Begin(last.offset + 1, last.position, is_end=True) if last else Begin("first", is_end=True)

    async def _first_from(self, offset: int) -> Found | None:
        """The first message from there on; None when there is none."""
        async with self.arrivals(offset, ahead=1) as slot:
            with suppress(TimeoutError):
                return await self._arrival(slot, ARRIVE_SECONDS)
            last = await self.last()
            if last is None or last.offset < offset:
                return None
            async with self._link.asking(f"read {self._name}"):
                return Found.of(await slot.arrival())

    async def last(self) -> Found | None:
        """The last message, None when there is none: of the last chunk, which comes in one go, the last that comes."""
        found = None
        async with self.arrivals("last") as slot:
            with suppress(TimeoutError):
                found = await self._arrival(slot, ARRIVE_SECONDS)
                for _ in range(AHEAD):
                    found = await self._arrival(slot, QUIET_SECONDS) or found
        return found

    async def _arrival(self, slot: Slot, seconds: float) -> Found | None:
        """The next message; raises TimeoutError when it does not come."""
        async with asyncio.timeout(seconds), translated(f"read {self._name}", self._link.where, None):
            return Found.of(await slot.arrival())

    @asynccontextmanager
    async def arrivals(self, start: Start, ahead: int = AHEAD) -> AsyncIterator[Slot]:
        """A channel on which the stream's messages arrive, from there on."""
        slot = await self.open(start, ahead)
        try:
            yield slot
        finally:
            await slot.abandon()

    async def open(self, start: Start, ahead: int = AHEAD, tasks: Collection[str] = ()) -> Slot:
        """The same, to be abandoned; of chunks with events of other tasks alone the broker may send nothing."""
        arguments: FieldTable = {"x-stream-offset": start}
        if tasks and self.key == OUTPUT_KEY:
            arguments |= {"x-stream-filter": [*tasks], "x-stream-match-unfiltered": True}
        async with self._link.asking(f"read {self._name}"):
            slot = Slot(await self._link.channel())
            try:
                await slot.channel.basic_qos(prefetch_count=ahead)
                await slot.consume(self._name, arguments)
            except BaseException:
                await slot.abandon()
                raise
        return slot

    async def next(self, slot: Slot, seconds: float | None, gather: float, end: End) -> list[DeliveredMessage]:
        """The next messages, at least one, up to the end; with some seconds it must come in that time."""
        async with translated(f"read {self._name}", self._link.where, seconds):
            return await slot.arrivals(PAGE, gather, end.is_at)

    async def acknowledge(self, slot: Slot, message: DeliveredMessage) -> None:
        """Let the broker send more, all up to this message being read."""
        async with translated(f"read {self._name}", self._link.where, None):
            await slot.channel.basic_ack(message.delivery_tag or 0, multiple=True, wait=False)


def _key(event: Event) -> str:
    if log_of(event) == "output":
        return f"{OUTPUT_KEY}.{event.task_id or event.id.partition('/')[0]}"
    return f"{EVENT_KEY}.{event.kind}"


def _properties(event: Event) -> Basic.Properties:
    filtered = log_of(event) == "output" and event.task_id
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=_message_id(event),
        timestamp=utc_now(),
        headers={"x-stream-filter-value": event.task_id} if filtered else {},
    )


def _message_id(event: Event) -> str:
    """The event's id, or its digest where it is longer than AMQP allows."""
    return event.id if len(event.id.encode()) <= 255 else sha256_hex(event.id.encode())


def _offset(position: str) -> int | None:
    """The offset that a position names, None for what is no position of a stream."""
    number = position.partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None


def _events(messages: Iterable[DeliveredMessage], tasks: Collection[str]) -> tuple[Event, ...]:
    events = (readable(message.body) for message in messages)
    return tuple(event for event in events if event and (not tasks or event.task_id in tasks))


async def _all(requests: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Make all requests, beginning with the first; raises the first failure when all have ended."""
    for answer in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
