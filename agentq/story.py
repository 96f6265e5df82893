"""What the papers of a task tell: the event of each paper, the same whether it is told when the paper is written or
read from it years later."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from agentq.events import Event, Kind, worker_id
from agentq.lifecycle import Papers
from agentq.messages import Completion, Envelope, shorten, utc_now
from agentq.papers import Approval, Attempt, Cancel, Claim, Demand, End, Release

TITLE_LIMIT = 120
REASON_LIMIT = 1000


def submitted(envelope: Envelope) -> Iterator[Event]:
    """A registered task, and the gates that it names itself."""
    asked, at = envelope, envelope.created_at or utc_now()
    yield _event(asked.task_id, "submitted", at, agent=asked.to, by=asked.from_, data=_request(asked))
    if asked.not_before:
        yield _event(asked.task_id, "delayed", at, "0", data={"until": asked.not_before})
    if asked.requires_approval:
        yield _event(asked.task_id, "approval_requested", at, by=asked.from_)


def demanded(task_id: str, demand: Demand) -> Event:
    """A worker's profile asks for an approval."""
    return _event(task_id, "approval_requested", demand.at, by=demand.by, data={"reason": demand.reason})


def approved(task_id: str, approval: Approval) -> Event:
    """Somebody approved what the digest stands for."""
    digest = approval.digest[:12]
    return _event(task_id, "approved", approval.at, digest, by=approval.by, data={"digest": digest})


def rejected(task_id: str, by: str, reason: str, at: datetime) -> Event:
    """Somebody ended a task that waited for an approval."""
    return _event(task_id, "rejected", at, by=by, data={"reason": shorten(reason, REASON_LIMIT)})


def released(task_id: str, release: Release) -> Event:
    """The last gate is open."""
    return _event(task_id, "released", release.at)


def claimed(task_id: str, claim: Claim) -> Event:
    """An attempt began; a pulled one names no process."""
    host = claim.owner.host or None
    return _event(
        task_id,
        "claimed",
        claim.at,
        str(claim.attempt),
        agent=claim.worker,
        attempt=claim.attempt,
        by=claim.worker,
        worker=worker_id(claim.worker, host, claim.owner.pid) if host else None,
        host=host,
        data={"lease_seconds": claim.lease_seconds},
    )


def attempt_ended(task_id: str, end: End) -> Iterator[Event]:
    """An attempt ended without a result, and when it may be tried again."""
    number = str(end.attempt)
    usage = end.usage.model_dump(exclude_none=True) if end.usage else {}
    reason = shorten(end.reason, REASON_LIMIT)
    data = {"reason": reason, "counts": end.counts, "stopped": end.stopped, "usage": usage}
    yield _event(task_id, "attempt_ended", end.at, number, attempt=end.attempt, by=end.by, data=data)
    if end.retry_at:
        yield _event(task_id, "delayed", end.at, number, attempt=end.attempt, data={"until": end.retry_at})


def cancel_requested(task_id: str, cancel: Cancel) -> Event:
    """Somebody asked to cancel the task."""
    return _event(task_id, "cancel_requested", cancel.at, by=cancel.by, data={"reason": cancel.reason})


def finished(manifest: Completion, envelope: Envelope | None) -> Iterator[Event]:
    """The task has its result; one that was given up is a dead letter too."""
    task_id, agent = manifest.task_id, envelope.to if envelope else None
    data = {
        "to": manifest.to,
        "summary": manifest.summary,
        "reason": manifest.reason and shorten(manifest.reason, REASON_LIMIT),
        "verified": manifest.verified,
        "decided": manifest.decided and manifest.decided.model_dump(),
        "stopped": manifest.stopped,
        "result_ref": manifest.result_ref,
        "artifacts": [_artifact(a.model_dump()) for a in manifest.artifacts],
        "usage": manifest.usage.model_dump(exclude_none=True),
        "created_at": envelope and envelope.created_at,
        "type": envelope and envelope.type,
    }
    at, attempt = manifest.finished_at, manifest.attempt
    yield _event(task_id, manifest.status, at, agent=agent, attempt=attempt, by=manifest.from_, data=data)
    if manifest.given_up:
        reason = {"reason": shorten(manifest.reason or "failed", REASON_LIMIT)}
        yield _event(task_id, "dead_lettered", at, agent=agent, by=manifest.from_, data=reason)


def settled(task_id: str, at: datetime) -> Event:
    """Everything that follows the result is done."""
    return _event(task_id, "settled", at)


def story(papers: Papers, *, is_open: bool) -> Iterator[Event]:
    """All events of a task that its papers tell, as good as in order; what is not open any more was settled."""
    task_id = papers.envelope.task_id
    yield from submitted(papers.envelope)
    if papers.demand:
        yield demanded(task_id, papers.demand)
    if papers.approved:
        yield approved(task_id, papers.approved)
    if papers.release:
        yield released(task_id, papers.release)
    for attempt in papers.attempts:
        yield from _of_attempt(task_id, attempt)
    if papers.cancel:
        yield cancel_requested(task_id, papers.cancel)
    if papers.manifest:
        yield from finished(papers.manifest, papers.envelope)
        if not is_open:
            yield settled(task_id, papers.manifest.finished_at)


def _of_attempt(task_id: str, attempt: Attempt) -> Iterator[Event]:
    if isinstance(attempt.paper, Claim):
        yield claimed(task_id, attempt.paper)
    if attempt.end:
        yield from attempt_ended(task_id, attempt.end)


def _request(asked: Envelope) -> dict[str, Any]:
    """What was asked, as far as lists and figures need it."""
    return {
        "type": asked.type,
        "priority": asked.priority,
        "title": shorten(" ".join(asked.instructions[: 4 * TITLE_LIMIT].split()), TITLE_LIMIT),
        "labels": asked.labels,
        "group": asked.group,
        "tasks": len(asked.plan),
        "depends_on": list(asked.depends_on),
        "requires_approval": asked.requires_approval,
        "not_before": asked.not_before,
        "ttl_seconds": asked.ttl_seconds,
        "retry_of": asked.retry_of,
    }


def _artifact(dump: dict[str, Any]) -> dict[str, Any]:
    return {name: dump[name] for name in ("name", "ref", "bytes", "made_by")}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _event(
    task_id: str, kind: Kind, at: datetime, which: str = "", *, data: dict[str, Any] | None = None, **more: Any
) -> Event:
    """An event whose id follows from what it tells of; what is not known is left out of its data."""
    said = {name: _plain(value) for name, value in (data or {}).items() if value not in (None, [], {}, 0, "")}
    name = f"{task_id}/{kind}/{which}" if which else f"{task_id}/{kind}"
    return Event(id=name, kind=kind, at=at, task_id=task_id, data=said, **more)
