"""A read model of both logs in which every event has one place: where it first stood in its log."""

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from agentq.engine import Log, Page
from agentq.engines.log import Retention
from agentq.errors import NotFound, Unavailable
from agentq.events import Event
from agentq.gateway.chronicle_file import SLOTS, Taken, connect, hold, in_our_words, make, open_writer
from agentq.gateway.entries import UNKEPT, Entry, Owner, OwnerOf, asked, text
from agentq.gateway.topics import IN_THREADS, Topic
from agentq.sqlite_errors import HINT

DAY = 24 * 3600
CUT_AT_ONCE = 1000
STEPS = 200
"""So many steps of a task's progress are told, at most."""
IDLE = 4
"""How many connections are kept for readers."""
_COLUMNS = "place, id, kind, task_id, agent, thread, body"
_KINDS = ", ".join(f"'{kind}'" for kind in sorted(IN_THREADS))
_WHERE = {
    "events": "",
    "agent": "AND agent = :name AND task_id IS NOT NULL",
    "task": "AND task_id = :name",
    "thread": f"AND thread = :name AND kind IN ({_KINDS})",
}


class Forgotten(NotFound):
    """What stood behind that place is not kept any more."""


def nobody(task_id: str) -> Owner | None:
    """Know of no task."""


class Chronicle:
    """The entries of both logs, in one file that this process alone uses; every method may be called from any thread.

    An event of a task is its agent's and its thread's, as the task's papers tell or, where there are none or nobody can
    read them, its `submitted`: so it is the same in every chronicle. What is older than a log keeps it, or too much,
    goes. Every method raises Unavailable when the file cannot be used, Damaged when it must be made anew (`renew`).
    """

    def __init__(self, path: Path, keep: Retention = Retention(), owner_of: OwnerOf = nobody) -> None:
        self.path = path
        self._keep, self._owner_of = keep, owner_of
        self._writing = threading.Lock()
        self._idle: deque[sqlite3.Connection] = deque()
        self._files = 0  # how many were opened, and let go of again
        with in_our_words(path):
            self._lock = hold(path)
            try:
                self._db = open_writer(path)
            except BaseException:
                os.close(self._lock)
                raise

    @classmethod
    def on(cls, folder: Path, name: str, keep: Retention = Retention(), owner_of: OwnerOf = nobody) -> Self:
        """The first one of that name in a folder that no gateway has: one that ended, or was killed, left its own."""
        for number in range(1, SLOTS + 1):
            path = folder / f"{name}.{number}.db"
            with contextlib.suppress(Taken):
                return cls(path, keep, owner_of)
        raise Unavailable(f"{SLOTS} gateways have their chronicles in {folder}", hint=HINT)

    def close(self) -> None:
        """Let go of the file."""
        with self._writing:
            self._let_go()
            os.close(self._lock)

    def renew(self) -> None:
        """Make the file anew: empty, with places that begin again."""
        with self._writing, in_our_words(self.path):
            self._let_go()
            make(self.path)
            self._db = connect(self.path)

    # ------------------------------------------------------------------ writing

    def take(self, log: Log, page: Page) -> list[Entry]:
        """Bring in a page of a log, all of it or nothing, and answer with what is new, at its places.

        Pages come in the log's order; what came before is passed over. With a gap all that is held of the log is gone
        from it: it is forgotten here too. Raises Unavailable, nothing being brought in, also when nothing that can be
        read tells whose a task is.
        """
        with self._writing, in_our_words(self.path):
            events = [event for event in page.events if event.kind not in UNKEPT]
            owners = self._owners(events)
            with self._transaction() as db:
                if page.gap:
                    self._forget(db, log)
                known = [(task_id, *owner) for task_id, owner in owners.items() if owner.agent]
                db.executemany("INSERT OR IGNORE INTO tasks VALUES (?, ?, ?)", known)
                now = time.time()
                found = (_bring(db, log, event, owners.get(event.task_id or ""), now) for event in events)
                new = [entry for entry in found if entry]
                self._note(db, log, page.position, new)
                self._cut(db, log, now)
            return new

    def _owners(self, events: Iterable[Event]) -> dict[str, Owner]:
        """Whose the tasks are that events are of."""
        owners: dict[str, Owner] = {}
        events = [event for event in events if event.task_id]
        told = {event.task_id: asked(event) for event in events if event.kind == "submitted"}
        for task_id in dict.fromkeys(event.task_id or "" for event in events):
            owners[task_id] = self._known(task_id) or self._found(task_id, told.get(task_id)) or Owner()
        return owners

    def _found(self, task_id: str, told: Owner | None) -> Owner | None:
        """Whose a task is: not everybody who puts events into a log is a gateway's client, and tells the truth."""
        try:
            return self._owner_of(task_id) or told
        except Unavailable:
            if told is None:
                raise
            return told

    def _known(self, task_id: str) -> Owner | None:
        row = self._db.execute("SELECT agent, thread FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return row and Owner(*row)

    def _note(self, db: sqlite3.Connection, log: Log, position: str, new: list[Entry]) -> None:
        db.execute(
            "UPDATE logs SET position = coalesce(nullif(?, ''), position), bytes = bytes + ? WHERE log = ?",
            (position, sum(len(entry.body) for entry in new), log),
        )

    def _forget(self, db: sqlite3.Connection, log: Log) -> None:
        last = db.execute(f"SELECT max(place) FROM {log}").fetchone()[0]
        db.execute(f"DELETE FROM {log}")
        db.execute("UPDATE logs SET floor = coalesce(?, floor), bytes = 0 WHERE log = ?", (last, log))
        db.execute("DELETE FROM tasks")

    def _cut(self, db: sqlite3.Connection, log: Log, now: float) -> None:
        """Remove what is older than it is kept, or too much; the newest stays."""
        days, limit = self._keep.of(log)
        held = db.execute("SELECT bytes FROM logs WHERE log = ?", (log,)).fetchone()[0]
        first = db.execute(f"SELECT taken FROM {log} ORDER BY place LIMIT 1").fetchone()
        if first is None or (held <= limit and first["taken"] >= now - days * DAY):
            return
        rows = db.execute(
            f"SELECT place, task_id, taken, length(body) AS size FROM {log}"
            f" WHERE place < (SELECT max(place) FROM {log}) ORDER BY place LIMIT {CUT_AT_ONCE}"
        ).fetchall()
        gone = list(_too_many(rows, held - limit, now - days * DAY))
        if gone:
            size, floor = sum(row["size"] for row in gone), gone[-1]["place"]
            db.execute(f"DELETE FROM {log} WHERE place <= ?", (floor,))
            db.execute("UPDATE logs SET floor = ?, bytes = bytes - ? WHERE log = ?", (floor, size, log))
            tasks = {row["task_id"] for row in gone if row["task_id"]}
            db.executemany(_FORGET_TASK, [(task_id,) for task_id in tasks])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield self._db

    # ------------------------------------------------------------------ reading

    def position(self, log: Log) -> str | None:
        """Up to where a log was read, None before anything was."""
        with self._reading() as db:
            found: str | None = db.execute("SELECT position FROM logs WHERE log = ?", (log,)).fetchone()[0]
            return found

    def floor(self, log: Log) -> int:
        """The last place that is not kept any more, 0 when all is."""
        with self._reading() as db:
            return _floor(db, log)

    def place_of(self, log: Log, event_id: str) -> int | None:
        """The place of an event, None for one that is not kept, or did not come yet."""
        with self._reading() as db:
            row = db.execute(f"SELECT place FROM {log} WHERE id = ?", (event_id,)).fetchone()
            return row and int(row["place"])

    def last(self, log: Log) -> Entry | None:
        """The newest entry of a log."""
        with self._reading() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM {log} ORDER BY place DESC LIMIT 1").fetchone()
            return row and Entry(log, *row)

    def after(self, topic: Topic, log: Log, place: int, limit: int, upto: int = 2**62) -> list[Entry]:
        """The first entries of a topic behind a place, at most up to another.

        Raises Forgotten when not all that stood there is kept.
        """
        sql = f"SELECT {_COLUMNS} FROM {log} WHERE place > :place AND place <= :upto {_WHERE[topic.of]}"
        given: dict[str, Any] = {"place": place, "upto": upto, "name": topic.name, "limit": limit}
        with self._reading() as db, _snapshot(db):
            if place < _floor(db, log):
                raise Forgotten(f"a part of {topic} is not kept any more", hint="Read anew what you need to know.")
            return [Entry(log, *row) for row in db.execute(f"{sql} ORDER BY place LIMIT :limit", given)]

    def texts(self, of: str, kind: str) -> list[Event]:
        """What a task's agent printed (`output`) or answered (`reply`), or a message's author wrote that is no task's:
        all that is kept, as it came."""
        sql = (
            "SELECT place, body FROM output WHERE task_id = :of AND kind = :kind UNION ALL"
            " SELECT place, body FROM output WHERE message = :of AND kind = :kind ORDER BY place"
        )
        with self._reading() as db:
            return [Event.model_validate_json(row["body"]) for row in db.execute(sql, {"of": of, "kind": kind})]

    def progress(self, task_id: str) -> list[Event]:
        """What a task's attempts said that they do, as it came: the newest that are kept."""
        sql = "SELECT body FROM events WHERE task_id = ? AND kind = 'progress' ORDER BY place DESC LIMIT ?"
        with self._reading() as db:
            rows = db.execute(sql, (task_id, STEPS)).fetchall()
        return [Event.model_validate_json(row["body"]) for row in reversed(rows)]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with in_our_words(self.path):
            of = self._files
            try:
                db = self._idle.pop()
            except IndexError:
                db = connect(self.path, to="ro")
            try:
                yield db
            finally:
                if of == self._files and len(self._idle) < IDLE:
                    self._idle.append(db)
                else:
                    db.close()

    def _let_go(self) -> None:
        self._files += 1
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
        self._db.close()


_FORGET_TASK = """DELETE FROM tasks WHERE task_id = :1
  AND NOT EXISTS (SELECT 1 FROM events WHERE task_id = :1) AND NOT EXISTS (SELECT 1 FROM output WHERE task_id = :1)"""


def _bring(db: sqlite3.Connection, log: Log, event: Event, owner: Owner | None, now: float) -> Entry | None:
    """The event's entry, None when it came before."""
    if owner is None:
        owner = Owner(None, text(event.data.get("thread")))
    agent = owner.agent or event.agent if event.task_id else None
    message = None if event.task_id else text(event.data.get("message"))
    body = event.to_json().decode()
    shown = (event.id, event.kind, event.task_id, agent, owner.thread)
    done = db.execute(
        f"INSERT INTO {log} (id, kind, task_id, agent, thread, message, taken, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING RETURNING place",
        (*shown, message, now, body),
    ).fetchone()
    return done and Entry(log, done["place"], *shown, body)


def _too_many(rows: Iterable[sqlite3.Row], bytes: int, before: float) -> Iterator[sqlite3.Row]:
    """The first rows, as long as they are older than that, or so much is to go."""
    for row in rows:
        if bytes <= 0 and row["taken"] >= before:
            return
        bytes -= row["size"]
        yield row


def _floor(db: sqlite3.Connection, log: Log) -> int:
    return int(db.execute("SELECT floor FROM logs WHERE log = ?", (log,)).fetchone()[0])


@contextlib.contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Whatever is read meanwhile is read as of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
