"""What keeps a running attempt ours: its lease, its guard, and a look at who else has a say in it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from agentq.engine import Delivery, Engine, Guard
from agentq.errors import AgentqError, StoreUnavailable
from agentq.guards import guard_id
from agentq.messages import Usage, utc_now
from agentq.papers import Lease
from agentq.profile import LimitsSection
from agentq.records import Records
from agentq.verdict import Start

log = logging.getLogger("agentq")

Stop = Literal["lost", "cancelled", "drained", "overfull", "overspent"]


class Keeper:
    """Renews the lease, publishes the guard, and notices when the attempt is no longer ours to finish."""

    def __init__(
        self, records: Records, engine: Engine, limits: LimitsSection, start: Start, delivery: Delivery
    ) -> None:
        self._records = records
        self._engine = engine
        self._limits = limits
        self._start = start
        self._delivery = delivery
        self._guard: str | None = None
        self._counter = 0
        self._name = f"{start.papers.envelope.task_id}: attempt {start.claim.attempt}"
        self._renewing = asyncio.Lock()
        self._renewed = asyncio.Event()
        self.stop: Stop | None = None
        self.stopped = asyncio.Event()
        self.stopped_at: float | None = None
        self.spent: Usage | None = None

    def ask(self, why: Stop) -> None:
        """Ask the attempt to stop; the first reason holds, but nothing outdoes that it is lost."""
        if self.stop is None:
            self.stopped_at = time.monotonic()
        if self.stop is None or why == "lost":
            self.stop = why
            self.stopped.set()

    async def keep(self) -> None:
        """Renew until cancelled; a store or an engine that is away for a while is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self._limits.renew_seconds, self._renew))
            group.create_task(self._every(self._limits.look_seconds, self._look))
            group.create_task(self._hand_over())

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except StoreUnavailable as error:
                log.debug("%s cannot be kept: %s", self._name, error)
            except Exception:
                log.exception("%s cannot be kept", self._name)

    async def _look(self) -> None:
        stop = await asyncio.to_thread(standing, self._records, self._start)
        if stop:
            self.ask(stop)

    async def _renew(self) -> None:
        async with self._renewing:
            self._counter += 1
            claim = self._start.claim
            lease = Lease(token=claim.token, counter=self._counter, at=utc_now(), guard=self._guard, usage=self.spent)
            task_id = self._start.papers.envelope.task_id
            await asyncio.to_thread(self._records.renew, task_id, claim.attempt, lease)
        self._renewed.set()

    async def _hand_over(self) -> None:
        """Give the task a guard, then let go of the delivery; not before the first renewal, and until it is done."""
        await self._renewed.wait()
        while True:
            try:
                return await self._guard_and_ack()
            except AgentqError as error:
                log.debug("%s has no guard yet: %s", self._name, error)
            except Exception:
                log.exception("%s has no guard yet", self._name)
            await asyncio.sleep(self._limits.renew_seconds)

    async def _guard_and_ack(self) -> None:
        """Put the guard in the engine, note it in the lease, then let go of the delivery, in this order."""
        if self._guard is None:
            claim = self._start.claim
            guard = Guard(attempt=claim.attempt, counter=self._counter, id=guard_id(claim.token))
            lease = self._limits.lease_seconds
            await self._engine.publish(self._start.papers.envelope, delay=lease, guard=guard)
            self._guard = guard.id
        await self._renew()
        await self._delivery.ack()


def standing(records: Records, start: Start) -> Stop | None:
    """Why the owner of an attempt must stop: None while it is still its to finish."""
    task_id, number = start.papers.envelope.task_id, start.claim.attempt
    if records.ended(task_id, number) or records.manifest(task_id) or records.taken(task_id, number + 1):
        return "lost"
    return "cancelled" if records.cancel_asked(task_id) else None
