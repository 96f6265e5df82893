"""Tasks as the log tells them, told in a few words: for tests of what reads the ledger."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from agentq.events import Event

START = 1_800_000_000.0
"""The moment that all times of a tale are counted from, in unix seconds: 2027-01-15 08:00:00 UTC."""


def at(seconds: float) -> datetime:
    """So long after the start."""
    return datetime.fromtimestamp(START + seconds, UTC)


def event(task_id: str, kind: str, seconds: float, which: str = "", **more: Any) -> Event:
    """One event of a task."""
    name = f"{task_id}/{kind}/{which}" if which else f"{task_id}/{kind}"
    return Event(id=name, kind=kind, at=at(seconds), task_id=task_id, **more)


def submitted(task_id: str, seconds: float = 0.0, *, agent: str = "worker", type: str = "work", **data: Any) -> Event:
    """That it was submitted; `data` as the log has it, `not_before` in seconds."""
    if "not_before" in data:
        data["not_before"] = at(data["not_before"]).isoformat()
    return event(task_id, "submitted", seconds, agent=agent, by="coordinator", data={"type": type, **data})


def claimed(task_id: str, seconds: float, attempt: int = 1) -> Event:
    """That an attempt began."""
    return event(task_id, "claimed", seconds, str(attempt), attempt=attempt, worker="worker@host:1", host="host")


def attempt_ended(
    task_id: str, seconds: float, attempt: int = 1, *, counts: bool = True, retry_at: float | None = None
) -> Iterator[Event]:
    """That an attempt ended without a result, and when it is tried again."""
    number = str(attempt)
    yield event(task_id, "attempt_ended", seconds, number, attempt=attempt, data={"counts": counts, "reason": "broke"})
    if retry_at is not None:
        until = {"until": at(retry_at).isoformat()}
        yield event(task_id, "delayed", seconds, number, attempt=attempt, data=until)


def ended(
    task_id: str, seconds: float, outcome: str = "completed", *, agent: str = "worker", attempt: int = 1, **usage: Any
) -> Event:
    """That it ended."""
    return event(task_id, outcome, seconds, agent=agent, attempt=attempt, data={"usage": usage} if usage else {})


def life(
    task_id: str, start: float, claim: float | None, end: float, outcome: str = "completed", **more: Any
) -> Iterator[Event]:
    """A task that was submitted, claimed if ever, and ended at these moments."""
    names = {key: more.pop(key) for key in ("agent", "type") if key in more}
    yield submitted(task_id, start, **names)
    if claim is not None:
        yield claimed(task_id, claim)
    yield ended(task_id, end, outcome, agent=names.get("agent", "worker"), **more)
