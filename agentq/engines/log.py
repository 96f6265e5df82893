"""What the logs of all engines have in common: which events they take, what they read as one, how long they keep it."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentq.engine import Log
from agentq.errors import Invalid
from agentq.events import EVENT_LIMIT, SPOKEN, Event

PAGE = 500
"""The most events of a page."""
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days, and up to how many bytes, each log is kept: what is older or too much goes, oldest first."""

    events_days: int = 30
    events_bytes: int = GIGABYTE
    output_days: int = 3
    output_bytes: int = 2 * GIGABYTE

    def of(self, log: Log) -> tuple[int, int]:
        """The days and the bytes of one log."""
        return (self.output_days, self.output_bytes) if log == "output" else (self.events_days, self.events_bytes)


def log_of(event: Event) -> Log:
    """The log that an event belongs to."""
    return "output" if event.kind in SPOKEN else "events"


def written(events: Iterable[Event]) -> Iterator[tuple[Event, bytes]]:
    """The events with their wire form; one that has none, or is too long, is left out: it must not hold up others."""
    for event in events:
        try:
            yield event, event.to_json()
        except (Invalid, ValueError) as error:
            logging.getLogger("agentq").warning("an event is left out of the log: %s", error)


def readable(body: bytes | str) -> Event | None:
    """The event that a message of a log stands for, None for what is none."""
    try:
        return Event.model_validate_json(body) if 0 < len(body) <= EVENT_LIMIT else None
    except ValueError:
        return None
