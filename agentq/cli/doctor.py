"""`agentq doctor`."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.reading import counting
from agentq.cli.terms import AsJson, Broker, Store, command, echo, echo_json, one_line, say, seconds
from agentq.errors import AgentqError, ExitCode

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.doctor import Ailment, Findings

app = command()

SHOWN = 3
"""How many of the missing queues and exchanges are named."""
Stuck = Annotated[str, typer.Option("--stuck", metavar="TIME", help="When a task that could start should have.")]


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    stuck: Stuck = "15m",
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Check engine, store, papers, log and workers.

    Exit code 13 when there is something to mend, 6 when something is unreachable.
    """
    from agentq.app import App

    patience = seconds("--stuck", stuck)
    app = App.load(broker=broker, store=store)
    findings = asyncio.run(app.examine(patience))
    done: list[str] = []
    if repair and findings.engine_error is None and findings.store_error is None:
        done = _repair(app, findings)
        findings = asyncio.run(app.examine(patience))
    if json:
        echo_json(_plain(app, findings, done))
    else:
        _print(app, findings, done)
    raise typer.Exit(_code(findings))


def _repair(app: "App", findings: "Findings") -> list[str]:
    done = []
    if findings.health and findings.health.missing:
        done.append(f"declared {len(asyncio.run(app.declare()).created)} missing parts of the topology")
    done += asyncio.run(app.repair(findings))
    if findings.ledger_is_wrong:
        with counting("making the ledger anew", "read") as progress:
            rebuilt = app.rebuild_ledger(lambda _, count: progress(count))
        done.append(f"the ledger made anew: {rebuilt.events} events, {rebuilt.missing} tasks told by their papers")
    return done


def _code(findings: "Findings") -> int:
    if findings.unreachable:
        return ExitCode.UNAVAILABLE
    return ExitCode.OK if findings.well else ExitCode.NEEDS_MENDING


# ---------------------------------------------------------------------- what is printed


def _print(app: "App", findings: "Findings", done: list[str]) -> None:
    for line in done:
        echo(f"mended    {line}")
    echo(f"settings  {app.settings.source}")
    for line in (*_engine(app, findings), *_store(app, findings), *_papers(findings), *_log(findings)):
        echo(line)
    if _code(findings) == ExitCode.NEEDS_MENDING and not _all_for_hands(findings):
        say("  → Mend it: agentq doctor --repair")


def _engine(app: "App", findings: "Findings") -> Iterator[str]:
    if health := findings.health:
        yield f"engine    ok: {health.name} {health.version} at {', '.join(app.passwordless_broker)}"
        yield from (f"          {note}" for note in health.notes)
        if health.missing:
            more = f" and {len(health.missing) - SHOWN} more" if len(health.missing) > SHOWN else ""
            yield f"missing   {', '.join(health.missing[:SHOWN])}{more}"
    yield from _error("engine", findings.engine_error)


def _store(app: "App", findings: "Findings") -> Iterator[str]:
    yield from _error("store", findings.store_error)
    if not findings.store_error:
        yield f"store     ok: {app.store.place}, put-if-absent proven"


def _papers(findings: "Findings") -> Iterator[str]:
    found = [ailment for ailment in findings.ailments if ailment.part == "papers"]
    yield from (line for ailment in found for line in _ailment(ailment))
    if not found and not findings.store_error:
        yield "papers    ok"


def _log(findings: "Findings") -> Iterator[str]:
    """What is said of log, queues, workers and clocks."""
    yield from _error("log", findings.log_error)
    yield from _error("ledger", findings.ledger_error)
    found = [ailment for ailment in findings.ailments if ailment.part != "papers"]
    yield from (line for ailment in found for line in _ailment(ailment))
    away = findings.engine_error or findings.log_error or findings.ledger_error
    if not found and not away:
        yield "log       ok"
    yield from (f"          {one_line(note)}" for note in findings.notes)


def _error(what: str, error: AgentqError | None) -> Iterator[str]:
    if error:
        yield f"{what:<9} {one_line(str(error))}"
        if error.hint:
            yield f"          → {error.hint}"


def _ailment(ailment: "Ailment") -> Iterator[str]:
    name = f"{ailment.task_id} " if ailment.task_id else ""
    by_hand = "" if ailment.mendable else " (not by --repair)"
    yield f"{ailment.part:<9} {name}{one_line(ailment.what)}{by_hand}"
    if ailment.remedy:
        yield f"          → {one_line(ailment.remedy)}"


def _all_for_hands(findings: "Findings") -> bool:
    if findings.store_error:
        return True
    missing = findings.health is not None and bool(findings.health.missing)
    return not missing and not any(ailment.mendable for ailment in findings.ailments)


def _plain(app: "App", findings: "Findings", done: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    errors = {name: getattr(findings, name) for name in ("engine_error", "store_error", "log_error", "ledger_error")}
    return {
        "well": findings.well,
        "broker": list(app.passwordless_broker),
        "store": app.settings.store if findings.store_error else app.store.url,
        "engine": asdict(findings.health) if findings.health else None,
        **{name: str(error) if error else None for name, error in errors.items()},
        "ailments": [asdict(ailment) for ailment in findings.ailments],
        "notes": findings.notes,
        "mended": done,
    }
