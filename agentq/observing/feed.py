"""Both logs followed at once, for whoever watches."""

import asyncio
import functools
from collections.abc import Collection
from contextlib import aclosing
from datetime import datetime

from agentq.engine import Engine, Log, Page
from agentq.errors import EngineUnavailable
from agentq.observing.follower import OnTrouble, follow
from agentq.patience import cancelled

AHEAD = 32
"""How many pages are read that nobody took yet."""


class Feed:
    """The pages of the logs that are followed, as they come over lost connections; trouble is told once for all."""

    def __init__(self, engine: Engine, on_trouble: OnTrouble) -> None:
        self._engine = engine
        self._on_trouble = on_trouble
        self._arrived: asyncio.Queue[tuple[Log, Page]] = asyncio.Queue(AHEAD)
        self._readers: list[asyncio.Task[None]] = []
        self._next: asyncio.Task[tuple[Log, Page]] | None = None
        self._away: set[Log] = set()

    def follow(
        self, log: Log, *, after: str | None = None, since: datetime | None = None, tasks: Collection[str] = ()
    ) -> None:
        """Begin to follow a log."""
        self._readers.append(asyncio.create_task(self._read(log, after, since, tasks)))

    async def next(self, seconds: float) -> tuple[Log, Page] | None:
        """The next page of any of them, None when there was none in that time; raises what ended a reading."""
        self._next = self._next or asyncio.create_task(self._arrived.get())
        await asyncio.wait({self._next, *self._readers}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for reader in self._readers:
            if reader.done():
                reader.result()
        if not self._next.done():
            return None
        found, self._next = self._next.result(), None
        return found

    async def close(self) -> None:
        """Let go of the logs."""
        await cancelled(*self._readers, *filter(None, [self._next]))

    async def _read(self, log: Log, after: str | None, since: datetime | None, tasks: Collection[str]) -> None:
        heard = functools.partial(self._heard, log)
        pages = follow(self._engine, log, after=after, since=since, tasks=tasks, on_trouble=heard)
        async with aclosing(pages):
            async for page in pages:
                await self._arrived.put((log, page))

    def _heard(self, log: Log, trouble: EngineUnavailable | None) -> None:
        was_away = bool(self._away)
        (self._away.add if trouble else self._away.discard)(log)
        if was_away != bool(self._away):
            self._on_trouble(trouble)
