"""The marks of a store: empty objects that say what is still to be done, for sweeps, inboxes and gates."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from agentq.messages import Envelope
from agentq.store import Store, names_in

STAMP = "%Y%m%dT%H%M%SZ"


class Marks:
    """The marks of all tasks in one store. They tell where to look, papers decide; any change may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ------------------------------------------------------------------ what is not settled, published, arrived

    def open(self, task_id: str, *, published: bool = False) -> None:
        """Mark a task as not settled and, unless it is, as not known to be published; before it is registered."""
        if not published:
            self.unpublish(task_id)
        self._store.put(f"open/{task_id}", b"")

    def is_open(self, task_id: str) -> bool:
        """Whether the task is still to be settled."""
        return self._store.get(f"open/{task_id}") is not None

    def close(self, task_id: str) -> None:
        """Remove the marks of a settled task; last of all papers."""
        self.published(task_id)
        self._store.delete(f"open/{task_id}")

    def unsettled(self) -> Iterator[str]:
        """The ids of all tasks that are still to be settled."""
        return names_in(self._store.keys("open/"))

    def unpublish(self, task_id: str) -> None:
        """Note that the engine is not known to have the task; a sweep then publishes it."""
        self._store.put(f"outbox/{task_id}", b"")

    def published(self, task_id: str) -> None:
        """Note that the engine has the task."""
        self._store.delete(f"outbox/{task_id}")

    def is_unpublished(self, task_id: str) -> bool:
        """Whether the task is not known to be published."""
        return self._store.get(f"outbox/{task_id}") is not None

    def unpublished(self) -> Iterator[str]:
        """The ids that are not known to be published."""
        return names_in(self._store.keys("outbox/"))

    def arrives(self, task_id: str) -> None:
        """Note that a task is being brought from another store: what there is of it already is not abandoned."""
        self._store.put(f"arriving/{task_id}", b"")

    def arrived(self, task_id: str) -> None:
        """Remove that note."""
        self._store.delete(f"arriving/{task_id}")

    # ------------------------------------------------------------------ who needs whose evidence or end

    def hold_evidence(self, envelope: Envelope) -> None:
        """Mark what the task waits for and builds on; before it is registered."""
        for needed in envelope.waits_on:
            self._store.put(f"waits/{needed}/{envelope.task_id}", b"")
        for owner in envelope.borrows:
            self._store.put(f"uses/{owner}/{envelope.task_id}", b"")

    def let_go_of_evidence(self, envelope: Envelope) -> None:
        """Remove the marks on what the task waited for and built on."""
        for needed in envelope.waits_on:
            self.stop_waiting(needed, envelope.task_id)
        for owner in envelope.borrows:
            self._store.delete(f"uses/{owner}/{envelope.task_id}")

    def waiting_for(self, task_id: str) -> Iterator[str]:
        """The ids of the tasks that wait for this one to end, and of the group that it belongs to."""
        return names_in(self._store.keys(f"waits/{task_id}/"))

    def stop_waiting(self, task_id: str, waiter: str) -> None:
        """Note that the waiter knows of that task's end."""
        self._store.delete(f"waits/{task_id}/{waiter}")

    # ------------------------------------------------------------------ deadlines

    def will_expire(self, envelope: Envelope, at: datetime) -> None:
        """Note for the coordinator's inbox when a task expires unless it was started."""
        self._store.put(_deadline(envelope, at), b"")

    def will_not_expire(self, envelope: Envelope, at: datetime) -> None:
        """Remove that note."""
        self._store.delete(_deadline(envelope, at))

    def overdue(self, coordinator: str, now: datetime) -> Iterator[tuple[str, datetime]]:
        """The coordinator's tasks whose noted deadline has passed, and that deadline."""
        for name in names_in(self._store.keys(f"expiring/{coordinator}/")):
            stamp, _, task_id = name.partition("_")
            with contextlib.suppress(ValueError):  # somebody else's file
                deadline = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
                if deadline > now:
                    return
                yield task_id, deadline


def _deadline(envelope: Envelope, at: datetime) -> str:
    return f"expiring/{envelope.from_}/{_stamp(at)}_{envelope.task_id}"


def _stamp(moment: datetime) -> str:
    """To the second, rounded up: a deadline that is named so has passed when its name has."""
    return (moment.astimezone(UTC) + timedelta(microseconds=999_999)).strftime(STAMP)
