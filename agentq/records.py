"""The papers of a task over a store: reading them, and the few ways in which they may be written."""

import contextlib
import json
from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError

from agentq import story
from agentq.artifacts import Artifacts, evidence_prefix, was_collected
from agentq.errors import EvidenceError, NoSuchTask, StoreUnavailable
from agentq.journal import Journal
from agentq.lifecycle import Need, Papers, expires_at
from agentq.marks import Marks
from agentq.messages import Completion, Envelope, Message, explain, sha256_hex
from agentq.papers import (
    NUMBERED,
    Approval,
    Attempt,
    Cancel,
    Claim,
    Collected,
    Demand,
    End,
    Lease,
    Move,
    Proposal,
    Release,
    Seal,
)
from agentq.signing import Signer
from agentq.store import Store, names_in

M = TypeVar("M", bound=Message)

CANCEL, DEMAND, RELEASE, COLLECTED = "cancel.json", "approval-demanded.json", "released.json", "collected.json"


class Records:
    """The papers of all tasks in one store.

    Agreement rests on `create` alone: a paper is created by exactly one hand, and everyone can tell whose it is. That
    hand tells the journal what the paper says.
    """

    def __init__(self, store: Store, signer: Signer | None = None, journal: Journal | None = None) -> None:
        self.store = store
        self.signer = signer or Signer()
        self.journal = Journal() if journal is None else journal
        self.marks = Marks(store)
        self.artifacts = Artifacts(store, homes=self._homes, collected=self.collected)
        self._group: tuple[bytes, Envelope] | None = None

    # ------------------------------------------------------------------ agreement

    def create(self, key: str, data: bytes) -> bytes | None:
        """Create a paper: None when it is ours now, else the bytes of whoever was first.

        A put that did not answer is read back: ours when the bytes are ours, so a lost answer is no lost paper.
        Raises StoreUnavailable when that cannot be told; the same call may then be repeated.
        """
        try:
            if self.store.put_new(key, data):
                return None
        except StoreUnavailable:
            if self.store.get(key) is None:
                raise
        found = self.store.get(key)
        if found is None:
            raise StoreUnavailable(f"{key} was taken and is gone", hint="Somebody deletes papers by hand: look who.")
        return None if found == data else found

    # ------------------------------------------------------------------ the task

    def register(self, envelope: Envelope, *, published: bool = False) -> Envelope:
        """Mark a task as open, register it, and answer with the registered envelope: another's when it was first.

        A task with gates is not marked as unpublished: who registers it has to look at its gates afterwards. Raises
        EvidenceError, with nothing left of it, when the evidence of what it builds on is being collected, and Invalid
        when a gateway lets nobody of here register it: then its marks stay, for `doctor`. Another one may register it
        at any moment, and would lose them to a delete that is late.
        """
        task_id, published = envelope.task_id, published or envelope.has_gates
        self.marks.open(task_id, published=published)
        self.marks.hold_evidence(envelope)
        self._check_collected(envelope)
        if expires := expires_at(Papers(envelope=envelope)):
            self.marks.will_expire(envelope, expires)
        found = self._first(f"tasks/{task_id}.json", envelope)
        if found is envelope:
            self.journal.tell(*story.submitted(envelope))
        if not self.marks.is_open(task_id):  # `forget` came in between
            self.marks.open(task_id, published=published)
        return found

    def _check_collected(self, envelope: Envelope) -> None:
        """Look after it was marked: `gc` says that it collects before it looks at the marks."""
        for owner in dict.fromkeys((*envelope.depends_on, *envelope.borrows)) if envelope.group is None else ():
            collected = self.collected(owner)
            if collected and not self.is_registered(envelope.task_id):
                self.marks.let_go_of_evidence(envelope)
                self.forget(envelope.task_id)
                raise was_collected(owner, collected)

    def envelope(self, task_id: str) -> Envelope | None:
        """The envelope as registered, None for an unknown task."""
        data = self.registered(task_id)
        return None if data is None else self._parsed(task_id, data)

    def registered(self, task_id: str) -> bytes | None:
        """The envelope's own bytes, which a signature covers and a completion answers; None for an unknown task."""
        return self.store.get(f"tasks/{task_id}.json")

    def _parsed(self, task_id: str, data: bytes) -> Envelope:
        if self._group and data == self._group[0]:
            return self._group[1]
        key = f"tasks/{task_id}.json"
        with _damage(key):
            envelope = Envelope.model_validate_json(data)
        _must_be_of(task_id, key, envelope.task_id)
        if envelope.is_group:  # long to read, and read at the end of each of its tasks
            self._group = (data, envelope)
        return envelope

    def registered_ids(self) -> Iterator[str]:
        """The ids of all tasks."""
        names = names_in(self.store.keys("tasks/"))
        return (name.removesuffix(".json") for name in names if name.endswith(".json"))

    def is_registered(self, task_id: str) -> bool:
        """Whether there is such a task."""
        return self.store.get(f"tasks/{task_id}.json") is not None

    def forget(self, task_id: str) -> None:
        """Remove the marks of a task that was never registered; they are put back when it was, meanwhile."""
        self.marks.close(task_id)
        if self.envelope(task_id):
            self.marks.open(task_id)

    def papers(self, task_id: str) -> Papers | None:
        """Everything that decides the task's state, None for an unknown task.

        The manifest is read last: what ended the task while the attempts were read is seen.
        """
        registered = self.registered(task_id)
        if registered is None:
            return None
        envelope = self._parsed(task_id, registered)
        attempts = self.attempts(task_id)
        names = set(names_in(self.store.keys(f"controls/{task_id}/")))
        needs = tuple(Need(task_id=needed, manifest=self.manifest(needed)) for needed in envelope.depends_on)
        papers = Papers(
            envelope=envelope,
            registered=registered,
            attempts=attempts,
            cancel=self.cancel(task_id) if CANCEL in names else None,
            demand=self._control(task_id, DEMAND, Demand) if DEMAND in names else None,
            release=self._control(task_id, RELEASE, Release) if RELEASE in names else None,
            needs=needs,
            collected=self.collected(task_id) if COLLECTED in names else None,
            store=self.store.url,
        )
        return papers.model_copy(update=self._approval(papers, names) | {"manifest": self.manifest(task_id)})

    def known(self, task_id: str) -> Papers:
        """The same; raises NotFound for an unknown task."""
        papers = self.papers(task_id)
        if papers is None:
            raise NoSuchTask(f"there is no task {task_id}", self.store.url)
        return papers

    def _approval(self, papers: Papers, names: set[str]) -> dict[str, object]:
        """What an approval of the task has to be bound to, and the one that is."""
        if not papers.needs_approval or papers.missing:
            return {}
        task_id = papers.envelope.task_id
        context = self._context_digest(papers.envelope)
        results = {need.task_id: self._digest(f"results/{need.task_id}.json") for need in papers.needs}
        digest = approval_digest(papers.envelope_sha256, context, results)
        name = f"approval-{digest}.json"
        found: dict[str, object] = {"digest": digest, "context_sha256": context}
        approval = self.store.get(f"controls/{task_id}/{name}") if name in names else None
        if approval is not None:
            with _damage(f"controls/{task_id}/{name}"):
                found |= {"approval": approval, "approved": Approval.model_validate_json(approval)}
        return found

    def _context_digest(self, envelope: Envelope) -> str | None:
        key = self.artifacts.key(envelope.context_ref, envelope.task_id) if envelope.context_ref else None
        return self._digest(key) if key else None

    def _digest(self, key: str) -> str | None:
        data = self.store.get(key)
        return None if data is None else sha256_hex(data)

    def _homes(self, task_id: str) -> Iterator[str]:
        envelope = self.envelope(task_id)
        if envelope and envelope.store:
            yield envelope.store
        yield from (attempt.paper.to for attempt in self.attempts(task_id) if isinstance(attempt.paper, Move))

    # ------------------------------------------------------------------ attempts

    def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """The attempts so far, in order; the lease only of the last one."""
        keys = set(self.store.keys(f"attempts/{task_id}/"))
        names = (key.rsplit("/", 1)[1].removesuffix(".json") for key in keys)
        # Numbers have no gaps, and an attempt that was followed has ended: a listing that was overtaken may say less.
        last = max((int(name) for name in names if name.isdigit()), default=0)
        return tuple(self._attempt(task_id, number, keys, last=number == last) for number in range(1, last + 1))

    def _attempt(self, task_id: str, number: int, keys: set[str], *, last: bool) -> Attempt:
        base = f"attempts/{task_id}/{number}"
        paper = self.store.get(f"{base}.json")
        if paper is None:
            raise StoreUnavailable(f"{base}.json was listed and is gone", hint="Read again.")
        with _damage(f"{base}.json"):
            numbered = NUMBERED.validate_json(paper)
        _must_be_attempt(number, f"{base}.json", numbered.attempt)
        if isinstance(numbered, Seal):  # who met another task's would commit that one, and never end this one
            _must_be_of(task_id, f"{base}.json", numbered.completion.task_id)
        return Attempt(
            paper=numbered,
            end=self.ended(task_id, number) if not last or f"{base}.end.json" in keys else None,
            lease=self.lease(task_id, number) if last and f"{base}.lease.json" in keys else None,
        )

    def take(self, task_id: str, paper: Claim | Seal | Move) -> bool:
        """Create an attempt's paper: True when the number is ours."""
        taken = self.create(f"attempts/{task_id}/{paper.attempt}.json", paper.to_json()) is None
        if taken and isinstance(paper, Claim):
            self.journal.tell(story.claimed(task_id, paper))
        return taken

    def taken(self, task_id: str, number: int) -> bool:
        """Whether somebody owns that attempt number."""
        return self.store.get(f"attempts/{task_id}/{number}.json") is not None

    def renew(self, task_id: str, number: int, lease: Lease) -> None:
        """Write the owner's renewal; only the owner calls this."""
        self.store.put(f"attempts/{task_id}/{number}.lease.json", lease.to_json(), durable=False)

    def lease(self, task_id: str, number: int) -> Lease | None:
        """The last renewal, None before the first."""
        return self._read(f"attempts/{task_id}/{number}.lease.json", Lease)

    def end(self, task_id: str, end: End) -> End:
        """Say how an attempt ended without a result; answers with the end that holds, another's when it was first."""
        held = self._first(f"attempts/{task_id}/{end.attempt}.end.json", end)
        if held is end:
            self.journal.tell(*story.attempt_ended(task_id, end))
        return held

    def ended(self, task_id: str, number: int) -> End | None:
        """How that attempt ended without a result, None when nobody said so."""
        key = f"attempts/{task_id}/{number}.end.json"
        end = self._read(key, End)
        if end:
            _must_be_attempt(number, key, end.attempt)
        return end

    # ------------------------------------------------------------------ controls

    def ask_cancel(self, task_id: str, cancel: Cancel) -> Cancel:
        """Ask whoever runs the task to stop, and everybody not to start it; the first one who asked is answered."""
        held = self._first(f"controls/{task_id}/{CANCEL}", cancel)
        if held is cancel:
            self.journal.tell(story.cancel_requested(task_id, cancel))
        return held

    def cancel(self, task_id: str) -> Cancel | None:
        """Who asked to cancel the task, None when nobody did."""
        return self._control(task_id, CANCEL, Cancel)

    def cancel_asked(self, task_id: str) -> bool:
        """Whether somebody asked to cancel the task."""
        return self.store.get(f"controls/{task_id}/{CANCEL}") is not None

    def demand_approval(self, task_id: str, demand: Demand) -> None:
        """Let the task wait for an approval that its envelope does not ask for."""
        if self._first(f"controls/{task_id}/{DEMAND}", demand) is demand:
            self.journal.tell(story.demanded(task_id, demand))

    def approve(self, task_id: str, approval: Approval) -> Approval:
        """Approve what the digest stands for; the first approval of it holds and is answered."""
        held = self._first(f"controls/{task_id}/approval-{approval.digest}.json", approval)
        if held is approval:
            self.journal.tell(story.approved(task_id, approval))
        return held

    def release(self, task_id: str, release: Release) -> Release:
        """Say since when the task's gates are open; the first word holds and is answered."""
        held = self._first(f"controls/{task_id}/{RELEASE}", release)
        if held is release:
            self.journal.tell(story.released(task_id, release))
        return held

    def collect(self, task_id: str, collected: Collected) -> None:
        """Say that the task's evidence may be gone from now on; what was said first holds."""
        self._first(f"controls/{task_id}/{COLLECTED}", collected)

    def collected(self, task_id: str) -> Collected | None:
        """Since when the task's evidence may be gone, None while it is kept."""
        return self._control(task_id, COLLECTED, Collected)

    def _control(self, task_id: str, name: str, model: type[M]) -> M | None:
        return self._read(f"controls/{task_id}/{name}", model)

    # ------------------------------------------------------------------ proposals

    def propose(self, proposal: Proposal) -> Proposal:
        """Leave a running agent's own word about its attempt; the first one holds and is answered."""
        return self._first(f"{evidence_prefix(proposal.task_id, proposal.attempt)}proposal.json", proposal)

    def proposal(self, task_id: str, number: int) -> Proposal | None:
        """The running agent's own word, None when it left none."""
        return self._read(f"{evidence_prefix(task_id, number)}proposal.json", Proposal)

    # ------------------------------------------------------------------ results

    def manifest(self, task_id: str) -> Completion | None:
        """The task's result, None when there is none."""
        key = f"results/{task_id}.json"
        manifest = self._read(key, Completion)
        if manifest:
            _must_be_of(task_id, key, manifest.task_id)
        return manifest

    def commit(self, completion: Completion) -> Completion:
        """Create the manifest: the commit point. Answers with the manifest that holds, another's when it was first."""
        return self._first(f"results/{completion.task_id}.json", completion)

    def inbox(self, coordinator: str) -> Iterator[str]:
        """The ids of the coordinator's unread completions."""
        return (name.removesuffix(".json") for name in names_in(self.store.keys(f"inbox/{coordinator}/")))

    def put_in_inbox(self, completion: Completion) -> None:
        """Leave an unread completion for the coordinator."""
        self.store.put(f"inbox/{completion.to}/{completion.task_id}.json", completion.to_json())

    def take_from_inbox(self, coordinator: str, task_id: str) -> None:
        """Acknowledge a completion; nothing happens when it is not there."""
        self.store.delete(f"inbox/{coordinator}/{task_id}.json")

    # ------------------------------------------------------------------

    def _read(self, key: str, model: type[M]) -> M | None:
        data = self.store.get(key)
        if data is None:
            return None
        with _damage(key):
            return model.model_validate_json(data)

    def _first(self, key: str, paper: M) -> M:
        """Create a paper and answer with the one that holds: this one, or another's that was first."""
        found = self.create(key, paper.to_json())
        if found is None:
            return paper
        with _damage(key):
            return type(paper).model_validate_json(found)


@contextlib.contextmanager
def _damage(key: str) -> Iterator[None]:
    """Say that a paper cannot be read, and which one."""
    try:
        yield
    except ValidationError as error:
        raise EvidenceError(
            f"the paper {key} is damaged: {explain(error)}", hint="Restore it from a backup of the store."
        ) from error


def _must_be_of(task_id: str, key: str, found: str) -> None:
    """Refuse a paper that was put under another task's name."""
    if found != task_id:
        raise EvidenceError(f"the paper {key} is {found}'s, not its task's", hint="Restore it from a backup.")


def _must_be_attempt(number: int, key: str, found: int) -> None:
    """Refuse a paper that was put under another attempt's number."""
    if found != number:
        raise EvidenceError(
            f"the paper {key} is attempt {found}'s, not its attempt's", hint="Restore it from a backup."
        )


def approval_digest(envelope: str | None, context: str | None, results: dict[str, str | None]) -> str:
    """What an approval is bound to: SHA-256 over the digests of the envelope, its context and the results it needs."""
    text = json.dumps({"context": context, "envelope": envelope, "results": results}, sort_keys=True)
    return sha256_hex(text.encode())
