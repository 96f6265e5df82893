"""The RabbitMQ engine: durable queues that a broker keeps, for agents on many machines."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from agentq.engine import DeadLetter, Declared, Guard, Health, Log, Page
from agentq.engines import rabbitmq_wire as wire
from agentq.engines import topology
from agentq.engines.log import Retention
from agentq.engines.rabbitmq_link import (
    CLOSE_SECONDS,
    FOREIGN,
    Link,
    NotPermitted,
    Slot,
    be_quiet,
    close_channel,
    translated,
    twice,
)
from agentq.engines.rabbitmq_log import RabbitMQLog
from agentq.engines.topology import Exchange, Names, Queue, RabbitMQSettings
from agentq.events import Event
from agentq.messages import Completion, Envelope

__all__ = ["RabbitMQEngine", "RabbitMQSettings", "Retention"]

NOTICE_SECONDS = 3.0
Thing = Exchange | Queue
LAST = datetime.max.replace(tzinfo=UTC)


class RabbitMQEngine:
    """Queues of one namespace on a RabbitMQ broker; it connects when first used."""

    def __init__(self, settings: RabbitMQSettings) -> None:
        be_quiet()
        wire.be_lenient()
        self._settings = settings
        self._names = Names(settings.namespace)
        self._publishing = Link(settings, "publish")
        self._consuming = Link(settings, "consume")
        self._log = RabbitMQLog(settings, self._publishing)
        self._idle: list[Slot] = []
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._may_enqueue: bool | None = None
        self._asking = asyncio.Lock()
        self.url = self._publishing.where

    async def declare(self, agents: Sequence[str], coordinators: Sequence[str]) -> Declared:
        """Make what is missing, after all that exists was compared: a Conflict leaves nothing half-made."""
        version = topology.parse_version(await self._version())
        plan = topology.topology(version, self._names.namespace, agents, coordinators, self._settings.retention)
        found = [thing for thing in plan if await self._exists(thing)]
        missing = [thing for thing in plan if thing not in found]
        for thing in (*found, *missing):
            async with self._consuming.question(f"declare {thing.name}") as channel:
                await _declare(channel, thing)
        for queue in plan.queues:
            async with self._consuming.question(f"bind {queue.name}") as channel:
                await channel.queue_bind(queue.name, queue.source, queue.key)
        return Declared(_labels(missing), _labels(found), topology.notes(version))

    async def ready(self, agent: str) -> None:
        """Raise EngineUnavailable when the agent has no queue, or the broker does not confirm just now."""
        await self._find_queue(agent)
        # Nobody has an empty name: the broker confirms this message and forgets it. With an empty body it would do
        # so even while it blocks publishers.
        probe = ("", b"ready?", Basic.Properties())
        if not await self._enqueue(*probe, mandatory=False):
            await self._send(self._names.results, *probe, mandatory=False)

    async def publish(self, envelope: Envelope, *, delay: float = 0.0, guard: Guard | None = None) -> None:
        """Hand a message to the agent's queue, not before `delay` seconds; returns once the broker confirmed it.

        A user who may not publish tasks sends it through the shortest delay: that takes a second.
        """
        message = (envelope.to, envelope.to_json(), wire.envelope_properties(envelope, guard))
        if delay > 0 or not await self._enqueue(*message):
            if not guard:
                # The delay queues would take the message of an agent without a queue, and keep it.
                await self._find_queue(envelope.to)
            await self._park(*message, delay)

    async def receive(self, agent: str) -> "RabbitMQDelivery":
        """Wait for the agent's next message; raises EngineUnavailable when connection, consumer or queue is gone."""
        while True:
            slot = await self._slot()
            try:
                message = await self._next(slot, agent)
                delivery = RabbitMQDelivery(self, slot, agent, message, self._names.delays)
                if await self._is_due(delivery):
                    return delivery
            except BaseException:
                await slot.abandon()
                raise

    async def settle(self, slot: Slot, tag: int) -> None:
        """Acknowledge what the slot took; when that is not possible the message is delivered again."""
        acknowledged = False
        try:
            with suppress(*FOREIGN):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await slot.channel.basic_ack(tag)
                acknowledged = True
        finally:
            if acknowledged:
                self._idle.append(slot)
            else:
                await slot.abandon()

    async def bury(self, agent: str, body: bytes, properties: Basic.Properties, reason: str) -> None:
        """Put a copy to the dead letters; returns once the broker confirmed it."""
        await self._send(self._names.dlx, agent, body, wire.buried(properties, reason))

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        """Put a copy of a task that was given up to the dead letters."""
        await self.bury(envelope.to, envelope.to_json(), wire.envelope_properties(envelope), reason)

    async def notify(self, completion: Completion, reply_to: str) -> None:
        """Put a completion on the coordinator's results queue, if anyone declared it; nothing waits for it."""
        await self._send(
            self._names.results,
            reply_to.removeprefix("results."),
            completion.to_json(),
            wire.completion_properties(completion),
            mandatory=False,
            seconds=min(NOTICE_SECONDS, self._settings.timeout),
        )

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first; looking changes nothing."""
        async with self._alone() as link, _open(link) as channel:
            letters = [self._letter(message) async for message in self._look(link, channel)]
        return sorted(letters, key=lambda letter: letter.at or LAST)

    async def remove_dead_letters(self, ids: Collection[str]) -> int:
        """Remove those dead letters, looking at all of them once; answers how many were there."""
        wanted, removed = set(ids), 0
        async with self._alone() as link, _open(link) as channel:
            async for message in self._look(link, channel):
                if self._letter(message).id in wanted:
                    await channel.basic_ack(message.delivery_tag or 0)
                    removed += 1
        return removed

    async def depth(self, agent: str) -> int:
        """How many messages wait for the agent, without delayed ones."""
        return (await self._count(agent))[0]

    async def listeners(self, agent: str) -> int:
        """How many receivers wait, by the queue's consumers; a quorum queue counts who holds a message too."""
        return (await self._count(agent))[1]

    async def append(self, events: Sequence[Event]) -> None:
        """Add events to their streams, in this order; returns once the broker confirmed them."""
        await self._log.append(events)

    def read(
        self,
        log: Log = "events",
        *,
        after: str | None = None,
        since: datetime | None = None,
        tasks: Collection[str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Read a stream; a position is an offset and the digest of the message there."""
        return self._log.read(log, after, since, tasks, follow=follow)

    async def count_dead_letters(self) -> int:
        """How many dead letters there are, without those that somebody looks at just now."""
        async with self._consuming.question("count the dead letters") as channel:
            return (await channel.queue_declare(self._names.dead_letters, passive=True)).message_count or 0

    async def health(self, agents: Sequence[str]) -> Health:
        """The broker's version, what it cannot do, and the queues and exchanges that are missing."""
        text = await self._version()
        version = topology.parse_version(text)
        plan = topology.topology(version, self._names.namespace, agents, ())
        missing: list[Thing] = []
        hidden: list[Thing] = []
        for thing in plan:
            try:
                if not await self._exists(thing):
                    missing.append(thing)
            except NotPermitted:
                hidden.append(thing)
        notes = (*topology.notes(version), *_unseen(hidden))
        seen = [queue for queue in plan.queues if queue.is_stream and queue not in (*missing, *hidden)]
        return Health("RabbitMQ", text, _labels(missing), notes, await self._log.unbounded(seen))

    async def close(self) -> None:
        """Close all connections in bounded time; a delivery that was not acknowledged is delivered again."""
        await asyncio.gather(self._publishing.close(), self._consuming.close(), self._log.close())

    async def _count(self, agent: str) -> tuple[int, int]:
        """The messages that wait in an agent's queue, and its consumers."""
        async with self._consuming.question(f"count what waits for {agent}") as channel:
            declared = await channel.queue_declare(self._names.task_queue(agent), passive=True)
        return declared.message_count or 0, declared.consumer_count or 0

    async def _version(self) -> str:
        async with self._consuming.asking("ask for the version"):
            return await self._consuming.version()

    async def _exists(self, thing: Thing) -> bool:
        async with self._consuming.question(f"look for {thing.name}") as channel:
            try:
                await _declare(channel, thing, passive=True)
            except amqp.ChannelNotFoundEntity:
                return False
        return True

    async def _find_queue(self, agent: str) -> None:
        async def find() -> None:
            channel = await self._publishing.channel()
            await channel.queue_declare(self._names.task_queue(agent), passive=True)
            await close_channel(channel)

        async with self._publishing.asking(f"look for the queue of agent {agent}"):
            await twice(find)

    async def _enqueue(self, agent: str, body: bytes, properties: Basic.Properties, *, mandatory: bool = True) -> bool:
        """Publish to an agent's queue; False when this user may not publish tasks, which is asked only once.

        One at a time until that is known: what is sent after a refusal, on the channel that it ended, would end the
        connection.
        """
        async with self._asking if self._may_enqueue is None else nullcontext():
            if self._may_enqueue is False:
                return False
            try:
                await self._send(self._names.tasks, agent, body, properties, mandatory=mandatory)
            except NotPermitted:
                self._may_enqueue = False
                return False
            self._may_enqueue = True
            return True

    async def _park(self, agent: str, body: bytes, properties: Basic.Properties, delay: float) -> None:
        rung, left = topology.hop(delay)
        await self._send(self._names.delay(rung), agent, body, wire.delayed(properties, delay, left))

    async def _send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        properties: Basic.Properties,
        *,
        mandatory: bool = True,
        seconds: float | None = None,
    ) -> None:
        """Publish and wait for the confirmation.

        One at a time of each message id: by that the client library finds which one the broker returned.
        """
        turn = self._turns.setdefault(properties.message_id or "", asyncio.Lock())

        async def send() -> None:
            channel = await self._publishing.publisher(exchange)
            await channel.basic_publish(
                body, exchange=exchange, routing_key=key, properties=properties, mandatory=mandatory
            )

        async with self._publishing.asking(f"publish to {key} through {exchange}", seconds), turn:
            await twice(send)

    async def _slot(self) -> Slot:
        while self._idle:
            slot = self._idle.pop()
            if not slot.channel.is_closed:
                return slot
        async with self._consuming.asking("open a channel"):
            channel = await self._consuming.channel()
            await channel.basic_qos(prefetch_count=1)
        return Slot(channel)

    async def _next(self, slot: Slot, agent: str) -> DeliveredMessage:
        """Consume one message and no more: a worker that is busy must not hold the next one."""
        queue = self._names.task_queue(agent)
        async with self._consuming.asking(f"consume from {queue}"):
            tag = await slot.consume(queue)
        async with translated(f"wait for {queue}", self._consuming.where, None):
            message = await slot.arrival()
        async with self._consuming.asking(f"stop consuming from {queue}"):
            await slot.channel.basic_cancel(tag)
        return message

    async def _is_due(self, delivery: "RabbitMQDelivery") -> bool:
        """True when the delay is over; a longer rest is spent on the ladder again, a short one here."""
        left = wire.seconds_left(delivery.headers)
        if left >= topology.RUNGS[0]:
            await self._park(delivery.agent, delivery.body, delivery.properties, left)
            await delivery.ack()
            return False
        await asyncio.sleep(left)
        return True

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Link]:
        """A connection that alone may look at the dead letters: whoever waits sees them all.

        The right is an exclusive queue, because that goes when its holder's connection goes.
        """
        link = Link(self._settings, "look")
        try:
            async with link.asking("take a turn at the dead letters"):
                await self._take_turn(link)
            yield link
        finally:
            await link.close()

    async def _take_turn(self, link: Link) -> None:
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random

        turns = AsyncRetrying(retry=retry_if_exception_type(amqp.ChannelLockedResource), wait=wait_random(0.02, 0.1))
        async for turn in turns:
            with turn:
                channel = await link.channel()
                await channel.queue_declare(self._names.looker, exclusive=True, arguments={"x-queue-type": "classic"})

    async def _look(self, link: Link, channel: AbstractChannel) -> AsyncIterator[DeliveredMessage]:
        while True:
            async with link.asking("read the dead letters"):
                message = await channel.basic_get(self._names.dead_letters)
            if isinstance(message.delivery, Basic.GetEmpty):
                return
            yield message

    def _letter(self, message: DeliveredMessage) -> DeadLetter:
        return wire.dead_letter(message, self._names.task_queue(""))


