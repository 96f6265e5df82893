"""The chronicle's file: held by one process, made when it is missing, damaged or another version's; its failures in our
words. Losing it costs the time to read the log again."""

import contextlib
import fcntl
import os
import secrets
import sqlite3
from pathlib import Path

from agentq.errors import Unavailable
from agentq.sqlite_errors import complaints_of

APPLICATION = 0x61716368
VERSION = 1
SLOTS = 64
"""How many gateways of one data folder may stand side by side."""
BUSY_SECONDS = 2.0
WAL_BYTES = 16 * 1024 * 1024
in_our_words = complaints_of("chronicle")

_LOG = """
CREATE TABLE {log} (
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  task_id TEXT, agent TEXT, thread TEXT, message TEXT, taken REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX {log}_of_task ON {log} (task_id, place) WHERE task_id IS NOT NULL;
CREATE INDEX {log}_of_agent ON {log} (agent, place) WHERE agent IS NOT NULL;
CREATE INDEX {log}_of_thread ON {log} (thread, place) WHERE thread IS NOT NULL;
CREATE INDEX {log}_of_message ON {log} (message, place) WHERE message IS NOT NULL;
INSERT INTO logs (log) VALUES ('{log}');
"""
SCHEMA = f"""
PRAGMA synchronous = OFF;
PRAGMA journal_mode = WAL;
BEGIN;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE logs (
  log TEXT PRIMARY KEY, position TEXT, floor INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE tasks (task_id TEXT PRIMARY KEY, agent TEXT, thread TEXT) WITHOUT ROWID;
{_LOG.format(log="events")}
{_LOG.format(log="output")}
COMMIT;
"""


class Taken(Unavailable):
    """The file is another process's."""


def hold(path: Path) -> int:
    """Keep other processes from a chronicle's file until the descriptor is closed; raises Taken when one has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise Taken(
                f"the chronicle {path} is another gateway's", hint="Give this one its own AGENTQ_DATA."
            ) from error
        raise
    return lock


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes to a file that this process holds; it is made anew if need be."""
    if path.exists():
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.ExitStack() as unless_usable:
            db = unless_usable.enter_context(contextlib.closing(connect(path)))
            if _is_usable(db):
                unless_usable.pop_all()
                return db
    make(path)
    return connect(path)


def make(path: Path) -> None:
    """Put an empty chronicle there, whole or not at all."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.executescript(SCHEMA)
        for beside in ("-wal", "-shm"):
            path.with_name(f"{path.name}{beside}").unlink(missing_ok=True)
        new.replace(path)
    finally:
        for left in (new, *new.parent.glob(f"{new.name}-*")):
            left.unlink(missing_ok=True)


def connect(path: Path, *, to: str = "rw") -> sqlite3.Connection:
    """A connection to a file that is there, of use to any thread, to one at a time."""
    db = sqlite3.connect(
        f"{path.as_uri()}?mode={to}", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # One connection alone writes, and brings the journal in: before SQLite 3.51.3 two of them may damage a file.
        db.execute("PRAGMA wal_autocheckpoint = 1000" if to == "rw" else "PRAGMA query_only = 1")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    except BaseException:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


def _is_usable(db: sqlite3.Connection) -> bool:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return bool((application, version) == (APPLICATION, VERSION) and db.execute("SELECT 1 FROM logs").fetchone())
