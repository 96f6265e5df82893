"""A user who works without a daemon: takes an agent's tasks, holds them on this host, and lets go of them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from agentq.adapters import make_folder
from agentq.agents import Agents
from agentq.claim import Claims, terms_of
from agentq.engine import Engine
from agentq.keyring import Keyring
from agentq.messages import Envelope, utc_now
from agentq.profile import LimitsSection
from agentq.pull import NOBODY, Held, Holder, Holdings, Taken, pull
from agentq.records import Records
from agentq.tracing import current
from agentq.trust import of_worker


@dataclass(frozen=True)
class Puller:
    """Claims for one user on this host; what holds tasks is kept below the data folder, for the owner's eyes only."""

    records: Records
    agents: Agents
    keyring: Keyring
    engine: Callable[[], AbstractAsyncContextManager[Engine]]
    data: Path
    released: list[Envelope]

    @cached_property
    def _holdings(self) -> Holdings:
        return Holdings(self.data / "claims")

    async def claim(self, agent: str, seconds: float, lease: float) -> Taken | None:
        """Claim an agent's next task for this user, and remember that; None when there is none for so many seconds."""
        from agentq.ownership import bury_orphaned, stop_silent

        profile = self.agents.profile_to_pull(agent)
        terms, (signer, senders) = replace(terms_of(profile, NOBODY), lease=lease), of_worker(self.keyring, profile)
        records = Records(self.records.store, signer, self.records.journal)
        claims = Claims(records, terms, is_gone=bury_orphaned, stop_silent=stop_silent, senders=senders)
        make_folder(self.data)
        self._holdings.ready()
        began = utc_now()
        async with self.engine() as engine:
            await engine.ready(agent)
            taken = await pull(records, engine, claims, seconds)
            await records.journal.try_to_hand_on(engine)
        if taken:
            claim = taken.start.claim
            current().claimed(taken.start.papers.envelope, claim.attempt, began)
            self._holdings.keep(self._held(taken.start.papers.envelope.task_id, claim.attempt, claim.token, agent))
        return taken

    def holder(self, task_id: str, agent: str | None = None, *, proof: tuple[int, str] | None = None) -> Holder | None:
        """Who acts for a claim: by the attempt and the token that prove it, else one of that agent that this user
        holds on this host; None when there is none."""
        held = self._holdings.find(task_id, self.records.store.url, agent)
        if proof:
            held = self._held(task_id, *proof, agent or "")
        if held is None:
            return None
        profile = self.agents.profiles.get(held.agent)
        limits = profile.limits if profile else LimitsSection()
        return Holder(self.records, held, self.released, artifact_bytes=limits.artifact_bytes)

    def let_go(self, task_id: str) -> None:
        """Forget a claim that ended."""
        self._holdings.forget(task_id)

    def _held(self, task_id: str, attempt: int, token: str, agent: str) -> Held:
        return Held(task_id=task_id, attempt=attempt, token=token, agent=agent, store=self.records.store.url)
