"""The states of a task, derived from its papers by one pure function and stored nowhere.

pending ──claim──▶ processing ──commit──▶ completed | failed
   ▲                   │
   └──end, no result───┘        pending ──seal──▶ cancelled | expired | failed | completed (by hand)
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from agentq.messages import Completion, Envelope, Message
from agentq.papers import Attempt, Claim, Seal

State = Literal["pending", "processing", "completed", "failed", "cancelled", "expired"]
WaitsFor = Literal["queued", "delayed", "dependencies", "approval", "lease"]


class Need(Message):
    """Another task that this one waits for, and its result once it has one."""

    task_id: str
    manifest: Completion | None = None


class Papers(Message):
    """All that decides the state of one task, read at one moment."""

    envelope: Envelope
    attempts: tuple[Attempt, ...] = ()
    needs: tuple[Need, ...] = ()
    manifest: Completion | None = None

    @property
    def last(self) -> Attempt | None:
        """The attempt with the highest number."""
        return self.attempts[-1] if self.attempts else None

    @property
    def running(self) -> Claim | None:
        """The claim of an attempt that has not ended; whether it lives is for a lease to say."""
        last = self.last
        if self.manifest or last is None or last.end or isinstance(last.paper, Seal):
            return None
        return last.paper

    @property
    def seal(self) -> Seal | None:
        """The seal that is to end the task: whoever meets it commits its completion."""
        last = self.last
        return last.paper if last and isinstance(last.paper, Seal) else None

    @property
    def next_number(self) -> int:
        """The attempt number that the next hand has to take."""
        return self.last.number + 1 if self.last else 1

    @property
    def counted(self) -> int:
        """How many attempts were used up: ended ones that count (a drain and a seal do not)."""
        return sum(1 for attempt in self.attempts if attempt.end and attempt.end.counts)

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
    attempt: int | None = None
    attempts_counted: int = 0
    worker: str | None = None
    host: str | None = None
    since: datetime | None = None
    renewed_at: datetime | None = None
    reason: str | None = None
    summary: str | None = None
    result_ref: str | None = None
    verified: bool | None = None
    finished_at: datetime | None = None


def due(papers: Papers) -> datetime | None:
    """The moment before which the task must not be started (again), None when there is none."""
    last = papers.last
    if last and last.end and last.end.retry_at:
        return last.end.retry_at
    return papers.envelope.not_before


def is_expired(papers: Papers, now: datetime) -> bool:
    """True for a task that no attempt ever started and whose TTL has run out."""
    expires = papers.envelope.expires_at()
    return not papers.attempts and papers.manifest is None and expires is not None and now >= expires


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
        attempt=papers.last.number if papers.last else None,
        attempts_counted=papers.counted,
    )
    return status.model_copy(update=_ended(papers.manifest) if papers.manifest else _open(papers, now, gone=gone))


def _ended(completion: Completion) -> dict[str, object]:
    return {
        "state": completion.status,
        "attempt": completion.attempt,
        "worker": completion.from_,
        "reason": completion.reason,
        "summary": completion.summary,
        "result_ref": completion.result_ref,
        "verified": completion.verified,
        "finished_at": completion.finished_at,
    }


def _open(papers: Papers, now: datetime, *, gone: bool) -> dict[str, object]:
    last = papers.last
    if papers.running and last:
        return _running(papers.running, last, silent=gone or is_silent(last, now))
    if papers.seal:
        return {"reason": f"is being ended as {papers.seal.completion.status}"}
    until = due(papers)
    reason = last.end.reason if last and last.end else None
    if is_expired(papers, now):
        reason = "its TTL ran out, and it is ended as expired by whoever can write that down first"
    if until and until > now:
        return {"waits_for": "delayed", "until": until, "reason": reason}
    return {"waits_for": "queued", "reason": reason}


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


def backoff(first: float, factor: float, longest: float, counted: int) -> float:
    """Seconds to wait after that many counted attempts: exponential, bounded."""
    try:
        return float(min(longest, first * factor ** max(0, counted - 1)))
    except OverflowError:
        return longest


def earlier_reasons(attempts: Sequence[Attempt]) -> list[str]:
    """One line per ended attempt, for the prompt of the next one."""
    return [f"attempt {a.number}: {a.end.reason}" for a in attempts if a.end]
