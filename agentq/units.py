"""Units for systemd: the templates that all workers and all bridges share, and for each what belongs to this host."""

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from agentq.config import FROM_ENVIRONMENT, Settings
from agentq.errors import Conflict, Invalid
from agentq.profile import Profile, built_in

Manager = Literal["system", "user"]
TEMPLATE, BRIDGE = "agentq-worker@.service", "agentq-bridge@.service"
STEPS_SINCE = 254
"""The version of systemd from which restarts may come less and less often."""

_ALONE = "# For the system's manager alone"
_MARK = "# Written by `agentq {} install`; sha256:"
_WRITERS = ("worker", "bridge")
_END_SECONDS = 60.0
"""How long a drained worker may take to bring its evidence in and say how it ended."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of this host a worker's unit depends on: who runs it, with which environment, and systemd's version."""

    manager: Manager
    user: str
    home: Path
    version: int
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unit:
    """A file of a unit."""

    path: Path
    text: str

    def write(self, *, force: bool = False) -> bool:
        """Write it, atomically; False when it is there as it is. Raises Conflict for a file that somebody wrote or
        changed, unless that is forced, and Invalid for one that cannot be written."""
        try:
            found = self.path.read_text(encoding="utf-8") if self.path.exists() else None
            if found == self.text:
                return False
            if found is not None and not force and not is_ours(found):
                raise Conflict(f"{self.path} is not as agentq wrote it", hint="Compare it, then repeat with --force.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_name(f".{self.path.name}.new")
            new.write_text(self.text, encoding="utf-8")
            new.chmod(0o644)
            new.replace(self.path)
        except (OSError, UnicodeDecodeError) as error:
            hint = "Repeat it with sudo, or with --user." if isinstance(error, PermissionError) else "Look at it."
            raise Invalid(f"{self.path} cannot be written: {error}", hint=hint) from error
        return True


def units(profile: Profile, settings: Settings, host: Host, folder: Path, runner: str | None) -> tuple[Unit, Unit]:
    """The template, and the drop-in of one worker, as they belong into the manager's folder; with what the settings
    hold that is no secret: they are to have no password in their broker's URL."""
    return _both("worker", TEMPLATE, profile.agent, _lines(profile, settings, host, runner), host, folder)


def bridge_units(
    coordinator: str,
    command: Sequence[str],
    settings: Settings,
    host: Host,
    folder: Path,
    *,
    place: Path,
    writes: Sequence[Path] = (),
) -> tuple[Unit, Unit]:
    """The same of one chat bridge that runs this command of agentq at this place, and writes to these paths too."""
    lines = _bridge_lines(command, settings, host, place, writes)
    return _both("bridge", BRIDGE, coordinator, lines, host, folder)


def _both(by: str, name: str, instance: str, lines: Iterable[str], host: Host, folder: Path) -> tuple[Unit, Unit]:
    drop_in = folder / f"{name.replace('@', f'@{instance}')}.d" / "agentq.conf"
    return (
        Unit(folder / name, _marked(by, template(host.manager, name))),
        Unit(drop_in, _marked(by, "\n".join(lines) + "\n")),
    )


def template(manager: Manager, name: str = TEMPLATE) -> str:
    """The unit that all of a kind share. A user's manager can change neither the user nor what of the disk is seen."""
    text = (built_in() / "systemd" / name).read_text(encoding="utf-8")
    if manager == "system":
        return text
    paragraphs = [part for part in text.split("\n\n") if not part.startswith(_ALONE)]
    return "\n\n".join(paragraphs).replace("WantedBy=multi-user.target", "WantedBy=default.target")


def is_ours(text: str) -> bool:
    """Whether agentq wrote a file and nobody has changed it since."""
    first, _, rest = text.partition("\n")
    return first in {f"{_MARK.format(by)}{_digest(rest)}" for by in _WRITERS}


def _marked(by: str, text: str) -> str:
    return f"{_MARK.format(by)}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------------- what belongs to this host and profile


def _lines(profile: Profile, settings: Settings, host: Host, runner: str | None) -> Iterator[str]:
    yield "[Service]"
    yield from _of_system(host, _written(profile, settings, host))
    yield "ExecStart="
    yield f"ExecStart={_word(program())} worker run %i"
    for name, value in _environment(profile, settings, host, runner).items():
        yield f'Environment="{name}={_escaped(value)}"'
    yield f"TimeoutStopSec={_stop_seconds(profile)}"
    yield from _steps(host)


def _bridge_lines(
    command: Sequence[str], settings: Settings, host: Host, place: Path, writes: Sequence[Path]
) -> Iterator[str]:
    yield "[Service]"
    yield from _of_system(host, (*_places(settings, host), *writes))
    yield f"WorkingDirectory={str(place).replace('%', '%%')}"
    yield "ExecStart="
    yield f"ExecStart={' '.join(_word(part) for part in (program(), *command))}"
    python = {"PYTHONPATH": _absolute(host.environ["PYTHONPATH"])} if host.environ.get("PYTHONPATH") else {}
    given = {"PATH": _absolute(host.environ.get("PATH", os.defpath)), **python, **in_force(settings, host.environ)}
    for name, value in given.items():
        yield f'Environment="{name}={_escaped(value)}"'
    yield from _steps(host)


def _of_system(host: Host, written: Iterable[Path]) -> Iterator[str]:
    """What the system's manager alone is told."""
    if host.manager == "system":
        yield f"User={host.user}"
        for path in dict.fromkeys(written):
            yield f'ReadWritePaths="-{_escaped(str(path))}"'


def _steps(host: Host) -> Iterator[str]:
    if host.version >= STEPS_SINCE:
        yield from ("RestartSec=1", "RestartSteps=8", "RestartMaxDelaySec=5min")


def _absolute(paths: str) -> str:
    """The absolute ones of a list of folders."""
    return os.pathsep.join(path for path in dict.fromkeys(paths.split(os.pathsep)) if path.startswith("/"))


def program() -> str:
    """The `agentq` of this installation."""
    return str(Path(sys.executable).with_name("agentq"))


def _environment(profile: Profile, settings: Settings, host: Host, runner: str | None) -> dict[str, str]:
    """What is in force here by other means than the user's own defaults, which the daemon finds by itself."""
    said = in_force(settings, host.environ)
    if profile.folder.parent != built_in():
        said["AGENTQ_WORKERS"] = str(profile.folder.parent.absolute())
    if runner:
        said["AGENTQ_RUNNER"] = runner
    return {"PATH": _absolute(host.environ.get("PATH", os.defpath)), **said}


def in_force(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables by which another process comes to the same settings, beside the user's own defaults; they hold a
    password only where the broker's URL does."""
    given = {f"AGENTQ_{name.upper()}": _value(name, settings) for name in FROM_ENVIRONMENT}
    given |= {"AGENTQ_BROKER_USER": settings.rabbitmq.user or "", "AGENTQ_BROKER_VHOST": settings.rabbitmq.vhost or ""}
    given |= {"AGENTQ_GATEWAY_TOKEN_FILE": str(settings.gateway.token_file or "")}
    said = {name: value for name, value in given.items() if environ.get(name)}
    return said if settings.source == "defaults" else said | {"AGENTQ_CONFIG": settings.source}


def _value(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if name == "store" and "://" not in str(value):
        return str(Path(value).absolute())
    if isinstance(value, Path):
        return str(value.absolute())
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _written(profile: Profile, settings: Settings, host: Host) -> Iterable[Path]:
    """What the daemon and its agents write to, beside what the unit names."""
    yield from _places(settings, host)
    yield from _paths(profile.workspace.repository or "")


def _places(settings: Settings, host: Host) -> Iterator[Path]:
    """What any daemon writes to."""
    yield host.home
    if host.environ.get("AGENTQ_DATA"):
        yield from _paths(str(settings.data))
    yield from _paths(settings.store)


def _paths(place: str) -> Iterator[Path]:
    """The folder that a place is, if it is one."""
    path = unquote(urlsplit(place).path) if place.startswith("file:") else place
    if path.startswith("/"):
        yield Path(path)


def _stop_seconds(profile: Profile) -> int:
    """Longer than the longest drain: of what runs, as far as the profile bounds it."""
    limits, evidence = profile.limits, profile.evidence
    longest = limits.drain_seconds or limits.timeout_seconds + (evidence.verify_seconds if evidence.verify else 0)
    return math.ceil(longest + profile.runner.grace_seconds + _END_SECONDS)


def _word(text: str) -> str:
    """A word of a command line in a unit."""
    return f'"{_escaped(text).replace("$", "$$")}"'


def _escaped(text: str) -> str:
    """A text within double quotes in a unit."""
    if any(ord(char) < 32 for char in text):
        raise Invalid(f"{text!r} cannot stand in a unit", hint="Choose a path or value without control characters.")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
