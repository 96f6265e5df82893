"""The one place that puts the parts together, from settings; heavy parts are imported when first needed."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agentq.adapters import make_folder, open_store, open_tracing
from agentq.agents import Agents
from agentq.config import Settings
from agentq.context import context_at
from agentq.coordinator import Coordinator, Registered
from agentq.credentials import refuse
from agentq.engine import Declared, Engine, Health
from agentq.errors import AgentqError, EngineUnavailable
from agentq.journal import Journal
from agentq.keyring import Keyring
from agentq.messages import Envelope
from agentq.observer import Observer
from agentq.profile import find_profile
from agentq.records import Records
from agentq.request import texts_of
from agentq.signing import Signer
from agentq.store import Store
from agentq.tracing import Tracing
from agentq.trust import Answers, of_worker

if TYPE_CHECKING:
    from agentq.dead_letters import DeadLetters
    from agentq.doctor import Findings
    from agentq.hands import Hands
    from agentq.observing.metrics import Exporter
    from agentq.observing.queues import Queues
    from agentq.papers import Claim
    from agentq.puller import Puller
    from agentq.rebuild import Rebuilt
    from agentq.threads.memory import Memory
    from agentq.threads.threads import Threads
    from agentq.transfer import Transfer
    from agentq.why import Queue, Why
    from agentq.worker import Worker

T = TypeVar("T")


def _is_orphaned(claim: "Claim") -> bool:
    """Whether this host can prove that a running attempt's worker is gone; only a running attempt needs to know."""
    from agentq.ownership import is_orphaned

    return is_orphaned(claim)


def _bury_orphaned(claim: "Claim") -> bool:
    """The same, and what its agent left running on this host is stopped first."""
    from agentq.ownership import bury_orphaned

    return bury_orphaned(claim)


