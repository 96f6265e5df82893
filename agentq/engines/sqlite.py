"""The SQLite engine: the queues are one WAL database, shared by the processes of one machine."""

import asyncio
import functools
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from agentq.engine import DeadLetter, Declared, Guard, Health, Log, Page
from agentq.engines.log import Retention
from agentq.engines.sqlite_file import DatabaseFile, open_to_write, transaction, unsynced
from agentq.engines.sqlite_holders import Holder, listeners, listening, release
from agentq.engines.sqlite_log import SQLiteLog
from agentq.engines.sqlite_watch import Watch
from agentq.errors import EngineUnavailable
from agentq.events import Event
from agentq.messages import PRIORITIES, Completion, Envelope

__all__ = ["Retention", "SQLiteDelivery", "SQLiteEngine"]

LOOK_SECONDS = 0.5
RESULTS_KEPT = 10_000

_GUARD_PRIORITY = len(PRIORITIES)
_ONE_MACHINE = "for one machine: processes on other hosts cannot share this queue"

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


@dataclass(slots=True)
class SQLiteDelivery:
    """A message that this engine holds until it is acknowledged or the engine is closed."""

    body: bytes
    guard: Guard | None
    published_at: datetime | None
    was_delayed: bool
    _id: int
    _holder: str
    _engine: "SQLiteEngine"

    async def ack(self) -> None:
        """Delete the message; nothing happens when the engine is closed or holds it no longer."""
        await self._engine._ack(self._id, self._holder)

    async def dead_letter(self, reason: str) -> None:
        """Move the message, as it is, to the dead letters; nothing happens when it is held no longer."""
        await self._engine._bury(self._id, self._holder, reason)


