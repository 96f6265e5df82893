"""`agentq bridge`: the daemon that tells chat threads of their jobs."""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.bridge_install import install
from agentq.cli.bridge_terms import As, Graph, MessagesKey, RunConfig, TenantKey
from agentq.cli.terms import Broker, LogFormat, Store, command, echo, say
from agentq.errors import Invalid, Unavailable
from agentq.harmless import one_line

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.integrations.langgraph.bridge import Bridge

app = command()

app.command()(install)


@app.callback()
def bridge() -> None:
    """Tell chat threads that their jobs have ended."""


@app.command()
def run(
    graph: Graph,
    coordinator: As = "chat",
    messages_key: MessagesKey = "messages",
    tenant_key: TenantKey = "tenant_id",
    config: RunConfig = None,
    once: Annotated[bool, typer.Option("--once", help="Bring what can be brought now, then end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    log_format: LogFormat = "text",
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Bring the ends of jobs into the threads of a LangGraph graph. SIGTERM drains; a second one ends it at once."""
    from agentq import logs
    from agentq.app import App

    logs.set_up(log_format, verbose=verbose, bridge=coordinator)
    tell = say if log_format == "text" else logging.getLogger("agentq").info
    with logs.last_words(log_format):
        needs_langgraph()
        given = _Given(graph, coordinator, messages_key, tenant_key, config)
        asyncio.run(_run(App.load(broker=broker, store=store), given, tell, once=once))
        if not once:
            tell(f"bridge of {coordinator}: ended")


def needs_langgraph() -> None:
    """Raise Invalid where the extra is not installed."""
    from importlib.util import find_spec

    if find_spec("langgraph") is None or find_spec("langchain_core") is None:
        raise Invalid("LangGraph is not installed here", hint="pip install 'agentq[langgraph]'")


@dataclass(frozen=True, slots=True)
class _Given:
    """What the command line says of a bridge."""

    graph: str
    coordinator: str
    messages_key: str
    tenant_key: str
    config: str | None


async def _run(app: "App", given: _Given, tell: Callable[[str], None], *, once: bool) -> None:
    from agentq.desk import Desk
    from agentq.integrations.langgraph.bridge import Bridge
    from agentq.integrations.langgraph.graphs import load, load_graph

    config = load(given.config) if given.config else None
    if config is not None and not callable(config):
        raise Invalid(
            f"{given.config} is no function", hint="Name one that is given a thread and answers a configuration."
        )
    with Desk(app.settings) as desk:
        async with load_graph(given.graph) as graph:
            bridge = Bridge(
                graph,
                desk,
                coordinator=given.coordinator,
                messages_key=given.messages_key,
                tenant_key=given.tenant_key,
                config=config,
            )
            if once:
                await _deliver(bridge)
            else:
                await _serve(bridge, given.coordinator, tell)


async def _deliver(bridge: "Bridge") -> None:
    """One pass; raises Unavailable when a thread failed."""
    did = await bridge.deliver()
    for task_id in did.acknowledged:
        echo(f"told of {task_id}")
    for thread, why in did.waits.items():
        say(f"thread {one_line(thread.id)} waits: {one_line(why)}")
    for thread in did.gone:
        say(f"thread {one_line(thread.id)} is gone; what it asked for stays in the inbox")
    if did.failed:
        (thread, why), *others = did.failed.items()
        more = f", and {len(others)} more" if others else ""
        raise Unavailable(f"thread {one_line(thread.id)} failed{more}: {one_line(why)}", hint="Try again later.")


async def _serve(bridge: "Bridge", coordinator: str, tell: Callable[[str], None]) -> None:
    from agentq.supervisor import Supervisor

    supervisor, stop = Supervisor(), asyncio.Event()
    running = asyncio.create_task(bridge.run(stop))

    def end() -> None:
        if stop.is_set():
            running.cancel()
        supervisor.stopping()
        stop.set()

    loop = asyncio.get_running_loop()
    for what in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(what, end)
    async with supervisor.hears(lambda: f"telling the threads of {coordinator}"):
        tell(f"bridge of {coordinator}: ready")
        supervisor.ready()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()
