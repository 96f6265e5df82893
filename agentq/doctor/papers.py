"""Papers that somebody left half-way, and what is mended of them."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from agentq.doctor.findings import Ailment, Findings
from agentq.engine import Engine
from agentq.errors import EvidenceError, StoreUnavailable
from agentq.gates import look_at_gates
from agentq.groups import plant
from agentq.lifecycle import Papers, derive, due, ending, starts_from
from agentq.messages import Completion, Envelope, utc_now
from agentq.papers import Claim
from agentq.records import Records
from agentq.settle import publish, settle

STALE_SECONDS = 86_400.0
"""After so long a writer that has not finished an object is dead."""
LOOK_SECONDS = 30.0
"""How long papers are looked through."""


@dataclass(slots=True)
class Queue:
    """The tasks of an agent that could start: how many, since when the first one could, and which that is."""

    count: int = 0
    since: datetime | None = None
    task_id: str = ""

    def add(self, task_id: str, since: datetime) -> None:
        """Take in one more."""
        self.count += 1
        if self.since is None or since < self.since:
            self.since, self.task_id = since, task_id


class Said(NamedTuple):
    """What the papers of a task say that the log should tell too: how it ended, the attempt that was claimed last, and
    when the later of the two was written."""

    outcome: str | None
    attempt: int
    at: datetime

    @classmethod
    def by(cls, papers: Papers) -> "Said | None":
        """What papers say; None for those of a task that went to another store."""
        claims = [attempt.paper for attempt in papers.attempts if isinstance(attempt.paper, Claim)]
        claim, manifest = claims[-1] if claims else None, papers.manifest
        last = manifest.finished_at if manifest else claim.at if claim else papers.envelope.created_at
        if papers.last_move or last is None:
            return None
        return cls(manifest.status if manifest else None, claim.attempt if claim else 0, last)


@dataclass(slots=True)
class Census:
    """What a look at the papers of all tasks found that are not settled; `left_out` were too many to be looked at."""

    ailments: list[Ailment] = field(default_factory=list)
    unsettled: set[str] = field(default_factory=set)
    queues: dict[str, Queue] = field(default_factory=dict)
    running: list[Papers] = field(default_factory=list)
    said: dict[str, Said] = field(default_factory=dict)
    left_out: int = 0

    @classmethod
    def of(cls, records: Records, seconds: float = LOOK_SECONDS) -> "Census":
        """Look for so long at the most; raises StoreUnavailable."""
        census, deadline = cls(), time.monotonic() + seconds
        ids = _unfinished(records)
        census.unsettled = set(ids)
        walk = iter(ids.items())
        for task_id, published in walk:
            census._take(records, task_id, published=published)
            if time.monotonic() > deadline:
                census.left_out = sum(1 for _ in walk)
        return census

    def _take(self, records: Records, task_id: str, *, published: bool) -> None:
        papers, ailment = _look_at(records, task_id, published=published)
        self.ailments += [ailment] if ailment else []
        if papers is None:
            return
        if published and (said := Said.by(papers)):  # else it is perhaps being submitted at this moment
            self.said[task_id] = said
        if papers.running:
            self.running.append(papers)
        elif since := _queued_since(papers):
            self.queues.setdefault(papers.envelope.to, Queue()).add(task_id, since)


def ailments(records: Records) -> Iterator[Ailment]:
    """Everything half-done among the tasks that are not settled, and those never published."""
    for task_id, published in _unfinished(records).items():
        _, ailment = _look_at(records, task_id, published=published)
        if ailment:
            yield ailment


def _unfinished(records: Records) -> dict[str, bool]:
    """The tasks that are not settled or never published, and whether they are published."""
    unpublished = set(records.marks.unpublished())
    return {task_id: task_id not in unpublished for task_id in (*records.marks.unsettled(), *sorted(unpublished))}


def _look_at(records: Records, task_id: str, *, published: bool) -> tuple[Papers | None, Ailment | None]:
    try:
        papers = records.papers(task_id)
    except EvidenceError as error:
        return None, Ailment(task_id, "damaged", str(error), mendable=False)
    return papers, _ailment(task_id, papers, published=published)


def _ailment(task_id: str, papers: Papers | None, *, published: bool) -> Ailment | None:
    if papers is None:
        why = "was marked open and never registered: a submit died early, or a gateway refused it"
        return Ailment(task_id, "unregistered", why)
    if papers.manifest:
        return Ailment(task_id, "unsettled", f"is {papers.manifest.status}, but not settled")
    if papers.seal:
        return Ailment(task_id, "uncommitted", f"is sealed as {papers.seal.completion.status}, but not committed")
    if papers.moved_to:
        what = f"is half-way to {papers.moved_to}: agentq store copy {task_id} --to {papers.moved_to} goes on"
        return Ailment(task_id, "moving", what, mendable=False)
    if papers.envelope.is_group:
        return None if published else Ailment(task_id, "unplanted", "is a plan whose tasks are not all registered")
    if over := ending(papers, utc_now()):
        return Ailment(task_id, "overdue", f"is to be ended as {over[0]}, and nobody did: {over[1]}")
    if papers.is_gated and papers.is_open and not (papers.release or papers.running):
        return Ailment(task_id, "unreleased", "waits for nothing any more, and nobody released it")
    if not published:
        return Ailment(task_id, "unpublished", "is registered, but not known to be in its queue")
    return None


def _queued_since(papers: Papers) -> datetime | None:
    """Since when a task could start, None for one that cannot, or is being ended."""
    if derive(papers, utc_now()).waits_for != "queued" or papers.envelope.is_group:
        return None
    ended = papers.last.end.at if papers.last and papers.last.end else None
    return max((moment for moment in (starts_from(papers), due(papers), ended) if moment), default=None)


async def repair(records: Records, engine: Engine, findings: Findings) -> list[str]:
    """Mend what can be mended, and publish every waiting task again: a copy too many is harmless."""
    mine = [ailment for ailment in findings.ailments if ailment.part == "papers"]
    mendable = [ailment.task_id for ailment in mine if ailment.mendable and ailment.task_id]
    done = [line for task_id in mendable for line in await _mend(records, engine, task_id)]
    damaged = {ailment.task_id for ailment in mine if ailment.kind == "damaged"}
    for task_id in await asyncio.to_thread(lambda: [i for i in records.marks.unsettled() if i not in damaged]):
        papers = await asyncio.to_thread(records.papers, task_id)
        if papers and _waits_in_a_queue(papers):
            await publish(records, engine, papers.envelope)
            done.append(f"{task_id}  published again")
    return done + await asyncio.to_thread(_tidied, records)


def _tidied(records: Records) -> list[str]:
    """One line when something was removed that dead writers left; who may not look there leaves it to the store."""
    with contextlib.suppress(StoreUnavailable):
        if count := records.store.remove_temporaries(STALE_SECONDS):
            return [f"{count} half-written objects of dead writers removed"]
    return []


def _waits_in_a_queue(papers: Papers) -> bool:
    over = papers.manifest or papers.running or papers.seal or papers.moved_to or papers.envelope.is_group
    return not over and papers.is_open


async def _mend(records: Records, engine: Engine, task_id: str) -> list[str]:
    papers = await asyncio.to_thread(records.papers, task_id)
    if papers is None:
        await asyncio.to_thread(records.forget, task_id)
        return [f"{task_id}  forgotten: it was never registered"]
    if papers.envelope.is_group and papers.manifest is None:
        tasks = await asyncio.to_thread(plant, records, papers.envelope)
        for task in tasks:
            await publish(records, engine, task)
        await asyncio.to_thread(records.marks.published, task_id)
        return [f"{task_id}  its tasks are registered"]
    found: Completion | Envelope | None = papers.manifest
    found = found or await asyncio.to_thread(look_at_gates, records, task_id, papers)
    if isinstance(found, Completion):
        await settle(records, engine, found)
        return [f"{task_id}  settled as {found.status}"]
    return [f"{task_id}  released"] if found else []