class SQLiteEngine:
    """An engine in the file at `path`, which is made when it is first used."""

    def __init__(self, path: Path, retention: Retention = Retention()) -> None:
        self._path = path.absolute()
        self.url = f"sqlite://{self._path}"
        self._file = DatabaseFile(self._path, open_to_write)
        self._holder = Holder(self._path)
        self._watch = Watch(self._path)
        self.retention = retention
        self._log = SQLiteLog(self._run, self._watch, retention)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentq-sqlite")
        self._unwanted: list[Future[tuple[SQLiteDelivery | None, float]]] = []
        self._next_look = 0.0
        self._closed = False

    async def declare(self, agents: Sequence[str], coordinators: Sequence[str]) -> Declared:
        """Make the database when there is none; its queues need no declaring."""
        found = (str(self._path),) if self._path.exists() else ()
        await self._run(_check_writable)
        return Declared(() if found else (str(self._path),), found, (_ONE_MACHINE,))

    async def ready(self, agent: str) -> None:
        """Raise EngineUnavailable unless the database can be written to; any agent's queue exists."""
        await self._run(_check_writable)

    async def publish(self, envelope: Envelope, *, delay: float = 0.0, guard: Guard | None = None) -> None:
        """Add a message, not to be delivered before `delay` seconds; it is on the disk when this returns."""
        await self._run(functools.partial(_insert, envelope, delay, guard))
        self._watch.ring()

    async def receive(self, agent: str) -> SQLiteDelivery:
        """Wait for the agent's next message and hold it; cancelling gives back what was just taken."""
        with listening(self._path, agent) as be_seen:
            while True:
                seen = self._watch.look()
                delivery, seconds = await self._take(agent)
                if delivery is not None:
                    return delivery
                be_seen()
                await self._watch.changed(seen, seconds)

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        """Add a copy of the envelope to the dead letters."""
        row = (envelope.to, reason, time.time(), envelope.task_id, envelope.to_json())
        await self._run(functools.partial(_change, _INSERT_DEAD_LETTER, row))

    async def notify(self, completion: Completion, reply_to: str) -> None:
        """Add the completion to the results, of which the newest 10,000 of each coordinator are kept."""
        coordinator = reply_to.removeprefix("results.")
        await self._run(functools.partial(_add_result, completion.to_json(), coordinator))

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first; looking changes nothing."""
        rows = await self._run(lambda db: db.execute(_DEAD_LETTERS).fetchall())
        return [_as_dead_letter(row) for row in rows]

    async def remove_dead_letters(self, ids: Collection[str]) -> int:
        """Remove those dead letters; answers how many were there."""
        return await self._run(functools.partial(_remove_dead_letters, set(ids)))

    async def depth(self, agent: str) -> int:
        """How many messages wait for the agent, without those delayed or held."""
        return await self._run(lambda db: int(db.execute(_DEPTH, (agent, agent, time.time())).fetchone()[0]))

    async def listeners(self, agent: str) -> int:
        """How many receivers wait for the agent's messages; a message that is held does not count here."""
        return await self._run(lambda _: listeners(self._path, agent))

    async def append(self, events: Sequence[Event]) -> None:
        """Add events to their logs, in this order, all or none; what a power cut takes can be told again."""
        await self._log.append(events)

    def read(
        self,
        log: Log = "events",
        *,
        after: str | None = None,
        since: datetime | None = None,
        tasks: Collection[str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Read a log; a position is the name of this log, which is random, and a row."""
        return self._log.read(log, after, since, tasks, follow=follow)

    async def count_dead_letters(self) -> int:
        """How many dead letters there are."""
        return await self._run(lambda db: int(db.execute("SELECT count(*) FROM dead_letters").fetchone()[0]))

    async def health(self, agents: Sequence[str]) -> Health:
        """The version of SQLite; raises EngineUnavailable when the database cannot be written to."""
        await self._run(_check_writable)
        return Health("sqlite", sqlite3.sqlite_version, notes=(_ONE_MACHINE,))

    async def close(self) -> None:
        """Give back what is held and let go of the files; calls that wait end with EngineUnavailable."""
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        letting_go = self._thread.submit(self._let_go)
        self._thread.shutdown(wait=False)
        await asyncio.wrap_future(letting_go)

    async def _ack(self, message: int, holder: str) -> None:
        if not self._closed:
            sql = "DELETE FROM messages WHERE id = ? AND holder = ?"
            await self._run(functools.partial(_change, sql, (message, holder)))

    async def _bury(self, message: int, holder: str, reason: str) -> None:
        await self._run(functools.partial(_move_to_dead_letters, message, holder, reason))

    async def _run(self, job: Job[T]) -> T:
        return await asyncio.wrap_future(self._submit(job))

    def _submit(self, job: Job[T]) -> Future[T]:
        if self._closed:
            raise EngineUnavailable(f"the engine {self.url} is closed")
        return self._thread.submit(self._file.run, job)

    async def _take(self, agent: str) -> tuple[SQLiteDelivery | None, float]:
        taking = self._submit(functools.partial(self._take_now, agent))
        try:
            return await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            self._unwanted.append(taking)
            if not self._closed:
                self._submit(self._give_back)
            raise

    def _take_now(self, agent: str, db: sqlite3.Connection) -> tuple[SQLiteDelivery | None, float]:
        """The next message, or none and the seconds after which to look again."""
        self._give_back(db)
        self._look_for_dead_holders(db)
        seconds = _seconds_until_ready(db, agent)
        if seconds > 0:
            return None, min(seconds, LOOK_SECONDS)
        holder = self._holder.token()
        row = _hold_next(db, agent, holder)
        return (None if row is None else self._as_delivery(row, holder)), 0.0

    def _as_delivery(self, row: tuple[Any, ...], holder: str) -> SQLiteDelivery:
        message, body, published_at, was_delayed, attempt, counter, guard_id = row
        guard = None if guard_id is None else Guard(attempt, counter, guard_id)
        at, delayed = _as_time(published_at), bool(was_delayed)
        return SQLiteDelivery(_as_bytes(body), guard, at, delayed, message, holder, self)

    def _give_back(self, db: sqlite3.Connection) -> None:
        """Release what was taken for callers that had gone; kept for the next try when that fails."""
        # One that still runs is the very job that called this; its own turn to be given back comes next.
        while self._unwanted and self._unwanted[0].done():
            taking = self._unwanted[0]
            if not taking.cancelled() and taking.exception() is None and (delivery := taking.result()[0]):
                release(db, delivery._holder, delivery._id)
            self._unwanted.pop(0)

    def _look_for_dead_holders(self, db: sqlite3.Connection) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._holder.reclaim(db)

    def _let_go(self) -> None:
        try:
            self._holder.close(self._file)
        finally:
            self._file.close()


_INSERT = """
INSERT INTO messages
(agent, priority, due, was_delayed, published_at, task_id, guard_attempt, guard_counter, guard_id, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_READY = """
SELECT EXISTS (SELECT 1 FROM messages WHERE agent = ? AND holder IS NULL AND due IS NULL),
       (SELECT min(due) FROM messages WHERE agent = ? AND due IS NOT NULL)"""
_NEXT = """
SELECT id, body, published_at, was_delayed, guard_attempt, guard_counter, guard_id FROM messages
WHERE agent = ? AND holder IS NULL AND due IS NULL ORDER BY priority DESC, id LIMIT 1"""
_DEPTH = """
SELECT (SELECT count(*) FROM messages WHERE agent = ? AND holder IS NULL AND due IS NULL)
     + (SELECT count(*) FROM messages WHERE agent = ? AND due <= ?)"""
_INSERT_DEAD_LETTER = "INSERT INTO dead_letters (agent, reason, at, task_id, body) VALUES (?, ?, ?, ?, ?)"
_DEAD_LETTERS = "SELECT id, agent, reason, at, task_id, body FROM dead_letters ORDER BY id"
_BURY = """
INSERT INTO dead_letters (agent, reason, at, task_id, body)
SELECT agent, ?, ?, task_id, body FROM messages WHERE id = ? AND holder = ?"""
_FORGET_RESULTS = """
DELETE FROM results WHERE coordinator = :of
AND id <= (SELECT id FROM results WHERE coordinator = :of ORDER BY id DESC LIMIT 1 OFFSET :kept)"""


def _change(sql: str, values: tuple[Any, ...], db: sqlite3.Connection) -> int:
    """How many rows it changed."""
    return db.execute(sql, values).rowcount


def _insert(envelope: Envelope, delay: float, guard: Guard | None, db: sqlite3.Connection) -> None:
    now = time.time()
    priority = PRIORITIES.index(envelope.priority) if guard is None else _GUARD_PRIORITY
    of_guard = (None, None, None) if guard is None else (guard.attempt, guard.counter, guard.id)
    due = now + delay if delay > 0 else None
    times = (due, delay > 0, now)
    db.execute(_INSERT, (envelope.to, priority, *times, envelope.task_id, *of_guard, envelope.to_json()))


def _seconds_until_ready(db: sqlite3.Connection, agent: str) -> float:
    ready, due = db.execute(_READY, (agent, agent)).fetchone()
    if ready:
        return 0.0
    return LOOK_SECONDS if due is None else max(0.0, due - time.time())


def _hold_next(db: sqlite3.Connection, agent: str, holder: str) -> tuple[Any, ...] | None:
    with unsynced(db), transaction(db):
        db.execute("UPDATE messages SET due = NULL WHERE agent = ? AND due <= ?", (agent, time.time()))
        row: tuple[Any, ...] | None = db.execute(_NEXT, (agent,)).fetchone()
        if row is not None:
            db.execute("UPDATE messages SET holder = ? WHERE id = ?", (holder, row[0]))
    return row


def _move_to_dead_letters(message: int, holder: str, reason: str, db: sqlite3.Connection) -> None:
    with transaction(db):
        db.execute(_BURY, (reason, time.time(), message, holder))
        db.execute("DELETE FROM messages WHERE id = ? AND holder = ?", (message, holder))


def _remove_dead_letters(ids: Collection[str], db: sqlite3.Connection) -> int:
    with transaction(db):
        return db.executemany("DELETE FROM dead_letters WHERE id = ?", [(letter,) for letter in ids]).rowcount


def _add_result(body: bytes, coordinator: str, db: sqlite3.Connection) -> None:
    with transaction(db):
        db.execute("INSERT INTO results (coordinator, at, body) VALUES (?, ?, ?)", (coordinator, time.time(), body))
        db.execute(_FORGET_RESULTS, {"of": coordinator, "kept": RESULTS_KEPT})


def _check_writable(db: sqlite3.Connection) -> None:
    with transaction(db):
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _as_dead_letter(row: tuple[Any, ...]) -> DeadLetter:
    letter, agent, reason, at, task_id, body = row
    return DeadLetter(str(letter), agent, reason, _as_time(at), _as_bytes(body), task_id)


def _as_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _as_bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body
