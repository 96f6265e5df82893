"""The database file: its schema, connections that notice when it was replaced, and its failures in our words."""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from agentq.errors import AgentqError, EngineUnavailable, Invalid
from agentq.sqlite_errors import code_of, explained

BUSY_SECONDS = 5.0
WAL_BYTES = 4 * 1024 * 1024

_APPLICATION = 0x61677471  # "agtq", kept in the file's header
_SCHEMA_VERSION = 3
_LOGS = (
    "CREATE TABLE logs (log TEXT PRIMARY KEY, name TEXT NOT NULL, bytes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    "INSERT INTO logs (log, name) VALUES ('events', lower(hex(randomblob(8)))), ('output', lower(hex(randomblob(8))))",
    "CREATE TABLE events (row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, task_id TEXT, body BLOB NOT NULL)",
    "CREATE TABLE output (row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, task_id TEXT, body BLOB NOT NULL)",
    "CREATE INDEX events_of ON events (task_id) WHERE task_id IS NOT NULL",
    "CREATE INDEX output_of ON output (task_id) WHERE task_id IS NOT NULL",
)
_SCHEMA = f"""
PRAGMA synchronous = FULL;
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, priority INTEGER NOT NULL DEFAULT 1, due REAL,
  holder TEXT, published_at REAL, task_id TEXT, guard_attempt INTEGER, guard_counter INTEGER, guard_id TEXT,
  body BLOB NOT NULL, was_delayed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX ready ON messages (agent, priority DESC, id) WHERE holder IS NULL AND due IS NULL;
CREATE INDEX delayed ON messages (agent, due) WHERE due IS NOT NULL;
CREATE INDEX held ON messages (holder) WHERE holder IS NOT NULL;
CREATE TABLE dead_letters (
  id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, task_id TEXT,
  body BLOB NOT NULL);
CREATE TABLE results (
  id INTEGER PRIMARY KEY AUTOINCREMENT, coordinator TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX results_of ON results (coordinator, id);
{";".join(_LOGS)};
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
_UPGRADES = {1: ("ALTER TABLE messages ADD COLUMN was_delayed INTEGER NOT NULL DEFAULT 0",), 2: _LOGS}
_SETTINGS = """
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 0;
"""
_MOVE_AWAY = (
    "Stop the workers, move the file and those beside it away, and run `agentq doctor --repair`: "
    "the tasks themselves are in the store."
)
_ALLOW = "Let this user write to the file and to its folder."

T = TypeVar("T")


class DatabaseFile:
    """A connection to the file that is at `path` now: opened when first needed, and anew when it was replaced."""

    def __init__(self, path: Path, opener: Callable[[Path], sqlite3.Connection]) -> None:
        self._path = self._real_path = path
        self._opener = opener
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The job's answer; whatever SQLite or the system complain of is raised in our words."""
        try:
            db = self.connection()
            before = db.total_changes
            answer = job(db)
            if db.total_changes != before:
                _keep_wal_short(db, self._real_path)
            return answer
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise _in_our_words(error, self._path) from error

    def connection(self) -> sqlite3.Connection:
        """The open connection; raises sqlite3.Error or OSError."""
        # A file that was deleted can still be written to by those who have it open, and that would be lost. The look
        # before the opening is repeated after it, so that what was opened is what is there; a new file is opened twice.
        while self._connection is None or self._inode != _inode(self._path):
            self.close()
            self._inode = _inode(self._path)
            self._connection = self._opener(self._path)
            self._real_path = self._path.resolve()
        return self._connection

    def last_connection(self) -> sqlite3.Connection:
        """The connection as it is, without a look whether the file was replaced since."""
        return self._connection or self.connection()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_to_write(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return; the file and its folder are made."""
    if not path.exists():
        _make(path.resolve())
    db = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    with _closed_on_failure(db):
        _check_schema(db, path)
        db.executescript(_SETTINGS)
        _upgrade(db)
    return db


def open_to_look(path: Path) -> sqlite3.Connection:
    """A connection that makes nothing and never waits for a lock."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, and nobody else writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


@contextlib.contextmanager
def unsynced(db: sqlite3.Connection) -> Iterator[None]:
    """Commits that need not outlive the machine: they are not waited for."""
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous = FULL")


def _make(path: Path) -> None:
    # Made whole under another name: two who begin at once get in each other's way while the schema is made.
    _make_folder(path.parent)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.executescript(_SCHEMA)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)
        _sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    version = _version(db)
    if application != _APPLICATION:
        raise Invalid(f"{path} is not a queue of agentq", hint="name another file for the queue")
    if version > _SCHEMA_VERSION:
        what = f"{path} was made by a newer agentq (its schema is {version}, this one knows {_SCHEMA_VERSION})"
        raise Invalid(what, hint="upgrade this agentq")


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring a file of an earlier schema up to this one; those who have it open go on, they need nothing of it."""
    if _version(db) < _SCHEMA_VERSION:
        with transaction(db):
            for version in range(_version(db), _SCHEMA_VERSION):
                for statement in _UPGRADES[version]:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _keep_wal_short(db: sqlite3.Connection, path: Path) -> None:
    # Before 3.51.3 SQLite may damage a file whose log is brought in just when another process begins it anew (the
    # "WAL-reset bug"). So it is never left to SQLite: whoever does it keeps writers away, and waits for no reader.
    if _size(path.with_name(f"{path.name}-wal")) > WAL_BYTES:
        with contextlib.suppress(sqlite3.Error), transaction(db), contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _closed_on_failure(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        db.close()
        raise


def _make_folder(folder: Path) -> None:
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _in_our_words(error: sqlite3.Error | OSError, path: Path) -> AgentqError:
    if path.is_dir():
        return Invalid(f"{path} is a folder", hint="name a file for the queue")
    if isinstance(error, OSError):
        return EngineUnavailable(f"{error.filename or path}: {error.strerror}")
    if code_of(error) == sqlite3.SQLITE_NOTADB:
        return Invalid(f"{path} is not a SQLite database", hint="name another file for the queue")
    what, hint = explained(error, allowed=_ALLOW, damaged=_MOVE_AWAY)
    return EngineUnavailable(f"{path} {what}", hint=hint)
