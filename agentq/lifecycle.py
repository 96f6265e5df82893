"""The states of a task, derived from its papers by one pure function and stored nowhere.

pending ──claim──▶ processing ──commit──▶ completed | failed | cancelled
   ▲                   │
   └──end, no result───┘        pending ──seal──▶ cancelled | expired | failed | completed (by hand)

A pending task has gates: what it needs must have ended, its time must have come, and last it may need an approval.
Gates do not close again, but for an approval of something that was altered since.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from agentq.messages import Chosen, Completion, Envelope, Message, Outcome, Usage, sha256_hex
from agentq.papers import Approval, Attempt, Cancel, Claim, Collected, Demand, Move, Release, Seal

NEEDS = "it needs "
"""How the reason of a task begins that ended because another one did not complete."""
NOT_NEEDED = "not needed: "
"""How the reason of a task begins that ended because a review found nothing left to be done."""

State = Literal["pending", "processing", "completed", "failed", "cancelled", "expired"]
WaitsFor = Literal["queued", "delayed", "dependencies", "approval", "lease", "moved"]


class Need(Message):
    """Another task that this one waits for, and its result once it has one."""

    task_id: str
    manifest: Completion | None = None


class Papers(Message):
    """All that decides the state of one task, read at one moment in the store that `store` names.

    `registered` and `approval` are the envelope's and the approval's own bytes as they were read. `digest` is what an
    approval has to be bound to, the context's own digest in it: None while none is needed, or something that it covers
    is missing.
    """

    envelope: Envelope
    registered: bytes = b""
    attempts: tuple[Attempt, ...] = ()
    cancel: Cancel | None = None
    demand: Demand | None = None
    release: Release | None = None
    needs: tuple[Need, ...] = ()
    digest: str | None = None
    context_sha256: str | None = None
    approved: Approval | None = None
    approval: bytes = b""
    manifest: Completion | None = None
    collected: Collected | None = None
    store: str = ""

    @property
    def envelope_sha256(self) -> str:
        """The digest of the envelope as registered: what a completion answers."""
        return sha256_hex(self.registered)

    @property
    def last(self) -> Attempt | None:
        """The attempt with the highest number."""
        return self.attempts[-1] if self.attempts else None

    @property
    def running(self) -> Claim | None:
        """The claim of an attempt that has not ended; whether it lives is for a lease to say."""
        last = self.last
        if self.manifest or last is None or last.end or self.moved_to or not isinstance(last.paper, Claim):
            return None
        return last.paper

    @property
    def seal(self) -> Seal | None:
        """The seal that is to end the task: whoever meets it commits its completion."""
        last = self.last
        return last.paper if last and isinstance(last.paper, Seal) and not self.moved_to else None

    @property
    def last_move(self) -> Move | None:
        """The last word on which store the task is at home in, None while it never moved."""
        return next((a.paper for a in reversed(self.attempts) if isinstance(a.paper, Move)), None)

    @property
    def moved_to(self) -> str | None:
        """The other store that the task was moved to: what its attempts did after that, they did there."""
        move = self.last_move
        return move.to if move and move.to != self.store else None

    @property
    def was_started(self) -> bool:
        """Whether anybody ever ran it, or ended it without."""
        return any(not isinstance(attempt.paper, Move) for attempt in self.attempts)

    @property
    def next_number(self) -> int:
        """The attempt number that the next hand has to take."""
        return self.last.number + 1 if self.last else 1

    @property
    def counted(self) -> int:
        """How many attempts were used up: ended ones that count (a drain and a seal do not)."""
        return sum(1 for attempt in self.attempts if attempt.end and attempt.end.counts)

    @property
    def spent(self) -> tuple[Usage, ...]:
        """What each attempt took that ended without a result."""
        return tuple(attempt.spent for attempt in self.earlier if attempt.spent)

    @property
    def needs_approval(self) -> bool:
        """Whether it must not start before somebody approved it."""
        return self.envelope.requires_approval or self.demand is not None

    @property
    def is_gated(self) -> bool:
        """Whether it waits for more than its time, so that a release says since when it may start."""
        return self.envelope.has_gates or self.demand is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """The tasks that it needs and that have not ended."""
        return tuple(need.task_id for need in self.needs if need.manifest is None)

    @property
    def is_open(self) -> bool:
        """Whether all gates but its time are open."""
        return not self.missing and (not self.needs_approval or self.approved is not None)

    @property
    def earlier(self) -> tuple[Attempt, ...]:
        """The attempts that ended without a result, oldest first."""
        return tuple(attempt for attempt in self.attempts if attempt.end)


class Status(Message):
    """What `status` answers about one task."""

    task_id: str
    state: State
    agent: str
    type: str
    priority: str
    created_at: datetime | None = None
    waits_for: WaitsFor | None = None
    until: datetime | None = None
    needs: tuple[str, ...] = ()
    digest: str | None = None
    approved_by: str | None = None
    cancel_asked: bool = False
    group: str | None = None
    tasks: dict[str, int] | None = None
    attempt: int | None = None
    attempts_counted: int = 0
    worker: str | None = None
    host: str | None = None
    since: datetime | None = None
    renewed_at: datetime | None = None
    reason: str | None = None
    summary: str | None = None
    decided: Chosen | None = None
    result_ref: str | None = None
    verified: bool | None = None
    unverified_because: str | None = None
    finished_at: datetime | None = None
    moved_to: str | None = None
    collected_at: datetime | None = None


def due(papers: Papers) -> datetime | None:
    """The moment before which the task must not be started (again), None when there is none."""
    last = papers.last
    if last and last.end and last.end.retry_at:
        return last.end.retry_at
    return papers.envelope.not_before


def starts_from(papers: Papers) -> datetime | None:
    """The moment from which the task may start and its TTL counts: its last gate opened; None before that."""
    created, not_before = papers.envelope.created_at, papers.envelope.not_before
    if created is None or (papers.is_gated and papers.release is None):
        return None
    return max(moment for moment in (created, not_before, papers.release and papers.release.at) if moment)


def expires_at(papers: Papers) -> datetime | None:
    """The moment after which an unstarted task is expired, None for never, or not known yet."""
    start, seconds = starts_from(papers), papers.envelope.ttl_seconds
    return None if start is None or seconds is None else start + timedelta(seconds=seconds)


def is_expired(papers: Papers, now: datetime) -> bool:
    """True for a task that no attempt ever started and whose TTL has run out."""
    expires = expires_at(papers)
    return not papers.was_started and papers.manifest is None and expires is not None and now >= expires


def broken(papers: Papers) -> tuple[Outcome, str] | None:
    """How and why a task ends that needs another one which did not complete; None while it may still start."""
    if papers.envelope.run_if == "always":
        return None
    lost = next((n.manifest for n in papers.needs if n.manifest and n.manifest.status != "completed"), None)
    if lost is None:
        return _not_asked_for(papers) if papers.envelope.run_if == "changes_requested" else None
    if lost.status == "cancelled" and lost.reason and lost.reason.startswith(NOT_NEEDED):
        return "cancelled", lost.reason
    outcome: Outcome = "cancelled" if lost.status == "cancelled" else "failed"
    if lost.reason and lost.reason.startswith(NEEDS):
        return outcome, lost.reason  # in a chain, the task with which it began
    why = f": {lost.reason}" if lost.reason else ""
    return outcome, f"{NEEDS}{lost.task_id}, which {'was' if outcome == 'cancelled' else 'has'} {lost.status}{why}"


def _not_asked_for(papers: Papers) -> tuple[Outcome, str] | None:
    """How a task ends of which the review that it needs asks nothing; None while it has not ended, or does ask."""
    verdicts = {n.manifest.verdict: n.task_id for n in reversed(papers.needs) if n.manifest}
    if papers.missing or "request-changes" in verdicts:
        return None
    if review := verdicts.get("approve"):
        return "cancelled", f"{NOT_NEEDED}{review} approved"
    return "failed", f"{NEEDS}a verdict, and none of what it waited for gave one"


def ending(papers: Papers, now: datetime) -> tuple[Outcome, str] | None:
    """How and why a task that is not running is to be ended here, whoever sees it first; None while it may start."""
    if papers.manifest or papers.running or papers.seal or papers.moved_to or papers.envelope.is_group:
        return None
    if papers.cancel:
        return "cancelled", cancelled_because(papers.cancel)
    if is_expired(papers, now):
        return "expired", f"not started within {papers.envelope.ttl_seconds:g} s"
    return broken(papers)


def cancelled_because(cancel: Cancel) -> str:
    """The reason in the result of a cancelled task."""
    return f"cancelled by {cancel.by}{f': {cancel.reason}' if cancel.reason else ''}"


def is_silent(attempt: Attempt, now: datetime) -> bool:
    """True when an attempt's last word is older than its lease, by the clocks: good for words, never for decisions."""
    if not isinstance(attempt.paper, Claim):
        return False
    heard = max(attempt.paper.at, attempt.lease.at) if attempt.lease else attempt.paper.at
    return now - heard > timedelta(seconds=1.5 * attempt.paper.lease_seconds)


