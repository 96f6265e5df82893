"""Whether engine and store answer, asked once for all who want to know; and the metrics of both."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING

from agentq.desk import Desk
from agentq.errors import AgentqError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FRESH_SECONDS = 2.0
PATIENCE = 3.0
"""Seconds that a part has to answer in."""
_KEY = "results/gateway-pulse.json"


class Pulse:
    """The parts behind one gateway: each answers None when it works, else why it does not."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked: dict[str, tuple[float, asyncio.Task[str | None]]] = {}

    async def engine(self) -> str | None:
        """Whether the engine answers."""
        return await self._known("engine", lambda: self._desk.run(self._ask_engine))

    async def store(self) -> str | None:
        """Whether the store answers."""
        return await self._known("store", lambda: self._desk.call(lambda app: app.store.get(_KEY)))

    def metrics(self) -> bytes:
        """What Prometheus is told; blocks while it is collected."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    async def _ask_engine(self) -> None:
        await (await self._desk.engine()).count_dead_letters()

    async def _known(self, part: str, ask: Callable[[], Awaitable[object]]) -> str | None:
        at, asking = self._asked.get(part, (float("-inf"), None))
        if asking is None or (asking.done() and time.monotonic() - at > FRESH_SECONDS):
            asking = asyncio.create_task(_why(ask))
            self._asked[part] = (time.monotonic(), asking)
        return await asyncio.shield(asking)

    @cached_property
    def _registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self._desk.app.exporter())
        return registry


async def _why(ask: Callable[[], Awaitable[object]]) -> str | None:
    try:
        async with asyncio.timeout(PATIENCE):
            await ask()
    except TimeoutError:
        return f"it has not answered within {PATIENCE:g} s"
    except AgentqError as error:
        return str(error)
    return None
