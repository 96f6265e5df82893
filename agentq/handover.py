"""What an agent is handed beside its instructions: copies of its context, of the work of earlier attempts, and of the
results that its task needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentq.artifacts import evidence_prefix
from agentq.errors import Conflict, EvidenceError, Invalid
from agentq.evidence import PATCH, TRANSCRIPT
from agentq.lifecycle import Papers
from agentq.messages import Artifact, sha256_hex
from agentq.records import Records
from agentq.scratch import Scratch

COPY_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of evidence for the agent: where its copy is, or why there is none."""

    name: str
    ref: str
    path: Path | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Handover:
    """Where the copies are: the context, the evidence of earlier attempts by number, that of needed tasks by id."""

    context: Path | None = None
    earlier: Mapping[int, tuple[Piece, ...]] = field(default_factory=dict)
    needs: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)


def hand_over(records: Records, papers: Papers, scratch: Scratch) -> Handover:
    """Copy everything into the scratch, checked against its digests; a piece that cannot be had stops nobody.

    Raises Invalid when there is no such context, Conflict when it is not the one that was approved.
    """
    return Handover(
        _context(records, papers, scratch.context),
        _earlier(records, papers, scratch.earlier),
        _needs(records, papers, scratch.needs),
    )


def context_of(records: Records, papers: Papers) -> bytes | None:
    """The context document, None when the task has none.

    Raises Invalid when there is no such document, or another than was submitted; Conflict than was approved.
    """
    ref, approved = papers.envelope.context_ref, papers.approved
    if ref is None:
        return None
    key = records.artifacts.key(ref, papers.envelope.task_id)
    data = records.store.get(key) if key else None
    if data is None:
        raise Invalid(f"the context {ref} is not in this worker's store {records.store.url}")
    digest = sha256_hex(data)
    if papers.envelope.context_sha256 not in (None, digest):
        raise Invalid(f"the context {ref} was altered after the task was submitted")
    if approved and approved.context_sha256 != digest:
        raise Conflict("the context was altered after it was approved")
    return data


def begun(records: Records, papers: Papers) -> bytes | None:
    """The patch with which the task's workspace begins, None when it continues nothing; raises Invalid without it."""
    task_id = papers.envelope.continues
    if task_id is None:
        return None
    result = next((need.manifest for need in papers.needs if need.task_id == task_id), None)
    patch = result.artifact(PATCH) if result else None
    if patch is None:
        raise Invalid(f"{task_id}, which it continues, has no patch")
    try:
        return records.artifacts.read(patch)
    except EvidenceError as error:
        raise Invalid(f"it cannot continue {task_id}: {error}") from error


def _context(records: Records, papers: Papers, target: Path) -> Path | None:
    data = context_of(records, papers)
    if data is None:
        return None
    target.write_bytes(data)
    return target


def _earlier(records: Records, papers: Papers, folder: Path) -> dict[int, tuple[Piece, ...]]:
    """Copies of what the last attempt left that left anything, and where the evidence of the others is."""
    left = {attempt.number: attempt.end.artifacts for attempt in papers.earlier if attempt.end}
    last = max((number for number, artifacts in left.items() if artifacts), default=None)
    return {
        number: _copies(records, artifacts, folder) if number == last else _places(records, papers, number, artifacts)
        for number, artifacts in left.items()
    }


def _places(records: Records, papers: Papers, number: int, artifacts: tuple[Artifact, ...]) -> tuple[Piece, ...]:
    """The refs; of an attempt that noted none (its worker died), the place where something may have been saved."""
    place = evidence_prefix(papers.envelope.task_id, number).rstrip("/")
    return tuple(Piece(a.name, a.ref) for a in artifacts) or (Piece("saved, if anything", records.store.ref(place)),)


def _needs(records: Records, papers: Papers, folder: Path) -> dict[str, tuple[Piece, ...]]:
    results = {need.task_id: need.manifest.artifacts for need in papers.needs if need.manifest}
    return {
        task_id: _copies(records, (a for a in artifacts if a.name != TRANSCRIPT), folder / task_id)
        for task_id, artifacts in results.items()
    }


def _copies(records: Records, artifacts: Iterable[Artifact], folder: Path) -> tuple[Piece, ...]:
    return tuple(_copy(records, artifact, folder) for artifact in artifacts)


def _copy(records: Records, artifact: Artifact, folder: Path) -> Piece:
    name, ref = artifact.name, artifact.ref
    if artifact.bytes > COPY_LIMIT:
        return Piece(name, ref, fault=f"it is larger than {COPY_LIMIT >> 20} MiB: {ref}")
    try:
        data = records.artifacts.read(artifact)
    except (EvidenceError, Invalid) as error:
        return Piece(name, ref, fault=str(error))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ref.rsplit("/", 1)[1]
    path.write_bytes(data)
    return Piece(name, ref, path)
