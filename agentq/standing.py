"""A task in one line: where it stands, how it ended, and what a list says of it."""

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from agentq.harmless import one_line
from agentq.messages import Completion, Doubted, shorten

if TYPE_CHECKING:
    from agentq.ledger import TaskRow
    from agentq.lifecycle import Status

STATES = ("completed", "failed", "cancelled", "expired", "processing", "pending")
NAMED = 5
"""How many of the tasks that one waits for are named."""
WIDTH = 80
"""Characters of a title or a reason that are shown."""


def ago(then: datetime | None) -> str:
    """How long ago, in a few characters."""
    if then is None:
        return "unknown"
    return f"{span(datetime.now(UTC) - then)} ago"


def span(delta: timedelta | float) -> str:
    """A duration (of seconds) in a few characters: 45s, 12m, 3h05m, 2d4h."""
    total = max(0, int(delta.total_seconds() if isinstance(delta, timedelta) else delta))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 60:
        return f"{total}s"
    if hours == 0:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24}h"


def outcome(completion: Completion) -> str:
    """How a task ended and, when it completed, whether agentq checked that or only somebody said so.

    One whose signature is no proof says why.
    """
    if isinstance(completion, Doubted):
        return f"{completion.status}  unverified: {one_line(completion.unverified_because)}"
    if completion.status != "completed":
        return completion.status
    return "completed  verified" if completion.verified else "completed  unverified"


def line(status: "Status") -> str:
    """A status as one line."""
    head = f"{status.task_id}  {status.state}"
    if status.tasks and status.state in ("pending", "processing"):
        counts = ", ".join(f"{status.tasks[s]} {s}" for s in STATES if s in status.tasks)
        return f"{head}  {counts}{_cancel(status)}"
    if status.state == "processing":
        where = f"{_who(status)}, attempt {status.attempt}, started {ago(status.since)}"
        return f"{head}  {where}{_cancel(status)}"
    if status.state == "pending":
        return f"{head}  {_waiting(status)}{_earlier(status)}{_cancel(status)}"
    by = f"by {status.worker}" if status.worker else ""
    verified = "" if status.state != "completed" else (", verified" if status.verified else ", unverified")
    if status.unverified_because:
        verified = f", unverified ({one_line(status.unverified_because)})"
    decided = f", decided: {status.decided.decision}" if status.decided else ""
    why = f": {one_line(status.reason)}" if status.reason else ""
    gone = f"; its evidence was collected on {status.collected_at:%Y-%m-%d}" if status.collected_at else ""
    return f"{head}  {by}{verified}{decided}{why}{gone}".rstrip()


def _who(status: "Status") -> str:
    """The worker and its host; an attempt that was pulled has none."""
    return f"{status.worker} on {status.host}" if status.host else f"{status.worker}"


def _cancel(status: "Status") -> str:
    return "; is being cancelled" if status.cancel_asked else ""


def _waiting(status: "Status") -> str:
    if status.waits_for == "lease":
        return (
            f"waits for: lease; {_who(status)} is silent or gone (last heard of {ago(status.renewed_at)}),"
            f" attempt {status.attempt} is taken over next"
        )
    if status.waits_for == "delayed" and status.until:
        return f"waits for: {status.agent}, delayed until {status.until:%Y-%m-%d %H:%M:%SZ}"
    if status.waits_for == "dependencies":
        named, more = status.needs[:NAMED], len(status.needs) - NAMED
        return f"waits for: dependencies {', '.join(named)}{f' and {more} more' if more > 0 else ''}"
    if status.waits_for == "moved":
        return f"moved to {status.moved_to}"
    if status.waits_for == "approval":
        return f"waits for: approval; agentq approve {status.task_id} --by YOU --digest {(status.digest or '')[:12]}"
    return f"waits for: {status.agent}, {status.waits_for}"


def _earlier(status: "Status") -> str:
    if not status.reason:
        return ""
    if status.attempt is None:
        return f"; {one_line(status.reason)}"
    tried = f"{status.attempts_counted} tried, " if status.attempts_counted else ""
    return f"; {tried}last: {one_line(status.reason)}"


def fields(row: "TaskRow") -> tuple[str, str, str, str, str]:
    """A task as the parts of a line: id, state, agent, age, and what it is or what became of it."""
    state = f"{row.state}/{row.waits_for}" if row.waits_for else row.state
    return row.task_id, state, row.agent or "-", _age(row), shorten(_about(row), WIDTH)


def _age(row: "TaskRow") -> str:
    """How long it has run, waited, or been over."""
    if row.state == "processing" and row.claimed_at is not None:
        return f"for {_since(row.claimed_at)}"
    if row.finished_at is not None:
        return f"{_since(row.finished_at)} ago"
    return f"since {_since(row.created_at)}"


def _about(row: "TaskRow") -> str:
    kind = one_line(row.type or "plan").replace("-", " ")
    title = f"{kind} of {row.members}" if row.members else one_line(row.title)
    said = (
        row.reason
        if row.finished_at is not None
        else row.doing or (row.ended_reason if row.state == "pending" else None)
    )
    return f"{one_line(said)} | {title}" if said else title


def _since(seconds: float | None) -> str:
    return "?" if seconds is None else span(time.time() - seconds)
