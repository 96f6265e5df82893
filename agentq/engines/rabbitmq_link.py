"""Connections to RabbitMQ: made when needed, bounded in time, and their failures in our words. Imports aio_pika."""

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import aio_pika
from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic
from pamqp.common import FieldTable
from pamqp.exceptions import PAMQPException
from yarl import URL

from agentq.engines import tls
from agentq.engines.topology import BOUNDS, SEGMENT, RabbitMQSettings
from agentq.errors import AgentqError, Conflict, EngineUnavailable, Invalid
from agentq.errors import NotPermitted as NotPermitted

CLOSE_SECONDS = 3.0
FOREIGN = (amqp.AMQPError, PAMQPException, OSError, RuntimeError, ValueError, StopAsyncIteration)

_CHECK_BROKER = "check that it runs, then try again"
_CHECK_PORT = "check host and port; amqps:// needs the broker's TLS port, amqp:// the other one"
_DIFFERS = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>\w+) '(?P<name>[^']+)' in vhost '[^']*': "
    r"received (?P<needed>.+?) but current is (?P<current>.+)"
)

# The first line that fits says what happened and the next thing to do: a kind, and words that it must contain.
FAILURES: tuple[tuple[type[Exception], str, str, str], ...] = (
    (amqp.AuthenticationError, "", "offers no login with a password", "allow the PLAIN mechanism on the broker"),
    (amqp.ProbableAuthenticationError, "", "refused the login", "check the user and the password"),
    (
        amqp.InvalidFrameError,
        "OpenOk",
        "has no such virtual host, or it is not for this user",
        "check the virtual host",
    ),
    *((amqp.AMQPConnectionError, *failure) for failure in tls.FAILURES),
    (amqp.ConnectionNotAllowed, "", "refused the connection", "check the virtual host and the user's limits"),
    (amqp.ChannelAccessRefused, "", "does not permit this", "`agentq access show` tells what each role may do"),
    (amqp.ChannelNotFoundEntity, "", "lacks a queue or exchange", "run `agentq init`"),
    (amqp.ChannelLockedResource, "", "keeps this for another connection", "try again when the other one is done"),
    (amqp.ChannelPreconditionFailed, "", "refused a request", "run `agentq init`, it says what differs"),
    (amqp.DeliveryError, "", "did not accept the message", "the queue is full or has no leader: try again later"),
    (amqp.MethodNotImplemented, "", "lacks a feature that agentq needs", "use RabbitMQ 3.10 or newer"),
    (amqp.IncompatibleProtocolError, "", "is no AMQP 0-9-1 broker", _CHECK_PORT),
    (amqp.ProtocolSyntaxError, "", "does not talk AMQP 0-9-1", _CHECK_PORT),
    (PAMQPException, "", "does not talk AMQP 0-9-1", _CHECK_PORT),
    (amqp.ConnectionClosed, "", "closed the connection", _CHECK_BROKER),
    (amqp.AMQPError, "", "cannot be reached or closed the connection", _CHECK_BROKER),
    (OSError, "", "cannot be reached", _CHECK_BROKER),
    (RuntimeError, "", "closed the connection", _CHECK_BROKER),
    (StopAsyncIteration, "", "closed the connection", _CHECK_BROKER),
)


def translate(error: Exception, doing: str, where: str) -> AgentqError:
    """The error of ours for one of the client library's; a ValueError is something that AMQP cannot carry."""
    text = str(error) or type(error).__name__
    if differs := _DIFFERS.search(text):
        return _differs(differs, where)
    if isinstance(error, amqp.PublishError) and isinstance(error.frame, Basic.Return):
        what = f"no queue for agent {error.frame.routing_key!r} at exchange {error.frame.exchange!r} of {where}"
        return EngineUnavailable(what, hint="run `agentq init`, or check the agent's name")
    ours = NotPermitted if isinstance(error, amqp.ChannelAccessRefused) else EngineUnavailable
    for kind, words, what, hint in FAILURES:
        if isinstance(error, kind) and words in text:
            return ours(f"RabbitMQ at {where} {what} ({doing}): {text}", hint=hint)
    return Invalid(f"RabbitMQ cannot carry this ({doing}): {text}")


