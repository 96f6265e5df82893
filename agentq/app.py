"""The one place that puts the parts together, from settings; heavy parts are imported when first needed."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentq.adapters import open_engine, open_store, without_password
from agentq.config import LimitsSection, Profile, Settings, find_profile, load_settings, profiles
from agentq.context import context_at
from agentq.coordinator import Coordinator, Registered
from agentq.credentials import refuse
from agentq.engine import DeadLetter, Declared, Engine, Health
from agentq.errors import AgentqError, EngineUnavailable, Invalid, NotFound, StoreUnavailable
from agentq.keyring import Keyring
from agentq.messages import Envelope, is_key, parse_envelope
from agentq.records import Records
from agentq.request import texts_of
from agentq.signing import Signer
from agentq.store import Store
from agentq.trust import Answers, of_worker

if TYPE_CHECKING:
    from agentq.doctor import Findings
    from agentq.hands import Hands
    from agentq.lifecycle import Papers
    from agentq.papers import Claim
    from agentq.pull import Holder, Holdings, Taken
    from agentq.transfer import Transfer
    from agentq.why import Queue, Why
    from agentq.worker import Worker


def _next_id(task_id: str) -> str | None:
    """The id under which a dead letter's task is tried again: the same for every copy of the letter."""
    stem, mark, count = task_id.rpartition(".retry-")
    number, stem = (int(count) + 1, stem) if mark and count.isdecimal() else (1, task_id)
    found = f"{stem}.retry-{number}"
    return found if is_key(found, 128) else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the folder {folder} cannot be made: {error.strerror}",
            hint="Choose another place: --store, AGENTQ_STORE, or `store` in agentq.toml.",
        ) from error


def _is_orphaned(claim: "Claim") -> bool:
    """Whether this host can prove that a running attempt's worker is gone; only a running attempt needs to know."""
    from agentq.ownership import is_orphaned

    return is_orphaned(claim)


def _bury_orphaned(claim: "Claim") -> bool:
    """The same, and what its agent left running on this host is stopped first."""
    from agentq.ownership import bury_orphaned

    return bury_orphaned(claim)


