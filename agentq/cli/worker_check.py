"""`agentq worker check`."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import AsJson, Broker, Runner, Store, checked_name, echo, echo_json, one_line, words
from agentq.cli.via import TokenFile, Via, gateway
from agentq.errors import ExitCode, Invalid

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.readiness import Check

WORDS = {True: "ok", False: "wrong", None: "-"}


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker.", show_default=False, callback=checked_name)],
    runner: Runner = None,
    live: Annotated[bool, typer.Option("--live", help="Run its agent too, twice; that may cost money.")] = False,
    json: AsJson = False,
    via: Via = None,
    token_file: TokenFile = None,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Look at all that a worker needs, before any task is taken. Exit code 13 when something is not as it must be."""
    from agentq.app import App

    app = App.load(broker=broker, store=store, **gateway(via, token_file))
    checks = asyncio.run(_look(app, name, words(runner), live=live, tell=_kept if json else _printed))
    well = all(one.well is not False for one in checks)
    if json:
        echo_json({"agent": name, "ok": well, "checks": [asdict(one) for one in checks]})
    raise typer.Exit(ExitCode.OK if well else ExitCode.NEEDS_MENDING)


async def _look(
    app: "App", name: str, runner: tuple[str, ...], *, live: bool, tell: "Callable[[Check], Check]"
) -> list["Check"]:
    """All checks, each told as soon as it is known."""
    from agentq.profile import find_profile
    from agentq.readiness import Check, Readiness

    try:
        readiness = Readiness(app, find_profile(name, app.settings).run_by(runner), live=live)
    except Invalid as error:
        return [tell(Check("profile", False, str(error), error.hint))]
    return [tell(one) async for one in readiness.checks()]


def _kept(one: "Check") -> "Check":
    return one


def _printed(one: "Check") -> "Check":
    hint = f"  → {one_line(one.hint)}" if one.hint else ""
    echo(f"{WORDS[one.well]:5}  {one.name:9}  {one_line(one.said)}{hint}")
    return one
