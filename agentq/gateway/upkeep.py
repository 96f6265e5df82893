"""What a gateway looks after in threads: what somebody left half-way, who fell silent, and what a rule lets through."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentq.errors import AgentqError, Unavailable
from agentq.gateway.place import Gateway
from agentq.gateway.scribe import Scribe
from agentq.patience import cancelled

if TYPE_CHECKING:
    from agentq.threads.shelf import Debt
    from agentq.threads.threads import Threads

log = logging.getLogger("agentq")

ROUND_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""After how long without a word the author of a message that grows is taken for gone."""
ROUND_LIMIT = 500
"""How many of each kind one round looks at."""


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[None]:
    """Look after the threads meanwhile."""
    upkeep = Upkeep(gateway.scribe)
    async with gateway.scribe.running():
        looking = asyncio.create_task(upkeep.run())
        try:
            yield
        finally:
            await cancelled(looking)


@dataclass(slots=True)
class _Seen:
    """How far a message had grown, and since when it has not, by this process's steady clock."""

    length: int
    since: float


@dataclass(slots=True)
class Upkeep:
    """Looks through the marks of threads, every round; all of it may be done by several at once."""

    scribe: Scribe
    seconds: float = ROUND_SECONDS
    silence: float = SILENCE_SECONDS
    clock: Callable[[], float] = time.monotonic
    _marked: set[tuple[str, str]] = field(default_factory=set)
    _growing: dict[tuple[str, str], _Seen] = field(default_factory=dict)
    _is_first: bool = True

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.round()
            except AgentqError as error:
                log.info("threads are looked after later: %s", error)
            except Exception:
                log.exception("threads could not be looked after")
            await asyncio.sleep(self.seconds)

    async def round(self) -> None:
        """One look. What two rounds found marked, the first one of a process at once, is done for whoever left it."""
        stale = await self.scribe.do(self._look)
        await self.scribe.follow_up(*stale)
        self._is_first = False

    def _look(self, threads: "Threads") -> list[tuple[str, str]]:
        for task in self._some(threads, "accepting"):
            self._unless_bad(threads.let_through, *task)
        for message in self._grown(threads):
            self._unless_bad(threads.fail_silent, *message)
        marked = set(self._some(threads, "asking"))
        stale, self._marked = [one for one in sorted(marked) if self._is_first or one in self._marked], marked
        for message in stale:
            self._unless_bad(threads.tell, *message)
        return stale

    def _grown(self, threads: "Threads") -> list[tuple[str, str]]:
        """The messages that have grown no more for too long, or have ended and not been finished."""
        now, seen = self.clock(), self._growing
        self._growing = {}
        over = []
        for message in self._some(threads, "streaming"):
            length, has_ended = threads.shelf.growth(*message)
            before = seen.get(message)
            if before is None:
                self._unless_bad(threads.tell, *message)
            if before is None or before.length != length:
                before = _Seen(length, now)
            self._growing[message] = before
            if has_ended or now - before.since > self.silence:
                over.append(message)
        return over

    def _some(self, threads: "Threads", debt: "Debt") -> list[tuple[str, str]]:
        return list(itertools.islice(threads.shelf.owed(debt), ROUND_LIMIT))

    def _unless_bad(self, act: Callable[[str, str], object], thread_id: str, name: str) -> None:
        """Do it; damaged papers are for `doctor` to tell, and must not stop the others."""
        try:
            act(thread_id, name)
        except Unavailable:
            raise
        except AgentqError as error:
            log.warning("%s in %s is left alone: %s", name, thread_id, error)
