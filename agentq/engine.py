"""The engine port: what moves envelopes, wakes workers and keeps timers. It is never asked whether a task is done."""

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from agentq.events import Event
from agentq.messages import Completion, Envelope


@dataclass(frozen=True, slots=True)
class Guard:
    """What makes a message the guard of a running attempt: the lease's counter last seen, and the guard's own id."""

    attempt: int
    counter: int
    id: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was taken out of its queue: why, when, from where, and its untouched body."""

    id: str
    agent: str
    reason: str
    at: datetime | None
    body: bytes
    task_id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declared:
    """What `declare` made or found, and what this engine can and cannot honour."""

    created: tuple[str, ...]
    found: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine is, in words for `doctor`."""

    name: str
    version: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unbounded: tuple[str, ...] = ()
    """Logs that nothing cuts, as far as this user may see: they grow until the disk is full."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order of the log.

    `position` is where the next page goes on, opaque, good in any process. `caught_up` says that everything is read
    that was durable when the reading began; `gap` that what stood between the position asked for and this page is gone
    (retention, or another log).
    """

    events: tuple[Event, ...]
    position: str
    caught_up: bool = False
    gap: bool = False


Log = Literal["events", "output"]
"""The two logs: what happened, and what agents print, which is kept for a shorter time."""


class Delivery(Protocol):
    """One message handed to this process and to no other, until it is acknowledged or its connection ends."""

    body: bytes
    guard: Guard | None
    published_at: datetime | None
    was_delayed: bool
    """Whether it came through a delay, where others than those who may publish tasks can put messages."""

    async def ack(self) -> None:
        """Give the message back for good. When the connection is gone this does nothing: it is delivered again."""

    async def dead_letter(self, reason: str) -> None:
        """Move the message, as it is, to the dead letters; durable before it leaves its queue."""


class Engine(Protocol):
    """A queue per agent, with delays and dead letters.

    Every method raises EngineUnavailable when the engine cannot be reached, refuses or does not answer in time.
    """

    url: str
    """Where the engine is, without its password."""

    async def declare(self, agents: Sequence[str], coordinators: Sequence[str]) -> Declared:
        """Make all that is used here; repeating it changes nothing. Raises Conflict when something exists otherwise."""

    async def ready(self, agent: str) -> None:
        """Raise EngineUnavailable unless a publish to that agent would be accepted just now."""

    async def publish(self, envelope: Envelope, *, delay: float = 0.0, guard: Guard | None = None) -> None:
        """Hand a message to the agent's queue, not before `delay` seconds; returns once the engine made it durable.

        Whoever may not publish tasks has it come through the shortest delay.
        """

    async def receive(self, agent: str) -> Delivery:
        """Wait for the agent's next message: highest priority first, oldest first within one. May be cancelled."""

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        """Put a copy of a task that was given up to the dead letters."""

    async def notify(self, completion: Completion, reply_to: str) -> None:
        """Put a completion on the coordinator's results queue, if anyone declared it; nothing waits for it."""

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first; looking changes nothing."""

    async def remove_dead_letters(self, ids: Collection[str]) -> int:
        """Remove those dead letters, looking at all of them once; answers how many were there."""

    async def depth(self, agent: str) -> int:
        """How many messages wait for the agent, without delayed ones."""

    async def listeners(self, agent: str) -> int:
        """How many receivers wait for the agent's messages at this moment, in any process.

        One that holds a message may count until it acknowledges. A busy worker does not wait: 0 does not mean that
        no worker is up.
        """

    async def append(self, events: Sequence[Event]) -> None:
        """Add events to their logs, in this order; returns once the engine made them durable. May be repeated: readers
        drop what they have seen by its id."""

    def read(
        self,
        log: Log = "events",
        *,
        after: str | None = None,
        since: datetime | None = None,
        tasks: Collection[str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Read a log: behind the position `after`, else from about `since`, else from its start.

        Ends with a page that has caught up, or goes on for ever when it is to `follow`; each page is safe to keep. With
        `tasks` the events of others may be left out. What is no event is passed over. To be closed by `aclose`.
        """

    async def count_dead_letters(self) -> int:
        """How many dead letters there are."""

    async def health(self, agents: Sequence[str]) -> Health:
        """What the engine is and what is missing; raises EngineUnavailable when it cannot be reached."""

    async def close(self) -> None:
        """Let go of the engine; a delivery that was not acknowledged is delivered again."""
