"""What may be asked of the engine, by role: a worker its own agent's messages, and nobody what is not registered.

Everything is for who needs no token. Besides that:

| who | may |
|---|---|
| anybody | ask for the engine's health |
| a worker | ask for its own agent's queue; take, count, bury its messages; park copies of them; put a guard on them |
| a worker | publish, give up and notify what is within its reach, as its papers say it |
| a worker | tell the log what it does, and what the papers say of what is within its reach |
| observer, coordinator, approver | read the logs and the dead letters, and count what waits for any agent |
| coordinator | remove dead letters |
| nobody | declare: `agentq init` is for where the gateway runs |
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import NoReturn

from agentq.engine import Guard
from agentq.errors import Invalid, NotPermitted
from agentq.events import Event
from agentq.gateway.place import Gateway
from agentq.gateway.telling_rights import TellingRights
from agentq.messages import Completion, Envelope
from agentq.tokens import Grant, Role

log = logging.getLogger("agentq")

READERS: tuple[Role, ...] = ("observer", "coordinator", "approver")
_HINT = "`agentq token new --help` says which role may do what; or do it where the gateway runs."


class Rights:
    """What a grant lets whoever has it do. Raises NotPermitted for what is not theirs to do, Invalid for a message that
    is not as the papers say."""

    def __init__(self, gateway: Gateway, grant: Grant) -> None:
        self._gateway, self._grant = gateway, grant

    def ask(self) -> None:
        """For whoever was let in."""

    def take(self, agent: str) -> None:
        """Take an agent's messages."""
        if not self._is_worker_of(agent):
            self._refuse(f"take the tasks of {agent}")

    def count(self, agent: str) -> None:
        """Count what waits for an agent, or who."""
        if not self._is_worker_of(agent) and not self._grant.has(*READERS):
            self._refuse(f"count what waits for {agent}")

    def look(self) -> None:
        """Read the logs and the dead letters."""
        if not self._grant.has(*READERS):
            self._refuse("read the log, or dead letters")

    def remove(self) -> None:
        """Remove dead letters."""
        if not self._grant.has("coordinator"):
            self._refuse("remove dead letters")

    def declare(self) -> None:
        """Make queues."""
        if not self._grant.is_everything:
            self._refuse("declare queues")

    async def publish(self, envelope: Envelope, delay: float, guard: Guard | None) -> Envelope:
        """What is published: the envelope as it is registered, which the given one must be a copy of.

        It is within the worker's reach, or of a plan that is: whoever settles or plants publishes. A worker may also
        park (so that it comes through a delay, and is trusted less) what stood in its own agent's queue and is
        registered elsewhere. A guard is for its own agent's tasks, and is parked too.
        """
        if self._grant.is_everything:
            return envelope
        is_parked = delay > 0 and self._is_worker_of(envelope.to)
        if guard and not is_parked:
            self._refuse(f"put a guard on a task of {envelope.to}")
        registered = await self._registered(envelope.task_id)
        if registered is None and is_parked:
            return envelope
        return await self._as_registered(envelope, registered)

    async def give_up(self, envelope: Envelope) -> Envelope:
        """The copy that becomes a dead letter."""
        if self._grant.is_everything:
            return envelope
        return await self._as_registered(envelope, await self._registered(envelope.task_id))

    async def notify(self, completion: Completion, reply_to: str) -> Completion:
        """The notice: the manifest as it stands, to where its task says."""
        if self._grant.is_everything:
            return completion
        task_id = completion.task_id
        agent = self._worker("tell results")
        registered = await self._registered(task_id)
        manifest = await self._gateway.desk.call(lambda app: app.records.manifest(task_id))
        if registered is None or manifest is None or registered.reply_to != reply_to:
            raise Invalid(f"no result of {task_id} is to be told to {reply_to}")
        await self._must_concern(agent, task_id)
        return manifest

    async def tell(self, events: Sequence[Event]) -> list[Event]:
        """What a worker may tell of that; the rest is left out, and must not hold it up."""
        if self._grant.is_everything:
            return list(events)
        agent = self._worker("tell the log")
        told = await self._gateway.desk.call(
            lambda app: TellingRights(agent, app.records, self._gateway.reach).told(events)
        )
        if len(told) < len(events):
            log.warning("%d events that %s may not tell are left out", len(events) - len(told), self._grant.name)
        return told

    # ------------------------------------------------------------------

    def _is_worker_of(self, agent: str) -> bool:
        grant = self._grant
        return grant.is_everything or ("worker" in grant.roles and grant.agent == agent)

    async def _as_registered(self, envelope: Envelope, registered: Envelope | None) -> Envelope:
        agent = self._worker("publish tasks")
        if registered is None or registered.request_digest() != envelope.request_digest():
            raise Invalid(f"{envelope.task_id} is not registered, or not as this message says")
        await self._must_concern(agent, envelope.task_id)
        return registered

    def _worker(self, what: str) -> str:
        """Whose worker it is; refuses who is none."""
        agent = self._grant.agent
        if agent is None or not self._is_worker_of(agent):
            self._refuse(what)
        return agent

    async def _must_concern(self, agent: str, task_id: str) -> None:
        if not await asyncio.to_thread(lambda: self._gateway.reach.concerns(agent, task_id)):
            self._refuse(f"act on {task_id}, which is no task of {agent} and waits for none,")

    async def _registered(self, task_id: str) -> Envelope | None:
        return await self._gateway.desk.call(lambda app: app.records.envelope(task_id))

    def _refuse(self, what: str) -> NoReturn:
        grant = self._grant
        roles = ", ".join(sorted(grant.roles)) + (f" of {grant.agent}" if grant.agent else "")
        raise NotPermitted(f"{grant.name} ({roles}) may not {what} over the gateway", hint=_HINT)
