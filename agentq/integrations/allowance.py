"""How many jobs of one chat thread may be open at once: marks in the store, which whoever starts a job puts first.

`chats/<thread>/<task>`, put before the task is registered and removed once it is found to have ended. Whoever is over
the limit after its own marks are there takes them away again: so of two processes neither passes it.
"""

import contextlib
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from agentq.integrations.jobs import Where
from agentq.messages import utc_now
from agentq.records import Records
from agentq.store import Store, names_in

REGISTERING = timedelta(minutes=10)
"""After that time a mark whose task nobody registered is a dead starter's."""
_LOCKS = 64


class Allowance:
    """The open jobs of every thread, each at most `limit`; from any thread of this process, exactly so many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def admit(self, records: Records, where: Where, task_ids: Sequence[str]) -> int | None:
        """Count these tasks as open: None when they may be started, else how many others are open."""
        folder = f"chats/{where.key}/"
        with self._locks[int(where.key[:8], 16) % _LOCKS]:
            new = [task_id for task_id in task_ids if _put(records.store, folder, task_id)]
            if not new:
                return None
            others = set(names_in(records.store.keys(folder))) - set(task_ids)
            if len(others) + len(task_ids) > self.limit:
                others = {task_id for task_id in others if _is_open(records, folder, task_id)}
            if len(others) + len(task_ids) <= self.limit:
                return None
            _remove(records.store, folder, new)
            return len(others)

    def withdraw(self, records: Records, where: Where, task_ids: Sequence[str]) -> None:
        """Count them no more: they were not started after all."""
        _remove(records.store, f"chats/{where.key}/", task_ids)


def _put(store: Store, folder: str, task_id: str) -> bool:
    """Put a mark, and answer whether it is new. One that a crash of the host takes away is no harm."""
    if store.get(folder + task_id) is not None:
        return False
    store.put(folder + task_id, utc_now().isoformat().encode(), durable=False)
    return True


def _remove(store: Store, folder: str, task_ids: Sequence[str]) -> None:
    for task_id in task_ids:
        store.delete(f"{folder}{task_id}")


def _is_open(records: Records, folder: str, task_id: str) -> bool:
    """Whether that task has not ended; the mark of one that has is removed."""
    is_registered = records.is_registered(task_id)
    if (is_registered and records.manifest(task_id) is None) or (
        not is_registered and _is_young(records, folder + task_id)
    ):
        return True
    records.store.delete(f"{folder}{task_id}")
    return False


def _is_young(records: Records, key: str) -> bool:
    """Whether the task of a mark may be just being registered."""
    with contextlib.suppress(ValueError, TypeError):
        return utc_now() - datetime.fromisoformat((records.store.get(key) or b"").decode()) < REGISTERING
    return False
