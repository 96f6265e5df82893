"""What a chronicle holds: events at their places, and whose tasks they are of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agentq.engine import Log
from agentq.events import Event
from agentq.gateway.topics import Topic, topics_of

UNKEPT = frozenset(("worker_heartbeat",))
"""Kinds that nobody is told."""


class Owner(NamedTuple):
    """Whose a task is, which never changes: the agent it was given to, and the thread it answers in."""

    agent: str | None = None
    thread: str | None = None


OwnerOf = Callable[[str], Owner | None]
"""Whose a registered task is, None for one that is not; raises Unavailable when nobody can tell just now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event and its place, which is this chronicle's own; `body` is the event's JSON."""

    log: Log
    place: int
    id: str
    kind: str
    task_id: str | None
    agent: str | None
    thread: str | None
    body: str

    @property
    def event(self) -> Event:
        """The event."""
        return Event.model_validate_json(self.body)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that it is told to."""
        return tuple(topics_of(self.log, self.kind, self.task_id, self.agent, self.thread))


def asked(event: Event) -> Owner:
    """Whose the task is that an event says was submitted."""
    labels = event.data.get("labels")
    return Owner(event.agent, text(labels.get("thread")) if isinstance(labels, dict) else None)


def text(value: object) -> str | None:
    """What is text, and nothing else."""
    return value if isinstance(value, str) and value else None
