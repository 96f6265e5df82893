"""Quotas: how much an attempt may leave in the store, and a look at how much it writes to the disk while it runs."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

SHARE = 0.02
"""The share of the time that is spent on looking at what an attempt has written."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
_BLOCK = 512


@dataclass(slots=True)
class Quota:
    """The bytes that one artifact, and all of an attempt together, may have; and how many there are so far."""

    artifact_bytes: int
    attempt_bytes: int
    used: int = 0

    def fault(self, name: str, size: int) -> str | None:
        """Why a piece of that size is not taken, None when it is."""
        if size > self.artifact_bytes:
            return f"{name} has {size} bytes, an artifact may have {self.artifact_bytes}"
        if self.used + size > self.attempt_bytes:
            return f"{name} ({size} bytes) is too much: all of an attempt may have {self.attempt_bytes} bytes"
        return None

    def copy(self) -> "Quota":
        """The same, to go on from here."""
        return replace(self)


class Growth:
    """What some folders have grown by since this was made; making it and measuring block."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._before = self._taken()

    def measure(self) -> int:
        """The bytes of disk that have been taken since."""
        return self._taken() - self._before

    def _taken(self) -> int:
        return sum(_taken(folder) for folder in self._folders)

    async def watch(self, limit: int, full: Callable[[], None]) -> None:
        """Look from time to time, and call `full` once it is more than the limit; until then, or until cancelled."""
        while True:
            began = time.monotonic()
            if await asyncio.to_thread(self.measure) > limit:
                return full()
            took = time.monotonic() - began
            await asyncio.sleep(min(max(took / SHARE, SHORTEST_PAUSE), LONGEST_PAUSE))


def _taken(folder: Path) -> int:
    """What the files below a folder take up on the disk, links not followed; what comes and goes may be missed."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    return total
