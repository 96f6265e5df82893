"""Settings and worker profiles: flags > `AGENTQ_*` > the nearest `agentq.toml` > defaults; made once, then frozen."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from agentq.errors import Invalid, NotFound
from agentq.messages import Name

FILE_NAME = "agentq.toml"
PROFILE_NAME = "worker.toml"
PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "USER", "SHELL", "TZ", "SSL_CERT_FILE")

Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RabbitMQSection(Section):
    """How to reach RabbitMQ beyond its URL; what is set here holds over the URL's own parts. Times are seconds."""

    user: str | None = None
    password: SecretStr | None = None
    vhost: str | None = None
    heartbeat: Annotated[int, Field(ge=0, le=3600)] = 30
    timeout: Positive = 10.0
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True


class Settings(Section):
    """Everything that says where the engine and the store are, and who is who."""

    broker: tuple[str, ...]
    store: str
    namespace: Name = "agentq"
    coordinator: Name = "coordinator"
    agents: tuple[Name, ...] = ()
    workers: Path | None = None
    data: Path
    rabbitmq: RabbitMQSection = RabbitMQSection()
    source: str = "defaults"

    @field_validator("broker", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def load_settings(
    flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> Settings:
    """The settings in force; raises Invalid with the file, line and key that cannot be used."""
    path = _settings_file(environ, cwd or Path.cwd())
    text = _text(path) if path else ""
    values: dict[str, Any] = _toml(text, path) if path else {}
    values = _relative_to(path.parent, values) if path else values
    values |= _from_environment(environ, values)
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    data = Path(values.setdefault("data", environ.get("AGENTQ_DATA") or _data_dir(environ))).expanduser().absolute()
    values.setdefault("broker", f"sqlite:///{data.as_posix().lstrip('/')}/queue.db")
    values.setdefault("store", f"file://{data.as_posix()}/store")
    return _validated(Settings, values | {"source": str(path or "defaults")}, path, text)


def _settings_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    if named := environ.get("AGENTQ_CONFIG"):
        if not Path(named).is_file():
            raise Invalid(f"AGENTQ_CONFIG names {named}, which is no file", hint="Correct or unset AGENTQ_CONFIG.")
        return Path(named).absolute()
    return next((folder / FILE_NAME for folder in (cwd, *cwd.parents) if (folder / FILE_NAME).is_file()), None)


def _data_dir(environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or "~").expanduser()
    return Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "agentq"


def _from_environment(environ: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        key: environ.get(f"AGENTQ_{key.upper()}") for key in ("broker", "store", "namespace", "coordinator", "workers")
    }
    found: dict[str, Any] = {key: value for key, value in plain.items() if value}
    part = {key: environ.get(f"AGENTQ_BROKER_{key.upper()}") for key in ("user", "password", "vhost")}
    if part := {key: value for key, value in part.items() if value}:
        section = values.get("rabbitmq")
        found["rabbitmq"] = (section if isinstance(section, dict) else {}) | part
    return found


def _relative_to(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Paths in a settings file are relative to it."""
    anchored = {key: str(folder / values[key]) for key in ("workers", "data") if isinstance(values.get(key), str)}
    store = values.get("store")
    if isinstance(store, str) and "://" not in store:
        anchored["store"] = str(folder / store)
    return values | anchored


# ---------------------------------------------------------------------- profiles


class RunnerSection(Section):
    """Which agent is started, and how."""

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = ()
    prompt: Literal["stdin", "file"] = "stdin"
    grace_seconds: Positive = 5.0


class WorkspaceSection(Section):
    """Where the agent works; a task's labels `repo` and `base` hold over these."""

    kind: Literal["none", "git-worktree"] = "none"
    repository: Path | None = None
    base: str | None = None


class EvidenceSection(Section):
    """What an attempt must bring beside what the task asks for, and the command that proves it."""

    artifacts: tuple[Name, ...] = ()
    verify: tuple[str, ...] = ()
    verify_seconds: Positive = 900.0


class LimitsSection(Section):
    """How long, how much and how many at once. Times are seconds."""

    timeout_seconds: Positive = 7200.0
    silence_seconds: Positive | None = None
    output_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    drain_seconds: Positive | None = None
    lease_seconds: Positive = 20.0
    renew_seconds: Positive = 5.0
    sweep_seconds: Positive = 30.0


class RetrySection(Section):
    """How often a task is tried, and how long it waits between attempts."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    delay_seconds: Annotated[float, Field(ge=0)] = 10.0
    factor: Annotated[float, Field(ge=1)] = 3.0
    longest_seconds: Positive = 600.0


class EnvironmentSection(Section):
    """What of the daemon's environment reaches the agent, beside `AGENTQ_*` of its attempt."""

    let_through: tuple[str, ...] = ()
    set: dict[str, str] = Field(default_factory=dict)


class Profile(Section):
    """A worker: a folder with `worker.toml` and `prompt.md`."""

    agent: Name
    types: tuple[Name, ...] = ()
    runner: RunnerSection = RunnerSection()
    workspace: WorkspaceSection = WorkspaceSection()
    evidence: EvidenceSection = EvidenceSection()
    limits: LimitsSection = LimitsSection()
    retry: RetrySection = RetrySection()
    environment: EnvironmentSection = EnvironmentSection()
    folder: Path
    prompt: str


def profiles(settings: Settings, cwd: Path | None = None) -> dict[str, Profile]:
    """All worker profiles by agent, the nearest folder first: current folder, settings, built-in."""
    found: dict[str, Profile] = {}
    for folder in _profile_folders(settings, cwd or Path.cwd()):
        profile = load_profile(folder)
        found.setdefault(profile.agent, profile)
    return found


def find_profile(name: str, settings: Settings, cwd: Path | None = None) -> Profile:
    """The profile of an agent; raises NotFound with those that exist."""
    found = profiles(settings, cwd)
    if name not in found:
        raise NotFound(
            f"there is no worker profile for {name}",
            hint=f"Known: {', '.join(sorted(found))}. A profile is workers/<name>/ with {PROFILE_NAME} and prompt.md.",
        )
    return found[name]


def load_profile(folder: Path) -> Profile:
    """Read a worker's folder; raises Invalid with the file, line and key that cannot be used."""
    path = folder / PROFILE_NAME
    text, prompt = _text(path), folder / "prompt.md"
    values = _toml(text, path) | {"folder": folder, "prompt": _text(prompt) if prompt.is_file() else ""}
    return _validated(Profile, values, path, text)


def _profile_folders(settings: Settings, cwd: Path) -> Iterator[Path]:
    here = Path(__file__).parent
    roots = [cwd / "workers", settings.workers, here / "profiles", here.parent / "workers"]
    for root in dict.fromkeys(root for root in roots if root and root.is_dir()):
        yield from sorted(path.parent for path in root.glob(f"*/{PROFILE_NAME}"))


# ---------------------------------------------------------------------- reading TOML

S = TypeVar("S", bound=Section)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {error}", hint="Make it a readable UTF-8 file.") from error


def _toml(text: str, path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{path} is not valid TOML: {error}", hint="Correct that line.") from error


def _validated(model: type[S], values: Mapping[str, Any], path: Path | None, text: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = [str(part) for part in first["loc"]]
        line = _line_of(text, keys)
        where = f"{path}, line {line}" if line else "settings from flags or the environment"
        what = first["msg"].removeprefix("Value error, ")
        raise Invalid(f"{where}: {'.'.join(keys)}: {what}", hint="Correct or remove that key.") from error


def _line_of(text: str, keys: list[str]) -> int | None:
    """The line on which a key stands, None when the file does not set it."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped.strip("[] ").split(".")
            if table == keys:
                return number
        path = [*table, *(part.strip(" \"'") for part in stripped.partition("=")[0].split("."))]
        if "=" in stripped and keys[: len(path)] == path:
            return number
    return None
