"""Who holds messages, or waits for them: each a locked file in `<database>-holders/`.

A file's lock lives as long as its process, so whoever can take it knows that the process is dead. A holder's token in
the database is the name of its file: a missing file means the same, as it is there, and locked, before its token is
first written. A waiting receiver's file ends in its agent's name; waiting is nowhere in the database.
"""

import contextlib
import fcntl
import functools
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from agentq.engines.sqlite_file import DatabaseFile, unsynced
from agentq.errors import AgentqError

_LISTENS = "."
_LOCKS: set[int] = set()


class Mark:
    """A file that is there, and locked, for as long as its process lives and wants it."""

    def __init__(self, path: Path, suffix: str = "") -> None:
        self._path = path
        self._suffix = suffix
        self._token = ""
        self._lock: int | None = None

    def token(self) -> str:
        """The file's name; it is locked now, and where others look for it."""
        while self._lock is None or not _is_at(self._lock, self._folder() / self._token):
            self._unlock()
            self._token = secrets.token_hex(8) + self._suffix
            self._folder().mkdir(exist_ok=True)
            self._lock = _new_lock(self._folder() / self._token)
        return self._token

    def remove(self) -> None:
        """Remove the file, if there is one; when that fails, others find it dead."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self._folder() / self._token).unlink()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            _LOCKS.discard(self._lock)
            os.close(self._lock)
            self._lock = None

    def _folder(self) -> Path:
        return _folder(self._path)


class Holder(Mark):
    """This engine's mark as a holder of messages, and a look at those of others."""

    def reclaim(self, db: sqlite3.Connection) -> None:
        """Release what dead holders held, and remove the files of the dead."""
        rows = db.execute("SELECT DISTINCT holder FROM messages WHERE holder IS NOT NULL")
        for token in ({row[0] for row in rows} | _names(self._folder())) - {self._token}:
            with _locked_if_dead(self._folder() / token) as dead:
                if dead:
                    release(db, token)
                    (self._folder() / token).unlink(missing_ok=True)

    def close(self, file: DatabaseFile) -> None:
        """Release what this engine held, and remove its mark; if only the latter succeeds, others find it dead."""
        if self._lock is not None and self._path.exists():
            with contextlib.suppress(AgentqError):
                file.run(lambda db: release(db, self._token))
        self.remove()


@contextlib.contextmanager
def listening(path: Path, agent: str) -> Iterator[Callable[[], None]]:
    """What a receiver calls before it waits, so that others see it wait; who cannot be seen receives all the same."""
    mark = Mark(path, f"{_LISTENS}{agent}")

    def be_seen() -> None:
        with contextlib.suppress(OSError):
            mark.token()

    try:
        yield be_seen
    finally:
        mark.remove()


def listeners(path: Path, agent: str) -> int:
    """How many living receivers are marked as waiting for the agent's messages."""
    folder = _folder(path)
    return sum(not _is_dead(folder / name) for name in _names(folder) if name.partition(_LISTENS)[2] == agent)


def release(db: sqlite3.Connection, token: str, message: int | None = None) -> None:
    """Let other receivers have a holder's messages, or one of them."""
    with unsynced(db):
        db.execute("UPDATE messages SET holder = NULL WHERE holder = ?1 AND id = ifnull(?2, id)", (token, message))


def _folder(path: Path) -> Path:
    # SQLite follows links too: whatever name a database is opened by must lead to the same locks.
    real = path.resolve()
    return real.with_name(f"{real.name}-holders")


def _names(folder: Path) -> set[str]:
    try:
        return {file.name for file in folder.iterdir()}
    except FileNotFoundError:
        return set()


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


def _is_dead(file: Path) -> bool:
    with _locked_if_dead(file) as dead:
        return dead


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