def _differs(found: re.Match[str], where: str) -> Conflict:
    name, argument = found["name"], found["argument"]
    hint = f"when nothing waits in it, delete {name!r} and run `agentq init` again, or set another `namespace`"
    if argument in (*BOUNDS, SEGMENT):
        hint = (
            f"set [log] in agentq.toml to what it has, or delete the stream {name!r} and run `agentq init` again: "
            "that loses the log until now, and no task"
        )
    return Conflict(
        f"{found['kind']} {name!r} at {where} exists with another {argument}: "
        f"it has {_plain(found['current'])}, agentq needs {_plain(found['needed'])}",
        hint=hint,
    )


def _plain(value: str) -> str:
    """A value without the broker's words about its type."""
    return re.sub(r"the value ('.*') of type '\w+'", r"\1", value)


def _addresses(settings: RabbitMQSettings) -> tuple[URL, ...]:
    if not settings.urls:
        raise Invalid("no RabbitMQ URL is set", hint="for example amqp://user@host:5672/")
    return tuple(_address(settings, text) for text in settings.urls)


def _address(settings: RabbitMQSettings, text: str) -> URL:
    try:
        url = URL(text)
        port_is_readable = url.port is None or url.port > 0
    except ValueError:
        raise Invalid(f"{text.rpartition('@')[2]!r} is no RabbitMQ URL", hint="amqp://user@host:5672/") from None
    if url.scheme not in ("amqp", "amqps") or not url.host or not port_is_readable:
        raise Invalid(f"{_shown(url)!r} is no RabbitMQ URL", hint="for example amqp://user@host:5672/")
    if settings.vhost is not None:
        url = url.with_path("/" + quote(settings.vhost, safe=""), encoded=True).with_query(url.query)
    if settings.user is not None:
        url = url.with_user(settings.user).with_password(url.password)
    if settings.password is not None:
        url = url.with_password(settings.password)
    return url.update_query(heartbeat=settings.heartbeat)


def _shown(url: URL) -> str:
    """The URL without what must not be seen."""
    return str(url.with_password(None).with_query(None) if url.host else url.with_query(None))


class _NoAnswer(EngineUnavailable):
    """The time is up; what was asked may have happened."""


