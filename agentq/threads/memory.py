"""What was read of threads and cannot change any more, kept for whoever reads it again."""

import threading
from collections import OrderedDict

from agentq.messages import Message
from agentq.threads.reading import Answered

ROOM = 32 * 1024 * 1024
"""Characters of papers and answers that are kept, about."""
LEAST = 500
"""What a paper counts at least."""


class Memory:
    """Papers by their keys and finished answers by their tasks, the latest used; any thread may use it."""

    def __init__(self, room: int = ROOM) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Message | Answered, int]] = OrderedDict()
        self._room, self._taken = room, 0

    def find(self, name: str) -> Message | Answered | None:
        """What is kept under a name."""
        with self._lock:
            found = self._kept.get(name)
            if found:
                self._kept.move_to_end(name)
            return found[0] if found else None

    def keep(self, name: str, thing: Message | Answered, size: int) -> None:
        """Keep something; what was not used for longest goes."""
        with self._lock:
            _, before = self._kept.pop(name, (None, 0))
            self._kept[name] = (thing, size := max(size, LEAST))
            self._taken += size - before
            while self._taken > self._room and self._kept:
                _, (_, gone) = self._kept.popitem(last=False)
                self._taken -= gone
