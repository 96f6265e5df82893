"""What `doctor` looks at: the engine, the store, and papers that somebody left half-way."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentq.engine import Engine, Health
from agentq.errors import AgentqError, EvidenceError, StoreUnavailable, Unavailable
from agentq.gates import look_at_gates
from agentq.groups import plant
from agentq.lifecycle import Papers, ending, is_silent
from agentq.messages import Completion, Envelope, utc_now
from agentq.proof import prove
from agentq.records import Records
from agentq.settle import publish, settle

STALE_SECONDS = 86_400.0
"""After so long a writer that has not finished an object is dead."""


@dataclass(frozen=True, slots=True)
class Ailment:
    """Something half-done: which task, what is the matter, and whether `--repair` can mend it."""

    task_id: str
    kind: str
    what: str
    mendable: bool = True


@dataclass(slots=True)
class Findings:
    """All that an examination found."""

    health: Health | None = None
    engine_error: AgentqError | None = None
    store_error: AgentqError | None = None
    ailments: list[Ailment] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """True when there is nothing to mend."""
        engine_well = self.health is not None and not self.health.missing
        return engine_well and self.store_error is None and not self.ailments

    @property
    def unreachable(self) -> bool:
        """True when it is the engine or the store that has to come back first."""
        return self.engine_error is not None or isinstance(self.store_error, Unavailable)


async def examine(records: Records, engine: Engine, agents: Sequence[str]) -> Findings:
    """Look at everything and change nothing, but for a probe that is put into the store and removed."""
    findings = Findings()
    try:
        findings.health = await engine.health(agents)
    except AgentqError as error:
        findings.engine_error = error
    try:
        await asyncio.to_thread(prove, records.store)
        findings.ailments = await asyncio.to_thread(lambda: list(ailments(records)))
    except AgentqError as error:
        findings.store_error = error
    return findings


def ailments(records: Records) -> Iterator[Ailment]:
    """Everything half-done among the tasks that are not settled, and those never published."""
    unpublished = set(records.marks.unpublished())
    for task_id in dict.fromkeys((*records.marks.unsettled(), *sorted(unpublished))):
        try:
            papers = records.papers(task_id)
        except EvidenceError as error:
            yield Ailment(task_id, "damaged", str(error), mendable=False)
        else:
            ailment = _ailment(task_id, papers, published=task_id not in unpublished)
            if ailment:
                yield ailment


def _ailment(task_id: str, papers: Papers | None, *, published: bool) -> Ailment | None:
    if papers is None:
        return Ailment(task_id, "unregistered", "was marked open and never registered: a submit died early")
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
    last = papers.last
    if papers.running and last and is_silent(last, utc_now()):
        return Ailment(
            task_id, "silent", f"attempt {last.number}'s worker is silent; a worker takes it over", mendable=False
        )
    return None


async def repair(records: Records, engine: Engine, findings: Findings) -> list[str]:
    """Mend what can be mended, and publish every waiting task again: a copy too many is harmless."""
    done = [line for ailment in findings.ailments if ailment.mendable for line in await _mend(records, engine, ailment)]
    damaged = {ailment.task_id for ailment in findings.ailments if ailment.kind == "damaged"}
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


async def _mend(records: Records, engine: Engine, ailment: Ailment) -> list[str]:
    papers = await asyncio.to_thread(records.papers, ailment.task_id)
    if papers is None:
        await asyncio.to_thread(records.forget, ailment.task_id)
        return [f"{ailment.task_id}  forgotten: it was never registered"]
    if papers.envelope.is_group and papers.manifest is None:
        tasks = await asyncio.to_thread(plant, records, papers.envelope)
        for task in tasks:
            await publish(records, engine, task)
        await asyncio.to_thread(records.marks.published, ailment.task_id)
        return [f"{ailment.task_id}  its tasks are registered"]
    found: Completion | Envelope | None = papers.manifest
    found = found or await asyncio.to_thread(look_at_gates, records, ailment.task_id, papers)
    if isinstance(found, Completion):
        await settle(records, engine, found)
        return [f"{ailment.task_id}  settled as {found.status}"]
    return [f"{ailment.task_id}  released"] if found else []
