"""The log in a SQLite database: a table for each of the two, cut at its beginning as it grows."""

import contextlib
import functools
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from agentq.engine import Log, Page
from agentq.engines.log import PAGE, Retention, log_of, readable, written
from agentq.engines.sqlite_file import transaction, unsynced
from agentq.engines.sqlite_watch import Watch
from agentq.events import Event

LOOK_SECONDS = 0.5
"""How soon a reader that waits notices that the file was replaced."""
CUT_EVERY = 64
"""One append in so many rows looks whether there is something to cut."""
CUT_AT_ONCE = 1000
DAY = 24 * 3600

T = TypeVar("T")


class Run(Protocol):
    """Runs a job on the database in a thread of its own."""

    def __call__(self, job: Callable[[sqlite3.Connection], T], /) -> Awaitable[T]: ...


class SQLiteLog:
    """Both logs of one database."""

    def __init__(self, run: Run, watch: Watch, retention: Retention) -> None:
        self._run = run
        self._watch = watch
        self._retention = retention

    async def append(self, events: Sequence[Event]) -> None:
        """Add events in one transaction. It outlives this process, but is not waited for until it is on the disk."""
        entries = [(log_of(event), event.task_id, body) for event, body in written(events)]
        if entries:
            await self._run(functools.partial(_append, entries, self._retention))

    async def read(
        self, log: Log, after: str | None, since: datetime | None, tasks: Collection[str], *, follow: bool
    ) -> AsyncGenerator[Page, None]:
        """Read a log; see the port."""
        wanted = Wanted(log, since, tuple(tasks))
        position, end, caught_up = after, -1, False
        while True:
            seen = self._watch.look()
            found = await self._run(functools.partial(wanted.look, position))
            end = found.last if end < 0 or found.gap else end
            was, caught_up = caught_up, caught_up or found.row >= end
            if found.position != position or caught_up != was:
                yield Page(found.events, found.position, caught_up, found.gap)
            position = found.position
            if caught_up and not follow:
                return
            if found.row >= found.last:
                await self._change(seen)

    async def _change(self, seen: int) -> None:
        while self._watch.look() == seen:
            await self._watch.changed(seen, LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Found:
    """What one look found: the events up to a row of the log of that name, whose last row is `last`."""

    events: tuple[Event, ...]
    name: str
    row: int
    last: int
    gap: bool

    @property
    def position(self) -> str:
        """Where the next look goes on."""
        return f"{self.name}:{self.row}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants to see of which log."""

    log: Log
    since: datetime | None
    tasks: tuple[str, ...]

    def look(self, after: str | None, db: sqlite3.Connection) -> Found:
        """The next events behind a position, as they are in one moment."""
        with _snapshot(db):
            name, first, last = _extent(db, self.log)
            start, gap = self._start(after, name, first, last, db)
            rows = db.execute(self._sql(), (start, *self.tasks)).fetchall()
        events = tuple(event for _, body in rows if (event := readable(body)))
        return Found(events, name, rows[-1][0] if len(rows) == PAGE else last, last, gap)

    def _start(self, after: str | None, name: str, first: int, last: int, db: sqlite3.Connection) -> tuple[int, bool]:
        """The row behind which to begin, and whether something before that is missing."""
        if not after:
            return (_row_before(db, self.log, self.since, first, last) if self.since else first - 1), False
        named, _, number = after.partition(":")
        row = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1
        is_there = named == name and first - 1 <= row <= last
        return (row, False) if is_there else (first - 1, True)

    def _sql(self) -> str:
        among = f"AND task_id IN ({', '.join('?' * len(self.tasks))})" if self.tasks else ""
        return f"SELECT row, body FROM {self.log} WHERE row > ? {among} ORDER BY row LIMIT {PAGE}"


def _append(entries: Sequence[tuple[Log, str | None, bytes]], retention: Retention, db: sqlite3.Connection) -> None:
    now = time.time()
    with unsynced(db), transaction(db):
        for log in dict.fromkeys(log for log, _, _ in entries):
            rows = [(now, task_id, body) for of, task_id, body in entries if of == log]
            last = _insert(db, log, rows)
            if last // CUT_EVERY > (last - len(rows)) // CUT_EVERY:
                _cut(db, log, *retention.of(log), CUT_AT_ONCE + len(rows))


def _insert(db: sqlite3.Connection, log: Log, rows: Sequence[tuple[Any, ...]]) -> int:
    """The last row."""
    db.executemany(f"INSERT INTO {log} (at, task_id, body) VALUES (?, ?, ?)", rows)
    size = sum(len(body) for *_, body in rows)
    db.execute("UPDATE logs SET bytes = bytes + ? WHERE log = ?", (size, log))
    return int(db.execute(f"SELECT max(row) FROM {log}").fetchone()[0])


def _cut(db: sqlite3.Connection, log: Log, days: int, most: int, at_once: int) -> None:
    """Take away from the beginning what is too old or too much; no more rows than are said."""
    (size,) = db.execute("SELECT bytes FROM logs WHERE log = ?", (log,)).fetchone()
    too_old, last, freed = time.time() - days * DAY, 0, 0
    for row, at, length in db.execute(f"SELECT row, at, length(body) FROM {log} ORDER BY row LIMIT {at_once}"):
        if at >= too_old and size - freed <= most:
            break
        last, freed = row, freed + length
    if last:
        db.execute(f"DELETE FROM {log} WHERE row <= ?", (last,))
        db.execute("UPDATE logs SET bytes = bytes - ? WHERE log = ?", (freed, log))


def _extent(db: sqlite3.Connection, log: Log) -> tuple[str, int, int]:
    """The name of the log, its first row, and its last; of an empty one the first is the one that comes next."""
    (name,) = db.execute("SELECT name FROM logs WHERE log = ?", (log,)).fetchone()
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (log,)).fetchone()
    (first,) = db.execute(f"SELECT min(row) FROM {log}").fetchone()
    end = int(last[0]) if last else 0
    return name, end + 1 if first is None else first, end


def _row_before(db: sqlite3.Connection, log: Log, since: datetime, first: int, last: int) -> int:
    """The row before the first that was appended since then; found by halves, for rows are in the order of time."""
    moment, low, high = since.timestamp(), first - 1, last
    while low < high:
        middle = (low + high + 1) // 2
        found = db.execute(f"SELECT at FROM {log} WHERE row >= ? ORDER BY row LIMIT 1", (middle,)).fetchone()
        low, high = (middle, high) if found and found[0] < moment else (low, middle - 1)
    return low


@contextlib.contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    with db:
        yield
