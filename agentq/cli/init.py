"""`agentq init`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import AsJson, Broker, Store, command, echo, echo_json
from agentq.errors import Conflict

if TYPE_CHECKING:
    from agentq.app import App

app = command()


@app.command()
def init(
    write: Annotated[bool, typer.Option("--write", help="Write agentq.toml here with these settings.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an agentq.toml that is there.")] = False,
    agent: Annotated[list[str] | None, typer.Option(help="An agent without a profile here. Repeatable.")] = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Declare all queues of the engine; safe to repeat. Says what was declared and what this broker can honour."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    if agent:
        app = App(app.settings.model_copy(update={"agents": (*app.settings.agents, *agent)}))
    path = Path.cwd() / "agentq.toml"
    if write and path.exists() and not force:
        raise Conflict(f"{path} exists", hint="Give --force to replace it.")
    declared = asyncio.run(app.declare())
    if write:
        path.write_text(_toml(app), encoding="utf-8")
    if json:
        echo_json(
            {
                "engine": list(app.passwordless_broker),
                "store": app.store.url,
                "agents": list(app.agents),
                "created": list(declared.created),
                "found": list(declared.found),
                "notes": list(declared.notes),
                "written": str(path) if write else None,
            }
        )
        return
    echo(f"engine  {', '.join(app.passwordless_broker)}")
    echo(f"store   {app.store.url}")
    echo(f"agents  {', '.join(app.agents)}")
    echo(f"queues  {len(declared.created)} created, {len(declared.found)} already there")
    for note in declared.notes:
        echo(f"note    {note}")
    if write:
        echo(f"wrote   {path}")


def _toml(app: "App") -> str:
    import json

    settings = app.settings
    lines = [
        "# agentq: where the engine and the store are. Flags and AGENTQ_* hold over this file.",
        f"broker = {json.dumps(list(app.passwordless_broker))}",
        f"store = {json.dumps(app.store.url)}",
        f"namespace = {json.dumps(settings.namespace)}",
        f"coordinator = {json.dumps(settings.coordinator)}",
    ]
    if settings.agents:
        lines.append(f"agents = {json.dumps(list(settings.agents))}")
    return "\n".join(lines) + "\n"
