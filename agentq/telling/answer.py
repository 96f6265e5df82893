"""The file that an agent's answer grows in: appended to, by `agentq say` or whatever else writes, and read as it grows.

The agent may put anything in its place: no link is followed, and no pipe waited for.
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

from agentq.decided import ANSWER
from agentq.errors import Conflict, Invalid
from agentq.telling.output import CONTEXT, HOLD, Strand, whole_characters

FILE = f"{ANSWER}.md"
CHUNK = 64 * 1024
KEPT = 64 * 1024
"""Bytes that must still stand before what is read next."""
_WIDE = rb"(?:[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})"
_MARK = rb"(?:[ \t\r\n]|\xe3\x80[\x80-\xbf]|\xef\xbc[\x81\x88\x89\x8c\x8e\x9a\x9b\x9f])"
_ENDED = re.compile(rb"(?:(?s:.*)" + _MARK + rb")?" + _WIDE + rb"*")
"""Up to the last space or mark of Chinese, and what follows of a script that has no spaces: no credential is cut."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Words(Strand):
    """A text of which only a word that is not ended is held back: it may be half a credential."""

    def take(self, chunk: bytes) -> bytes:
        """Add to the text; answers with what has ended by it."""
        lines = super().take(chunk)
        ended = _ENDED.match(self.held)
        return lines + self._cut(ended.end() if ended else 0)

    def let_go(self, *, everything: bool = False) -> bytes:
        """The word that is not ended, after a second in which nothing was added to it, or when it is endless."""
        if everything:
            return self._cut(len(self.held))
        if time.monotonic() < self._added_at + HOLD and len(self.held) < CONTEXT:
            return b""
        return self._cut(whole_characters(self.held))


class Tail:
    """Reads what is added to the file of a folder, for as long as it begins with what was read of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._before = b""
        self.place = 0
        """Bytes that were read."""
        self.is_over = False
        """Whether the file is another text now, of which nothing is read."""

    def more(self, take: Callable[[int], int]) -> bytes:
        """What was added, as far as `take` lets it: it is asked with a number of bytes. Blocks for no pipe."""
        with suppress(OSError), _opened(self._folder) as folder:
            found = os.stat(FILE, dir_fd=folder, follow_symlinks=False)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self.is_over or (seen == self._seen and found.st_size <= self.place):
                return b""
            self._seen = seen
            file = os.open(FILE, _READ, dir_fd=folder)
            try:
                return self._read(file, take) if stat.S_ISREG(os.fstat(file).st_mode) else b""
            finally:
                os.close(file)
        return b""

    def _read(self, file: int, take: Callable[[int], int]) -> bytes:
        before = os.pread(file, len(self._before), self.place - len(self._before))
        if before != self._before:  # a beginning of it may be a file that is just written anew
            self.is_over = not self._before.startswith(before)
            return b""
        data = os.pread(file, take(min(CHUNK, max(0, os.fstat(file).st_size - self.place))), self.place)
        self.place += len(data)
        self._before = (self._before + data)[-KEPT:]
        return data


def is_there(folder: Path, name: str) -> bool:
    """Whether there is a file of that name with something in it; a link is none."""
    with suppress(OSError), _opened(folder) as opened:
        found = os.stat(name, dir_fd=opened, follow_symlinks=False)
        return stat.S_ISREG(found.st_mode) and found.st_size > 0
    return False


def append(output: Path, data: bytes) -> None:
    """Add to the answer; raises Conflict when the attempt is over, Invalid when something else is in its place."""
    path = output / FILE
    try:
        file = os.open(path, _APPEND, 0o600)
        with os.fdopen(file, "ab", buffering=0) as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise Invalid(f"{path} is no file", hint=f"Remove it: {FILE} is where the answer grows.")
            rest = memoryview(data)
            while rest:
                rest = rest[opened.write(rest) or 0 :]
    except FileNotFoundError as error:
        raise Conflict(f"the attempt is over: {output} is gone", hint="Stop. Its worker has ended it.") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="Is AGENTQ_OUTPUT the worker's?") from error


def words_of(source: int) -> Iterator[bytes]:
    """What comes from a descriptor, as it comes, but for a word that may be half a credential."""
    words = Words()
    while True:
        ready = select([source], [], [], HOLD if words.held else None)[0]
        chunk = os.read(source, CHUNK) if ready else None
        if chunk == b"":
            break
        yield words.take(chunk) if chunk else words.let_go()
    yield words.let_go(everything=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
