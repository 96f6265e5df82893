"""What hands a journal on while a daemon runs: soon after something was told, and again when the engine is back."""

import asyncio
import logging

from agentq.engine import Engine
from agentq.errors import AgentqError
from agentq.journal import Journal

log = logging.getLogger("agentq")

SOON = 0.05
"""Seconds that the first event waits for others: an append for each would be felt by short tasks."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries while the engine takes nothing."""


class Pump:
    """Appends what a journal holds, in batches, for as long as it runs; whoever tells never waits for it."""

    def __init__(self, journal: Journal, engine: Engine) -> None:
        self._journal = journal
        self._engine = engine
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Hand on until cancelled; what the engine does not take is kept and tried again."""
        loop = asyncio.get_running_loop()
        before, self._journal.on_told = self._journal.on_told, lambda: _wake(loop, self._told)
        try:
            while True:
                self._told.clear()
                await self._hand_on()
                await self._told.wait()
                await asyncio.sleep(SOON)
        finally:
            self._journal.on_told = before

    async def _hand_on(self) -> None:
        pause = SHORTEST_PAUSE
        while self._journal:
            try:
                return await self._journal.hand_on(self._engine)
            except AgentqError as error:
                log.debug("the log is told later: %s", error)
            except Exception:
                log.exception("the log could not be told; it is tried again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _wake(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    if not (told.is_set() or loop.is_closed()):
        loop.call_soon_threadsafe(told.set)
