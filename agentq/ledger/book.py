"""The ledger as its readers see it."""

import contextlib
import heapq
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agentq.engine import Log, Page
from agentq.errors import NotFound
from agentq.events import Event
from agentq.ledger.file import (
    Opened,
    Shelf,
    connect,
    in_our_words,
    keep_wal_short,
    make,
    open_ledger,
    remove,
    renew,
    transaction,
)
from agentq.ledger.finding import IS_SILENT, ROW, bounds, queries
from agentq.ledger.rows import Filter, TaskRow, WorkerRow
from agentq.ledger.writing import event_of, write


class Ledger:
    """The rows that the log told, in one SQLite file; several processes may use it at once.

    `renewed` says why it had to be made anew, None when it had not. Every method raises Unavailable when the file
    cannot be used.
    """

    def __init__(self, opened: Opened) -> None:
        self._db, self.path, self.renewed = opened

    @classmethod
    def on(cls, shelf: Shelf) -> "Ledger":
        """The ledger on a shelf, made if need be; raises Unavailable."""
        return cls(open_ledger(shelf))

    @classmethod
    def anew(cls, shelf: Shelf, why: str) -> "Ledger":
        """An empty one instead of the one on a shelf, and why; raises Unavailable."""
        with in_our_words(shelf.folder):
            return cls(renew(shelf, why))

    @classmethod
    def draft(cls, shelf: Shelf) -> "Ledger":
        """An empty one that takes the place of the one on a shelf when it is installed there."""
        path = shelf.draft()
        with in_our_words(path):
            make(path)
            return cls(Opened(connect(path), path, None))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def discard(self) -> None:
        """Close it and remove its file."""
        self.close()
        remove(self.path)

    # ------------------------------------------------------------------ writing

    def apply(self, page: Page, log: Log = "events") -> None:
        """Bring in a page: its events and the log's position, all of it or nothing. May be repeated, in any order."""
        with in_our_words(self.path):
            with transaction(self._db):
                write(self._db, page.events)
                self._note(page, log)
            keep_wal_short(self._db, self.path)

    def tell(self, events: Sequence[Event]) -> None:
        """Bring in events that were not read from the log, such as those that the papers tell."""
        with in_our_words(self.path):
            with transaction(self._db):
                write(self._db, events)
            keep_wal_short(self._db, self.path)

    def _note(self, page: Page, log: Log) -> None:
        as_of = time.time() if page.caught_up else 0.0
        self._db.execute(
            "INSERT INTO positions VALUES (?, ?, ?, ?) ON CONFLICT (log) DO UPDATE SET position = excluded.position,"
            " as_of = max(as_of, excluded.as_of), gap = max(gap, excluded.gap)",
            (log, page.position, as_of, page.gap),
        )

    def forget_gap(self) -> None:
        """Take what was missing for filled in."""
        with in_our_words(self.path):
            self._db.execute("UPDATE positions SET gap = 0")

    # ------------------------------------------------------------------ where it stands

    @property
    def position(self) -> str | None:
        """Up to where the log was read, None before anything was."""
        return self.position_in("events")

    def position_in(self, log: Log) -> str | None:
        """The same of either log."""
        found = self.query("SELECT position FROM positions WHERE log = ?", (log,))
        return found[0]["position"] if found else None

    @property
    def as_of(self) -> datetime | None:
        """When it last had caught up with the log, None when it never had."""
        found = self.query("SELECT as_of FROM positions WHERE log = 'events' AND as_of > 0")
        return datetime.fromtimestamp(found[0]["as_of"], UTC) if found else None

    @property
    def has_gap(self) -> bool:
        """Whether a part of the log was gone before it was read."""
        return bool(self.query("SELECT 1 FROM positions WHERE gap"))

    def is_complete(self, task_id: str) -> bool:
        """Whether it knows how a task began and how it ended."""
        sql = "SELECT 1 FROM tasks WHERE task_id = ? AND sender IS NOT NULL AND outcome IS NOT NULL"
        return bool(self.query(sql, (task_id,)))

    @property
    def bytes(self) -> int:
        """How large its files are."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.name}*"))

    def counts(self) -> dict[str, int]:
        """How many tasks, events and workers it holds."""
        tables = {"tasks": "tasks WHERE state IS NOT NULL", "events": "events", "workers": "workers"}
        return {name: self.query(f"SELECT count(*) AS n FROM {table}")[0]["n"] for name, table in tables.items()}

    # ------------------------------------------------------------------ reading

    def tasks(self, asked: Filter, limit: int = 20, before: str | None = None) -> list[TaskRow]:
        """The newest tasks that a filter means, below the task `before` if given; raises NotFound for an unknown."""
        within = bounds(asked)
        if before is not None:
            within["before"] = min(within["before"], self._place(before))
        found = [self._rows(query.sql, query.arguments | within | {"limit": limit}) for query in queries(asked)]
        return list(heapq.merge(*found, key=lambda row: -row.place))[:limit]

    def task(self, task_id: str) -> TaskRow | None:
        """One task, None when the log told nothing of it."""
        found = self._rows(f"{ROW} tasks t WHERE t.task_id = :task_id AND t.state IS NOT NULL", {"task_id": task_id})
        return found[0] if found else None

    def members(self, task_id: str, limit: int) -> list[TaskRow]:
        """The tasks of a plan, in its order."""
        sql = f"{ROW} tasks t WHERE t.grp = :task_id AND t.state IS NOT NULL ORDER BY t.id LIMIT :limit"
        return self._rows(sql, {"task_id": task_id, "limit": limit})

    def retries(self, task_id: str, limit: int) -> list[TaskRow]:
        """The tasks that repeat a task, oldest first."""
        sql = f"{ROW} tasks t WHERE t.retry_of = :task_id AND t.state IS NOT NULL ORDER BY t.id LIMIT :limit"
        return self._rows(sql, {"task_id": task_id, "limit": limit})

    def events(self, task_id: str) -> list[Event]:
        """What was told of a task, by the tellers' clocks; without output and progress."""
        found = self.query("SELECT * FROM events WHERE task_id = ? ORDER BY at", (task_id,))
        return [event_of(row) for row in found]

    def workers(self) -> list[WorkerRow]:
        """All workers that were ever heard of, those heard of last first."""
        sql = f"SELECT *, {IS_SILENT} AS silent FROM workers ORDER BY heard_at DESC"
        return [WorkerRow.of(row) for row in self.query(sql, {"now": time.time()})]

    def beats(self) -> list[sqlite3.Row]:
        """The newest heartbeats in the order in which the log has them: `host`, and `at` by that host's clock."""
        return self.query("SELECT host, at FROM beats ORDER BY n")

    def query(self, sql: str, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """The rows of a statement that only reads."""
        with in_our_words(self.path):
            return self._db.execute(sql, arguments).fetchall()

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """Whatever is read meanwhile is read as of one moment."""
        with in_our_words(self.path):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    def _rows(self, sql: str, arguments: dict[str, Any]) -> list[TaskRow]:
        return [TaskRow.of(row) for row in self.query(sql, arguments | {"now": time.time()})]

    def _place(self, task_id: str) -> int:
        found = self.query("SELECT id FROM tasks WHERE task_id = ?", (task_id,))
        if not found:
            raise NotFound(f"the ledger knows no task {task_id}", hint="Go on below a task that is in the list.")
        return int(found[0]["id"])
