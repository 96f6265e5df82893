"""`agentq doctor`."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import AsJson, Broker, Store, command, echo, echo_json, one_line, say
from agentq.errors import AgentqError, ExitCode

if TYPE_CHECKING:
    from agentq.doctor import Findings

app = command()

SHOWN = 3
"""How many of the missing queues and exchanges are named."""


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Check engine, store and papers. Exit code 13 when there is something to mend, 6 when something is unreachable."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    findings = asyncio.run(app.examine())
    done: list[str] = []
    if repair and findings.engine_error is None and findings.store_error is None:
        if findings.health and findings.health.missing:
            done.append(f"declared {len(asyncio.run(app.declare()).created)} missing parts of the topology")
        done += asyncio.run(app.repair(findings))
        findings = asyncio.run(app.examine())
    if json:
        echo_json(_plain(app, findings, done))
    else:
        _print(app, findings, done)
    raise typer.Exit(_code(findings))


def _code(findings: "Findings") -> int:
    if findings.unreachable:
        return ExitCode.UNAVAILABLE
    return ExitCode.OK if findings.well else ExitCode.NEEDS_MENDING


def _print(app: Any, findings: "Findings", done: list[str]) -> None:
    for line in done:
        echo(f"mended    {line}")
    health = findings.health
    echo(f"settings  {app.settings.source}")
    if health:
        echo(f"engine    ok: {health.name} {health.version} at {', '.join(app.passwordless_broker)}")
        for note in health.notes:
            echo(f"          {note}")
        if health.missing:
            more = f" and {len(health.missing) - SHOWN} more" if len(health.missing) > SHOWN else ""
            echo(f"missing   {', '.join(health.missing[:SHOWN])}{more}")
    if findings.engine_error:
        _print_error("engine", findings.engine_error)
    if findings.store_error:
        _print_error("store", findings.store_error)
    else:
        echo(f"store     ok: {app.store.place}, put-if-absent proven")
    for ailment in findings.ailments:
        echo(f"papers    {ailment.task_id} {one_line(ailment.what)}{'' if ailment.mendable else ' (not by --repair)'}")
    if not findings.ailments and not findings.store_error:
        echo("papers    ok")
    if _code(findings) == ExitCode.NEEDS_MENDING and not _all_for_hands(findings):
        say("  → Mend it: agentq doctor --repair")


def _print_error(what: str, error: AgentqError) -> None:
    echo(f"{what:<9} {one_line(str(error))}")
    if error.hint:
        echo(f"          → {error.hint}")


def _all_for_hands(findings: "Findings") -> bool:
    if findings.store_error:
        return True
    missing = findings.health is not None and bool(findings.health.missing)
    return not missing and not any(ailment.mendable for ailment in findings.ailments)


def _plain(app: Any, findings: "Findings", done: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "well": findings.well,
        "broker": list(app.passwordless_broker),
        "store": app.store.url,
        "engine": asdict(findings.health) if findings.health else None,
        "engine_error": str(findings.engine_error) if findings.engine_error else None,
        "store_error": str(findings.store_error) if findings.store_error else None,
        "ailments": [asdict(ailment) for ailment in findings.ailments],
        "mended": done,
    }
