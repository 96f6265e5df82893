"""What this process has to tell the log: kept until an engine takes it. No task waits for that."""

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from agentq.errors import AgentqError, EngineUnavailable
from agentq.events import SPOKEN, Event

if TYPE_CHECKING:
    import asyncio

    from agentq.engine import Engine

LIMIT = 10_000
"""How many events are kept while no engine takes them: what agents print and answer goes first, then the oldest."""
BATCH = 500
SECONDS = 3.0
"""How long a step waits at the most for the log to take what led to it."""


class Journal:
    """The events that are still to be appended, oldest first; any thread may tell one."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._turn: asyncio.Lock | None = None
        self._is_shedding = False
        self._on_their_way = 0
        self.dropped = 0
        """How many were left out because no engine took them for too long."""
        self.listeners: list[Callable[[Event], None]] = []
        """Called with each event that is told, in the thread of whoever told."""
        self.on_told: Callable[[], None] = lambda: None
        """Called after each `tell`, in the thread of whoever told."""

    def __len__(self) -> int:
        """How many events no engine has taken yet, those too that are just on their way and may come back."""
        return len(self._events) + self._on_their_way

    def tell(self, *events: Event) -> None:
        """Add events."""
        with self._lock:
            self._events.extend(events)
            self._shed()
        for event, listen in itertools.product(events, self.listeners):
            listen(event)
        self.on_told()

    async def hand_on(self, engine: "Engine") -> None:
        """Append all of it, also what another hand is just appending; what the engine did not take is kept.

        Raises EngineUnavailable.
        """
        async with self._one_at_a_time():
            while events := self._take():
                self._on_their_way = len(events)
                try:
                    await engine.append(events)
                except BaseException:  # also when cancelled: what was appended twice is dropped by its id
                    self._put_back(events)
                    raise
                finally:
                    self._on_their_way = 0
            self._is_shedding = False

    async def try_to_hand_on(self, engine: "Engine") -> AgentqError | None:
        """The same in bounded time, for a step that must not fail for it; what hindered it, if anything."""
        import asyncio

        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(SECONDS):
                    await self.hand_on(engine)
            except AgentqError as error:
                return error
            return None
        return EngineUnavailable(f"the log did not take an event within {SECONDS:g} s")

    def _one_at_a_time(self) -> "asyncio.Lock":
        """The lock of those who append: nobody takes what is on its way for appended."""
        if self._turn is None:
            import asyncio

            self._turn = asyncio.Lock()
        return self._turn

    def _take(self) -> list[Event]:
        with self._lock:
            return [self._events.popleft() for _ in range(min(BATCH, len(self._events)))]

    def _put_back(self, events: Iterable[Event]) -> None:
        with self._lock:
            self._events.extendleft(reversed(list(events)))
            self._shed()

    def _shed(self) -> None:
        if len(self._events) <= LIMIT:
            return
        kept = [event for event in self._events if event.kind not in SPOKEN][-LIMIT:]
        self.dropped += len(self._events) - len(kept)
        self._events = deque(kept)
        if not self._is_shedding:
            self._is_shedding = True
            _warn()


def _warn() -> None:
    import logging  # here, because the commands that only read import this module too

    text = "the log takes no events, and %d wait: what agents print is left out of it, then the oldest events"
    logging.getLogger("agentq").warning(text, LIMIT)