def derive(papers: Papers, now: datetime, *, gone: bool = False) -> Status:
    """The state of a task at `now`; `gone` says that its running attempt's process is proven dead.

    Only the manifest ends a task: before it stands, an owner that was thought dead may still be first to commit.
    """
    envelope = papers.envelope
    status = Status(
        task_id=envelope.task_id,
        state="pending",
        agent=envelope.to,
        type=envelope.type,
        priority=envelope.priority,
        created_at=envelope.created_at,
        group=envelope.group,
        approved_by=papers.approved.by if papers.approved else None,
        cancel_asked=papers.cancel is not None and papers.manifest is None,
        attempt=papers.last.number if papers.last else None,
        attempts_counted=papers.counted,
        collected_at=papers.collected.at if papers.collected else None,
    )
    return status.model_copy(update=_ended(papers.manifest) if papers.manifest else _open(papers, now, gone=gone))


def _ended(completion: Completion) -> dict[str, object]:
    return {
        "state": completion.status,
        "attempt": completion.attempt,
        "worker": completion.from_,
        "reason": completion.reason,
        "summary": completion.summary,
        "decided": completion.decided,
        "result_ref": completion.result_ref,
        "verified": completion.verified,
        "finished_at": completion.finished_at,
    }


def _open(papers: Papers, now: datetime, *, gone: bool) -> dict[str, object]:
    last = papers.last
    if papers.moved_to:
        return {"waits_for": "moved", "moved_to": papers.moved_to}
    if papers.running and last:
        return _running(papers.running, last, silent=gone or is_silent(last, now))
    if papers.seal:
        return {"reason": f"is being ended as {papers.seal.completion.status}"}
    until = due(papers)
    reason = last.end.reason if last and last.end else None
    if is_expired(papers, now):
        reason = "its TTL ran out, and it is ended as expired by whoever can write that down first"
    return _gate(papers, until if until and until > now else None) | {"reason": reason}


