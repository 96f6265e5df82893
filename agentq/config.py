"""Settings and worker profiles: flags > `AGENTQ_*` > the nearest `agentq.toml` > defaults; made once, then frozen."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from agentq.errors import Invalid, NotFound
from agentq.messages import Name

FILE_NAME = "agentq.toml"
PROFILE_NAME = "worker.toml"
FROM_ENVIRONMENT = ("broker", "store", "namespace", "coordinator", "workers", "data", "keys")
LOGIN_FROM_ENVIRONMENT = ("user", "password", "vhost")
PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "USER", "SHELL", "TZ", "SSL_CERT_FILE")

Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


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


class S3Section(Section):
    """How to reach an S3 store; what is not set here is found as every AWS tool finds it. Times are seconds."""

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["path", "virtual"] | None = None
    ca_file: Path | None = None
    verify: bool = True
    timeout: Positive = 10.0
    retry_seconds: Positive = 10.0


class Settings(Section):
    """Everything that says where the engine and the store are, and who is who."""

    broker: Annotated[tuple[str, ...], Field(min_length=1)]
    store: Annotated[str, Field(min_length=1)]
    namespace: Name = "agentq"
    coordinator: Name = "coordinator"
    agents: tuple[Name, ...] = ()
    require_profiles: bool = False
    workers: Path | None = None
    data: Path
    keys: Path | None = None
    require_signatures: bool = False
    umask: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "077"
    rabbitmq: RabbitMQSection = RabbitMQSection()
    s3: S3Section = S3Section()
    source: str = "defaults"

    @field_validator("broker", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("broker")
    @classmethod
    def _one_engine(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        kinds = {_engine_of(url) for url in urls}
        if len(kinds) > 1 or (kinds == {"sqlite"} and len(urls) > 1):
            raise ValueError("several URLs must all be amqp:// or amqps://")
        return urls


def _engine_of(url: str) -> Literal["rabbitmq", "sqlite"]:
    """Which engine a URL names; a ValueError says what is wrong with it and repeats nothing of it."""
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        if not re.match(r"sqlite:///[^?#]", url):
            raise ValueError("a SQLite URL has an absolute path: sqlite:///path/queue.db")
        return "sqlite"
    if scheme not in ("amqp", "amqps"):
        raise ValueError("no engine has such a URL; use amqp://, amqps:// or sqlite:///")
    if not _names_a_host(url):
        raise ValueError("write amqp://user@host:port/vhost, with special characters of the password as %xx")
    return "rabbitmq"


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and "@" not in f"{parts.path}{parts.query}{parts.fragment}"
    except ValueError:
        return False


def load_settings(
    flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> Settings:
    """The settings in force; raises Invalid with the file, line and key, the variable or the flag that is wrong."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    path = _settings_file(environ, cwd or Path.cwd())
    text = _text(path) if path else ""
    values: dict[str, Any] = _relative_to(path.parent, _toml(text, path)) if path else {}
    values |= _from_environment(environ, values) | given
    values["source"] = str(path or "defaults")

    def where(keys: list[str]) -> str:
        return _flag_or_variable(keys, given, environ) or _place(path, text, keys)

    return _validated(Settings, _with_defaults(values, environ), where)


