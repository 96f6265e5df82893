"""What the ledger is asked, and what it answers."""

import json
import re
import sqlite3
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from agentq.errors import Invalid
from agentq.lifecycle import State, WaitsFor

STATES: tuple[str, ...] = get_args(State)
OPEN, ENDED = ("pending", "processing"), ("completed", "failed", "cancelled", "expired")
WAITS = tuple(word for word in get_args(WaitsFor) if word != "moved")
STATE_WORDS: tuple[str, ...] = (*STATES, "open", "ended", *WAITS)
_FAMILIES = {"open": OPEN, "ended": ENDED}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are meant: all conditions must hold, of several states one.

    `states` are states, `open`, `ended`, or what a pending task waits for; `labels` are keys or `key=value`; `since`
    and `until` bound the moment of creation (unix seconds); `text` is beginnings of words in
    id, title, summary and reason.
    Raises Invalid for an unknown state and for a text without a word in it.
    """

    states: tuple[str, ...] = ()
    agent: str | None = None
    type: str | None = None
    sender: str | None = None
    group: str | None = None
    needs: str | None = None
    labels: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    text: str | None = None
    plans: bool = False

    def __post_init__(self) -> None:
        if (unknown := next((word for word in self.states if word not in STATE_WORDS), None)) is not None:
            raise Invalid(f"{unknown!r} is no state", hint=f"One of: {', '.join(STATE_WORDS)}.")
        if self.text is not None and not re.search(r"[^\W_]", self.text):
            raise Invalid(f"there is no word in {self.text!r}", hint="Search for words, or parts of an id.")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise Invalid("the time asked for ends before it begins", hint="Exchange its beginning and its end.")

    @property
    def words(self) -> frozenset[str]:
        """The states that are meant, each with what it waits for where that was asked; empty for all."""
        return frozenset(word for asked in self.states for word in _FAMILIES.get(asked, (asked,)))


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task as the log tells it; moments are unix seconds, what is not known is None.

    `state` and `waits_for` are as `agentq status` says them, but that a silent worker is told by its heartbeats.
    """

    task_id: str
    state: str
    waits_for: str | None
    agent: str | None
    type: str | None
    sender: str | None
    priority: str | None
    title: str | None
    labels: dict[str, str]
    group: str | None
    members: int
    depends_on: list[str]
    retry_of: str | None
    created_at: float | None
    until: float | None
    attempt: int
    claimed_at: float | None
    worker: str | None
    host: str | None
    counted: int
    ended_reason: str | None
    cancel_at: float | None
    finished_at: float | None
    by: str | None
    verified: bool | None
    reason: str | None
    summary: str | None
    result_ref: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    dead_lettered_at: float | None
    settled_at: float | None
    doing: str | None
    place: int = field(repr=False, compare=False)

    @classmethod
    def of(cls, row: sqlite3.Row) -> "TaskRow":
        """The task in a row with the columns of `tasks` and `waits_for`."""
        known = dict(row)
        return cls(**{name: known[name] for name in _SAME}, **_others(known))


def _others(row: dict[str, Any]) -> dict[str, Any]:
    """What is not just a column of the same name."""
    processing = row["claimed"] > row["ended"] and row["outcome"] is None
    return {
        "state": "pending" if row["waits_for"] == "lease" else row["state"],
        "labels": json.loads(row["labels"] or "{}"),
        "depends_on": json.loads(row["depends_on"] or "[]"),
        "group": row["grp"],
        "attempt": max(row["claimed"], row["ended"]),
        "by": row["by_"],
        "verified": None if row["verified"] is None else bool(row["verified"]),
        "doing": row["doing"] if processing and row["doing_attempt"] == row["claimed"] else None,
        "place": row["id"],
    }


_MADE = {"state", "labels", "depends_on", "group", "attempt", "by", "verified", "doing", "place"}
_SAME = tuple(one.name for one in fields(TaskRow) if one.name not in _MADE)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker process as its heartbeats tell it; moments are unix seconds.

    `state` is up, draining or down; `silent` says that it has not been heard of for three heartbeats, by the clocks.
    """

    worker: str
    agent: str | None
    host: str | None
    pid: int | None
    version: str | None
    parallel: int | None
    store: str | None
    heartbeat_seconds: float | None
    lease_seconds: float | None
    boot: str | None
    started: str | None
    up_at: float | None
    heard_at: float
    running: list[dict[str, Any]]
    state: str
    reason: str | None
    silent: bool

    @classmethod
    def of(cls, row: sqlite3.Row) -> "WorkerRow":
        """The worker in a row with the columns of `workers` and `silent`."""
        known = dict(row)
        return cls(**known | {"running": json.loads(known["running"] or "[]"), "silent": bool(known["silent"])})
