"""What is uploaded to a gateway, until it is whole: in memory while it is small, else in a file of the data folder."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from agentq.errors import Invalid, StoreUnavailable
from agentq.gateway.problems import Refused
from agentq.stores.gateway_wire import Garbled, Pieces

SMALL = 1 << 20
"""Bytes that are held in memory; larger ones are written to a file, so many at a time."""
DEAD_SECONDS = 86_400.0
"""After so long a file that a gateway left when it was killed is removed."""


class Upload:
    """One object that arrives in pieces, of `limit` bytes at most; without a folder it is held in memory, else only as
    long as it is small. The folder is made when it is needed."""

    def __init__(self, limit: int, folder: Path | None) -> None:
        self.size = 0
        self.path = Path()
        self._folder, self._limit = folder, limit
        self._pieces, self._held = Pieces(), bytearray()
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove its file, if it has one."""
        if self._file:
            with contextlib.suppress(OSError):  # what there was no place for goes with the file
                self._file.close()
            self.path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The digest of what came."""
        return self._pieces.read_so_far

    @property
    def data(self) -> bytes | None:
        """All of it, None when it is in the file at `path`."""
        return None if self._file else bytes(self._held)

    def add(self, arrived: bytes) -> Callable[[], None] | None:
        """Take in what arrived; answers with what is to be done in a thread, if there is something. Raises Refused for
        what is too large, Invalid for what is no object in pieces."""
        try:
            for chunk in self._pieces.feed(arrived):
                self._held += chunk
                self.size += len(chunk)
        except Garbled as error:
            raise Invalid(f"the upload is no object in pieces: {error}") from error
        if self.size > self._limit:
            raise Refused(413, f"the upload is larger than {self._limit} bytes", hint="`upload_bytes` under [gateway]")
        return self._write if len(self._held) > SMALL and self._folder else None

    def finish(self) -> None:
        """Raise Refused unless it is whole and came as it was sent."""
        if not self._pieces.is_over:
            raise Refused(408, "the upload broke off", hint="Repeat it.")
        if not self._pieces.is_whole:
            raise Refused(503, "the upload was altered on its way", hint="Repeat it.")
        if self._file:
            self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = self._opened()
            self._file.write(self._held)
            self._file.flush()
        except OSError as error:
            raise StoreUnavailable(
                f"the gateway has no place for the upload: {error.strerror}",
                hint="Make room in the gateway's data folder.",
            ) from error
        self._held.clear()

    def _opened(self) -> BinaryIO:
        assert self._folder
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_dead(self._folder)
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        self.path = Path(name)
        return os.fdopen(descriptor, "wb")


def remove_dead(folder: Path) -> None:
    """Remove what gateways left that were killed a day ago or longer."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - DEAD_SECONDS:
                path.unlink()
