"""What the commands share that write units for systemd."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import echo, say
from agentq.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from agentq.units import Host, Manager, Unit

SECONDS = 300.0
"""How long systemctl may take, the start of the daemon included."""
SYSTEM = Path("/etc/systemd/system")

Whose = Annotated[
    bool | None, typer.Option("--system/--user", help="Whose systemd; root's is the system's.", show_default=False)
]
RunAs = Annotated[str, typer.Option(metavar="USER", help="Who runs it under the system's.")]
Now = Annotated[bool, typer.Option("--now", help="Enable and start it, too.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a unit that somebody changed.")]


def manager_of(system: bool | None) -> "Manager":
    """Whose systemd is meant."""
    return "system" if system or (system is None and os.geteuid() == 0) else "user"


def host(manager: "Manager", run_as: str) -> "Host":
    """This host, and who is to run the daemon; raises Invalid for a user that is not there."""
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


def folder_of(manager: "Manager") -> Path:
    """Where the manager's units lie."""
    if manager == "system":
        return SYSTEM
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def print_units(files: "Sequence[Unit]") -> None:
    """The units, as they would be written."""
    for unit in files:
        echo(f"# {unit.path}\n{unit.text}")


def put(files: "Sequence[Unit]", *, force: bool) -> None:
    """Write units, unless they are there as they are; raises as `Unit.write`."""
    for unit in files:
        echo(f"{'wrote' if unit.write(force=force) else 'found'}  {unit.path}")


def tell_secrets(names: str, manager: "Manager", kind: str) -> None:
    """Say where to put what a unit of that kind does not hold, because others can read it."""
    place = Path("/etc") if manager == "system" else folder_of("user").parents[1]
    say(f"  → Set {names} in {place}/agentq/{kind}.env, which nobody else may read (chmod 600)")


def must_run(manager: "Manager", otherwise: str) -> None:
    """Raise Unavailable where the manager does not run."""
    runs = Path("/run/systemd/system") if manager == "system" else Path(_runtime()) / "systemd" / "private"
    if not runs.exists() or _systemctl("--version") is None:
        raise Unavailable(
            f"no systemd runs here for {'the system' if manager == 'system' else 'this user'}; nothing was written",
            hint=f"--dry-run prints the units; without systemd: {otherwise}",
        )


def _runtime() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def start(manager: "Manager", unit: str, *, now: bool) -> None:
    """Enable and start a unit, or say how; raises Unavailable when the manager refuses."""
    user = ["--user"] if manager == "user" else []
    for arguments in (["daemon-reload"], ["enable", "--now", unit]):
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
