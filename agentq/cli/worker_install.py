"""`agentq worker install`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import Runner, checked_name, echo, say, words
from agentq.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.profile import Profile
    from agentq.units import Host, Manager, Unit

SECONDS = 300.0
"""How long systemctl may take, the start of the worker included."""
SYSTEM = Path("/etc/systemd/system")


def install(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker.", show_default=False, callback=checked_name)],
    runner: Runner = None,
    system: Annotated[
        bool | None, typer.Option("--system/--user", help="Whose systemd; root's is the system's.", show_default=False)
    ] = None,
    run_as: Annotated[str, typer.Option(metavar="USER", help="Who runs it under the system's.")] = "agentq",
    now: Annotated[bool, typer.Option("--now", help="Enable and start it, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a unit that somebody changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units and write nothing.")] = False,
) -> None:
    """Write a worker's unit for systemd, with the paths and settings of here."""
    from agentq.app import App
    from agentq.profile import find_profile
    from agentq.units import units

    app = App.load()
    profile = find_profile(name, app.settings).run_by(words(runner))
    manager: Manager = "system" if system or (system is None and os.geteuid() == 0) else "user"
    host = _host(manager, run_as)
    settings = app.settings.model_copy(update={"broker": app.passwordless_broker})
    files = units(profile, settings, host, _folder(manager), runner)
    if dry_run:
        return _print(files)
    _must_run(manager)
    for unit in files:
        echo(f"{'wrote' if unit.write(force=force) else 'found'}  {unit.path}")
    _tell_secrets(app, profile, manager)
    _start(manager, name, now=now)


def _host(manager: "Manager", run_as: str) -> "Host":
    import pwd

    from agentq.units import Host

    version = _systemctl("--version")
    try:
        user = pwd.getpwnam(run_as) if manager == "system" else pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise Invalid(
            f"there is no user {run_as}",
            hint=f"useradd --system --create-home --home-dir /var/lib/{run_as} {run_as}, or --run-as another.",
        ) from error
    number = version.split()[1:2] if version else []
    return Host(manager, user.pw_name, Path(user.pw_dir), int(number[0]) if number else 0, os.environ)


def _folder(manager: "Manager") -> Path:
    if manager == "system":
        return SYSTEM
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _print(files: "Sequence[Unit]") -> None:
    for unit in files:
        echo(f"# {unit.path}\n{unit.text}")


def _must_run(manager: "Manager") -> None:
    """Raise Unavailable where the manager does not run."""
    runs = Path("/run/systemd/system") if manager == "system" else Path(_runtime()) / "systemd" / "private"
    if not runs.exists() or _systemctl("--version") is None:
        raise Unavailable(
            f"no systemd runs here for {'the system' if manager == 'system' else 'this user'}; nothing was written",
            hint="--dry-run prints the units; without systemd: agentq worker run NAME",
        )


def _runtime() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def _tell_secrets(app: "App", profile: "Profile", manager: "Manager") -> None:
    """What the unit does not hold, because others can read it."""
    password = ["AGENTQ_BROKER_PASSWORD"] if app.has_password else []
    names = [name for name in (*profile.runner.credentials, *profile.environment.let_through) if name in os.environ]
    if names := [*password, *names]:
        place = Path("/etc") if manager == "system" else _folder("user").parents[1]
        say(f"  → Set {', '.join(names)} in {place}/agentq/worker.env, which nobody else may read (chmod 600)")


def _start(manager: "Manager", name: str, *, now: bool) -> None:
    user = ["--user"] if manager == "user" else []
    for arguments in (["daemon-reload"], ["enable", "--now", f"agentq-worker@{name}"]):
        if now:
            _act(*user, *arguments)
        else:
            say(f"  → systemctl {' '.join((*user, *arguments))}")
    if user:
        say("  → loginctl enable-linger, so that it runs while you are logged out")


def _act(*arguments: str) -> None:
    import subprocess

    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise Unavailable(
            f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()}",
            hint="The units are written; look with systemctl status and journalctl.",
        )


def _systemctl(*arguments: str) -> str | None:
    """What systemctl prints, None where there is none."""
    import subprocess

    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