@asynccontextmanager
async def translated(doing: str, where: str, seconds: float | None) -> AsyncIterator[None]:
    """Bound what happens inside, and make every foreign exception one of ours: the one place where that is done."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        what = f"RabbitMQ at {where} did not answer within {seconds or 0:g} s ({doing})"
        raise _NoAnswer(what, hint="check the broker and the network, then try again") from error
    except FOREIGN as error:
        if _is_cancelled():  # the client library may make another error of it, and whoever cancelled must not wait
            raise asyncio.CancelledError from error
        raise translate(error, doing, where) from error
    except asyncio.CancelledError as error:
        # The client library cancels those who wait on a connection that closes; that is not our being cancelled.
        if _is_cancelled():
            raise
        raise translate(amqp.ChannelInvalidStateError(), doing, where) from error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Link:
    """A connection that is made when first needed, to the first broker of the list that answers."""

    def __init__(self, settings: RabbitMQSettings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self._addresses = _addresses(settings)
        self._connection: aio_pika.Connection | None = None
        self._publishers: dict[str, AbstractChannel] = {}
        self._opening = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self.where = ", ".join(map(_shown, self._addresses))

    @asynccontextmanager
    async def asking(self, doing: str, seconds: float | None = None) -> AsyncIterator[None]:
        """Bound a request; after one without an answer the next gets a new connection."""
        try:
            async with translated(doing, self.where, seconds or self._settings.timeout):
                yield
        except _NoAnswer as error:
            blocked = await self._is_blocked()
            self.drop()
            if not blocked:
                raise
            what = f"RabbitMQ at {self.where} blocks publishers: a memory or disk alarm ({doing})"
            raise EngineUnavailable(what, hint="free memory or disk on the broker, then try again") from error

    async def _is_blocked(self) -> bool:
        try:
            async with asyncio.timeout(0.01):
                if living := self._living():
                    await living.ready()
        except TimeoutError:
            return True
        return False

    async def connection(self) -> AbstractConnection:
        """The living connection, a new one when the last is gone."""
        async with self._opening:
            if not (living := self._living()):
                self.drop()
                self._connection = await self._connect_any()
                living = self._living()
        if living is None:
            raise amqp.ChannelInvalidStateError("closed meanwhile")
        return living

    def _living(self) -> AbstractConnection | None:
        transport = self._connection.transport if self._connection else None
        return transport.connection if transport and transport.connection.is_opened else None

    async def channel(self) -> AbstractChannel:
        """A channel of one's own, to consume and to ask with."""
        return await (await self.connection()).channel(publisher_confirms=False)

    async def publisher(self, exchange: str) -> AbstractChannel:
        """The one channel that all publish on through this exchange: a refusal ends a channel for all who use it.

        It confirms, and raises for what it could not route.
        """
        connection = await self.connection()
        async with self._opening:
            channel = self._publishers.get(exchange)
            if channel is None or channel.is_closed:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                self._publishers[exchange] = channel
            return channel

    @asynccontextmanager
    async def question(self, doing: str) -> AsyncIterator[AbstractChannel]:
        """Ask something on a channel of its own, all in bounded time."""
        async with self.asking(doing):
            channel = await self.channel()
            try:
                yield channel
            finally:
                await close_channel(channel)

    async def version(self) -> str:
        """What the broker calls its version."""
        properties: Mapping[str, Any] = (await self.connection()).server_properties
        return str(properties.get("version", ""))

    async def _connect_any(self) -> aio_pika.Connection:
        failures = []
        for url in self._addresses:
            try:
                async with translated("connect", _shown(url), self._settings.timeout / len(self._addresses)):
                    return await self._connect(url)
            except EngineUnavailable as failure:
                failures.append(failure)
        raise EngineUnavailable("; ".join(map(str, failures)), hint=failures[0].hint)

    async def _connect(self, url: URL) -> aio_pika.Connection:
        connection = aio_pika.Connection(
            url,
            ssl_context=self._tls() if url.scheme == "amqps" else None,
            client_properties={"connection_name": f"agentq {self._purpose}"},
        )
        try:
            await connection.connect()
        except BaseException:
            await connection.close()
            raise
        return connection

    def _tls(self) -> ssl.SSLContext:
        of = self._settings
        return tls.client_context(of.ca_file, cert_file=of.cert_file, key_file=of.key_file, verify=of.verify)

    def drop(self) -> None:
        """Let the connection go without waiting for it."""
        connection, self._connection = self._connection, None
        self._publishers = {}
        if connection:
            task = asyncio.ensure_future(connection.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Let the connection go, and wait for that in bounded time."""
        self.drop()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=self._settings.timeout)


class Slot:
    """A channel on which messages arrive: one at a time from a queue, many from a stream."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._inbox: asyncio.Queue[DeliveredMessage | Exception] = asyncio.Queue()
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        channel.closing.add_done_callback(self._closed)

    async def _cancelled(self, _: Basic.Cancel) -> None:
        self._inbox.put_nowait(amqp.ChannelNotFoundEntity("the broker stopped delivering: the queue was deleted"))

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        # The client library also closes channels with a bare Exception, which says nothing.
        self._inbox.put_nowait(error if isinstance(error, FOREIGN) else amqp.ChannelInvalidStateError("closed"))

    async def consume(self, queue: str, arguments: FieldTable | None = None) -> str:
        """Ask for the queue's messages; the tag to cancel with."""
        consuming = await self.channel.basic_consume(queue, self._inbox.put, arguments=arguments)
        return str(consuming.consumer_tag)

    async def arrival(self) -> DeliveredMessage:
        """Wait for the message; raises what ended the channel or the consumer instead."""
        arrived = await self._inbox.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    async def arrivals(
        self, limit: int, seconds: float, is_last: Callable[[DeliveredMessage], bool]
    ) -> list[DeliveredMessage]:
        """Wait for a message, and then for so long for more, unless one is the last."""
        arrived = [await self.arrival()]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(arrived) < limit and not is_last(arrived[-1]):
                    arrived.append(await self.arrival())
        return arrived

    async def abandon(self) -> None:
        """Close the channel, which gives back an unacknowledged message."""
        await close_channel(self.channel)


async def twice(request: Callable[[], Awaitable[None]]) -> None:
    """Make a request, and once more when the first found a connection or channel that was broken."""
    try:
        await request()
    except (amqp.DeliveryError, amqp.ChannelAccessRefused):
        raise
    except FOREIGN:
        await request()


async def close_channel(channel: AbstractChannel) -> None:
    """Close a channel in bounded time, whatever state it is in; what was not acknowledged goes back."""
    with suppress(*FOREIGN):
        async with asyncio.timeout(CLOSE_SECONDS):
            await channel.close()


def be_quiet() -> None:
    """Keep the client library from printing tracebacks: what it has to say is in the errors raised."""
    for name in ("aiormq", "aio_pika"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
