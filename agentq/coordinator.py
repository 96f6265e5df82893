"""What the coordinator's side does: submit, read, wait, and end tasks by hand. No engine is needed to read."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from agentq.claim import end_of
from agentq.errors import Conflict, Invalid, NotFound, NothingYet, StoreUnavailable, WaitTimeout
from agentq.evidence import shorten
from agentq.lifecycle import Papers, Status, derive, is_expired
from agentq.messages import (
    ENVELOPE_LIMIT,
    SUMMARY_LIMIT,
    Artifact,
    Completion,
    Envelope,
    new_task_id,
    sha256_hex,
    utc_now,
)
from agentq.papers import Claim, Proposal
from agentq.records import Records, evidence_prefix
from agentq.settle import REPORT, commit, completion_of, seal, settle_in_store

MOVED = "Read the context: the instructions were too long for an envelope and are kept there."


@dataclass(frozen=True, slots=True)
class Registered:
    """A task as it stands after `register`: whether this call made it, and whether it must still be published."""

    envelope: Envelope
    new: bool
    unpublished: bool


@dataclass(frozen=True, slots=True)
class Hand:
    """Who ends a task by hand, and what they say."""

    by: str
    status: str
    summary: str = ""
    reason: str | None = None
    report: bytes | None = None


class Coordinator:
    """Reads and writes tasks for whoever asks for work."""

    def __init__(self, records: Records, *, is_gone: Callable[[Claim], bool] = lambda _: False) -> None:
        self._records = records
        self._is_gone = is_gone

    # ------------------------------------------------------------------ submitting

    def register(self, request: Envelope, context: bytes | None = None) -> Registered:
        """Register a task durably; the same id with the same content is the same task, with another a Conflict.

        `context` is put beside the task; instructions too long for an envelope are moved there.
        """
        request, context = self._fit(request, context)
        envelope = request.model_copy(
            update={
                "created_at": utc_now(),
                "store": self._records.store.url,
                "request_sha256": request.request_digest(),
            }
        )
        found = self._records.envelope(envelope.task_id)
        if found is None or self._lost_its_mark(found.task_id):
            found = self._write(envelope, context)
        if found.request_sha256 != envelope.request_sha256:
            raise Conflict(
                f"{envelope.task_id} is registered with another content",
                hint="Choose another --id, or leave it out and one is made.",
            )
        new = found is envelope
        # A new task is not in any queue, whatever became of its mark.
        return Registered(found, new=new, unpublished=new or self._records.is_unpublished(envelope.task_id))

    def _fit(self, request: Envelope, context: bytes | None) -> tuple[Envelope, bytes | None]:
        key = f"tasks/{request.task_id}.md"
        if len(request.to_json()) > ENVELOPE_LIMIT - 1024 and request.context_ref is None and context is None:
            context = request.instructions.encode()
            request = request.model_copy(update={"instructions": MOVED})
        if context is not None:
            update = {"context_ref": self._records.store.ref(key), "context_sha256": sha256_hex(context)}
            request = request.model_copy(update=update)
        size = len(request.to_json())
        if size > ENVELOPE_LIMIT - 1024:
            raise Invalid(
                f"the envelope would have {size} bytes, {ENVELOPE_LIMIT} is the limit",
                hint="Put the long part into a file and give it with --file.",
            )
        return request, context

    def _lost_its_mark(self, task_id: str) -> bool:
        """True for a task that nobody settled and that no sweep would find: its submit died while `doctor` mended."""
        return not self._records.is_open(task_id) and self._records.manifest(task_id) is None

    def _write(self, envelope: Envelope, context: bytes | None) -> Envelope:
        if context is not None:
            found = self._records.create(f"tasks/{envelope.task_id}.md", context)
            if found is not None:
                raise Conflict(
                    f"tasks/{envelope.task_id}.md is in the store with another content",
                    hint="Choose another --id, or remove that file if nobody needs it.",
                )
        return self._records.register(envelope)

    def published(self, task_id: str) -> None:
        """Note that the engine has the task."""
        self._records.published(task_id)

    def retry(self, task_id: str, new_id: str | None = None) -> Envelope:
        """The request for a new task that repeats a finished one and cites it."""
        papers = self._known(task_id)
        if papers.manifest is None and papers.seal is None:
            raise Conflict(f"{task_id} has not ended, there is nothing to retry", hint=f"See: agentq status {task_id}")
        update = {
            "task_id": new_id or new_task_id(),
            "retry_of": task_id,
            "created_at": None,
            "store": None,
            "request_sha256": None,
            "not_before": None,
        }
        return papers.envelope.model_copy(update=update)

    # ------------------------------------------------------------------ reading

    def envelope(self, task_id: str) -> Envelope:
        """The envelope as registered; NotFound for an unknown task."""
        envelope = self._records.envelope(task_id)
        if envelope is None:
            raise self._unknown(task_id)
        return envelope

    def status(self, task_id: str) -> Status:
        """The task's state, from its papers alone; a seal is committed and an expired task sealed on the way."""
        papers = self._known(task_id)
        if (papers.seal and papers.manifest is None) or is_expired(papers, utc_now()):
            with contextlib.suppress(StoreUnavailable):  # a full disk is no reason to say nothing
                self._end_overdue(papers)
            papers = self._known(task_id)
        claim = papers.running
        return derive(papers, utc_now(), gone=claim is not None and self._is_gone(claim))

    def _end_overdue(self, papers: Papers) -> None:
        """Commit the seal of a task, or expire it; whoever was first holds."""
        manifest = commit(self._records, papers.seal.completion) if papers.seal else self._expire(papers)
        if manifest:
            settle_in_store(self._records, manifest)

    def _expire(self, papers: Papers) -> Completion | None:
        seconds = papers.envelope.ttl_seconds
        completion = completion_of(
            papers, "expired", by="agentq", attempt=papers.next_number, reason=f"not started within {seconds:g} s"
        )
        return seal(self._records, papers, completion, by="agentq")

    def result(self, task_id: str) -> Completion:
        """The task's manifest; a seal that nobody committed is committed now. Raises NotFound, NothingYet."""
        manifest = self._records.manifest(task_id)
        if manifest:
            return manifest
        status = self.status(task_id)
        manifest = self._records.manifest(task_id)
        if manifest:
            return manifest
        waits = f", waits for: {status.waits_for}" if status.waits_for else ""
        raise NothingYet(
            f"{task_id} has no result yet: {status.state}{waits}", hint=f"Wait for it: agentq wait {task_id}"
        )

    def late_evidence(self, manifest: Completion) -> list[str]:
        """Refs of what lies beside the result's own evidence: other attempts', late and found pieces."""
        named = {artifact.ref for artifact in manifest.artifacts}
        refs = (self._records.store.ref(key) for key in self._records.store.keys(f"artifacts/{manifest.task_id}/"))
        return [ref for ref in refs if ref not in named]

    def check(self, manifest: Completion) -> None:
        """Check every artifact and the report's copy against the manifest; raises EvidenceError."""
        for artifact in manifest.artifacts:
            self._records.check(artifact)
        report = manifest.artifact(REPORT)
        if report and manifest.result_ref and not self._records.is_open(manifest.task_id):
            self._records.check(report.model_copy(update={"name": "the report's copy", "ref": manifest.result_ref}))

    def read(self, artifact: Artifact) -> bytes:
        """An artifact's content, checked; raises EvidenceError."""
        return self._records.read(artifact)

    def wait(self, task_id: str, seconds: float | None) -> Completion:
        """Wait for the task's end, from the papers alone; raises WaitTimeout, NotFound."""
        deadline = None if seconds is None else time.monotonic() + seconds
        pause = 0.05
        while True:
            try:
                return self.result(task_id)
            except NothingYet as unfinished:
                if deadline is not None and time.monotonic() >= deadline:
                    raise WaitTimeout(
                        f"{unfinished}, after {seconds:g} s",
                        hint="Go on with other work; the completion will be in: agentq inbox",
                    ) from unfinished
            left = pause if deadline is None else max(0.0, deadline - time.monotonic())
            time.sleep(min(pause, left))
            pause = min(2.0, pause * 1.5)

    # ------------------------------------------------------------------ inbox

    def inbox(self, coordinator: str) -> Iterator[Completion]:
        """The unread completions of a coordinator, oldest first; looking changes nothing."""
        unread = (self._records.manifest(task_id) for task_id in self._records.inbox(coordinator))
        return iter(sorted((m for m in unread if m), key=lambda m: m.finished_at))

    def acknowledge(self, coordinator: str, task_id: str) -> None:
        """Mark a completion as read; one that is not fully settled yet is settled first, so that it stays read."""
        manifest = self._records.manifest(task_id)
        if manifest and self._records.is_open(task_id):
            settle_in_store(self._records, manifest)
        self._records.take_from_inbox(coordinator, task_id)

    # ------------------------------------------------------------------ by hand

    def propose(self, task_id: str, attempt: int, token: str, hand: Hand) -> Proposal:
        """A running agent's word on its own attempt, for its worker to check; Conflict when it lost the attempt."""
        papers = self._known(task_id)
        claim = papers.running
        if claim is None or claim.attempt != attempt or claim.token != token:
            raise Conflict(
                f"attempt {attempt} of {task_id} is no longer yours: it ended or was taken over",
                hint="Stop. What you leave in $AGENTQ_OUTPUT is kept as late evidence.",
            )
        proposal = Proposal.model_validate(
            {
                "task_id": task_id,
                "attempt": attempt,
                "token": token,
                "status": hand.status,
                "by": hand.by,
                "at": utc_now(),
                "summary": shorten(hand.summary, SUMMARY_LIMIT),
                "reason": hand.reason,
            }
        )
        held = self._records.propose(proposal)
        if (held.status, held.summary, held.reason) != (proposal.status, proposal.summary, proposal.reason):
            raise Conflict(f"attempt {attempt} of {task_id} was already proposed as {held.status}", hint="End now.")
        return held

    def end_by_hand(self, task_id: str, hand: Hand, *, take_over: bool = False) -> Completion:
        """Seal and commit a task by hand, unverified; a live attempt must be taken over. Raises Conflict, NotFound."""
        while True:
            papers = self._known(task_id)
            if papers.manifest or papers.seal:
                self._was_ended(papers, hand)
            if papers.running:
                self._take_over(papers, papers.running, hand, take_over=take_over)
                continue
            manifest = seal(self._records, papers, self._by_hand(papers, hand), by=hand.by)
            if manifest is None:
                continue
            settle_in_store(self._records, manifest)
            if manifest.attempt != papers.next_number:  # the attempt that was taken over was first to commit
                self._was_ended(papers, hand)
            return manifest

    def _was_ended(self, papers: Papers, hand: Hand) -> NoReturn:
        manifest = papers.manifest or self.result(papers.envelope.task_id)
        self._keep_report(manifest.task_id, hand)
        raise Conflict(
            f"{manifest.task_id} was already {manifest.status} by {manifest.from_} (attempt {manifest.attempt})",
            hint=f"Its result stands: agentq result {manifest.task_id}",
        )

    def _take_over(self, papers: Papers, claim: Claim, hand: Hand, *, take_over: bool) -> None:
        task_id = papers.envelope.task_id
        if not take_over and not self._is_gone(claim):
            raise Conflict(
                f"attempt {claim.attempt} of {task_id} is running at {claim.worker} on {claim.owner.host}",
                hint="Wait for it, or end it from here with --take-over: its agent is stopped, its work kept.",
            )
        self._records.end(task_id, end_of(claim, hand.by, f"taken over by {hand.by}", counts=False))

    def _by_hand(self, papers: Papers, hand: Hand) -> Completion:
        return completion_of(
            papers,
            "completed" if hand.status == "completed" else "failed",
            by=hand.by,
            attempt=papers.next_number,
            reason=hand.reason,
            summary=shorten(hand.summary, SUMMARY_LIMIT),
            artifacts=self._keep_report(papers.envelope.task_id, hand),
        )

    def _keep_report(self, task_id: str, hand: Hand) -> tuple[Artifact, ...]:
        """Put what a hand brings into the store, whether its word will hold or not."""
        if hand.report is None:
            return ()
        prefix = evidence_prefix(task_id, f"hand-{sha256_hex(hand.report)[:12]}")
        return (self._records.add_evidence(prefix, REPORT, hand.report, suffix=".md", made_by="hand"),)

    # ------------------------------------------------------------------

    def _known(self, task_id: str) -> Papers:
        papers = self._records.papers(task_id)
        if papers is None:
            raise self._unknown(task_id)
        return papers

    def _unknown(self, task_id: str) -> NotFound:
        return NotFound(
            f"there is no task {task_id} in {self._records.store.url}",
            hint="Check the id and the store (--store, AGENTQ_STORE).",
        )
