"""Who holds messages: a token in the database, and a locked file of that name in `<database>-holders/`.

The lock lives as long as its process, so whoever can take it knows that the holder is dead. A missing file means
the same: it is there, and locked, before its token is first written to the database.
"""

import contextlib
import fcntl
import functools
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agentq.engines.sqlite_file import DatabaseFile, unsynced
from agentq.errors import AgentqError

_LOCKS: set[int] = set()


class Holder:
    """This engine's lock, and a look at those of others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._lock: int | None = None

    def token(self) -> str:
        """The name under which this engine holds messages; its file is locked and where others look for it."""
        while self._lock is None or not _is_at(self._lock, self._folder() / self._token):
            self._unlock()
            self._token = secrets.token_hex(8)
            self._folder().mkdir(exist_ok=True)
            self._lock = _new_lock(self._folder() / self._token)
        return self._token

    def reclaim(self, db: sqlite3.Connection) -> None:
        """Release what dead holders held, and remove their files."""
        rows = db.execute("SELECT DISTINCT holder FROM messages WHERE holder IS NOT NULL")
        for token in ({row[0] for row in rows} | self._files()) - {self._token}:
            with _locked_if_dead(self._folder() / token) as dead:
                if dead:
                    release(db, token)
                    (self._folder() / token).unlink(missing_ok=True)

    def close(self, file: DatabaseFile) -> None:
        """Release what this engine held, and remove its lock; if only the latter succeeds, others find it dead."""
        if self._lock is not None:
            if self._path.exists():
                with contextlib.suppress(AgentqError):
                    file.run(lambda db: release(db, self._token))
            with contextlib.suppress(OSError):
                (self._folder() / self._token).unlink()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            _LOCKS.discard(self._lock)
            os.close(self._lock)
            self._lock = None

    def _files(self) -> set[str]:
        try:
            return {file.name for file in self._folder().iterdir()}
        except FileNotFoundError:
            return set()

    def _folder(self) -> Path:
        # SQLite follows links too: whatever name a database is opened by must lead to the same locks.
        real = self._path.resolve()
        return real.with_name(f"{real.name}-holders")


def release(db: sqlite3.Connection, token: str, message: int | None = None) -> None:
    """Let other receivers have a holder's messages, or one of them."""
    with unsynced(db):
        db.execute("UPDATE messages SET holder = NULL WHERE holder = ?1 AND id = ifnull(?2, id)", (token, message))


def _new_lock(file: Path) -> int | None:
    """A lock on a file made for it; None when somebody who took it for a dead holder's was faster."""
    _let_go_in_forks()
    lock = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o666)
    if not _try_lock(lock):
        os.close(lock)
        return None
    _LOCKS.add(lock)
    return lock


@contextlib.contextmanager
def _locked_if_dead(file: Path) -> Iterator[bool]:
    """Whether the file's holder is dead; if so, nobody else finds it dead meanwhile."""
    try:
        lock = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


@functools.cache
def _let_go_in_forks() -> None:
    # A forked child shares the lock, and would keep its dead parent's messages.
    os.register_at_fork(after_in_child=_close_locks)


def _close_locks() -> None:
    while _LOCKS:
        os.close(_LOCKS.pop())
