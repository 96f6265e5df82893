"""The settings: flags > `AGENTQ_*` > the nearest `agentq.toml` > defaults; made once, then frozen."""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from agentq.errors import Invalid
from agentq.messages import Name, Seconds
from agentq.tomlfile import Section, place_of, text_of, validated, values_of

FILE_NAME = "agentq.toml"
FROM_ENVIRONMENT = ("broker", "store", "via", "namespace", "coordinator", "workers", "data", "keys")
LOGIN_FROM_ENVIRONMENT = ("user", "password", "vhost")
TOKEN_FROM_ENVIRONMENT = ("token", "token_file")

_GATEWAY = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~-]+)*/?")


class RabbitMQSection(Section):
    """How to reach RabbitMQ beyond its URL; what is set here holds over the URL's own parts. Times are seconds."""

    user: str | None = None
    password: SecretStr | None = None
    vhost: str | None = None
    heartbeat: Annotated[int, Field(ge=0, le=3600)] = 30
    timeout: Seconds = 10.0
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
    timeout: Seconds = 10.0
    retry_seconds: Seconds = 10.0


class GatewaySection(Section):
    """How to reach a gateway: the token, in a file that nobody else reads or in the environment, and whose certificates
    are trusted; and how much a gateway here lets others upload at once. Times are seconds."""

    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    verify: bool = True
    timeout: Seconds = 10.0
    retry_seconds: Seconds = 10.0
    upload_bytes: Annotated[int, Field(ge=1_000_000)] = 4 << 30


class LogSection(Section):
    """How long the log and what agents print are kept: what is older, or too much, goes, oldest first."""

    events_days: Annotated[int, Field(ge=1, le=36500)] = 30
    events_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    output_days: Annotated[int, Field(ge=1, le=36500)] = 3
    output_bytes: Annotated[int, Field(ge=1_000_000)] = 2_000_000_000


class Settings(Section):
    """Everything that says where the engine and the store are, and who is who."""

    broker: Annotated[tuple[str, ...], Field(min_length=1)]
    store: Annotated[str, Field(min_length=1)]
    via: str | None = None
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
    gateway: GatewaySection = GatewaySection()
    log: LogSection = LogSection()
    source: str = "defaults"

    @field_validator("broker", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("broker")
    @classmethod
    def _one_engine(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        kinds = {_engine_of(url) for url in urls}
        if len(kinds) > 1 or (kinds != {"rabbitmq"} and len(urls) > 1):
            raise ValueError("several URLs must all be amqp:// or amqps://")
        return urls

    @field_validator("via")
    @classmethod
    def _a_gateway(cls, via: str | None) -> str | None:
        if via is not None and not _names_a_gateway(via):
            raise ValueError("write https://host:port, and no user, password or query")
        return via and via.rstrip("/")


def _engine_of(url: str) -> Literal["rabbitmq", "sqlite", "gateway"]:
    """Which engine a URL names; a ValueError says what is wrong with it and repeats nothing of it."""
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        if not re.match(r"sqlite:///[^?#]", url):
            raise ValueError("a SQLite URL has an absolute path: sqlite:///path/queue.db")
        return "sqlite"
    if scheme in ("ws", "wss") and _names_a_gateway(url.replace("ws", "http", 1)):
        return "gateway"
    if scheme not in ("amqp", "amqps"):
        raise ValueError("no engine has such a URL; use amqp://, amqps:// or sqlite:///")
    if not _names_a_host(url):
        raise ValueError("write amqp://user@host:port/vhost, with special characters of the password as %xx")
    return "rabbitmq"


def _names_a_gateway(url: str) -> bool:
    return _GATEWAY.fullmatch(url) is not None and _names_a_host(url)


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
    text = text_of(path) if path else ""
    values: dict[str, Any] = _relative_to(path.parent, values_of(text, path)) if path else {}
    values |= _from_environment(environ, values) | given
    values |= {key: url for key, url in _behind(values.get("via")).items() if key not in given}
    values["source"] = str(path or "defaults")

    def where(keys: list[str]) -> str:
        return _flag_or_variable(keys, given, environ) or place_of(path, text, keys)

    return validated(Settings, _with_defaults(values, environ), where)


def _behind(via: object) -> dict[str, Any]:
    """The engine and the store that one reaches through a gateway, whatever else a file or a variable names."""
    if not isinstance(via, str) or not _names_a_gateway(via):
        return {}  # nothing, or what will be refused
    whole = via.rstrip("/")
    return {"broker": f"{whole.replace('http', 'ws', 1)}/engine", "store": f"{whole}/store"}


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
    elif keys[-1] in TOKEN_FROM_ENVIRONMENT:
        name = f"AGENTQ_GATEWAY_{keys[-1].upper()}"
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
    if brought := _set_ones(environ, "AGENTQ_GATEWAY_", TOKEN_FROM_ENVIRONMENT):
        section = values.get("gateway")
        others = (
            {k: v for k, v in section.items() if k not in TOKEN_FROM_ENVIRONMENT} if isinstance(section, dict) else {}
        )
        found["gateway"] = others | brought
    return found


def _set_ones(environ: Mapping[str, str], prefix: str, keys: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key in keys if (value := environ.get(f"{prefix}{key.upper()}"))}


def _relative_to(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Paths in a settings file are relative to it."""
    anchored = _anchored(folder, values, "workers", "data", "keys")
    store = values.get("store")
    if isinstance(store, str) and store and "://" not in store:
        anchored["store"] = str(folder / store)
    for name in ("rabbitmq", "s3", "gateway"):
        if isinstance(values.get(name), dict):
            anchored[name] = _anchored(folder, values[name], "ca_file", "cert_file", "key_file", "token_file")
    return anchored


def _anchored(folder: Path, values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return values | {key: str(folder / values[key]) for key in keys if isinstance(values.get(key), str)}