def _gate(papers: Papers, until: datetime | None) -> dict[str, object]:
    """The first gate that is shut, approval last; `queued` when all are open."""
    if papers.missing:
        return {"waits_for": "dependencies", "needs": papers.missing}
    if until:
        return {"waits_for": "delayed", "until": until}
    if not papers.is_open:
        return {"waits_for": "approval", "digest": papers.digest}
    return {"waits_for": "queued"}


def _running(claim: Claim, attempt: Attempt, *, silent: bool) -> dict[str, object]:
    renewed = attempt.lease.at if attempt.lease else claim.at
    update: dict[str, object] = {
        "state": "processing",
        "worker": claim.worker,
        "host": claim.owner.host,
        "since": claim.at,
        "renewed_at": renewed,
    }
    return update | {"state": "pending", "waits_for": "lease"} if silent else update


def backoff(
    first: float, factor: float, longest: float, counted: int, jitter: float = 0.0, chance: float = 0.0
) -> float:
    """Seconds to wait after that many counted attempts: exponential, bounded, `chance` (0 to 1) of the jitter less."""
    try:
        delay = min(longest, first * factor ** max(0, counted - 1))
    except OverflowError:
        delay = longest
    return float(delay * (1 - jitter * chance))


def earlier_reasons(attempts: Sequence[Attempt]) -> list[str]:
    """One line for each attempt that ended without a result, oldest first."""
    return [f"attempt {a.number}: {a.end.reason}" for a in attempts if a.end]