class App(Observer):
    """agentq for one set of settings: what the CLI and other edges call."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.watch: Callable[[Store], Store] = lambda store: store
        self._released: list[Envelope] = []
        self._journal = Journal()
        self._log_is_away = False

    @cached_property
    def store(self) -> Store:
        """The store."""
        self._make_data_folder(self.settings.store)
        return self.watch(open_store(self.settings.store, self.settings.s3, self.settings.gateway))

    @cached_property
    def records(self) -> Records:
        """The papers in the store."""
        return Records(self.store, Signer(self.keyring, self.settings.coordinator), self._journal)

    @cached_property
    def keyring(self) -> Keyring:
        """This user's keys, and those trusted here."""
        return Keyring(self.settings.keys or self.settings.data / "keys")

    @cached_property
    def answers(self) -> Answers:
        """Which completions count as proven."""
        return Answers(self.records, self.keyring, self.settings.require_signatures)

    @cached_property
    def coordinator(self) -> Coordinator:
        """The coordinator's side."""
        return Coordinator(self.records, is_gone=_is_orphaned, released=self._released, told=self.answers.told)

    @cached_property
    def hands(self) -> "Hands":
        """What hands do to tasks."""
        from agentq.hands import Hands

        return Hands(self.records, is_gone=_bury_orphaned, released=self._released)

    @cached_property
    def agents(self) -> Agents:
        """The agents that there are."""
        return Agents(self.settings)

    @cached_property
    def threads(self) -> "Threads":
        """The threads, and what agents are asked in them."""
        return self.threads_over(self.records, self._released)

    def threads_over(self, records: Records, released: list[Envelope], memory: "Memory | None" = None) -> "Threads":
        """The same, with what is told and what is to be handed to the engine left elsewhere."""
        from agentq.threads.threads import Threads

        coordinator = Coordinator(records, is_gone=_is_orphaned, released=released)
        return Threads(records, self.agents, lambda request: coordinator.register(request).publish, released, memory)

    @cached_property
    def dead_letters(self) -> "DeadLetters":
        """The engine's dead letters."""
        from agentq.dead_letters import DeadLetters

        return DeadLetters(self)

    @cached_property
    def puller(self) -> "Puller":
        """This user as a worker that pulls."""
        from agentq.puller import Puller

        open_tracing(self.settings, "agentq-worker")
        return Puller(self.records, self.agents, self.keyring, self.engine, self.settings.data, self._released)

    @cached_property
    def tracing(self) -> Tracing:
        """Who is told what this process has to do with a task's trace."""
        return open_tracing(self.settings, "agentq-coordinator")

    @property
    def has_password(self) -> bool:
        """Whether the settings in force hold a password for the broker."""
        return self.settings.rabbitmq.password is not None or self.passwordless_broker != self.settings.broker

    # ------------------------------------------------------------------ tasks

    async def submit(
        self, request: Envelope, context: bytes | None = None, *, allow_secrets: bool = False
    ) -> Registered:
        """Register a task and hand it to the engine; nothing is written when the engine would refuse it.

        Raises Invalid when something in it looks like a credential, unless that is allowed.
        """
        self._refuse_credentials(request, {request.task_id: context}, allowed=allow_secrets)
        return await self._submit(request, lambda asked: self.coordinator.register(asked, context))

    async def submit_plan(
        self, request: Envelope, contexts: Mapping[str, bytes], *, allow_secrets: bool = False
    ) -> Registered:
        """Register a plan with all its tasks, and hand those to the engine that may start; Invalid as `submit` says."""
        self._refuse_credentials(request, contexts, allowed=allow_secrets)
        return await self._submit(request, lambda asked: self.coordinator.register_plan(asked, contexts))

    def _refuse_credentials(
        self, request: Envelope, contexts: Mapping[str, bytes | None], *, allowed: bool = False
    ) -> None:
        if not allowed:
            tasks = (task for task in request.plan or (request,) if contexts.get(task.task_id) is None)
            there = {task.task_id: context_at(self.store, task.context_ref).data for task in tasks if task.context_ref}
            refuse(texts_of(request, {**contexts, **there}))

    async def _submit(self, request: Envelope, register: Callable[[Envelope], Registered]) -> Registered:
        request = self.agents.with_approvals(request)
        requests = request.plan or (request,)
        for task in requests:
            self.agents.check_target(task.to, task.type)
        async with self.engine() as engine:
            for agent in sorted({task.to for task in requests}):
                await engine.ready(agent)
            with self.tracing.send(request) as traced:
                registered = await self._apart(lambda: register(traced))
                await self._publish_all(engine, registered.envelope, registered.publish)
        return registered

    async def _apart(self, act: Callable[[], T]) -> T:
        """What writing to the store answers; where an event loop has more to do, that is done beside it."""
        return act()

    async def _publish_all(self, engine: Engine, asked: Envelope, tasks: Sequence[Envelope]) -> None:
        from agentq.settle import publish

        await self._journal.try_to_hand_on(engine)
        try:
            for task in tasks:
                await publish(self.records, engine, task)
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"{asked.task_id} is registered, but not known to be in its queue: {error}",
                hint=f"Nothing is lost: repeat the command with --id {asked.task_id}, or wait: workers publish it.",
            ) from error
        if asked.is_group:
            self.records.marks.published(asked.task_id)

    async def publish(self, registered: Envelope) -> None:
        """Hand a registered task to the engine once more; it is started once. Raises EngineUnavailable."""
        async with self.engine() as engine:
            await self._publish_all(engine, registered, [registered])

    def hand_over(self) -> str | None:
        """Hand to the engine what reading and hands released, and tell the log what they did.

        Answers in words with what was not done, if anything: sweeps publish tasks, the papers have what the log lacks.
        """
        if not self._has_to_hand_over:
            return None
        import asyncio

        return asyncio.run(self.hand_over_here())

    @property
    def _has_to_hand_over(self) -> bool:
        return bool(self._released) or (bool(self._journal) and not self._log_is_away)

    async def hand_over_here(self) -> str | None:
        """The same inside a running event loop."""
        if not self._has_to_hand_over:
            return None
        from agentq.settle import publish

        tasks = self._released.copy()
        self._released.clear()
        try:
            async with self.engine() as engine:
                for task in tasks:
                    await publish(self.records, engine, task)
                untold = await self._journal.try_to_hand_on(engine)
        except AgentqError as error:
            return f"what may start now is not in its queue yet ({error}); workers publish it by themselves"
        self._log_is_away = untold is not None
        return f"the log does not know of this, the papers do ({untold})" if untold else None

    def transfer(self, to: str, by: str | None, progress: Callable[[int], None], *, dry_run: bool) -> "Transfer":
        """What brings tasks from this store to another one, which is proven to be fit first, but for a dry run."""
        from agentq.proof import prove
        from agentq.transfer import Transfer

        target = Records(open_store(to, self.settings.s3, self.settings.gateway))
        if not dry_run:
            prove(target.store)
        return Transfer(self.records, target, by=by or self.settings.coordinator, progress=progress)

    def why(self, task_id: str) -> "Why":
        """Why a task does not move; the engine is asked only where that says more, and may be down."""
        from agentq.why import Explainer

        return Explainer(self.records, self.coordinator, self._queue).why(task_id)

    def _queue(self, agent: str) -> "Queue | str":
        import asyncio

        from agentq.why import Queue

        async def ask() -> Queue:
            async with self.engine() as engine:
                return Queue(await engine.listeners(agent), await engine.depth(agent))

        try:
            return asyncio.run(ask())
        except AgentqError as error:
            return f"the engine does not answer: {error}"

    # ------------------------------------------------------------------ observing

    def queues(self, agents: Sequence[str]) -> "Queues | None":
        """What waits in the engine for these agents, None when it does not answer."""
        import asyncio

        from agentq.observing.queues import count

        async def ask() -> "Queues":
            async with self.engine() as engine:
                return await count(engine, agents)

        try:
            return asyncio.run(ask())
        except EngineUnavailable:
            return None

    def exporter(self) -> "Exporter":
        """What Prometheus collects of this broker and namespace."""
        from agentq.observing.metrics import Exporter

        return Exporter(self.ledger, self.engine, self.agents.names)

    def rebuild_ledger(self, progress: Callable[[str, int], object], *, from_log: bool = True) -> "Rebuilt":
        """Make the ledger anew from the log, and from the papers what the log does not tell; until it is done, and when
        it is broken off, the old one stands. Raises EngineUnavailable, StoreUnavailable, Unavailable.
        """
        import asyncio

        from agentq.rebuild import rebuild

        return asyncio.run(rebuild(self.records, self.engine if from_log else None, self._shelf, progress))

    # ------------------------------------------------------------------ setting up

    async def declare(self) -> Declared:
        """Declare the engine's whole topology for all known agents; raises Invalid for a store that is unfit."""
        import asyncio

        from agentq.proof import prove

        await asyncio.to_thread(prove, self.store)
        async with self.engine() as engine:
            declared = await engine.declare(self.agents.names, [self.settings.coordinator])
        self._lay_out_store()
        return declared

    def _lay_out_store(self) -> None:
        """Make the folders that people write to by hand, where the store is one."""
        root: Path | None = getattr(self.store, "root", None)
        for name in ("tasks", "results", "artifacts"):
            if root:
                make_folder(root / name)

    async def health(self) -> Health:
        """What the engine is, and what is missing in it."""
        async with self.engine() as engine:
            return await engine.health(self.agents.names)

    async def examine(self, patience: float | None = None) -> "Findings":
        """What is wrong with engine, store, papers, log and workers; changes nothing. A task that could start should
        have been within `patience` seconds.
        """
        from agentq.doctor import STUCK_SECONDS, Examination

        patience = STUCK_SECONDS if patience is None else patience
        return await Examination(lambda: self.records, self.engine, self.ledger, self.agents.names, patience).run()

    async def repair(self, findings: "Findings") -> list[str]:
        """Mend what can be mended; one line for each thing done."""
        from agentq.doctor import repair

        async with self.engine() as engine:
            done = await repair(self.records, engine, findings)
            await self._journal.try_to_hand_on(engine)
            return done

    # ------------------------------------------------------------------ workers

    @contextlib.asynccontextmanager
    async def worker(
        self,
        name: str,
        *,
        runner: Sequence[str] = (),
        on_ready: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> AsyncIterator["Worker"]:
        """A worker for an agent's profile; raises NotFound without one, Invalid when its agent cannot be started."""
        from agentq.runners.making import make_runners
        from agentq.worker import Worker

        profile = find_profile(name, self.settings).run_by(tuple(runner))
        profile = profile.keeping() if keep else profile
        profile = profile.far_away() if self.settings.via else profile
        agent, verifier = make_runners(profile)
        signer, senders = of_worker(self.keyring, profile)
        records = Records(self.store, signer, self._journal)
        open_tracing(self.settings, "agentq-worker", daemon=True)
        async with self.engine() as engine:
            yield Worker(
                records, engine, profile, agent, verifier, data=self.settings.data, on_ready=on_ready, senders=senders
            )