class RabbitMQDelivery:
    """A message that `receive` handed out."""

    def __init__(self, engine: RabbitMQEngine, slot: Slot, agent: str, message: DeliveredMessage, delays: str) -> None:
        self.body = message.body
        self.agent = agent
        self.properties = message.header.properties
        self.headers = wire.headers_of(self.properties)
        self.guard = wire.guard_of(self.headers)
        self.published_at = self.properties.timestamp
        self.was_delayed = wire.was_delayed(self.headers, delays)
        self._engine = engine
        self._slot: Slot | None = slot
        self._tag = message.delivery_tag or 0

    async def ack(self) -> None:
        """Give the message back for good; a no-op when its channel is gone."""
        slot, self._slot = self._slot, None
        if slot:
            await self._engine.settle(slot, self._tag)

    async def dead_letter(self, reason: str) -> None:
        """Put a copy to the dead letters, then acknowledge."""
        await self._engine.bury(self.agent, self.body, self.properties, reason)
        await self.ack()


async def _declare(channel: AbstractChannel, thing: Thing, *, passive: bool = False) -> None:
    if isinstance(thing, Queue):
        await channel.queue_declare(thing.name, durable=True, passive=passive, arguments=dict(thing.arguments))
    else:
        await channel.exchange_declare(thing.name, exchange_type=thing.kind, durable=True, passive=passive)


def _labels(things: Iterable[Thing]) -> tuple[str, ...]:
    return tuple(f"{type(thing).__name__.lower()} {thing.name}" for thing in things)


def _unseen(things: Collection[Thing]) -> tuple[str, ...]:
    """The note about what this user may not look at, if there is anything."""
    if not things:
        return ()
    return (f"not looked at, because this user may not: {', '.join(_labels(things))}",)


@asynccontextmanager
async def _open(link: Link) -> AsyncIterator[AbstractChannel]:
    """A channel whose end gives back what was taken on it."""
    async with link.asking("open a channel"):
        channel = await link.channel()
    try:
        yield channel
    finally:
        await close_channel(channel)