def _with_defaults(values: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    given = values.get("data", _own_dir(environ, "XDG_DATA_HOME", ".local/share"))
    if not isinstance(given, (str, Path)):
        return values | {"broker": f"sqlite:///{FILE_NAME}", "store": FILE_NAME}
    data = absolute(given)
    found = {"broker": f"{data.as_uri().replace('file:', 'sqlite:', 1)}/queue.db", "store": f"{data.as_uri()}/store"}
    return found | values | {"data": data, "keys": _keys_folder(values, environ)}


def _keys_folder(values: Mapping[str, Any], environ: Mapping[str, str]) -> object:
    """Where keys are, None for a user without a home, who has none."""
    given = values.get("keys")
    if given is not None:
        return absolute(given) if isinstance(given, (str, Path)) else given
    with contextlib.suppress(Invalid):
        return _own_dir(environ, "XDG_CONFIG_HOME", ".config") / "keys"
    return None


def absolute(path: str | Path) -> Path:
    """The path from the root, with `~` filled in; raises Invalid when nobody can tell what `~` is."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise Invalid(f"{path}: no home directory is known", hint="Set HOME, or write the whole path.") from error


def _flag_or_variable(keys: list[str], given: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """The flag or the variable that set a key, None when neither did."""
    if keys[0] in given:
        return f"--{keys[0]}"
    if keys[0] in FROM_ENVIRONMENT:
        name = f"AGENTQ_{keys[0].upper()}"
    elif keys[-1] in LOGIN_FROM_ENVIRONMENT:
        name = f"AGENTQ_BROKER_{keys[-1].upper()}"
    else:
        return None
    return name if environ.get(name) else None


def _settings_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    if named := environ.get("AGENTQ_CONFIG"):
        if not Path(named).is_file():
            raise Invalid(f"AGENTQ_CONFIG names {named}, which is no file", hint="Correct or unset AGENTQ_CONFIG.")
        return Path(named).absolute()
    return next((folder / FILE_NAME for folder in (cwd, *cwd.parents) if (folder / FILE_NAME).is_file()), None)


def _own_dir(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    """agentq's folder of one kind in the user's home."""
    return Path(environ.get(variable) or absolute(environ.get("HOME") or "~") / otherwise) / "agentq"


def _from_environment(environ: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _set_ones(environ, "AGENTQ_", FROM_ENVIRONMENT)
    if login := _set_ones(environ, "AGENTQ_BROKER_", LOGIN_FROM_ENVIRONMENT):
        section = values.get("rabbitmq")
        found["rabbitmq"] = (section if isinstance(section, dict) else {}) | login
    return found


def _set_ones(environ: Mapping[str, str], prefix: str, keys: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key in keys if (value := environ.get(f"{prefix}{key.upper()}"))}


def _relative_to(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Paths in a settings file are relative to it."""
    anchored = _anchored(folder, values, "workers", "data", "keys")
    store = values.get("store")
    if isinstance(store, str) and store and "://" not in store:
        anchored["store"] = str(folder / store)
    for name in ("rabbitmq", "s3"):
        if isinstance(values.get(name), dict):
            anchored[name] = _anchored(folder, values[name], "ca_file", "cert_file", "key_file")
    return anchored


def _anchored(folder: Path, values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return values | {key: str(folder / values[key]) for key in keys if isinstance(values.get(key), str)}


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
    """How long, how much and how many at once. Times are seconds; `attempt_bytes` bounds all that an attempt leaves."""

    timeout_seconds: Positive = 7200.0
    silence_seconds: Positive | None = None
    output_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    artifact_bytes: Annotated[int, Field(gt=0)] = 1024**3
    attempt_bytes: Annotated[int, Field(gt=0)] = 4 * 1024**3
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    drain_seconds: Positive | None = None
    lease_seconds: Positive = 20.0
    renew_seconds: Positive = 5.0
    sweep_seconds: Positive = 30.0
    look_seconds: Positive = 0.5

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease_seconds < 2 * self.renew_seconds:
            raise ValueError("lease_seconds must be at least twice renew_seconds")
        return self


class RetrySection(Section):
    """How often a task is tried, and how long it waits between attempts."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    delay_seconds: Annotated[float, Field(ge=0)] = 10.0
    factor: Annotated[float, Field(ge=1)] = 3.0
    longest_seconds: Positive = 600.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.2


class EnvironmentSection(Section):
    """What of the daemon's environment reaches the agent, beside `AGENTQ_*` of its attempt."""

    let_through: tuple[str, ...] = ()
    set: dict[str, str] = Field(default_factory=dict)


class SignaturesSection(Section):
    """Whose tasks are run: with `required` only signed ones, of the keys' names in `from` for the types named there."""

    model_config = ConfigDict(populate_by_name=True)

    required: bool = False
    from_: dict[Name, tuple[Name | Literal["*"], ...]] = Field(default_factory=dict, alias="from")

    @model_validator(mode="after")
    def _says_both(self) -> Self:
        if self.from_ and not self.required:
            raise ValueError("`from` says whose tasks are run, but not that only those are: add required = true")
        if self.required and not any(self.from_.values()):
            raise ValueError('signatures are required, but of nobody: add a line such as from.coordinator = ["*"]')
        return self


class Profile(Section):
    """A worker: a folder with `worker.toml` and `prompt.md`."""

    agent: Name
    types: tuple[Name, ...] = ()
    irreversible: tuple[Name, ...] = ()
    runner: RunnerSection = RunnerSection()
    workspace: WorkspaceSection = WorkspaceSection()
    evidence: EvidenceSection = EvidenceSection()
    limits: LimitsSection = LimitsSection()
    retry: RetrySection = RetrySection()
    environment: EnvironmentSection = EnvironmentSection()
    signatures: SignaturesSection = SignaturesSection()
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
    return _validated(Profile, values, lambda keys: _place(path, text, keys))


def _profile_folders(settings: Settings, cwd: Path) -> Iterator[Path]:
    if settings.workers and not settings.workers.is_dir():
        raise Invalid(f"workers is {settings.workers}, which is no folder", hint="Correct or remove that setting.")
    for root in dict.fromkeys((cwd / "workers", settings.workers, _built_in())):
        if root and root.is_dir():
            yield from sorted(path.parent for path in root.glob(f"*/{PROFILE_NAME}"))


def _built_in() -> Path:
    """The profiles that come with agentq: in the installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    return packaged if (packaged := here / "profiles").is_dir() else here.parent / "workers"


# ---------------------------------------------------------------------- reading TOML

S = TypeVar("S", bound=Section)

_HEADER = re.compile(r"\[+\s*([^\]]+?)\s*\]")
_WORDS = {"extra_forbidden": "there is no such key", "missing": "this key must be set"}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", hint="Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 (byte {error.start})", hint="Write it again as UTF-8.") from error


def _toml(text: str, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where, what = _where_broken(text, str(error))
        raise Invalid(f"{path}, {where}: {what}", hint="Correct that line.") from error


def _where_broken(text: str, complaint: str) -> tuple[str, str]:
    """The line (and key) that a complaint of the TOML parser is about, and the complaint without its place."""
    what, _, place = complaint.partition(" (at ")
    lines = text.splitlines() or [""]
    found = re.match(r"line (\d+)", place)
    number = min(int(found[1]) if found else len(lines), len(lines))
    key, equals, _ = lines[number - 1].partition("=")
    return f"line {number}{f': {key.strip()}' if equals else ''}", what


def _validated(model: type[S], values: Mapping[str, Any], where: Callable[[list[str]], str]) -> S:
    """The model of these values; what is wrong is told with its place, and no value is repeated."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = [str(part) for part in first["loc"]]
        what = _WORDS.get(
            first["type"], first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        )
        raise Invalid(f"{where(keys)}: {what}", hint="Correct or remove it.") from error


def _place(path: Path | None, text: str, keys: list[str]) -> str:
    line = _line_of(text, keys)
    return f"{path or 'settings'}{f', line {line}' if line else ''}: {'.'.join(keys)}"


def _line_of(text: str, keys: list[str]) -> int | None:
    """The line on which a key stands, None when the file does not set it."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := _HEADER.match(stripped):
            table = _steps(header[1])
            if table == keys:
                return number
        path = [*table, *_steps(stripped.partition("=")[0])]
        if "=" in stripped and keys[: len(path)] == path:
            return number
    return None


def _steps(key: str) -> list[str]:
    return [part.strip(" \"'") for part in key.split(".")]
