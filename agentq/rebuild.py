"""The ledger made anew: from the log, and from the papers what the log does not tell (any more)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from agentq.engine import Engine
from agentq.errors import EvidenceError
from agentq.events import Event
from agentq.ledger import Ledger, Shelf, catch_up
from agentq.records import Records
from agentq.story import story

BATCH = 5_000
"""Events of papers that are brought in at once."""

Opener = Callable[[], AbstractAsyncContextManager[Engine]]


@dataclass(slots=True)
class Rebuilt:
    """What was found: events in the log, tasks in the store, how many of them their papers had to tell, and which could
    not be read."""

    events: int = 0
    tasks: int = 0
    missing: int = 0
    damaged: list[str] = field(default_factory=list)


async def rebuild(
    records: Records, engine: Opener | None, shelf: Shelf, progress: Callable[[str, int], object]
) -> Rebuilt:
    """Make the ledger on a shelf anew; without an engine from the papers alone, the log is read by who reads it next.

    `progress` is called with what is being read and how many. Raises what the engine, the store and the file raise.
    """
    done = Rebuilt()
    ledger = Ledger.draft(shelf)
    try:
        with ledger:
            if engine:
                await _read_log(ledger, engine, done, progress)
            _read_papers(ledger, records, done, progress)
        shelf.install(ledger.path)
    except BaseException:
        ledger.discard()
        raise
    return done


async def _read_log(ledger: Ledger, opener: Opener, done: Rebuilt, progress: Callable[[str, int], object]) -> None:
    def count(events: int) -> None:
        done.events = events
        progress("events of the log", events)

    async with opener() as engine:
        await catch_up(ledger, engine, count)


def _read_papers(ledger: Ledger, records: Records, done: Rebuilt, progress: Callable[[str, int], object]) -> None:
    """Bring in the stories of all tasks that the ledger does not know, or not the end of."""
    events: list[Event] = []
    for task_id in records.registered_ids():
        done.tasks += 1
        progress("tasks of the store", done.tasks)
        if not ledger.is_complete(task_id):
            events += _story(records, task_id, done)
        if len(events) >= BATCH:
            ledger.tell(events)
            events.clear()
    ledger.tell(events)
    ledger.forget_gap()


def _story(records: Records, task_id: str, done: Rebuilt) -> Iterator[Event]:
    try:
        told = list(story_of(records, task_id))
    except EvidenceError as error:
        done.damaged.append(str(error))
        return
    done.missing += bool(told)
    yield from told


def story_of(records: Records, task_id: str) -> Iterator[Event]:
    """What the papers tell of a task, nothing for an unknown one. Raises EvidenceError, StoreUnavailable."""
    papers = records.papers(task_id)
    return story(papers, is_open=records.marks.is_open(task_id)) if papers else iter(())