class App:
    """agentq for one set of settings: what the CLI and other edges call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watch: Callable[[Store], Store] = lambda store: store
        self._released: list[Envelope] = []

    @classmethod
    def load(cls, **flags: Any) -> "App":
        """An app with the settings in force, flags first; what this process makes is private as they say."""
        settings = load_settings(flags)
        os.umask(int(settings.umask, 8))
        return cls(settings)

    @cached_property
    def store(self) -> Store:
        """The store."""
        self._make_data_folder(self.settings.store)
        return self.watch(open_store(self.settings.store, self.settings.s3))

    @cached_property
    def records(self) -> Records:
        """The papers in the store."""
        return Records(self.store, Signer(self.keyring, self.settings.coordinator))

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
    def profiles(self) -> Mapping[str, Profile]:
        """All worker profiles that can be found from here."""
        return profiles(self.settings)

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """Every agent that has a profile or is named in the settings."""
        return tuple(sorted({*self.profiles, *self.settings.agents}))

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """An engine, closed at the end."""
        self._make_data_folder(self.settings.broker[0])
        engine = open_engine(self.settings)
        try:
            yield engine
        finally:
            await engine.close()

    def _make_data_folder(self, url: str) -> None:
        """Make the data folder for what the defaults put there; any other place must exist."""
        inside = self.settings.data.as_uri().partition(":")[2]
        if url.partition(":")[2].startswith(f"{inside}/"):
            _make_folder(self.settings.data)

    @property
    def passwordless_broker(self) -> tuple[str, ...]:
        """The broker's URLs as they may be shown and written down: without passwords."""
        return tuple(without_password(url) for url in self.settings.broker)

    @property
    def has_password(self) -> bool:
        """Whether the settings in force hold a password for the broker."""
        return self.settings.rabbitmq.password is not None or self.passwordless_broker != self.settings.broker

    # ------------------------------------------------------------------ tasks

    def check_target(self, agent: str, task_type: str) -> None:
        """Raise Invalid for an agent that nobody is, or a type that its profile does not take."""
        if agent not in self.agents:
            raise Invalid(
                f"there is no agent {agent}",
                hint=f"Known: {', '.join(self.agents)}. Others are named in agents = [...] of agentq.toml.",
            )
        profile = self.profiles.get(agent)
        if profile and profile.types and task_type not in profile.types:
            raise Invalid(
                f"{agent} takes no tasks of type {task_type}",
                hint=f"It takes: {', '.join(profile.types)}.",
            )

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
        request = self._with_approvals(request)
        requests = request.plan or (request,)
        for task in requests:
            self.check_target(task.to, task.type)
        async with self.engine() as engine:
            for agent in sorted({task.to for task in requests}):
                await engine.ready(agent)
            registered = register(request)
            await self._publish_all(engine, registered.envelope, registered.publish)
        return registered

    def _with_approvals(self, request: Envelope) -> Envelope:
        """The request asks for an approval where the profile of its agent takes the type for irreversible."""
        if request.is_group:
            return request.model_copy(update={"plan": tuple(map(self._with_approvals, request.plan))})
        profile = self.profiles.get(request.to)
        demands = profile is not None and request.type in profile.irreversible
        return request.model_copy(update={"requires_approval": True}) if demands else request

    async def _publish_all(self, engine: Engine, asked: Envelope, tasks: Sequence[Envelope]) -> None:
        from agentq.settle import publish

        try:
            for task in tasks:
                await publish(self.records, engine, task)
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"{asked.task_id} is registered, but not known to be in its queue: {error}",
                hint=f"Nothing is lost: repeat the command with --id {asked.task_id}, or wait: workers publish it.",
            ) from error
        if asked.is_group:
            self.records.published(asked.task_id)

    def hand_over(self) -> AgentqError | None:
        """Hand to the engine what reading and hands released; what hindered that, if anything: a sweep does it then."""
        if not self._released:
            return None
        import asyncio

        tasks = self._released.copy()
        self._released.clear()
        return asyncio.run(self._hand_over(tasks))

    async def _hand_over(self, tasks: Sequence[Envelope]) -> AgentqError | None:
        from agentq.settle import publish

        try:
            async with self.engine() as engine:
                for task in tasks:
                    await publish(self.records, engine, task)
        except AgentqError as error:
            return error
        return None

    def transfer(self, to: str, by: str | None, progress: Callable[[int], None], *, dry_run: bool) -> "Transfer":
        """What brings tasks from this store to another one, which is proven to be fit first, but for a dry run."""
        from agentq.proof import prove
        from agentq.transfer import Transfer

        target = Records(open_store(to, self.settings.s3))
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

    # ------------------------------------------------------------------ dead letters

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first."""
        async with self.engine() as engine:
            return await engine.dead_letters()

    async def remove_dead_letters(self, ids: Collection[str]) -> int:
        """Remove dead letters for good; answers how many were there."""
        async with self.engine() as engine:
            return await engine.remove_dead_letters(ids)

    def papers_of(self, letter: DeadLetter) -> "Papers | None":
        """The papers of a dead letter's task, None when no task with that content is registered here."""
        try:
            request = parse_envelope(letter.body)
        except Invalid:
            return None
        papers = self.records.papers(request.task_id)
        return papers if papers and papers.envelope.request_sha256 == request.request_digest() else None

    async def retry_dead_letter(self, letter: DeadLetter) -> Envelope:
        """Submit again what a dead letter asked for; repeating, or another letter of that task, changes nothing.

        A finished task becomes a new one that cites it, one that has not ended is published again, an unknown one
        is registered. Raises Invalid for what is no task, or not the one registered under that id.
        """
        request = parse_envelope(letter.body)
        known = self._registered(request.task_id)
        if known and known.request_sha256 != request.request_digest():
            raise Invalid(
                f"{letter.id} has another content than the task registered as {request.task_id}",
                hint="Submit it under another id: agentq dlq show prints its body.",
            )
        if known and self.coordinator.status(known.task_id).finished_at is None:
            async with self.engine() as engine:
                await self._publish_all(engine, known, [known])
            return known
        request = self.coordinator.retry(known.task_id, _next_id(known.task_id)) if known else request
        return (await self.submit(request, allow_secrets=True)).envelope  # it was written down before

    def _registered(self, task_id: str) -> Envelope | None:
        with contextlib.suppress(NotFound):
            return self.coordinator.envelope(task_id)
        return None

    # ------------------------------------------------------------------ setting up

    async def declare(self) -> Declared:
        """Declare the engine's whole topology for all known agents; raises Invalid for a store that is unfit."""
        import asyncio

        from agentq.proof import prove

        await asyncio.to_thread(prove, self.store)
        async with self.engine() as engine:
            declared = await engine.declare(self.agents, [self.settings.coordinator])
        self._lay_out_store()
        return declared

    def _lay_out_store(self) -> None:
        """Make the folders that people write to by hand, where the store is one."""
        root: Path | None = getattr(self.store, "root", None)
        for name in ("tasks", "results", "artifacts"):
            if root:
                _make_folder(root / name)

    async def health(self) -> Health:
        """What the engine is, and what is missing in it."""
        async with self.engine() as engine:
            return await engine.health(self.agents)

    async def examine(self) -> "Findings":
        """What is wrong with the engine, the store and the papers; changes nothing."""
        from agentq.doctor import examine

        async with self.engine() as engine:
            return await examine(self.records, engine, self.agents)

    async def repair(self, findings: "Findings") -> list[str]:
        """Mend what can be mended; one line for each thing done."""
        from agentq.doctor import repair

        async with self.engine() as engine:
            return await repair(self.records, engine, findings)

    # ------------------------------------------------------------------ workers that pull

    @cached_property
    def _holdings(self) -> "Holdings":
        from agentq.pull import Holdings

        return Holdings(self.settings.data / "claims")

    async def pull(self, agent: str, seconds: float, lease: float) -> "Taken | None":
        """Claim an agent's next task for this user, and remember that; None when there is none for so many seconds."""
        from dataclasses import replace

        from agentq.claim import Claims, terms_of
        from agentq.ownership import bury_orphaned, stop_silent
        from agentq.pull import NOBODY, Held, pull

        profile = self.profiles.get(agent)
        if profile is None and (self.settings.require_profiles or agent not in self.agents):
            known = self.profiles if self.settings.require_profiles else self.agents
            raise Invalid(
                f"there is no {'profile for' if self.settings.require_profiles else 'agent'} {agent}",
                hint=f"Known: {', '.join(sorted(known))}. See agents and require_profiles in agentq.toml.",
            )
        profile = profile or Profile(agent=agent, folder=Path(), prompt="")
        terms, (signer, senders) = replace(terms_of(profile, NOBODY), lease=lease), of_worker(self.keyring, profile)
        records = Records(self.store, signer)
        claims = Claims(records, terms, is_gone=bury_orphaned, stop_silent=stop_silent, senders=senders)
        _make_folder(self.settings.data)
        self._holdings.ready()
        async with self.engine() as engine:
            await engine.ready(agent)
            taken = await pull(records, engine, claims, seconds)
        if taken:
            claim, task_id = taken.start.claim, taken.start.papers.envelope.task_id
            self._holdings.keep(
                Held(task_id=task_id, attempt=claim.attempt, token=claim.token, agent=agent, store=self.store.url)
            )
        return taken

    def holder(
        self, task_id: str, agent: str | None = None, *, proof: tuple[int, str] | None = None
    ) -> "Holder | None":
        """Who acts for a claim: by the attempt and the token that prove it, else one of that agent that this user
        holds on this host; None when there is none."""
        from agentq.pull import Held, Holder

        held = self._holdings.find(task_id, self.store.url, agent)
        if proof:
            attempt, token = proof
            held = Held(task_id=task_id, attempt=attempt, token=token, agent=agent or "", store=self.store.url)
        if held is None:
            return None
        profile = self.profiles.get(held.agent)
        limits = profile.limits if profile else LimitsSection()
        return Holder(self.records, held, self._released, artifact_bytes=limits.artifact_bytes)

    def let_go(self, task_id: str) -> None:
        """Forget a claim that ended."""
        self._holdings.forget(task_id)

    # ------------------------------------------------------------------ workers

    @contextlib.asynccontextmanager
    async def worker(
        self, name: str, *, runner: Sequence[str] = (), on_ready: Callable[[], None] = lambda: None
    ) -> AsyncIterator["Worker"]:
        """A worker for an agent's profile; raises NotFound without one, Invalid when its agent cannot be started."""
        from agentq.runners.command import CommandRunner
        from agentq.worker import Worker

        profile = find_profile(name, self.settings)
        command = tuple(runner) or profile.runner.command
        if not command:
            raise Invalid(
                f"{profile.folder}/worker.toml names no agent to run",
                hint="Set command = [...] under [runner], or give --runner COMMAND (AGENTQ_RUNNER).",
            )
        section, (signer, senders) = profile.runner, of_worker(self.keyring, profile)
        records = Records(self.store, signer)
        agent = CommandRunner(command, prompt_via=section.prompt, grace_seconds=section.grace_seconds)
        verifier = (
            CommandRunner(profile.evidence.verify, grace_seconds=section.grace_seconds)
            if profile.evidence.verify
            else None
        )
        for program in (agent, verifier) if verifier else (agent,):
            program.check()
        async with self.engine() as engine:
            yield Worker(
                records, engine, profile, agent, verifier, data=self.settings.data, on_ready=on_ready, senders=senders
            )
