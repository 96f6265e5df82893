"""Dead letters: what became of their tasks, and how one is tried again."""

import contextlib
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from agentq.coordinator import Coordinator, Registered
from agentq.engine import DeadLetter, Engine
from agentq.errors import Invalid, NotFound
from agentq.lifecycle import Papers
from agentq.messages import Envelope, is_key, parse_envelope
from agentq.records import Records


class Submitter(Protocol):
    """What trying again takes; nothing of it is opened before it is needed."""

    @property
    def records(self) -> Records:
        """The papers in the store."""

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator's side."""

    def engine(self) -> AbstractAsyncContextManager[Engine]:
        """An engine, closed at the end."""

    async def submit(
        self, request: Envelope, context: bytes | None = None, *, allow_secrets: bool = False
    ) -> Registered:
        """Register a task and hand it to the engine."""

    async def publish(self, registered: Envelope) -> None:
        """Hand a registered task to the engine once more."""


class DeadLetters:
    """The dead letters of an engine; looking at them changes nothing."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def all(self) -> list[DeadLetter]:
        """All of them, oldest first."""
        async with self._submitter.engine() as engine:
            return await engine.dead_letters()

    async def remove(self, ids: Collection[str]) -> int:
        """Remove some for good; answers how many were there."""
        async with self._submitter.engine() as engine:
            return await engine.remove_dead_letters(ids)

    def papers_of(self, letter: DeadLetter) -> Papers | None:
        """The papers of a dead letter's task, None when no task with that content is registered here."""
        try:
            request = parse_envelope(letter.body)
        except Invalid:
            return None
        papers = self._submitter.records.papers(request.task_id)
        return papers if papers and papers.envelope.request_sha256 == request.request_digest() else None

    async def retry(self, letter: DeadLetter) -> Envelope:
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
        coordinator = self._submitter.coordinator
        if known and coordinator.status(known.task_id).finished_at is None:
            await self._submitter.publish(known)
            return known
        request = coordinator.retry(known.task_id, next_id(known.task_id)) if known else request
        return (await self._submitter.submit(request, allow_secrets=True)).envelope  # it was written down before

    def _registered(self, task_id: str) -> Envelope | None:
        with contextlib.suppress(NotFound):
            return self._submitter.coordinator.envelope(task_id)
        return None


def next_id(task_id: str) -> str | None:
    """The id under which a dead letter's task is tried again: the same for every copy of the letter."""
    stem, mark, count = task_id.rpartition(".retry-")
    number, stem = (int(count) + 1, stem) if mark and count.isdecimal() else (1, task_id)
    found = f"{stem}.retry-{number}"
    return found if is_key(found, 128) else None
