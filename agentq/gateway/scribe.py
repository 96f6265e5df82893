"""What a gateway does to threads: papers at once, and what follows them once the engine is there."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeVar

from agentq.errors import AgentqError, EngineUnavailable
from agentq.journal import Journal
from agentq.messages import Envelope
from agentq.patience import cancelled
from agentq.records import Records
from agentq.settle import publish
from agentq.signing import Signer
from agentq.telling.pump import Pump
from agentq.threads.memory import Memory

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.desk import Desk
    from agentq.engine import Engine
    from agentq.threads.threads import Threads

T = TypeVar("T")
log = logging.getLogger("agentq")

LAST_SECONDS = 2.0
"""How long a gateway that ends may take to tell the log what it has done."""
PAUSE = 1.0
"""Seconds until an engine that could not be opened is tried again."""


class Scribe:
    """Writes in threads for all who call one gateway, and waits for no engine.

    What is to be told and published is kept, in order, and handed on while `running`; what a gateway that dies had not
    handed on is found by its mark.
    """

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk
        self._journal = Journal()
        self._due: asyncio.Queue[tuple[str, str]] | None = None
        self._early: list[tuple[str, str]] = []
        self._memory = Memory()

    async def do(self, act: Callable[["Threads"], T]) -> T:
        """What an act on the threads answers; what follows it is done beside whatever comes next."""

        def acted(app: "App") -> tuple[T, list[tuple[str, str]]]:
            threads = self._threads(app)
            return act(threads), threads.due

        answer, due = await self._desk.call(acted)
        await self.follow_up(*due)
        return answer

    def _threads(self, app: "App") -> "Threads":
        return app.threads_over(self._over(app), [], self._memory)

    def _over(self, app: "App") -> Records:
        """The papers, whose hand tells what is told in this gateway's order."""
        return Records(app.store, Signer(app.keyring, app.settings.coordinator), self._journal)

    async def follow_up(self, *messages: tuple[str, str]) -> None:
        """Hand to the engine what these messages ask for, tell the log, and then remove their marks."""
        if messages:
            await self._desk.run(lambda: self._add(messages))

    async def _add(self, messages: tuple[tuple[str, str], ...]) -> None:
        for message in messages:
            if self._due is None:
                self._early.append(message)
            else:
                self._due.put_nowait(message)

    # ------------------------------------------------------------------ beside

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hand on meanwhile, and in the end what is still to be told, if that can be done at once."""
        handing_on = asyncio.create_task(self._desk.run(self._hand_on))
        try:
            yield
        finally:
            await cancelled(handing_on)
            with contextlib.suppress(AgentqError, TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._desk.run(self._tell_the_rest)

    async def _hand_on(self) -> None:
        """In the desk's own loop, for ever."""
        self._due = asyncio.Queue()
        await self._add(tuple(self._early))
        self._early.clear()
        while True:
            try:
                engine = await self._desk.engine()
            except AgentqError as error:
                log.warning("threads: nothing is handed on yet: %s", error)
                await asyncio.sleep(PAUSE)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(Pump(self._journal, engine).run())
                    group.create_task(self._settle(engine, self._due))

    async def _tell_the_rest(self) -> None:
        if self._journal:
            await self._journal.try_to_hand_on(await self._desk.engine())

    async def _settle(self, engine: "Engine", due: "asyncio.Queue[tuple[str, str]]") -> None:
        while True:
            thread_id, message_id = await due.get()
            try:
                await self._settle_one(engine, thread_id, message_id)
            except AgentqError as error:  # its mark stays: it is found again
                log.info("what follows %s is done later: %s", message_id, error)
            except Exception:
                log.exception("what follows %s could not be done", message_id)

    async def _settle_one(self, engine: "Engine", thread_id: str, message_id: str) -> None:
        app = self._desk.app
        records = self._over(app)
        threads = app.threads_over(records, [], self._memory)
        for task in await asyncio.to_thread(threads.ask, thread_id, message_id) or ():
            await self._publish(records, engine, task)
        await self._journal.hand_on(engine)
        await asyncio.to_thread(threads.settle, thread_id, message_id)

    async def _publish(self, records: Records, engine: "Engine", task: Envelope) -> None:
        try:
            await publish(records, engine, task)
        except EngineUnavailable as error:  # perhaps only that agent's queue is missing; it stays marked
            log.info("%s is published later: %s", task.task_id, error)
