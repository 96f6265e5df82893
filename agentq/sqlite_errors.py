"""What SQLite complains of, in words, with the next thing to do."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from agentq.errors import Unavailable

HINT = "Choose a folder that this user may write to: AGENTQ_DATA, or `data` in agentq.toml."

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(Unavailable):
    """The file is damaged: what it held is to be read again."""


def code_of(error: sqlite3.Error) -> int:
    """Its primary result code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without what extends it


def explained(error: sqlite3.Error, *, allowed: str, damaged: str) -> tuple[str, str]:
    """What is wrong with a file, and what to do: so that writing is `allowed`, about a `damaged` one, or else."""
    locked = ("is locked by another process", "Try again; `fuser` shows who has the file open.")
    words = {
        sqlite3.SQLITE_BUSY: locked,
        sqlite3.SQLITE_LOCKED: locked,
        sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Free some space and try again."),
        sqlite3.SQLITE_READONLY: ("cannot be written to", allowed),
        sqlite3.SQLITE_CANTOPEN: ("cannot be opened", allowed),
        sqlite3.SQLITE_IOERR: ("cannot be read or written", "Check the disk; a network file system will not do."),
        **dict.fromkeys(_DAMAGED, ("is damaged", damaged)),
    }
    what, hint = words.get(code_of(error), ("cannot be used", ""))
    return f"{what} (SQLite: {error})", hint


def complaints_of(name: str, *, damaged: str = "") -> Callable[[Path], AbstractContextManager[None]]:
    """What raises as Unavailable, or Damaged, what SQLite and the system complain of about a file in the data folder
    that can be made anew; `damaged` says how."""

    @contextmanager
    def in_our_words(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"the {name} cannot be kept at {error.filename or path}: {error.strerror}"
            raise Unavailable(what, hint=HINT) from error
        except sqlite3.Error as error:
            what, hint = explained(error, allowed=HINT, damaged=damaged)
            kind = Damaged if code_of(error) in _DAMAGED else Unavailable
            raise kind(f"the {name} {path} {what}", hint=hint) from error

    return in_our_words
