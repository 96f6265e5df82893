"""Events written as rows: those that are new change their tasks, those that came before change nothing."""

import itertools
import json
import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from agentq.events import SPOKEN, Event
from agentq.ledger.facts import Row, conclude, new_row, number, real, tell, text
from agentq.ledger.marks import PLACES, place, words_of
from agentq.ledger.schema import COLUMNS

CHUNK = 500
_encoded = json.JSONEncoder(separators=(",", ":")).encode
BEATS = 1000
"""How many heartbeats are kept in the order of the log."""
_NOT_KEPT = (*SPOKEN, "progress")
_SETTERS = ", ".join(f":{name}" for name in COLUMNS)
_TOLD = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)"
_INDEX = "INSERT INTO found (rowid, words) VALUES (?, ?)"
_UNINDEX = "INSERT INTO found (found, rowid, words) VALUES ('delete', ?, ?)"


def write(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Bring events in, inside a transaction."""
    news: dict[str, list[Event]] = {}
    beats: deque[Event] = deque(maxlen=BEATS)
    for event in events:
        if event.kind.startswith("worker_"):
            _write_worker(db, event)
            beats.append(event)
        elif event.task_id is None:
            _write_refused(db, event)
        elif event.kind in _NOT_KEPT or _is_new(db, event):
            news.setdefault(event.task_id, []).append(event)
    if news:
        _write_tasks(db, news)
    _write_beats(db, beats)


def event_of(row: sqlite3.Row) -> Event:
    """The event that a row of `events` keeps."""
    at = datetime.fromtimestamp(row["at"], UTC)
    name = f"{row['task_id']}/{row['id']}"
    return Event(id=name, kind=row["kind"], at=at, task_id=row["task_id"], **json.loads(row["body"]))


def _is_new(db: sqlite3.Connection, event: Event) -> bool:
    assert event.task_id
    said = {
        "agent": event.agent,
        "attempt": event.attempt,
        "by": event.by,
        "worker": event.worker,
        "host": event.host,
        "data": event.data,
    }
    body = _encoded({name: value for name, value in said.items() if value})
    name = event.id.removeprefix(f"{event.task_id}/")
    told = (event.task_id, text(name), text(event.kind), event.at.timestamp(), body)
    return db.execute(_TOLD, told).rowcount == 1


# ---------------------------------------------------------------------- tasks


def _write_tasks(db: sqlite3.Connection, news: Mapping[str, Sequence[Event]]) -> None:
    before = _load(db, news)
    after = []
    for task_id, events in news.items():
        row = dict(before[task_id]) if task_id in before else new_row(task_id)
        for event in events:
            tell(row, event)
        conclude(row)
        after.append(row)
    _save(db, before, after)
    groups = {row["grp"] for row in after if row["grp"]} | {row["task_id"] for row in after if row["members"]}
    if groups:
        _stir(db, groups)


def _stir(db: sqlite3.Connection, groups: Collection[str]) -> None:
    """Say of groups whether one of their tasks is not pending."""
    before, after = _load(db, groups), []
    for row in map(dict, before.values()):
        sql = "SELECT EXISTS (SELECT 1 FROM tasks WHERE grp = ? AND state <> 'pending')"
        (stirring,) = db.execute(sql, (row["task_id"],)).fetchone()
        if stirring != row["stirring"]:
            row["stirring"] = stirring
            conclude(row)
            after.append(row)
    _save(db, before, after)


def _load(db: sqlite3.Connection, task_ids: Collection[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    names, left = list(COLUMNS), iter(task_ids)
    while some := list(itertools.islice(left, CHUNK)):
        sql = f"SELECT {', '.join(names)} FROM tasks WHERE task_id IN ({', '.join('?' * len(some))})"
        rows = (dict(zip(names, row, strict=True)) for row in db.execute(sql, some))
        found |= {row["task_id"]: row for row in rows}
    return found


def _save(db: sqlite3.Connection, before: Mapping[str, Row], after: Sequence[Row]) -> None:
    """Write rows in their places, and what they are found by."""
    stale, fresh = [], []
    for row in after:
        old = before.get(row["task_id"])
        _put_in_place(db, row)
        new, was = (row["id"], words_of(row)), (old["id"], words_of(old)) if old else None
        if was != new:
            stale += [was] if was else []
            fresh.append(new)
        db.execute(f"INSERT OR REPLACE INTO tasks VALUES ({_SETTERS})", row)
    db.executemany(_UNINDEX, stale)
    db.executemany(_INDEX, fresh)


def _put_in_place(db: sqlite3.Connection, row: Row) -> None:
    """Give a row its place in the list: its own as long as the moment stands that it follows from."""
    created = row["created_at"] if row["created_at"] is not None else row["heard_at"]
    first = place(created)
    if row["id"] is not None and row["id"] >> PLACES == first >> PLACES:
        return
    sql = "SELECT max(id) FROM tasks WHERE id BETWEEN ? AND ?"
    while True:
        last = first + (1 << PLACES) - 1
        (taken,) = db.execute(sql, (first, last)).fetchone()
        if taken != last:
            row["id"] = first if taken is None else taken + 1
            return
        first = last + 1


# ---------------------------------------------------------------------- workers and refused messages


def _write_refused(db: sqlite3.Connection, event: Event) -> None:
    if event.kind == "dead_lettered":
        told = (text(event.id), event.at.timestamp(), text(event.data.get("reason")), event.agent)
        db.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?)", told)


_WORKER_STATES = {"worker_up": "up", "worker_heartbeat": "up", "worker_draining": "draining", "worker_down": "down"}
_WORKER = """INSERT INTO workers VALUES (
  :worker, :agent, :host, :pid, :version, :parallel, :store, :heartbeat_seconds, :lease_seconds, :boot, :started,
  :up_at, :at, :running, :state, :reason)
ON CONFLICT (worker) DO UPDATE SET
  agent = coalesce(excluded.agent, agent), host = coalesce(excluded.host, host), pid = coalesce(excluded.pid, pid),
  version = coalesce(excluded.version, version), parallel = coalesce(excluded.parallel, parallel),
  store = coalesce(excluded.store, store),
  heartbeat_seconds = coalesce(excluded.heartbeat_seconds, heartbeat_seconds),
  lease_seconds = coalesce(excluded.lease_seconds, lease_seconds),
  boot = coalesce(excluded.boot, boot), started = coalesce(excluded.started, started),
  up_at = nullif(max(coalesce(up_at, -1e18), coalesce(excluded.up_at, -1e18)), -1e18),
  running = iif(excluded.heard_at >= heard_at, coalesce(excluded.running, running), running),
  state = iif(excluded.heard_at >= heard_at, excluded.state, state),
  reason = iif(excluded.heard_at >= heard_at, excluded.reason, reason),
  heard_at = max(heard_at, excluded.heard_at)"""


def _write_worker(db: sqlite3.Connection, event: Event) -> None:
    """What a worker says of itself: what it said last, by its own clock, holds."""
    data, at = event.data, event.at.timestamp()
    state = _WORKER_STATES.get(event.kind)
    if state is None or not event.worker:
        return
    running = data.get("running") if state != "down" else []
    known = event.kind == "worker_heartbeat" or state == "down"
    row = {
        "worker": text(event.worker),
        "agent": event.agent,
        "host": text(event.host),
        "pid": number(data.get("pid")),
        "version": text(data.get("version")),
        "parallel": number(data.get("parallel")),
        "store": text(data.get("store")),
        "heartbeat_seconds": real(data.get("heartbeat_seconds")),
        "lease_seconds": real(data.get("lease_seconds")),
        "boot": text(data.get("boot")),
        "started": text(data.get("started")),
        "up_at": at if event.kind == "worker_up" else None,
        "at": at,
        "running": json.dumps(running if isinstance(running, list) else []) if known else None,
        "state": "draining" if state == "up" and data.get("draining") else state,
        "reason": text(data.get("reason")),
    }
    db.execute(_WORKER, row)


def _write_beats(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Keep when the newest heartbeats were sent, by their hosts' clocks, in the order in which the log has them."""
    told = [
        (text(event.id), text(event.host), event.at.timestamp())
        for event in events
        if event.kind == "worker_heartbeat" and event.host
    ]
    if told:
        db.executemany("INSERT OR IGNORE INTO beats (id, host, at) VALUES (?, ?, ?)", told)
        db.execute("DELETE FROM beats WHERE n <= (SELECT max(n) FROM beats) - ?", (BEATS,))
