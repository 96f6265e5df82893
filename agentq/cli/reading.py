"""What the commands share that read the ledger."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import say
from agentq.errors import NotFound
from agentq.observing.plain import iso as iso
from agentq.observing.plain import plain as plain
from agentq.observing.plain import utc as utc

if TYPE_CHECKING:
    from rich.progress import Progress

    from agentq.ledger import Ledger, TaskRow
    from agentq.observer import Observer

PATIENCE = 0.5
"""Seconds of reading after which it is worth saying so."""

Cached = Annotated[bool, typer.Option("--cached", help="Answer from the ledger as it is, without reading the log.")]


def ledger_of(app: "Observer", *, cached: bool = False, partly: bool = False) -> "Ledger":
    """The ledger, caught up with the log unless that is not wanted; a long reading shows on a terminal.

    Raises Unavailable for a log that has never been read whole, unless whoever asks can do with a part of it.
    """
    if cached:
        return app.ledger(say)
    with counting("reading the log", "events") as progress:
        return app.caught_up_ledger(say, progress, partly=partly)


@contextlib.contextmanager
def counting(what: str, of: str) -> Iterator[Callable[[int], None]]:
    """What to call with a count that grows; it shows on stderr, if that is a terminal, once it takes long."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    counter = _Counter(what, of)
    try:
        yield counter.show
    finally:
        counter.stop()


class _Counter:
    def __init__(self, what: str, of: str) -> None:
        self._what, self._of, self._began = what, of, time.monotonic()
        self._shown: Progress | None = None

    def show(self, count: int) -> None:
        if self._shown is None and time.monotonic() - self._began > PATIENCE:
            self._shown = self._start()
        if self._shown:
            self._shown.update(self._shown.task_ids[0], completed=count)

    def stop(self) -> None:
        if self._shown:
            self._shown.stop()

    def _start(self) -> "Progress":
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        count = TextColumn("{task.completed:,.0f} " + self._of, markup=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), count, TimeElapsedColumn())
        shown = Progress(*columns, console=Console(stderr=True), transient=True)
        shown.add_task(self._what, total=None)
        shown.start()
        return shown


def known_task(app: "Observer", ledger: "Ledger", task_id: str) -> "TaskRow":
    """The task's row; one that the log does not tell of is brought in from its papers. Raises NotFound."""
    row = ledger.task(task_id)
    if row is None or row.created_at is None:
        from agentq.app import App
        from agentq.rebuild import story_of

        records = App(app.settings).records
        ledger.tell(list(story_of(records, task_id)))
        row = ledger.task(task_id) or row
        if row is None:
            raise NotFound(
                f"neither the log nor the store {records.store.url} knows a task {task_id}",
                hint="Check the id, and the broker and the store (--broker, --store).",
            )
        say(f"the log does not tell of {task_id} (any more): this is from its papers")
    return row
