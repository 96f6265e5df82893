"""`agentq worker`: the daemon."""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import Broker, Runner, Store, command, say
from agentq.credentials import masked
from agentq.errors import Invalid
from agentq.harmless import one_line, quoted

if TYPE_CHECKING:
    from agentq.app import App

app = command()


@app.callback()
def worker() -> None:
    """Run a worker."""


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent that its profile names.", show_default=False)],
    runner: Runner = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Take one task after another for an agent. SIGTERM drains; a second one stops what runs and releases it."""
    from agentq.app import App

    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("asyncio", "aio_pika", "aiormq", "botocore", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    asyncio.run(_run(App.load(broker=broker, store=store), name, _words(runner)))
    say(f"{name}: ended")


class _Lines(logging.Formatter):
    """One line for each record, a bar before each of a traceback: nothing in them can pass for another record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record as one line, without control characters and passwords."""
        record.message = one_line(masked(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """A traceback, quoted."""
        return quoted(masked(super().formatException(ei)))


def _words(runner: str | None) -> list[str]:
    try:
        return shlex.split(runner or "")
    except ValueError as error:
        raise Invalid(f"the runner's command cannot be read: {error}", hint="Quote it as for a shell.") from error


async def _run(app: "App", name: str, runner: list[str]) -> None:
    async with app.worker(name, runner=runner, on_ready=lambda: _ready(name)) as daemon:
        loop = asyncio.get_running_loop()
        for what in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(what, daemon.drain)
        await daemon.run()


def _ready(name: str) -> None:
    say(f"{name}: ready")
    _notify("READY=1")


def _notify(state: str) -> None:
    """Tell systemd, when it listens; the protocol of sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())
