"""What a hand may do to a task: end it, cancel it, approve or reject it, or speak for the attempt that it runs in."""

from collections.abc import Callable
from typing import NoReturn

from agentq import story
from agentq.artifacts import evidence_prefix
from agentq.claim import end_of
from agentq.commit import REPORT, commit_seal, completion_of, seal, seal_as
from agentq.credentials import refuse
from agentq.errors import Conflict, Invalid
from agentq.gates import look_at_gates, release
from agentq.groups import ask_members, plant
from agentq.lifecycle import Papers, ending
from agentq.messages import SUMMARY_LIMIT, Artifact, Completion, Envelope, sha256_hex, shorten, utc_now
from agentq.papers import Approval, Cancel, Claim, new_token
from agentq.proposal import Hand as Hand
from agentq.records import Records
from agentq.settle import settle_in_store


class Hands:
    """Ends and controls tasks for people and coordinators; `is_gone` also stops what a dead worker left running."""

    def __init__(
        self,
        records: Records,
        *,
        is_gone: Callable[[Claim], bool] = lambda _: False,
        released: list[Envelope] | None = None,
    ) -> None:
        self._records = records
        self._is_gone = is_gone
        self.released: list[Envelope] = [] if released is None else released
        """What may start now because of it: to be handed to the engine, else a sweep does."""

    # ------------------------------------------------------------------ cancelling

    def cancel(
        self, task_id: str, by: str, reason: str | None = None, *, allow_secrets: bool = False
    ) -> Completion | None:
        """Cancel a task: its manifest when that was final at once, None while its worker stops it.

        Of a group, all its tasks. Cancelling again changes nothing; Conflict when it ended otherwise, NotFound.
        """
        refuse({"the reason": reason}, allowed=allow_secrets)
        papers = self._here(task_id)
        if papers.manifest:
            return self._cancelled(papers.manifest)
        cancel = Cancel(token=new_token(), by=by, at=utc_now(), reason=reason)
        cancel = self._records.ask_cancel(task_id, cancel)
        if papers.envelope.is_group:
            self._cancel_members(papers.envelope, cancel)
        manifest = self._end_overdue(task_id)
        return self._cancelled(manifest) if manifest else None

    def _cancel_members(self, group: Envelope, cancel: Cancel) -> None:
        plant(self._records, group)  # what is registered later would not be cancelled
        ask_members(self._records, group, cancel)
        for task in group.plan:
            if self._records.manifest(task.task_id) is None:
                self._end_overdue(task.task_id)

    def _end_overdue(self, task_id: str) -> Completion | None:
        """The manifest of a task that is not running, which is sealed now unless it has one."""
        while True:
            papers = self._here(task_id)
            claim = papers.running
            if papers.manifest:
                return papers.manifest
            if claim and not self._is_gone(claim):
                return None
            if claim:
                usage = papers.last.spent if papers.last else None
                end = end_of(claim, "agentq", "its worker's process died", stopped="presumed", usage=usage)
                self._records.end(task_id, end)
                continue
            found = look_at_gates(self._records, task_id, papers)
            if isinstance(found, Completion):
                self._settled(found)
            elif papers.envelope.is_group:
                return self._records.manifest(task_id)

    def _here(self, task_id: str) -> Papers:
        """The papers of a task that may be ended in this store; raises Conflict when it was moved to another one."""
        papers = self._records.known(task_id)
        if papers.moved_to and papers.manifest is None:
            raise Conflict(
                f"{task_id} was moved to {papers.moved_to}, and is at home there",
                hint=f"Repeat the command with --store {papers.moved_to}",
            )
        return papers

    def _cancelled(self, manifest: Completion) -> Completion:
        if manifest.status != "cancelled":
            raise Conflict(
                f"the cancel came too late: {manifest.task_id} was {manifest.status} by {manifest.from_}",
                hint=f"Its result stands: agentq result {manifest.task_id}",
            )
        return manifest

    # ------------------------------------------------------------------ approving

    def approve(self, task_id: str, by: str, digest: str | None = None) -> Approval:
        """Approve a task exactly as it is now: its envelope, its context and the results that it needs.

        `digest` (or its beginning) says what was seen. Invalid when it needs no approval; Conflict when it was
        changed since, is not ready to be approved, or has ended.
        """
        papers = self._to_be_approved(task_id)
        if papers.digest is None:
            raise Conflict(
                f"{task_id} still waits for {', '.join(papers.missing)}: an approval covers their results too",
                hint=f"Approve it when they have ended: agentq wait {' '.join(papers.missing)}",
            )
        if digest and not papers.digest.startswith(digest):
            raise Conflict(
                f"{task_id} is not what you saw: its digest is {papers.digest[:12]} now",
                hint=f"Look at it again: agentq why {task_id}",
            )
        if papers.approved:
            return papers.approved
        approval = Approval(
            token=new_token(), digest=papers.digest, context_sha256=papers.context_sha256, by=by, at=utc_now()
        )
        held = self._records.approve(task_id, self._records.signer.approval(approval))
        papers = self._here(task_id)
        if papers.is_open and not (papers.manifest or papers.running):
            self.released.append(release(self._records, papers))
        return held

    def reject(self, task_id: str, by: str, reason: str, *, allow_secrets: bool = False) -> Completion:
        """End a task that waits for an approval as cancelled. Raises Invalid, Conflict, NotFound."""
        refuse({"the reason": reason}, allowed=allow_secrets)
        while True:
            papers = self._to_be_approved(task_id)
            if papers.running:
                raise Conflict(
                    f"{task_id} was approved and is running", hint=f"Stop it: agentq cancel {task_id} --reason …"
                )
            manifest = seal_as(self._records, papers, "cancelled", f"rejected by {by}: {reason}", by=by)
            if manifest:
                self._records.journal.tell(story.rejected(task_id, by, reason, manifest.finished_at))
                return self._cancelled(self._settled(manifest))

    def _to_be_approved(self, task_id: str) -> Papers:
        papers = self._here(task_id)
        if (papers.seal and papers.manifest is None) or ending(papers, utc_now()):
            self._end_overdue(task_id)
            papers = self._here(task_id)
        if papers.manifest:
            raise Conflict(f"{task_id} has ended: {papers.manifest.status}", hint=f"See: agentq result {task_id}")
        if not papers.needs_approval:
            raise Invalid(f"{task_id} needs no approval", hint=f"See what it waits for: agentq why {task_id}")
        return papers

    # ------------------------------------------------------------------ by hand

    def end_by_hand(self, task_id: str, hand: Hand, *, take_over: bool = False) -> Completion:
        """Seal and commit a task by hand, unverified; a live attempt must be taken over.

        Raises Conflict, NotFound, and Invalid for what looks like a credential.
        """
        hand.refuse_credentials()
        while True:
            papers = self._here(task_id)
            if papers.envelope.is_group:
                raise Conflict(
                    f"{task_id} is a plan: it ends when its tasks have ended", hint="End its tasks, or: agentq cancel"
                )
            if papers.manifest:
                self._was_ended(papers.manifest, hand)
            if papers.seal:
                self._was_ended(self._settled(commit_seal(self._records, papers.seal)), hand)
            if papers.running:
                self._take_over(papers, papers.running, hand, take_over=take_over)
                continue
            manifest = seal(self._records, papers, self._by_hand(papers, hand), by=hand.by)
            if manifest is None:
                continue
            if self._settled(manifest).attempt != papers.next_number:
                self._was_ended(manifest, hand)  # the attempt that was taken over was first to commit
            return manifest

    def _settled(self, manifest: Completion) -> Completion:
        self.released += settle_in_store(self._records, manifest)
        return manifest

    def _was_ended(self, manifest: Completion, hand: Hand) -> NoReturn:
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
        return (self._records.artifacts.add(prefix, REPORT, hand.report, suffix=".md", made_by="hand"),)
