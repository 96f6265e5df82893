"""A coordinator's inbox as a chat bridge sees it: the jobs that have ended, and the threads that asked for them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime, timedelta

from agentq.app import App
from agentq.desk import Desk
from agentq.engine import Page
from agentq.errors import EngineUnavailable, NotFound
from agentq.integrations.notices import Job
from agentq.integrations.threads import COORDINATOR, MODES, NOTICE, TENANT, THREAD, Mode, Thread
from agentq.messages import Envelope
from agentq.observing.follower import follow
from agentq.observing.watching import OUTCOMES
from agentq.patience import repeated

LOG = logging.getLogger("agentq")
CLOCKS = timedelta(seconds=5)
"""By how much the clocks of those who tell the log may differ from this one without its first word being missed."""


class ChatInbox:
    """The unread jobs of one coordinator. What it remembers of tasks does not change."""

    def __init__(self, desk: Desk, coordinator: str = COORDINATOR) -> None:
        self.coordinator = coordinator
        self._desk = desk
        self._asked: dict[str, tuple[Thread, Mode] | None] = {}

    async def unread(self) -> list[Job]:
        """The jobs of chat threads that have ended and were not acknowledged, oldest first. Raises StoreUnavailable."""
        return await self._desk.call(self._unread)

    async def acknowledge(self, task_id: str) -> None:
        """Mark a job as read. Raises StoreUnavailable."""
        await self._desk.call(lambda app: app.coordinator.acknowledge(self.coordinator, task_id))

    async def listen(self, heard: Callable[[], object], since: datetime) -> None:
        """Call `heard` in this loop whenever the log tells that one of the coordinator's tasks ended, until cancelled.

        It begins a little before `since`. While the engine is away that is said once, and nothing is heard.
        """
        loop = asyncio.get_running_loop()
        await self._desk.run(lambda: self._listen(lambda: loop.call_soon_threadsafe(heard), since - CLOCKS))

    async def _listen(self, heard: Callable[[], object], since: datetime) -> None:
        engine = await repeated(self._desk.engine, EngineUnavailable, "engine")
        async with aclosing(follow(engine, since=since, on_trouble=_say)) as pages:
            async for page in pages:
                if self._is_about_us(page):
                    with contextlib.suppress(RuntimeError):  # the listener's loop is closed
                        heard()

    def _is_about_us(self, page: Page) -> bool:
        ends = (event for event in page.events if event.kind in OUTCOMES)
        return any(event.data.get("to") == self.coordinator for event in ends)

    def _unread(self, app: App) -> list[Job]:
        unread = list(app.coordinator.inbox(self.coordinator))
        self._asked = {m.task_id: self._asked.get(m.task_id) or self._read(app, m.task_id) for m in unread}
        return [Job(m, *asked) for m in unread if (asked := self._asked[m.task_id])]

    @staticmethod
    def _read(app: App, task_id: str) -> tuple[Thread, Mode] | None:
        try:
            return asked_by(app.coordinator.envelope(task_id))
        except NotFound:  # it was never registered here
            return None


def asked_by(envelope: Envelope) -> tuple[Thread, Mode] | None:
    """The chat thread that asked for a task, and what its notice is to do; None for any other task."""
    labels = envelope.labels
    if not labels.get(THREAD):
        return None
    mode = next((mode for mode in MODES if mode == labels.get(NOTICE)), MODES[0])
    return Thread(labels[THREAD], labels.get(TENANT) or None), mode


def _say(trouble: EngineUnavailable | None) -> None:
    if trouble:
        hint = f" ({trouble.hint})" if trouble.hint else ""
        LOG.warning("the engine is unavailable, so notices come a few seconds later: %s%s", trouble, hint)
    else:
        LOG.info("the engine is back")
