"""Noticing that any process changed the database: `PRAGMA data_version`, looked at many times a second."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from agentq.engines.sqlite_file import DatabaseFile, open_to_look

POLL_SECONDS = 0.005


class Watch:
    """Counts the changes of a database; it looks only while somebody waits for one."""

    def __init__(self, path: Path) -> None:
        self._file = DatabaseFile(path, open_to_look)
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._count = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def look(self) -> int:
        """How many changes were noticed until now; a look that fails counts as one."""
        if not self._closed:
            self._compare(self._file.connection)
        return self._count

    def ring(self) -> None:
        """Count a change, and wake whoever waits for one."""
        self._count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, seen: int, seconds: float) -> None:
        """Wait until there are more changes than those seen, or the seconds have passed."""
        if self.look() != seen:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        self._keep_looking()
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiters.discard(waiter)

    def close(self) -> None:
        """Wake all who wait, and look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.ring()
        self._file.close()

    def _compare(self, connection: Callable[[], sqlite3.Connection]) -> None:
        seen: tuple[sqlite3.Connection, int] | None
        try:
            db = connection()
            seen = db, db.execute("PRAGMA data_version").fetchone()[0]
        except (sqlite3.Error, OSError):
            self._file.close()
            seen = None  # counts as a change: the look at the queue that follows says what is wrong
        if seen is None or seen != self._seen:
            self._seen = seen
            self.ring()

    def _keep_looking(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if self._waiters:
            self._compare(self._file.last_connection)
            self._keep_looking()
