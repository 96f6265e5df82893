"""`agentq watch`."""

import asyncio
import io
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.lines import lines, what
from agentq.cli.reading import ledger_of
from agentq.cli.terms import (
    AsJson,
    Broker,
    SomeIds,
    Store,
    checked_name,
    command,
    echo,
    outcome,
    say,
)
from agentq.errors import AgentqError, EngineUnavailable, Invalid, NotFound, StoreUnavailable
from agentq.events import Event
from agentq.harmless import visible_json
from agentq.ledger import Filter
from agentq.messages import utc_now
from agentq.observing.feed import Feed
from agentq.observing.watching import Watch
from agentq.patience import cancelled
from agentq.story import finished, story

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.engine import Log, Page
    from agentq.ledger import Ledger
    from agentq.messages import Completion

app = command()

TICK = 0.25
LOOK_SECONDS, SHARE = 2.0, 0.1
"""How often the papers are asked for what the log does not tell, and the share of its time that this may take."""
BEFORE = timedelta(minutes=10)
"""How much earlier than an attempt began its output is looked for: clocks differ."""
FEW = 100
"""Up to how many tasks the log is asked for theirs alone."""
MANY = 10_000
"""Of so many running tasks the ends are shown behind their last words."""
UNTOLD = ("worker_heartbeat", "settled", "reply")
"""What is worth no line for a person; an answer is read whole, in its thread or its result."""

Agent = Annotated[
    str | None, typer.Option("--agent", metavar="NAME", help="All tasks of that agent.", callback=checked_name)
]


