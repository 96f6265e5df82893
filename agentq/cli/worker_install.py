"""`agentq worker install`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.installing import Force, Now, RunAs, Whose, folder_of, host, manager_of, must_run, print_units, start
from agentq.cli.terms import Runner, checked_name, echo, say, words

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.profile import Profile
    from agentq.units import Manager


def install(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker.", show_default=False, callback=checked_name)],
    runner: Runner = None,
    system: Whose = None,
    run_as: RunAs = "agentq",
    now: Now = False,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units and write nothing.")] = False,
) -> None:
    """Write a worker's unit for systemd, with the paths and settings of here."""
    from agentq.app import App
    from agentq.profile import find_profile
    from agentq.units import units

    app = App.load()
    profile = find_profile(name, app.settings).run_by(words(runner))
    manager = manager_of(system)
    settings = app.settings.model_copy(update={"broker": app.passwordless_broker})
    files = units(profile, settings, host(manager, run_as), folder_of(manager), runner)
    if dry_run:
        return print_units(files)
    must_run(manager, "agentq worker run NAME")
    for unit in files:
        echo(f"{'wrote' if unit.write(force=force) else 'found'}  {unit.path}")
    _tell_secrets(app, profile, manager)
    start(manager, f"agentq-worker@{name}", now=now)


def _tell_secrets(app: "App", profile: "Profile", manager: "Manager") -> None:
    """What the unit does not hold, because others can read it."""
    password = ["AGENTQ_BROKER_PASSWORD"] if app.has_password else []
    names = [name for name in (*profile.runner.credentials, *profile.environment.let_through) if name in os.environ]
    if names := [*password, *names]:
        place = Path("/etc") if manager == "system" else folder_of("user").parents[1]
        say(f"  → Set {', '.join(names)} in {place}/agentq/worker.env, which nobody else may read (chmod 600)")
