"""`agentq worker`: the daemon."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import Broker, LogFormat, Runner, Store, command, say, words
from agentq.cli.via import TokenFile, Via, gateway
from agentq.cli.worker_check import check
from agentq.cli.worker_install import install
from agentq.cli.worker_new import new
from agentq.events import worker_id

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.worker import Worker

app = command()


for one in (new, check, install):
    app.command()(one)


@app.callback()
def worker() -> None:
    """Make, check, install and run workers."""


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent that its profile names.", show_default=False)],
    runner: Runner = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    log_format: LogFormat = "text",
    metrics_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Serve its metrics to Prometheus.", min=0, max=65535, show_default=False),
    ] = None,
    metrics_address: Annotated[str, typer.Option(metavar="ADDRESS", help="Where it serves them.")] = "127.0.0.1",
    keep: Annotated[bool, typer.Option("--keep", help="Leave on this machine what attempts leave.")] = False,
    via: Via = None,
    token_file: TokenFile = None,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Take one task after another for an agent. SIGTERM drains; a second one stops what runs and releases it."""
    from agentq import logs
    from agentq.app import App

    logs.set_up(log_format, verbose=verbose, worker=worker_id(name, socket.gethostname(), os.getpid()), agent=name)
    tell = say if log_format == "text" else logging.getLogger("agentq").info
    with logs.last_words(log_format):
        metrics = None if metrics_port is None else (metrics_address, metrics_port)
        app = App.load(broker=broker, store=store, **gateway(via, token_file))
        asyncio.run(_run(app, name, words(runner), tell, metrics, keep=keep))
        tell(f"{name}: ended")


async def _run(
    app: "App",
    name: str,
    runner: tuple[str, ...],
    tell: Callable[[str], None],
    metrics: tuple[str, int] | None,
    *,
    keep: bool,
) -> None:
    from agentq.supervisor import Supervisor

    supervisor = Supervisor()

    def ready() -> None:
        tell(f"{name}: ready")
        supervisor.ready()

    async with (
        app.worker(name, runner=runner, on_ready=ready, keep=keep) as daemon,
        _metered(daemon, metrics),
        supervisor.hears(lambda: daemon.standing),
    ):

        def drain() -> None:
            supervisor.stopping()
            daemon.drain()

        loop = asyncio.get_running_loop()
        for what in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(what, drain)
        await daemon.run()


@contextlib.asynccontextmanager
async def _metered(daemon: "Worker", metrics: tuple[str, int] | None) -> AsyncIterator[None]:
    """Serve the worker's metrics at that address and port, if that is wanted."""
    if metrics is None:
        yield
        return
    from prometheus_client import CollectorRegistry, ProcessCollector

    from agentq.observing.exposition import place, serving

    registry = CollectorRegistry()
    registry.register(daemon.meter())
    ProcessCollector(registry=registry)
    with contextlib.ExitStack() as stack:
        address, port = metrics[0], stack.enter_context(serving(registry, *metrics))
        logging.getLogger("agentq").info("serving metrics at http://%s/metrics", place(address, port))
        try:
            yield
        finally:
            await asyncio.to_thread(stack.close)  # who asks just now waits for this loop
