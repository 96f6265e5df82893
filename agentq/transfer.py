"""Bringing tasks from one store to another, checked: one that has ended is copied, one that has not moves.

A task is at home in one store, and acted upon only there. It moves by taking its next attempt number in the store that
it leaves; at the other one it exists when the last of its papers has arrived. Every step may be repeated.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agentq.artifacts import CHUNK
from agentq.errors import Conflict, EvidenceError, Invalid, StoreUnavailable
from agentq.lifecycle import Papers, expires_at
from agentq.messages import Artifact, Envelope, Message, task_in, utc_now
from agentq.papers import Move, new_token
from agentq.records import Records
from agentq.store import unwatched

_NUMBERED = re.compile(r"/(\d+)(\.end)?\.json$")


class Copied(Message):
    """What was, or with a dry run would be, done for one task; `bytes` are those of its artifacts among `objects`."""

    task_id: str
    moved: bool
    objects: int
    bytes: int
    there: int


@dataclass(slots=True)
class _Cargo:
    """The keys of a task in the order in which they travel, and what is known of the artifacts among them."""

    keys: list[str]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[str]:
        """What is still to be brought."""
        return [key for key in self.keys if key not in self.there]


class Transfer:
    """Brings tasks from a source to a target; raises Conflict, with nothing written, for what must not be brought.

    `progress` gets the bytes of each artifact as they arrive.
    """

    def __init__(
        self, source: Records, target: Records, *, by: str, progress: Callable[[int], None] = unwatched
    ) -> None:
        if source.store.url == target.store.url:
            raise Invalid(f"both stores are {source.store.url}", hint="Name another one with --to, or with --from.")
        self._source = source
        self._target = target
        self._by = by
        self._progress = progress

    def bring(self, task_id: str, *, dry_run: bool = False) -> list[Copied]:
        """Bring a task with what belongs to it (a plan's tasks, what an unfinished one needs); safe to repeat.

        Raises EvidenceError when something of it is missing or altered, NotFound, StoreUnavailable.
        """
        while True:
            papers = self._source.known(task_id)
            self._check(papers)
            done = [copied for part in _parts(papers) for copied in self.bring(part, dry_run=dry_run)]
            if dry_run:
                return [*done, self._foresee(papers)]
            copied = self._copy(papers) if papers.manifest else self._move(papers)
            if copied:
                return [*done, copied]

    # ------------------------------------------------------------------ what may be brought

    def _check(self, papers: Papers) -> None:
        """Raise Conflict for a task that has to stay as it is for now, with the next thing to do."""
        task_id = papers.envelope.task_id
        if papers.manifest and self._source.marks.is_open(task_id):
            raise Conflict(
                f"{task_id} has ended and is not settled yet", hint="A worker does it, or: agentq doctor --repair"
            )
        if papers.manifest:
            return
        if papers.envelope.is_group:
            raise Conflict(f"{task_id} is a plan that has not ended", hint=f"First: agentq wait {task_id}")
        if papers.envelope.group:
            raise Conflict(
                f"{task_id} belongs to the plan {papers.envelope.group}, which has not ended",
                hint=f"First: agentq wait {papers.envelope.group}",
            )
        self._check_home(papers)
        self._check_ties(papers)

    def _check_home(self, papers: Papers) -> None:
        task_id, home, claim = papers.envelope.task_id, papers.moved_to, papers.running
        if home and home != self._target.store.url:
            raise Conflict(
                f"{task_id} was moved to {home}, and is at home there", hint=f"Bring it from there: --from {home}"
            )
        if papers.seal:
            raise Conflict(f"{task_id} is being ended as {papers.seal.completion.status}", hint="Repeat the command.")
        if claim:
            raise Conflict(
                f"attempt {claim.attempt} of {task_id} is running at {claim.worker} on {claim.owner.host}",
                hint=f"Wait for it, or stop it: agentq cancel {task_id} --wait",
            )

    def _check_ties(self, papers: Papers) -> None:
        task_id = papers.envelope.task_id
        if papers.missing:
            raise Conflict(
                f"{task_id} waits for {', '.join(papers.missing)}",
                hint=f"First: agentq wait {' '.join(papers.missing)}",
            )
        waiters = [i for i in self._source.marks.waiting_for(task_id) if self._is_live(i)]
        if waiters and not papers.moved_to:
            raise Conflict(
                f"{task_id} has not ended, and {', '.join(waiters[:3])} waits for it here",
                hint=f"Bring it when it has: agentq wait {task_id}",
            )

    def _is_live(self, task_id: str) -> bool:
        return self._source.is_registered(task_id) and self._source.manifest(task_id) is None

    def _foresee(self, papers: Papers) -> Copied:
        cargo = self._load(papers)
        return self._told(papers, cargo, cargo.missing)

    # ------------------------------------------------------------------ bringing

    def _copy(self, papers: Papers) -> Copied | None:
        """Copy a task that has ended; None when its evidence began to be collected meanwhile: start over."""
        task_id, cargo = papers.envelope.task_id, self._load(papers)
        missing = cargo.missing
        self._target.marks.arrives(task_id)
        self._carry_all(cargo)
        if not papers.collected and self._source.collected(task_id):
            return None
        self._register(task_id, cargo)
        return self._told(papers, cargo, missing)

    def _move(self, papers: Papers) -> Copied | None:
        """Move a task that has not ended; None when another hand was first: start over from the papers."""
        envelope, cargo = papers.envelope, self._load(papers)
        task_id, move = envelope.task_id, papers.last_move
        if move is None or papers.moved_to is None:
            move = Move(
                attempt=papers.next_number, token=new_token(), to=self._target.store.url, by=self._by, at=utc_now()
            )
            if not self._source.take(task_id, move) or self._source.manifest(task_id):
                return None
            papers = self._source.known(task_id)
            cargo = self._load(papers)
        missing = cargo.missing
        if not self._has_arrived(task_id, move):
            self._target.marks.arrives(task_id)
            _mark(self._target, papers)
            self._carry_all(cargo)
            self._register(task_id, cargo)
            _mark_again(self._target, task_id)
        self._leave(papers)
        return self._told(papers, cargo, missing, moved=True)

    def _has_arrived(self, task_id: str, move: Move) -> bool:
        """Whether it can be acted upon at the target, and perhaps was: nothing more may be marked there."""
        return self._target.is_registered(task_id) and self._target.taken(task_id, move.attempt)

    def _carry_all(self, cargo: _Cargo) -> None:
        """Bring everything but the envelope."""
        for key in cargo.keys[:-1]:
            if key not in cargo.there:
                self._carry(key, cargo)

    def _register(self, task_id: str, cargo: _Cargo) -> None:
        """The task exists at the target from here on."""
        if cargo.keys[-1] not in cargo.there:
            self._carry(cargo.keys[-1], cargo)
        self._target.marks.arrived(task_id)

    def _leave(self, papers: Papers) -> None:
        """Take the task's marks away at the source; last of all, and not those of one that has come back meanwhile."""
        envelope = papers.envelope
        self._target.marks.arrived(envelope.task_id)
        if self._source.known(envelope.task_id).moved_to is None:
            return
        if expires := expires_at(papers):
            self._source.marks.will_not_expire(envelope, expires)
        self._source.marks.let_go_of_evidence(envelope)
        self._source.marks.close(envelope.task_id)
        _mark_again(self._source, envelope.task_id, ended=True)

    def _told(self, papers: Papers, cargo: _Cargo, brought: Iterable[str], *, moved: bool | None = None) -> Copied:
        brought = list(brought)
        return Copied(
            task_id=papers.envelope.task_id,
            moved=papers.manifest is None if moved is None else moved,
            objects=len(brought),
            bytes=sum(cargo.artifacts[key].bytes for key in brought if key in cargo.artifacts),
            there=len(cargo.there),
        )

    # ------------------------------------------------------------------ what travels

    def _load(self, papers: Papers) -> _Cargo:
        """All that belongs to a task; Conflict when the target has something else under one of the keys.

        Raises EvidenceError when something that its papers name is not there, unless it was collected.
        """
        task_id, parts = papers.envelope.task_id, set(_parts(papers))  # a part brings its own evidence
        named = [*(papers.manifest.artifacts if papers.manifest else ())]
        named += [artifact for attempt in papers.earlier if attempt.end for artifact in attempt.end.artifacts]
        named = [artifact for artifact in named if task_in(artifact.ref) not in parts]
        keyed = {key: one for one in named if (key := self._source.artifacts.key(one.ref, task_id))}
        cargo = _Cargo(list(self._keys(papers)), keyed)
        lost = [key for key in keyed if key not in cargo.keys]
        if lost and not papers.collected and not self._source.collected(task_id):
            raise EvidenceError(
                f"{lost[0]} is missing in {self._source.store.url}",
                hint="Restore it from a backup, or submit the task again: agentq retry.",
            )
        cargo.there = {key for key in self._known_there(task_id, cargo.keys) if self._is_same(key)}
        return cargo

    def _keys(self, papers: Papers) -> Iterator[str]:
        """In the order in which every beginning of it is safe: what acts (the last attempt, the manifest) comes late,
        and last of all the envelope, which makes it a task."""
        envelope, store = papers.envelope, self._source.store
        task_id = envelope.task_id
        yield from store.keys(f"controls/{task_id}/")
        yield from store.keys(f"artifacts/{task_id}/")
        contexts = {f"tasks/{task_id}.md", self._source.artifacts.key(envelope.context_ref or "", task_id)}
        yield from (key for key in sorted(filter(None, contexts)) if store.get(key) is not None)
        yield from _in_order(store.keys(f"attempts/{task_id}/"))
        if papers.manifest:
            unread = f"inbox/{envelope.from_}/{task_id}.json"
            if self._target.manifest(task_id) is None and store.get(unread) is not None:
                yield unread
            if store.get(f"results/{task_id}.md") is not None:
                yield f"results/{task_id}.md"
            yield f"results/{task_id}.json"
        yield f"tasks/{task_id}.json"

    def _known_there(self, task_id: str, keys: list[str]) -> Iterator[str]:
        """Those of the keys that the target has, listed rather than asked for one by one."""
        folders = tuple(f"{top}/{task_id}/" for top in ("controls", "artifacts", "attempts"))
        listed = {key for folder in folders for key in self._target.store.keys(folder)}
        for key in keys:
            if key in listed or (not key.startswith(folders) and self._target.store.get(key) is not None):
                yield key

    def _is_same(self, key: str) -> bool:
        if _digest(self._target, key) != _digest(self._source, key):
            raise Conflict(
                f"{key} is another one in {self._target.store.url} than in {self._source.store.url}",
                hint="Nothing of it was overwritten. Compare the two, and keep the one that is right.",
            )
        return True

    # ------------------------------------------------------------------ one object

    def _carry(self, key: str, cargo: _Cargo) -> None:
        """Bring one object and read it back; one that was collected since it was listed is left out."""
        stream = self._source.store.open(key)
        if stream is None:
            return
        with stream, tempfile.NamedTemporaryFile() as local:
            digest = _pour(stream, local)
            local.flush()
            self._expect(key, digest, cargo.artifacts.get(key))
            self._put(key, Path(local.name))
        if _digest(self._target, key) != digest:
            raise StoreUnavailable(f"{key} did not arrive whole in {self._target.store.url}", hint="Repeat the copy.")

    def _expect(self, key: str, digest: str, artifact: Artifact | None) -> None:
        if artifact and artifact.sha256 != digest:
            raise EvidenceError(
                f"{key} in {self._source.store.url} is not what the task's papers name: it was altered",
                hint="Restore it from a backup, or submit the task again: agentq retry.",
            )

    def _put(self, key: str, path: Path) -> None:
        """Papers are created, so that nothing is overwritten; evidence has names that nobody else gives."""
        if not key.endswith(".json") or key.startswith(("artifacts/", "inbox/")):
            self._target.store.put_file(key, path, progress=self._progress)
        elif self._target.create(key, path.read_bytes()) is not None:
            self._is_same(key)


def _mark(records: Records, papers: Papers) -> None:
    """Mark a task before it is there, as whoever registers one does."""
    envelope = papers.envelope
    records.marks.open(envelope.task_id, published=not papers.is_open)
    records.marks.hold_evidence(envelope)
    if expires := expires_at(papers):
        records.marks.will_expire(envelope, expires)


def _mark_again(records: Records, task_id: str, *, ended: bool = False) -> None:
    """Mark a task that is at home here and has lost its marks: one copier took them away while another brought it.

    With `ended` also one that has its result by now: perhaps it was not settled yet.
    """
    papers = records.known(task_id)
    if papers.moved_to is None and (ended or papers.manifest is None) and not records.marks.is_open(task_id):
        _mark(records, papers)


def _parts(papers: Papers) -> list[str]:
    """What has to be at the target before the task: a plan's tasks, what one that has not ended needs."""
    envelope: Envelope = papers.envelope
    if envelope.is_group:
        return [task.task_id for task in envelope.plan]
    return [] if papers.manifest else list(envelope.depends_on)


def _in_order(keys: Iterable[str]) -> list[str]:
    """The papers of attempts by number, each after its end: none of them ever seems to run. Leases stay behind."""
    found = [(int(match[1]), not match[2], key) for key in keys if (match := _NUMBERED.search(key))]
    return [key for _, _, key in sorted(found)]


def _pour(stream: BinaryIO, into: "tempfile._TemporaryFileWrapper[bytes]") -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        into.write(chunk)
    return digest.hexdigest()


def _digest(records: Records, key: str) -> str | None:
    stream = records.store.open(key)
    if stream is None:
        return None
    digest = hashlib.sha256()
    with stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
