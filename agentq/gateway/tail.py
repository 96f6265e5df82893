"""The end of a log, as far as a gateway has read and told it."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import NamedTuple


class Mark(NamedTuple):
    """A place of the chronicle and the id of the event there, None before all."""

    place: int = 0
    id: str | None = None


Coming = asyncio.Future[Mark]


class Tail:
    """Where the newest entry of a log stands that was told, and who waits for one that did not come yet.

    `begun` is set once all is read that was in the log when the gateway began; `caught_up` as long as all is read that
    was there when the reading began, not while the engine is away.
    """

    def __init__(self) -> None:
        self.mark = Mark()
        self.begun = asyncio.Event()
        self.caught_up = asyncio.Event()
        self._awaited: dict[str, set[Coming]] = {}

    def advance(self, mark: Mark) -> None:
        """The next entry is being told."""
        self.mark = mark
        for coming in self._awaited.pop(mark.id or "", ()):
            if not coming.done():
                coming.set_result(mark)

    def note(self, caught_up: bool) -> bool:
        """Note whether all is read; answers whether that is news."""
        if caught_up == self.caught_up.is_set():
            return False
        if caught_up:
            self.begun.set()
            self.caught_up.set()
        else:
            self.caught_up.clear()
        return True

    @contextlib.contextmanager
    def expecting(self, event_id: str) -> Iterator[Coming]:
        """The mark of an event, once it comes from now on."""
        coming = Coming()
        self._awaited.setdefault(event_id, set()).add(coming)
        try:
            yield coming
        finally:
            waiting = self._awaited.get(event_id, set())
            waiting.discard(coming)
            if not waiting:
                self._awaited.pop(event_id, None)

    async def come(self, coming: Coming, seconds: float) -> bool:
        """Wait for what comes, up to so many seconds after all was read; answers whether it came."""
        caught_up = asyncio.create_task(self.caught_up.wait())
        try:
            await asyncio.wait((coming, caught_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            caught_up.cancel()
        await asyncio.wait({coming}, timeout=seconds)
        return coming.done()
