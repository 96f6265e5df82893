"""One connection's engine: what was asked is done, each request in a task of its own, and given back at the end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from agentq.engine import Delivery, Engine, Page
from agentq.engines import gateway_wire as wire
from agentq.errors import AgentqError, EngineUnavailable, Invalid
from agentq.gateway import engine_requests as asked
from agentq.gateway.engine_rights import Rights

log = logging.getLogger("agentq")

AT_ONCE = 1024
"""Requests of one connection that may be under way: its own clients have fewer."""
HELD = 256
"""Messages that one connection may hold or wait for."""
CLOSE_SECONDS = 15.0


class Session:
    """An engine for one client, with its rights. `send` takes a frame, and drops what nobody hears."""

    def __init__(
        self, open_engine: Callable[[], Engine], rights: Rights, send: Callable[[str], Awaitable[None]]
    ) -> None:
        self._open, self._rights, self._send = open_engine, rights, send
        self._engine = open_engine()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._hands = _Hands(open_engine)
        self._readings: dict[int, _Reading] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.is_closed = False

    async def hear(self, said: dict[str, Any]) -> None:
        """Begin what a frame asks, or break it off; raises Invalid for what is no request."""
        match said.get("op"):
            case "ping":
                return await self._send(wire.frame(op="pong"))
            case "pong":
                return
            case "cancel":
                return self._cancel(said.get("of"))
            case "end":
                return self._end(said.get("of"))
        request = asked.request_of(said)
        if self.is_closed:
            return
        if request.id in self._tasks or len(self._tasks) >= AT_ONCE:
            raise Invalid(f"the id {request.id} is in use, or over {AT_ONCE} requests are under way")
        task = asyncio.create_task(self._answer(request))
        self._tasks[request.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.id, None))

    def _cancel(self, of: object) -> None:
        """Break a request off; a message that it handed out already, perhaps unnoticed, goes back to its queue."""
        if not isinstance(of, int) or self._hands.give_back(of):
            return
        if task := self._tasks.get(of):
            task.cancel()

    def _end(self, of: object) -> None:
        """Let go of a reading, when what was asked of it last has been broken off."""
        if isinstance(of, int) and (reading := self._readings.pop(of, None)):
            ending = asyncio.create_task(reading.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Break off what is under way and let go of all engines, in bounded time; what was held is given back then."""
        self.is_closed = True
        tasks = {task for task in self._tasks.values() if task is not asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        readings, self._readings = self._readings, {}
        ending = [reading.end() for reading in readings.values()]
        await asyncio.gather(*ending, *self._ending, self._hands.close(), _closed(self._engine), return_exceptions=True)

    async def _answer(self, request: Any) -> None:
        try:
            value = await self._do(request)
            for frame in wire.answer(request.id, value):
                await self._send(frame)
        except AgentqError as error:
            await self._send(wire.refusal(request.id, error))
        except Exception:
            log.exception("the gateway broke over a request to the engine (%s)", request.do)
            broke = EngineUnavailable("the gateway broke over this request", hint="its own log says more")
            await self._send(wire.refusal(request.id, broke))

    async def _do(self, request: Any) -> Any:
        act: Callable[[Any], Awaitable[Any]] = getattr(self, f"_do_{request.do}")
        return await act(request)

    # ------------------------------------------------------------------ deliveries

    async def _do_receive(self, request: asked.OfAgent) -> dict[str, Any]:
        self._rights.take(request.agent)
        delivery = await self._hands.receive(request.id, request.agent)
        return {
            "of": request.id,
            "body": wire.of_bytes(delivery.body),
            "guard": wire.of_guard(delivery.guard),
            "published_at": wire.of_moment(delivery.published_at),
            "was_delayed": delivery.was_delayed,
        }

    async def _do_ack(self, request: asked.OfAnother) -> None:
        await self._hands.settle(request.of, lambda delivery: delivery.ack())

    async def _do_bury(self, request: asked.Bury) -> None:
        await self._hands.settle(request.of, lambda delivery: delivery.dead_letter(request.reason))

    # ------------------------------------------------------------------ messages

    async def _do_ready(self, request: asked.OfAgent) -> None:
        self._rights.take(request.agent)
        await self._engine.ready(request.agent)

    async def _do_publish(self, request: asked.Publish) -> None:
        guard = wire.to_guard(request.guard)
        envelope = await self._rights.publish(asked.envelope_of(request.envelope), request.delay, guard)
        await self._engine.publish(envelope, delay=request.delay, guard=guard)

    async def _do_dead_letter(self, request: asked.GiveUp) -> None:
        envelope = await self._rights.give_up(asked.envelope_of(request.envelope))
        await self._engine.dead_letter(envelope, request.reason)

    async def _do_notify(self, request: asked.Notify) -> None:
        completion = await self._rights.notify(asked.completion_of(request.completion), request.reply_to)
        await self._engine.notify(completion, request.reply_to)

    async def _do_depth(self, request: asked.OfAgent) -> int:
        self._rights.count(request.agent)
        return await self._engine.depth(request.agent)

    async def _do_listeners(self, request: asked.OfAgent) -> int:
        self._rights.count(request.agent)
        return await self._engine.listeners(request.agent)

    # ------------------------------------------------------------------ dead letters, and the engine itself

    async def _do_dead_letters(self, _: asked.Simple) -> list[dict[str, Any]]:
        self._rights.look()
        return [wire.of_letter(letter) for letter in await self._engine.dead_letters()]

    async def _do_count_dead_letters(self, _: asked.Simple) -> int:
        self._rights.look()
        return await self._engine.count_dead_letters()

    async def _do_remove_dead_letters(self, request: asked.Remove) -> int:
        self._rights.remove()
        return await self._engine.remove_dead_letters(request.ids)

    async def _do_declare(self, request: asked.Declare) -> dict[str, Any]:
        self._rights.declare()
        return asdict(await self._engine.declare(request.agents, request.coordinators))

    async def _do_health(self, request: asked.HealthOf) -> dict[str, Any]:
        self._rights.ask()
        return asdict(await self._engine.health(request.agents))

    async def _do_close(self, _: asked.Simple) -> None:
        await self.close()

    # ------------------------------------------------------------------ the log

    async def _do_append(self, request: asked.Append) -> None:
        await self._engine.append(await self._rights.tell(asked.events_of(request.events)))

    async def _do_read(self, request: asked.Read) -> int:
        self._rights.look()
        if len(self._readings) >= HELD:
            raise EngineUnavailable(f"over {HELD} readings at once", hint="end some of them")
        self._readings[request.id] = _Reading(
            self._engine.read(
                request.log, after=request.after, since=request.since, tasks=request.tasks, follow=request.follow
            )
        )
        return request.id

    async def _do_next(self, request: asked.OfAnother) -> dict[str, Any] | None:
        """The next page, None behind the last; each is fetched only when the client has room for it."""
        reading = self._readings.get(request.of)
        if reading is None:
            raise EngineUnavailable("that reading has ended", hint="begin another behind the last page")
        page = await reading.next()
        return wire.of_page(page) if page else None


class _Reading:
    """The pages of a log: one is asked for after the other."""

    def __init__(self, pages: AsyncGenerator[Page, None]) -> None:
        self._pages, self._turn = pages, asyncio.Lock()

    async def next(self) -> Page | None:
        """The next page, None behind the last."""
        async with self._turn:
            return await anext(self._pages, None)

    async def end(self) -> None:
        """Let go of it."""
        async with self._turn:
            await self._pages.aclose()


class _Hands:
    """The messages that a connection holds, each by an engine of its own: closing that is what gives a single one back.

    An engine whose message was settled is used for the next one.
    """

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open = open_engine
        self._free: list[Engine] = []
        self._waiting: set[Engine] = set()
        self._held: dict[int, tuple[Engine, Delivery]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def receive(self, request: int, agent: str) -> Delivery:
        """The agent's next message, held as what that request brought. What goes back just now is not passed over."""
        if len(self._held) + len(self._waiting) >= HELD:
            raise EngineUnavailable(f"over {HELD} messages are held or waited for at once", hint="acknowledge some")
        if self._leaving:
            await asyncio.wait(self._leaving)
        engine = self._free.pop() if self._free else self._open()
        self._waiting.add(engine)
        try:
            delivery = await engine.receive(agent)
        except BaseException:
            self._free.append(engine)
            raise
        finally:
            self._waiting.discard(engine)
        self._held[request] = engine, delivery
        return delivery

    async def settle(self, request: int, do: Callable[[Delivery], Awaitable[None]]) -> None:
        """Do what lets go of a message; nothing when it is not held any more."""
        if request not in self._held:
            return
        engine, delivery = self._held[request]
        await do(delivery)
        if self._held.pop(request, None):
            self._free.append(engine)

    def give_back(self, request: int) -> bool:
        """Whether that request held a message, which is given back from now on."""
        if request not in self._held:
            return False
        engine, _ = self._held.pop(request)
        leaving = asyncio.create_task(_closed(engine))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return True

    async def close(self) -> None:
        """Give all of them back."""
        engines = [*self._free, *self._waiting, *(engine for engine, _ in self._held.values())]
        self._free, self._held = [], {}
        await asyncio.gather(*map(_closed, engines), *self._leaving)


async def _closed(engine: Engine) -> None:
    """Close an engine; what it cannot give back, others give back once its connection is gone."""
    try:
        await engine.close()
    except AgentqError as error:
        log.debug("an engine did not let go: %s", error)
