"""`agentq top`."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.reading import ledger_of
from agentq.cli.terms import Broker, command, one_line, seconds
from agentq.errors import EngineUnavailable, Invalid
from agentq.events import OUTPUT, Event
from agentq.messages import utc_now

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from agentq.engine import Log, Page
    from agentq.ledger import Ledger
    from agentq.observer import Observer
    from agentq.observing.board import Board, LastWords, Rates
    from agentq.observing.feed import Feed

app = command()

SHORTEST, IDLE_SECONDS = 0.1, 1.0
"""Seconds between two pictures at the least, and while nothing happens."""
RATES_SECONDS, RATES_SHARE = 5.0, 0.02
"""How often the figures of a day are added up, and the share of its time that this may take."""
MANY = 1000
"""Of how many attempts the last words are kept, as long as they may still run."""
EARLIER = timedelta(minutes=10)
"""How far back last words are looked for."""

Interval = Annotated[str, typer.Option("--interval", metavar="TIME", help="How often, while something happens.")]


@app.command()
def top(
    interval: Interval = "1s",
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    broker: Broker = None,
) -> None:
    """Show queues, workers, running tasks and figures, live in the terminal; Ctrl-C ends it, with 0.

    Where there is no terminal one picture is printed, as with --once.
    """
    from agentq.observer import Observer

    pause = seconds("--interval", interval)
    if pause < SHORTEST:
        raise Invalid(f"--interval {interval} is too short", hint=f"{SHORTEST:g} is the least.")
    app = Observer.load(broker=broker)
    is_live = not once and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    with ledger_of(app, partly=is_live) as ledger:
        state = _State(app, ledger)
        if not is_live:
            state.print()
        else:
            asyncio.run(_Screen(app, state, pause).run())


class _State:
    """What is known at this moment: the ledger, and what the agents of running tasks said last."""

    def __init__(self, app: "Observer", ledger: "Ledger") -> None:
        self._app, self.ledger = app, ledger
        self.where = f"{', '.join(app.passwordless_broker)}  {app.settings.namespace}"
        self._words: LastWords = {}
        self._rates: Rates | None = None
        self._rates_until = 0.0

    def take(self, log: "Log", page: "Page") -> None:
        """Bring in a page of a log."""
        if log == "events":
            self.ledger.apply(page)
        for event in page.events:
            words = _last_words(event)
            if words and event.task_id:
                self._words[event.task_id, event.attempt] = words

    def board(self) -> "Board":
        """The board at this moment."""
        from agentq.observing.board import Board, Rates

        now = time.time()
        if self._rates is None or now >= self._rates_until:
            self._rates = Rates.of(self.ledger, now)
            self._rates_until = now + max(RATES_SECONDS, (time.time() - now) / RATES_SHARE)
        board = Board.of(self.ledger, self._rates, now, self._words)
        if len(self._words) > MANY:
            running = {(sight.task.task_id, sight.task.attempt) for sight in board.running}
            self._words = {attempt: words for attempt, words in self._words.items() if attempt in running}
        return board

    def print(self) -> None:
        """Print one picture, as long as it is."""
        from agentq.cli.dashboard import Picture

        if running := [sight.task.task_id for sight in self.board().running]:
            with suppress(EngineUnavailable):  # the ledger has said so
                asyncio.run(self._listen(running))
        _console().print(Picture(self.board(), self.where))

    async def _listen(self, tasks: list[str]) -> None:
        from agentq.observing.follower import catch_up

        async with self._app.engine() as engine:
            async for page in catch_up(engine, "output", since=utc_now() - EARLIER, tasks=tasks):
                self.take("output", page)


class _Screen:
    """The picture on the terminal's other screen, drawn anew when something changed."""

    def __init__(self, app: "Observer", state: _State, pause: float) -> None:
        self._app, self._state, self._pause = app, state, pause
        self._console = _console()
        self._woken = asyncio.Event()
        self._is_changed = self._is_over = False
        self._notice = ""

    async def run(self) -> None:
        """Show it until interrupted; the terminal is left as it was."""
        from rich.live import Live

        from agentq.observing.feed import Feed
        from agentq.patience import cancelled

        self._listen_to_signals()
        async with self._app.engine() as engine:
            feed = Feed(engine, self._heard)
            feed.follow("events", after=self._state.ledger.position)
            feed.follow("output", since=utc_now() - EARLIER)
            reading = asyncio.create_task(self._read(feed))
            try:
                with Live(console=self._console, screen=True, auto_refresh=False) as live:
                    await self._show(live, reading)
            finally:
                await cancelled(reading)
                await feed.close()

    async def _show(self, live: "Live", reading: "asyncio.Task[None]") -> None:
        while not self._is_over:
            self._draw(live)
            await self._something_new(reading)

    def _draw(self, live: "Live") -> None:
        from agentq.cli.dashboard import Picture

        self._is_changed = False
        self._console.size = os.get_terminal_size(sys.stdout.fileno())
        picture = Picture(self._state.board(), self._state.where, self._notice, self._console.height)
        live.update(picture, refresh=True)

    async def _something_new(self, reading: "asyncio.Task[None]") -> None:
        """Wait until another picture is worth it."""
        drawn = time.monotonic()
        while not self._woken.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._woken.wait()
            if reading.done():
                reading.result()
            if self._is_changed or time.monotonic() - drawn >= IDLE_SECONDS:
                break
        self._woken.clear()

    async def _read(self, feed: "Feed") -> None:
        while True:
            if arrival := await feed.next(IDLE_SECONDS):
                self._state.take(*arrival)
                self._is_changed = True

    def _heard(self, trouble: EngineUnavailable | None) -> None:
        since = f"{utc_now():%H:%M:%SZ}"
        self._notice = f"the log is away, this is as of {since}: {trouble}" if trouble else ""
        self._woken.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._woken.set)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)

    def _end(self) -> None:
        self._is_over = True
        self._woken.set()


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _last_words(event: Event) -> str:
    """The last line of what an agent printed, or what its attempt says that it does."""
    text = event.data.get("text") if event.kind in (OUTPUT, "progress") else None
    return one_line(text.strip().rpartition("\n")[2]) if isinstance(text, str) else ""
