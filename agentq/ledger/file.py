"""The ledger's file: found, made, and made anew when it is damaged or another version's; its failures in our words.

A file that is replaced gets the next number in its name. Who has the old one open goes on with it, and SQLite, which
knows a file and its journal by their names, never mixes the two up.
"""

import contextlib
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agentq.ledger.schema import APPLICATION, SCHEMA, VERSION
from agentq.sqlite_errors import code_of, complaints_of

BUSY_SECONDS = 30.0
WAL_BYTES = 16 * 1024 * 1024
DAMAGED = "it was damaged"
GIVEN_UP_SECONDS = 24 * 3600
in_our_words = complaints_of("ledger", damaged="Make it anew: agentq ledger rebuild")

_SETTINGS = "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 0;"


class Opened(NamedTuple):
    """An open ledger, where it is, and why it had to be made anew, if it had to."""

    db: sqlite3.Connection
    path: Path
    renewed: str | None


class Shelf(NamedTuple):
    """Where one broker's ledger is: the file of that name with the highest number."""

    folder: Path
    name: str

    def current(self) -> Path:
        """The file to be used now; it need not exist."""
        return self.numbered(max(self.numbers(), default=1))

    def following(self) -> Path:
        """The file that takes the place of the current one once it exists."""
        return self.numbered(max(self.numbers(), default=0) + 1)

    def draft(self) -> Path:
        """A name for a file that is to become the current one when it is done; removes drafts that were given up."""
        for path in self.folder.glob(f".{self.name}.draft.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > GIVEN_UP_SECONDS:
                    path.unlink()
        return self.folder / f".{self.name}.draft.{secrets.token_hex(4)}"

    def install(self, draft: Path) -> Path:
        """Let a finished draft, which nobody has open, be the current file; remove those that it replaces."""
        while True:
            path = self.following()
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)
                draft.unlink()
                self.clear(path)
                return path

    def numbered(self, number: int) -> Path:
        """The file with that number."""
        return self.folder / f"{self.name}.{number}.db"

    def numbers(self) -> list[int]:
        """The numbers of the files that there are."""
        pattern = re.compile(rf"{re.escape(self.name)}\.([0-9]+)\.db")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return [int(found[1]) for path in self.folder.iterdir() if (found := pattern.fullmatch(path.name))]
        return []

    def clear(self, before: Path) -> None:
        """Remove what an earlier file left."""
        for number in self.numbers():
            if number < int(before.name.split(".")[-2]):
                remove(self.numbered(number))


def remove(path: Path) -> None:
    """Remove a file and what SQLite keeps beside it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def open_ledger(shelf: Shelf) -> Opened:
    """A connection to the current file, made anew if need be; raises Unavailable."""
    path = shelf.current()
    with in_our_words(path):
        if not path.exists():
            make(path)
            return Opened(connect(path), path, None)
        try:
            db = connect(path)
        except sqlite3.OperationalError:
            if path == (again := shelf.current()):
                raise
            return Opened(connect(again), again, None)  # it was replaced meanwhile
        except sqlite3.DatabaseError:
            return renew(shelf, DAMAGED)
        if wrong := _wrong(db):
            db.close()
            return renew(shelf, wrong)
        return Opened(db, path, None)


def renew(shelf: Shelf, why: str) -> Opened:
    """A connection to an empty file in place of the current one; `why` is told. Raises Unavailable."""
    path = shelf.following()
    make(path)
    shelf.clear(path)
    return Opened(connect(path), path, why)


def make(path: Path) -> None:
    """Make an empty ledger, whole or not at all; one that somebody else made meanwhile is as good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.executescript(SCHEMA)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there; raises sqlite3.Error."""
    db = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        db.executescript(_SETTINGS)
    except BaseException:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


def _wrong(db: sqlite3.Connection) -> str | None:
    """Why the file cannot be used as it is."""
    try:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("SELECT count(*) FROM positions").fetchone()
    except sqlite3.OperationalError as error:
        if code_of(error) == sqlite3.SQLITE_BUSY:
            raise
        return "it was no ledger"
    except sqlite3.DatabaseError:
        return DAMAGED
    if application != APPLICATION:
        return "it was no ledger"
    if version != VERSION:
        return f"another version of agentq made it ({version}, this one makes {VERSION})"
    return None


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, and nobody else writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


def keep_wal_short(db: sqlite3.Connection, path: Path, limit: int = WAL_BYTES) -> None:
    """Bring the journal in when it has become long."""
    # Before 3.51.3 SQLite may damage a file whose log is brought in just when another process begins it anew. So it is
    # never left to SQLite: whoever does it keeps writers away, and waits for no reader.
    wal = path.with_name(f"{path.name}-wal")
    with contextlib.suppress(sqlite3.Error, FileNotFoundError):
        if wal.stat().st_size > limit:
            with transaction(db), contextlib.closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
