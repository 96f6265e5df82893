"""Rows of the ledger as they are printed in JSON: moments in ISO 8601."""

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentq.ledger import TaskRow
    from agentq.observing.roster import Member

_MOMENTS = ("created_at", "until", "claimed_at", "cancel_at", "finished_at", "dead_lettered_at", "settled_at")
_OF_WORKERS = ("worker", "agent", "host", "pid", "version", "parallel", "store", "heartbeat_seconds", "reason")


def plain(row: "TaskRow") -> dict[str, Any]:
    """A task as `agentq list --json` prints it."""
    known = asdict(row)
    del known["place"]
    return known | {name: iso(known[name]) for name in _MOMENTS}


def plain_worker(one: "Member") -> dict[str, Any]:
    """A worker as `agentq workers --json` prints it; what is not at work has no `running`, but `was_running`."""
    row, work = one.row, [{**each._asdict(), "since": iso(each.since)} for each in one.work]
    return {
        **{name: getattr(row, name) for name in _OF_WORKERS},
        "state": one.standing,
        "up_at": iso(row.up_at),
        "heard_at": iso(row.heard_at),
        "running": work if one.is_at_work else [],
        "was_running": [] if one.is_at_work else work,
    }


def iso(seconds: float | None) -> str | None:
    """Unix seconds as ISO 8601, None for None; what no calendar has is left out."""
    moment = utc(seconds)
    return None if moment is None else moment.isoformat()


def utc(seconds: float | None) -> datetime | None:
    """Unix seconds as a moment, None for None and for what no calendar has."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return None
