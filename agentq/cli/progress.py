"""A bar on the terminal for large files on their way into or out of the store; nothing where nobody looks."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from agentq.store import Store, Stored, unwatched

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from rich.progress import Progress

LARGE = 8 << 20
"""Bytes after which a bar is worth it."""


@contextlib.contextmanager
def showing(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """What to call with the bytes moved; a bar shows on stderr, if that is a terminal, once more than 8 MiB are."""
    if not sys.stderr.isatty():
        yield unwatched
        return
    bar = Bar(what, total)
    try:
        yield bar.move
    finally:
        bar.stop()


class Bar:
    """A bar that begins when it is worth it; without a total it tells how much was moved and how fast."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._moved = what, total, 0
        self._shown: Progress | None = None

    def move(self, count: int) -> None:
        """So many bytes more were moved."""
        self._moved += count
        if self._shown is None and self._moved >= LARGE:
            self._shown = self._show()
        if self._shown:
            self._shown.update(self._shown.task_ids[0], completed=self._moved)

    def stop(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._shown.stop()

    def _show(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        shown = Progress(*columns, console=Console(stderr=True), transient=True)
        shown.add_task(self._what, total=self._total)
        shown.start()
        return shown


def watched(store: Store) -> Store:
    """The store, with a bar for every large file that is put or read, where stderr is a terminal."""
    return cast(Store, Watched(store)) if sys.stderr.isatty() else store


class Watched:
    """A store that shows what moves."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        """Copy a local file in, and show it."""

        def both(count: int) -> None:
            moved(count)
            progress(count)

        with showing(f"putting {key}", path.stat().st_size if path.is_file() else None) as moved:
            return self._store.put_file(key, path, progress=both)

    def open(self, key: str) -> BinaryIO | None:
        """A stream that shows what was read of it."""
        stream = self._store.open(key)
        return None if stream is None else io.BufferedReader(_WatchedStream(stream, Bar(f"reading {key}", None)))


class _WatchedStream(io.RawIOBase):
    def __init__(self, stream: BinaryIO, bar: Bar) -> None:
        self._stream, self._bar = stream, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        chunk = self._stream.read(len(view))
        view[: len(chunk)] = chunk
        self._bar.move(len(chunk))
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._bar.stop()
            self._stream.close()
        super().close()
