"""`agentq worker install`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.installing import (
    Force,
    Now,
    RunAs,
    Whose,
    folder_of,
    host,
    manager_of,
    must_run,
    print_units,
    put,
    start,
    tell_secrets,
)
from agentq.cli.terms import Runner, checked_name, words
from agentq.cli.via import TokenFile, Via, gateway

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.profile import Profile


def install(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker.", show_default=False, callback=checked_name)],
    runner: Runner = None,
    system: Whose = None,
    run_as: RunAs = "agentq",
    now: Now = False,
    force: Force = False,
    via: Via = None,
    token_file: TokenFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units and write nothing.")] = False,
) -> None:
    """Write a worker's unit for systemd, with the paths and settings of here."""
    from agentq.app import App
    from agentq.profile import find_profile
    from agentq.units import units

    flags = gateway(via, token_file)
    if via:
        os.environ["AGENTQ_VIA"] = via  # as what a unit is to hold
    app = App.load(**flags)
    profile = find_profile(name, app.settings).run_by(words(runner))
    manager = manager_of(system)
    settings = app.settings.model_copy(update={"broker": app.passwordless_broker})
    files = units(profile, settings, host(manager, run_as), folder_of(manager), runner)
    if dry_run:
        return print_units(files)
    must_run(manager, "agentq worker run NAME")
    put(files, force=force)
    if names := _secrets(app, profile):
        tell_secrets(", ".join(names), manager, "worker")
    start(manager, f"agentq-worker@{name}", now=now)


def _secrets(app: "App", profile: "Profile") -> list[str]:
    """The variables that are needed here and are no one else's to read."""
    password = ["AGENTQ_BROKER_PASSWORD"] if app.has_password else []
    password += [name for name in ("AGENTQ_GATEWAY_TOKEN",) if name in os.environ]
    named = (*profile.runner.credentials, *profile.environment.let_through)
    return [*password, *(name for name in named if name in os.environ)]
