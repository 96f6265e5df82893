"""`agentq init`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import AgentNames, AsJson, Broker, Store, command, echo, echo_json
from agentq.errors import Conflict, Invalid

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.engine import Declared
    from agentq.tomlfile import Section

app = command()


@app.command()
def init(
    write: Annotated[bool, typer.Option("--write", help="Write agentq.toml here with these settings.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an agentq.toml that says something else.")] = False,
    agent: AgentNames = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Declare all queues of the engine; safe to repeat. Says what was declared and what this broker can honour."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    if agent:
        app = App.load(broker=broker, store=store, agents=tuple(dict.fromkeys((*app.settings.agents, *agent))))
    path, text = Path.cwd() / "agentq.toml", _toml(app)
    if write and not force:
        _must_not_differ(path, text)
    declared = asyncio.run(app.declare())
    if write:
        _write(path, text)
    notes = [*declared.notes, *_notes(app, write=write, named=bool(agent))]
    if json:
        echo_json(_plain(app, declared, notes, path if write else None))
    else:
        _print(app, declared, notes, path if write else None)


def _must_not_differ(path: Path, text: str) -> None:
    if path.is_file() and path.read_bytes() != text.encode():
        raise Conflict(f"{path} exists and says something else", hint="Give --force to replace it.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="The queues are declared; repeat.") from error


def _notes(app: "App", *, write: bool, named: bool) -> list[str]:
    notes = []
    if write and app.has_password:
        notes.append("agentq.toml has no password in it: set AGENTQ_BROKER_PASSWORD where agentq runs")
    if named and not write:
        notes.append("--agent holds for this command: keep it with --write, or with agents = [...] in agentq.toml")
    return notes


def _plain(app: "App", declared: "Declared", notes: list[str], written: Path | None) -> dict[str, Any]:
    return {
        "engine": list(app.passwordless_broker),
        "store": app.store.url,
        "agents": list(app.agents.names),
        "created": list(declared.created),
        "found": list(declared.found),
        "notes": notes,
        "written": str(written) if written else None,
    }


def _print(app: "App", declared: "Declared", notes: list[str], written: Path | None) -> None:
    echo(f"engine  {', '.join(app.passwordless_broker)}")
    echo(f"store   {app.store.url}")
    echo(f"agents  {', '.join(app.agents.names)}")
    echo(f"queues  {len(declared.created)} created, {len(declared.found)} already there")
    for note in notes:
        echo(f"note    {note}")
    if written:
        echo(f"wrote   {written}")


def _toml(app: "App") -> str:
    """The settings in force as a file, without any password."""
    settings = app.settings
    values: dict[str, Any] = {
        "broker": list(app.passwordless_broker),
        "store": app.store.url,
        "namespace": settings.namespace,
        "coordinator": settings.coordinator,
        "agents": list(settings.agents),
        "require_signatures": settings.require_signatures or None,
        "workers": str(settings.workers.absolute()) if settings.workers else None,
    }
    lines = ["# agentq: where the engine and the store are. Flags and AGENTQ_* hold over this file."]
    lines += _lines(values)
    for name, section in (("rabbitmq", settings.rabbitmq), ("s3", settings.s3)):
        if changed := _lines(_changed(section)):
            lines += ["", f"[{name}]", *changed]
    return "\n".join(lines) + "\n"


def _changed(section: "Section") -> dict[str, Any]:
    return section.model_dump(mode="json", exclude={"password"}, exclude_defaults=True)


def _lines(values: dict[str, Any]) -> list[str]:
    from json import dumps

    return [f"{key} = {dumps(value, ensure_ascii=False)}" for key, value in values.items() if value not in (None, [])]
