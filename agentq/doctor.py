"""What `doctor` looks at: the engine, the store, and papers that somebody left half-way."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentq.engine import Engine, Health
from agentq.errors import AgentqError, EvidenceError
from agentq.lifecycle import Papers, due, is_silent
from agentq.messages import utc_now
from agentq.papers import new_token
from agentq.records import Records
from agentq.settle import commit, settle


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


async def examine(records: Records, engine: Engine, agents: Sequence[str]) -> Findings:
    """Look at everything and change nothing, but for a probe that is put into the store and removed."""
    findings = Findings()
    try:
        findings.health = await engine.health(agents)
    except AgentqError as error:
        findings.engine_error = error
    try:
        await asyncio.to_thread(_probe, records)
        findings.ailments = await asyncio.to_thread(lambda: list(ailments(records)))
    except AgentqError as error:
        findings.store_error = error
    return findings


def _probe(records: Records) -> None:
    """Prove that the store keeps the one promise everything rests on: the second creator of a paper loses."""
    key, first, second = f"probes/{new_token()}", new_token().encode(), new_token().encode()
    try:
        if records.create(key, first) is not None or records.create(key, second) != first:
            raise EvidenceError(
                f"{records.store.url} lets a second hand replace a paper", hint="Do not use this store for agentq."
            )
    finally:
        records.store.delete(key)


def ailments(records: Records) -> Iterator[Ailment]:
    """Everything half-done among the tasks that are not settled, and those never published."""
    unpublished = set(records.unpublished())
    for task_id in dict.fromkeys((*records.unsettled(), *sorted(unpublished))):
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
    for task_id in await asyncio.to_thread(lambda: [i for i in records.unsettled() if i not in damaged]):
        papers = await asyncio.to_thread(records.papers, task_id)
        if papers and not (papers.manifest or papers.running or papers.seal):
            await _publish(records, engine, papers)
            done.append(f"{task_id}  published again")
    return done


async def _mend(records: Records, engine: Engine, ailment: Ailment) -> list[str]:
    papers = await asyncio.to_thread(records.papers, ailment.task_id)
    if papers is None:
        await asyncio.to_thread(records.forget, ailment.task_id)
        return [f"{ailment.task_id}  forgotten: it was never registered"]
    manifest = papers.manifest
    if manifest is None and papers.seal:
        manifest = await asyncio.to_thread(commit, records, papers.seal.completion)
    if manifest is None:
        return []
    await settle(records, engine, manifest)
    return [f"{ailment.task_id}  settled as {manifest.status}"]


async def _publish(records: Records, engine: Engine, papers: Papers) -> None:
    until = due(papers)
    delay = max(0.0, (until - utc_now()).total_seconds()) if until else 0.0
    await engine.publish(papers.envelope, delay=delay)
    await asyncio.to_thread(records.published, papers.envelope.task_id)
