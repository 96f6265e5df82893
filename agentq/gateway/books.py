"""The ledger of one gateway: brought up to the log by one reading for all who ask, and read in threads."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from agentq.desk import Desk
from agentq.engine import Engine, Page
from agentq.errors import EngineUnavailable, Unavailable
from agentq.gateway.tail import Mark
from agentq.ledger import Damaged, Ledger

if TYPE_CHECKING:
    from agentq.gateway.hub import Hub

T = TypeVar("T")
log = logging.getLogger("agentq")

PATIENCE = 2.0
"""Seconds that a reader waits for what is new; then it is told what is known, and as of when."""
FIRST_PATIENCE = 10.0
"""The same while nothing is known that could be told."""
AGAIN_SECONDS = 2.0
"""Seconds after a log that could not be read before anybody waits for it again."""
OLDEST_SECONDS = 5.0
"""After so long the log is read again, though the hub has heard nothing: heartbeats it does not keep."""
BATCH = 2000
"""Events that are brought in at once."""


class Books:
    """Reads the ledger for all who ask: in it is what this gateway has done, and what its hub has heard of, unless
    the engine is away."""

    def __init__(self, desk: Desk, hub: "Hub") -> None:
        self._desk, self._hub = desk, hub
        self._read_up_to: tuple[Mark | None, float] = (None, float("-inf"))
        self._stirs = 0
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._away_at = float("-inf")
        self.trouble: str | None = None
        """Why the log could not be read the last time, None when it could."""

    async def read(self, act: Callable[[Ledger], T], *, partly: bool = False) -> T:
        """What `act` answers, which is given the ledger in a thread, caught up if that can be done.

        Raises Unavailable for its file, and while it has never been whole, unless `act` can do with a part of it.
        """
        is_known = await self.catch_up() or partly or await self._was_ever_whole()
        if not (is_known or await self.catch_up(FIRST_PATIENCE)):
            why = self.trouble or "its log is long, and still being read"
            raise EngineUnavailable(f"this gateway never knew all tasks yet: {why}", hint="Try again in a while.")
        return await self._desk.call(lambda app: self._with_ledger(app.ledger, act))

    async def _was_ever_whole(self) -> bool:
        return await self._desk.call(lambda app: self._with_ledger(app.ledger, lambda ledger: ledger.as_of is not None))

    def begin(self) -> None:
        """Read the log before anybody asks, who may ask when the engine is away."""
        self._reading()

    def stir(self) -> None:
        """Say that something was done here, so that the next reader waits for what the log tells of it."""
        self._stirs += 1
        self._read_up_to = (None, float("-inf"))

    async def catch_up(self, seconds: float = PATIENCE) -> bool:
        """Bring in what the log holds now, or as much of it as comes in time; answers whether that is all."""
        if self._is_current:
            return True
        if time.monotonic() - self._away_at < AGAIN_SECONDS:
            return False
        reading = self._reading()
        await asyncio.wait([reading], timeout=seconds)
        return reading.done() and self.trouble is None

    async def close(self) -> None:
        """Break off what is being read."""
        for task in (self._next, self._current):
            if task:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # ------------------------------------------------------------------

    @property
    def _is_current(self) -> bool:
        """Whether the log has told nothing since the last reading, as far as the hub has heard: on RabbitMQ a reading
        puts a marker into the log, and whoever only looks again and again is to write nothing."""
        mark, at = self._read_up_to
        is_heard = self._hub.caught_up and self._hub.tails["events"].mark == mark
        return is_heard and time.monotonic() - at < OLDEST_SECONDS

    def _reading(self) -> "asyncio.Task[None]":
        """A reading that begins from now on: the one under way may have passed what was told meanwhile."""
        if self._next:
            return self._next
        if self._current and not self._current.done():
            self._next = asyncio.create_task(self._after(self._current))
            return self._next
        self._current = asyncio.create_task(self._read())
        return self._current

    async def _after(self, before: "asyncio.Task[None]") -> None:
        await asyncio.wait([before])
        self._current, self._next = self._next, None
        await self._read()

    async def _read(self) -> None:
        stirs, begun = self._stirs, (self._hub.tails["events"].mark, time.monotonic())
        try:
            await self._desk.run(self._bring_in)
            self.trouble = None
            if self._stirs == stirs:
                self._read_up_to = begun
        except Unavailable as error:
            self.trouble, self._away_at = str(error), time.monotonic()
        except Exception as error:
            self.trouble, self._away_at = f"a bug: {error}", time.monotonic()
            log.exception("the ledger could not be brought up to the log")

    async def _bring_in(self) -> None:
        engine = await self._desk.engine()
        ledger = await asyncio.to_thread(_whole, self._desk.app.ledger)
        try:
            await _copy(engine, ledger)
        finally:
            ledger.close()

    @staticmethod
    def _with_ledger(opened: Callable[[Callable[[str], object]], Ledger], act: Callable[[Ledger], T]) -> T:
        with opened(log.warning) as ledger:
            return act(ledger)


def _whole(opened: Callable[..., Ledger]) -> Ledger:
    """The ledger; one that is found to be damaged is made anew."""
    try:
        ledger = opened(log.warning)
        ledger.position  # noqa: B018 - read to see whether it can be
        return ledger
    except Damaged:
        return opened(log.warning, damaged=True)


async def _copy(engine: Engine, ledger: Ledger) -> None:
    """Bring in what the log holds beyond the ledger, a batch at a time, and leave the loop to others meanwhile."""
    waiting = Page((), "")
    async with contextlib.aclosing(engine.read("events", after=ledger.position)) as pages:
        async for page in pages:
            waiting = replace(page, events=waiting.events + page.events, gap=waiting.gap or page.gap)
            if len(waiting.events) >= BATCH or page.caught_up:
                await _apply(ledger, waiting)
                waiting = Page((), "")
            if page.caught_up:
                return


async def _apply(ledger: Ledger, page: Page) -> None:
    """Write a page in a thread; whoever is cancelled waits for it, for the file is closed then."""
    writing = asyncio.ensure_future(asyncio.to_thread(ledger.apply, page))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