@app.command()
def watch(
    ids: SomeIds = None,
    agent: Agent = None,
    everything: Annotated[bool, typer.Option("--all", help="All tasks and workers.")] = False,
    no_output: Annotated[bool, typer.Option("--no-output", help="Without what agents print.")] = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Show what happens as it happens, and what running agents print; of tasks that are named first what was.

    Ends with 0 when all named tasks have ended, however they did; --agent and --all go on until interrupted (130).
    """
    from agentq.app import App

    if sum(map(bool, (ids, agent, everything))) != 1:
        raise Invalid(
            "say what to watch, once",
            hint="Task ids, which ends with them; or else --agent NAME or --all, which go on until interrupted.",
        )
    app = App.load(broker=broker, store=store)
    printer = _Printer(json=json)
    with ledger_of(app, partly=True) as ledger:
        if ids:
            _watch_tasks(app, ledger, list(dict.fromkeys(ids)), printer, with_output=not no_output)
        else:
            _watch_on(app, ledger, agent, printer, with_output=not no_output)


def _watch_tasks(app: "App", ledger: "Ledger", ids: Sequence[str], printer: "_Printer", *, with_output: bool) -> None:
    """Show what was of these tasks and what happens, until they have ended; then how they did."""
    told, members = list[Event](), list[str]()
    for task_id in ids:
        events, of_group = _known(app, ledger, task_id)
        told += events
        members += of_group
    watch = Watch(ids, members, with_output=with_output)
    printer.show(watch.history(told))
    if not printer.json:
        printer.show(event for task_id in (*ids, *members) for event in _doing(ledger, task_id))
    if not watch.is_over:
        since = (watch.talking_since or utc_now()) - BEFORE
        asyncio.run(_Live(app, watch, printer).run(ledger.position, since))
    for task_id in () if printer.json else ids:
        echo(f"{task_id}  {_outcome(app, watch.ended[task_id])}  → agentq result {task_id}")


def _known(app: "App", ledger: "Ledger", task_id: str) -> tuple[list[Event], list[str]]:
    """What log and papers tell of a task and of its members, and who those are; raises NotFound."""
    events, papers = ledger.events(task_id), None
    try:
        papers = app.records.papers(task_id)
    except StoreUnavailable as error:
        if not events:
            raise
        say(f"the papers of {task_id} cannot be read, this is what the log tells ({error})")
    if papers:
        events += story(papers, is_open=True)
    elif not events:
        app.coordinator.envelope(task_id)
    rows = ledger.query("SELECT task_id FROM tasks WHERE grp = ?", (task_id,))
    members = [task.task_id for task in papers.envelope.plan] if papers else [row["task_id"] for row in rows]
    return events + [event for member in members for event in ledger.events(member)], members


def _doing(ledger: "Ledger", task_id: str) -> Iterator[Event]:
    """What the attempt that runs now said last that it does."""
    for row in ledger.query(_DOING, (task_id,)):
        at, said = datetime.fromtimestamp(row["doing_at"], UTC), {"text": row["doing"]}
        yield Event(id=f"{task_id}/doing", kind="progress", at=at, task_id=task_id, attempt=row["claimed"], data=said)


_DOING = """SELECT claimed, doing, doing_at FROM tasks
    WHERE task_id = ? AND outcome IS NULL AND claimed > ended AND doing_attempt = claimed AND doing > ''"""


def _outcome(app: "App", event: Event) -> str:
    """How a task ended, by its papers where they can be read."""
    try:
        return outcome(app.coordinator.result(event.task_id or ""))
    except AgentqError:
        return what(event)


def _watch_on(app: "App", ledger: "Ledger", agent: str | None, printer: "_Printer", *, with_output: bool) -> None:
    """Show what happens to all tasks, or to an agent's, until interrupted."""

    def agent_of(task_id: str) -> str | None:
        row = ledger.task(task_id)
        return row.agent if row else None

    if agent and agent not in app.agents.names and not ledger.tasks(Filter(agent=agent), limit=1):
        hint = f"Known: {', '.join(app.agents.names)}."
        raise NotFound(f"there is no agent {agent}, and the log tells of none", hint=hint)
    watch = Watch(agent=agent, agent_of=agent_of, with_output=with_output)
    for row in ledger.tasks(Filter(states=("processing",), agent=agent), limit=MANY):
        if row.worker:
            watch.expect(row.task_id, row.attempt, utc_now())
    live = _Live(app, watch, printer, on_events=ledger.apply)
    asyncio.run(live.run(ledger.position, utc_now()))


class _Printer:
    """Prints events at once: lines for a person, or JSON, an event a line."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def show(self, events: Iterable[Event]) -> None:
        """Print them."""
        for event in events:
            if self.json:
                print(visible_json(event.to_json().decode()))
            elif event.kind not in UNTOLD:
                for each in lines(event, utc_now()):
                    echo(each)
        sys.stdout.flush()

    def check_reader(self) -> None:
        """Raise BrokenPipeError when nobody reads it, which is else known only once something is written."""
        with suppress(ValueError, io.UnsupportedOperation):
            poll = select.poll()
            poll.register(sys.stdout.fileno(), 0)
            if any(found & select.POLLERR for _, found in poll.poll(0)):
                raise BrokenPipeError


class _Live:
    """Shows what happens from a position of the log on, until all that is watched has ended."""

    def __init__(
        self, app: "App", watch: Watch, printer: _Printer, on_events: Callable[["Page"], object] = lambda page: None
    ) -> None:
        self._app, self._watch, self._printer = app, watch, printer
        self._on_events = on_events
        self._behind: set[Log] = set()
        self._is_new_to_it = not watch.tasks
        """Whether what was printed before is of no interest."""

    async def run(self, position: str | None, since: datetime) -> None:
        """Follow the events behind the position, and what agents printed since then."""
        async with self._app.engine() as engine:
            feed = Feed(engine, _say)
            looking = [asyncio.create_task(self._look())] if self._watch.tasks else []
            try:
                self._follow(feed, position, since)
                while not self._watch.is_over:
                    self._printer.check_reader()
                    if arrival := await feed.next(TICK):
                        self._take(*arrival)
                    self._show(self._watch.due(time.monotonic()))
                    for task in looking:
                        if task.done():
                            task.result()
            finally:
                await cancelled(*looking)
                await feed.close()

    def _follow(self, feed: Feed, position: str | None, since: datetime) -> None:
        tasks = self._watch.tasks if len(self._watch.tasks) <= FEW else ()
        feed.follow("events", after=position, tasks=tasks)
        self._behind.add("events")
        if self._watch.with_output:
            feed.follow("output", since=since, tasks=tasks)
            self._behind.add("output")
        self._watch.is_behind = self._watch.with_output

    def _take(self, log: "Log", page: "Page") -> None:
        """Show a page."""
        if page.gap:
            say(f"part of the {log} was gone from the log before it was read (retention): not shown here")
        if log == "events":
            self._on_events(page)
        if log == "events" or not (self._is_new_to_it and log in self._behind):
            self._show(self._watch.take(page.events, time.monotonic()))
        if page.caught_up and log in self._behind:
            self._caught_up(log)

    def _caught_up(self, log: "Log") -> None:
        self._behind.discard(log)
        self._watch.is_behind = "output" in self._behind
        if self._is_new_to_it and not self._behind:
            say("watching; Ctrl-C ends it")

    def _show(self, events: Iterable[Event]) -> None:
        self._printer.show(events)

    async def _look(self) -> None:
        """Show the ends that the log does not tell: it may be away, or have lost them. What is overdue is ended."""
        before: set[str] = set()
        while True:
            began = time.monotonic()
            found = await asyncio.to_thread(self._ended)
            for manifest in found:
                if manifest.task_id in before:
                    self._show(self._watch.take(finished(manifest, None), time.monotonic()))
            before = {manifest.task_id for manifest in found}
            await asyncio.sleep(max(LOOK_SECONDS, (time.monotonic() - began) / SHARE))

    def _ended(self) -> list["Completion"]:
        with suppress(AgentqError):
            ended = self._app.coordinator.wait(self._watch.left, 0.0)
            self._app.hand_over()
            return ended
        return []


def _say(trouble: EngineUnavailable | None) -> None:
    at = f"{utc_now():%H:%M:%SZ}"
    if trouble is None:
        say(f"the log is there again at {at}, going on where it was")
    else:
        say(f"the log is away at {at}, waiting for it: {trouble}{f' ({trouble.hint})' if trouble.hint else ''}")
