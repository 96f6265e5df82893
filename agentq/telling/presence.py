"""A daemon's own word that it is there: up, its heartbeats, draining, down."""

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from agentq import __version__
from agentq.engine import Engine
from agentq.errors import AgentqError
from agentq.events import Event, WorkerKind, worker_id
from agentq.journal import SECONDS, Journal
from agentq.messages import utc_now
from agentq.process_table import process_identity
from agentq.profile import Profile
from agentq.store import Store

log = logging.getLogger("agentq")


class Presence:
    """Tells the log of one worker process. `running` answers what it runs at that moment, as the log has it."""

    def __init__(
        self,
        journal: Journal,
        engine: Engine,
        profile: Profile,
        store: Store,
        running: Callable[[], Sequence[dict[str, object]]],
    ) -> None:
        self._journal, self._engine = journal, engine
        self._agent, self._limits = profile.agent, profile.limits
        self.running = running
        self.beat_at: datetime | None = None
        """When the log took the last heartbeat, by this process's clock."""
        self._store = store
        self._host = socket.gethostname()
        self._process = process_identity()
        self._started = time.time_ns() // 1_000_000  # the process's own start repeats itself after a reboot
        self._is_up = self.is_draining = False
        self.worker = worker_id(self._agent, self._host, os.getpid())

    @property
    def parallel(self) -> int:
        """How many attempts may run at once."""
        return self._limits.parallel

    def up(self) -> None:
        """The worker takes tasks."""
        self._is_up = True
        self._journal.tell(self._event("worker_up", {"store": self._store.url, **self._known()}))

    def draining(self) -> None:
        """It takes no new ones any more."""
        self.is_draining = True
        if self._is_up:
            self._journal.tell(self._event("worker_draining", {}))

    async def down(self, reason: str) -> None:
        """It ends; all that is still to be told gets a last chance, in bounded time. Nothing if it was never up."""
        if self._is_up:
            self._journal.tell(self._event("worker_down", {"reason": reason}))
        error = await self._journal.try_to_hand_on(self._engine)
        if error and self._journal:
            log.warning("%d events are missing in the log: %s", len(self._journal), error)

    async def beat(self) -> None:
        """Tell that it lives, until cancelled: past the journal, because only the newest heartbeat is of use."""
        for number in itertools.count():
            try:
                async with asyncio.timeout(SECONDS):
                    await self._engine.append([self._heartbeat(number)])
                self.beat_at = utc_now()
            except (AgentqError, TimeoutError) as error:
                log.debug("a heartbeat is missing in the log: %s", error)
            except Exception:
                log.exception("a heartbeat is missing in the log")
            await asyncio.sleep(self._limits.heartbeat_seconds)

    def _heartbeat(self, number: int) -> Event:
        said = {"draining": self.is_draining, "running": list(self.running()), **self._known()}
        return self._event("worker_heartbeat", said, number)

    def _known(self) -> dict[str, object]:
        return {
            "version": __version__,
            "boot": self._process.boot,
            "pid": self._process.pid,
            "started": self._process.started,
            "parallel": self._limits.parallel,
            "heartbeat_seconds": self._limits.heartbeat_seconds,
            "lease_seconds": self._limits.lease_seconds,
        }

    def _event(self, kind: WorkerKind, said: dict[str, object], number: int | None = None) -> Event:
        name = f"{self.worker}/{kind.removeprefix('worker_')}/{self._started}"
        name = name if number is None else f"{name}/{number}"
        data = {key: value for key, value in said.items() if value}
        worker, agent, host = self.worker, self._agent, self._host
        return Event(id=name, kind=kind, at=utc_now(), worker=worker, agent=agent, host=host, data=data)
