"""What an event says of its task, brought into the task's row: in whichever order events come, the row is the same.

Each event is brought in once. What it says is another program's word: what has not the right kind is as if unsaid.
"""

import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from agentq.events import Event
from agentq.ledger.schema import COLUMNS

Row = dict[str, Any]

ZERO = {name: 0 for name, kind in COLUMNS.items() if "DEFAULT 0" in kind}
OUTCOMES = ("completed", "failed", "cancelled", "expired")
LARGEST = 2**62


def new_row(task_id: str) -> Row:
    """The row of a task of which nothing is known."""
    return {**dict.fromkeys(COLUMNS), **ZERO, "task_id": task_id}


def tell(row: Row, event: Event) -> None:
    """Bring one event into its task's row."""
    at = event.at.timestamp()
    row["heard_at"] = _earliest(row["heard_at"], at)
    if said := _SAID.get(event.kind):
        said(row, event, at)


def conclude(row: Row) -> None:
    """Derive what follows from the rest of the row."""
    row["state"] = _state(row)
    last = max(row["claimed"], row["ended"])
    row["until"] = row["retry_at"] if row["retry_attempt"] and row["retry_attempt"] >= last else row["not_before"]


def _state(row: Row) -> str | None:
    """The state as `lifecycle` derives it from the papers; a silent worker is for who reads it."""
    if row["outcome"]:
        return str(row["outcome"])
    if row["claimed"] > row["ended"] or row["stirring"]:
        return "processing"
    return "pending" if row["created_at"] is not None or row["claimed"] else None


# ---------------------------------------------------------------------- one function for each kind


def _submitted(row: Row, event: Event, at: float) -> None:
    data = event.data
    row |= {
        "agent": event.agent,
        "sender": text(event.by),
        "created_at": at,
        "type": text(data.get("type")),
        "priority": text(data.get("priority")),
        "title": text(data.get("title")),
        "labels": _json_of(_labels(data.get("labels"))),
        "grp": text(data.get("group")),
        "members": number(data.get("tasks")) or 0,
        "depends_on": _json_of(_names(data.get("depends_on"))),
        "not_before": moment(data.get("not_before")) or row["not_before"],
        "ttl_seconds": real(data.get("ttl_seconds")),
        "retry_of": text(data.get("retry_of")),
    }
    row["requires_approval"] |= bool(data.get("requires_approval"))


def _delayed(row: Row, event: Event, at: float) -> None:
    until, attempt = moment(event.data.get("until")), number(event.attempt)
    if attempt is None:
        row["not_before"] = until
    elif attempt > row["retry_attempt"]:
        row |= {"retry_attempt": attempt, "retry_at": until}


def _claimed(row: Row, event: Event, at: float) -> None:
    row["first_claimed_at"] = _earliest(row["first_claimed_at"], at)
    attempt = number(event.attempt) or 0
    if attempt > row["claimed"]:
        row |= {"claimed": attempt, "claimed_at": at, "worker": text(event.worker), "host": text(event.host)}


def _attempt_ended(row: Row, event: Event, at: float) -> None:
    row["counted"] += bool(event.data.get("counts"))
    attempt = number(event.attempt) or 0
    if attempt > row["ended"]:
        row |= {"ended": attempt, "ended_at": at, "ended_reason": text(event.data.get("reason"))}


def _finished(row: Row, event: Event, at: float) -> None:
    data, usage = event.data, event.data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    row |= {
        "outcome": event.kind,
        "finished_at": at,
        "by_": text(event.by),
        "verified": int(bool(data.get("verified"))),
        "reason": text(data.get("reason")),
        "summary": text(data.get("summary")),
        "result_ref": text(data.get("result_ref")),
        "input_tokens": number(usage.get("input_tokens")),
        "output_tokens": number(usage.get("output_tokens")),
        "cost_usd": real(usage.get("cost_usd")),
        "at_least": int(bool(usage.get("at_least"))),
        "seconds": real(usage.get("seconds")),
    }
    row["agent"] = row["agent"] or event.agent
    row["type"] = row["type"] or text(data.get("type"))
    if row["created_at"] is None:
        row["created_at"] = moment(data.get("created_at"))


def _progress(row: Row, event: Event, at: float) -> None:
    attempt = number(event.attempt) or 0
    if (attempt, at) >= (row["doing_attempt"], row["doing_at"] or -math.inf):
        row |= {"doing": text(event.data.get("text")), "doing_at": at, "doing_attempt": attempt}


def _approval_requested(row: Row, event: Event, at: float) -> None:
    row["requires_approval"] = 1


def _first(column: str) -> Callable[[Row, Event, float], None]:
    def said(row: Row, event: Event, at: float) -> None:
        row[column] = _earliest(row[column], at)

    return said


_SAID: dict[str, Callable[[Row, Event, float], None]] = {
    "submitted": _submitted,
    "released": _first("released_at"),
    "delayed": _delayed,
    "approval_requested": _approval_requested,
    "approved": _first("approved_at"),
    "claimed": _claimed,
    "progress": _progress,
    "attempt_ended": _attempt_ended,
    "cancel_requested": _first("cancel_at"),
    **dict.fromkeys(OUTCOMES, _finished),
    "dead_lettered": _first("dead_lettered_at"),
    "settled": _first("settled_at"),
}


# ---------------------------------------------------------------------- what others say, made fit


def text(value: object) -> str | None:
    """A text that a database can hold, None for anything else."""
    if not isinstance(value, str):
        return None
    return value if value.isascii() else value.encode(errors="replace").decode()


def number(value: object) -> int | None:
    """A whole number that is not negative, None for anything else."""
    return value if type(value) is int and 0 <= value < LARGEST else None


def real(value: object) -> float | None:
    """A finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST:
        return None
    return float(value) if math.isfinite(value) else None


def moment(value: object) -> float | None:
    """Unix seconds of a time in ISO 8601, None for anything else."""
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {k: v for key, label in value.items() if (k := text(key)) is not None and (v := text(label)) is not None}


def _names(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _json_of(value: object) -> str | None:
    return json.dumps(value) if value else None


def _earliest(known: float | None, at: float) -> float:
    return at if known is None else min(known, at)
