"""What is still to be done in threads, and for how long already: only a gateway looks after that by itself."""

from collections.abc import Iterator

from agentq.doctor.findings import Ailment, span
from agentq.errors import EvidenceError
from agentq.messages import utc_now
from agentq.records import Records
from agentq.threads.shelf import Shelf

LOOKED_AT = 1000
"""How many marks of a kind are looked at."""
_REMEDY = "a gateway does it: agentq serve"


def neglected(records: Records, patience: float) -> Iterator[Ailment]:
    """Messages whose tasks are not in their queues for so many seconds, and messages that nobody ended."""
    shelf = Shelf(records)
    for _, (thread_id, message_id) in zip(range(LOOKED_AT), shelf.owed("asking"), strict=False):
        if age := _age(shelf, thread_id, message_id, patience):
            what = f"{message_id} in {thread_id} was written {age} ago, and what it asks for is not known to be done"
            yield Ailment(None, "unasked", what, mendable=False, remedy=_REMEDY)
    for _, (thread_id, message_id) in zip(range(LOOKED_AT), shelf.owed("streaming"), strict=False):
        if age := _age(shelf, thread_id, message_id, patience):
            what = f"{message_id} in {thread_id} was begun {age} ago, and nobody has ended it"
            yield Ailment(None, "unended", what, mendable=False, remedy=_REMEDY)


def _age(shelf: Shelf, thread_id: str, message_id: str, patience: float) -> str | None:
    """How old a message is that is older than that; None for a younger one, and for one that never was."""
    try:
        post = shelf.posted(thread_id, message_id)
    except EvidenceError as error:
        return f"an unknown time ({error})"
    seconds = (utc_now() - post.at).total_seconds() if post else 0.0
    return span(seconds) if seconds > patience else None
