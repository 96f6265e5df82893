"""The bridge: it brings the ends of jobs into the chat threads that asked for them, inside a process that stays."""

import asyncio
import time
from types import TracebackType
from typing import Any, Self

from agentq.app import App
from agentq.desk import Desk
from agentq.integrations.deliverer import Deliverer, Outcome, Pace
from agentq.integrations.jobs import DIGEST_CHARS, ended, text_of
from agentq.integrations.langgraph.graphs import checked
from agentq.integrations.langgraph.threads import TENANT_KEY, GraphThreads, RunConfig
from agentq.integrations.threads import COORDINATOR, Thread
from agentq.messages import Completion
from agentq.turns import PATIENCE, Hold

STILL_SECONDS = 2.0
"""How long `deliver` goes on for what it appended and cannot confirm."""


class Bridge:
    """Brings notices into the threads of a compiled graph, for the jobs of `coordinator`.

    `async with Bridge(graph):` does so in the background until the block ends; any number of bridges may share a store
    and a checkpointer. `config` answers what a thread's run is given, as for `GraphThreads`. Without a desk it works
    with the settings in force. Raises Invalid for a graph without a checkpointer.
    """

    def __init__(
        self,
        graph: Any,
        desk: Desk | None = None,
        *,
        coordinator: str = COORDINATOR,
        messages_key: str = "messages",
        tenant_key: str = TENANT_KEY,
        config: RunConfig | None = None,
        digest_chars: int = DIGEST_CHARS,
        pace: Pace = Pace(),
    ) -> None:
        threads = GraphThreads(checked(graph), messages_key, tenant_key=tenant_key, config=config)
        self._own = desk is None
        self._desk = desk or Desk.load()
        self._chars = digest_chars
        self._pace = pace
        self._deliverer = Deliverer(self._desk, threads, self._text_of, coordinator=coordinator, pace=pace)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def turn(self, thread_id: str, tenant: str | None = None, *, patience: float = PATIENCE) -> Hold:
        """The turn of a thread, for one `with` or `async with` around a run of the server's own: no notice is written
        meanwhile. Raises TurnTaken when a bridge has it for longer than `patience` seconds, StoreUnavailable."""
        return self._deliverer.turn(Thread(thread_id, tenant), patience=patience)

    async def deliver(self) -> Outcome:
        """Bring all notices that can be brought now, wait until they are confirmed, and answer what was done.

        What waits or is gone is left for the next time, and so is what fails for some seconds. Raises StoreUnavailable.
        """
        appended, acknowledged = dict[str, None](), dict[str, None]()
        moved = time.monotonic()
        while True:
            did = await self._deliverer.sweep()
            appended |= dict.fromkeys(did.appended)
            acknowledged |= dict.fromkeys(did.acknowledged)
            if did.appended or did.acknowledged:
                moved = time.monotonic()
            is_stuck = bool(did.waits or did.failed or did.gone) and not appended.keys() - acknowledged.keys()
            is_late = time.monotonic() - moved > self._pace.confirm + STILL_SECONDS
            if did.again is None or is_stuck or is_late:
                return Outcome(tuple(appended), tuple(acknowledged), did.waits, did.failed, did.gone, did.again)
            await asyncio.sleep(did.again)

    async def run(self, stop: asyncio.Event) -> None:
        """Bring notices until `stop` is set and what has begun has ended, or has had the time for that."""
        await self._deliverer.run(stop)

    def close(self) -> None:
        """Let go of what it opened itself."""
        if self._own:
            self._desk.close()

    async def __aenter__(self) -> Self:
        self._stop.clear()
        self._running = asyncio.create_task(self.run(self._stop))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            if self._running:
                await self._running
        finally:
            await asyncio.to_thread(self.close)

    async def _text_of(self, completion: Completion) -> str:
        def render(app: App) -> str:
            return text_of(ended(app.coordinator, completion, chars=self._chars))

        return await self._desk.call(render)
