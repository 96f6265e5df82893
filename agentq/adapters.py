"""Which store and which engine a URL stands for, and who is told of traces; each is imported when it is asked for."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agentq.config import GatewaySection, S3Section, Settings, absolute
from agentq.engine import Engine
from agentq.errors import Invalid, StoreUnavailable
from agentq.store import Store
from agentq.tracing import Tracing, current, is_asked_for, is_decided, use


def open_store(url: str, s3: S3Section, gateway: GatewaySection | None = None) -> Store:
    """The store behind a URL or a path; raises Invalid for a kind that does not exist."""
    scheme, found, rest = url.partition("://")
    if scheme == "s3" and found:
        return _open_s3(url, s3)
    if scheme in ("http", "https") and found:
        return _open_behind_gateway(url, gateway or GatewaySection())
    from agentq.stores.file import FileStore

    if not found:
        return FileStore(absolute(url))
    if scheme == "file" and rest.removeprefix("localhost").startswith("/"):
        return FileStore(Path(unquote(rest.removeprefix("localhost"))))
    raise Invalid(
        f"there is no store behind such {scheme}:// URLs",
        hint="Use a path, file:///path or s3://bucket/prefix; a gateway is named by AGENTQ_VIA.",
    )


def _open_s3(url: str, section: S3Section) -> Store:
    from agentq.stores.s3 import S3Store

    return S3Store(url, section)


def _open_behind_gateway(url: str, section: GatewaySection) -> Store:
    from agentq.remote import Remote
    from agentq.stores.gateway import GatewayStore

    return GatewayStore(Remote.at(url, section))


def open_engine(settings: Settings) -> Engine:
    """The engine behind the settings' broker URLs; nothing is connected yet."""
    if settings.broker[0].startswith(("wss:", "ws:")):
        return _open_gateway(settings)
    if not settings.broker[0].startswith("sqlite:"):
        return _open_rabbitmq(settings)
    from agentq.engines.sqlite import Retention, SQLiteEngine

    return SQLiteEngine(Path(unquote(urlsplit(settings.broker[0]).path)), Retention(**settings.log.model_dump()))


def _open_gateway(settings: Settings) -> Engine:
    try:
        from agentq.engines.gateway import GatewayEngine
    except ImportError as error:
        what = f"{settings.broker[0]} is a gateway, and what speaks to one is missing ({error.name})"
        raise Invalid(what, hint="Install it: pip install 'agentq[gateway]'") from error
    from agentq.remote import Remote

    return GatewayEngine(Remote.at(settings.broker[0], settings.gateway))


def _open_rabbitmq(settings: Settings) -> Engine:
    from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings, Retention

    section = settings.rabbitmq
    return RabbitMQEngine(
        RabbitMQSettings(
            urls=settings.broker,
            user=section.user,
            password=section.password.get_secret_value() if section.password else None,
            vhost=section.vhost,
            namespace=settings.namespace,
            heartbeat=section.heartbeat,
            timeout=section.timeout,
            ca_file=section.ca_file,
            cert_file=section.cert_file,
            key_file=section.key_file,
            verify=section.verify,
            retention=Retention(**settings.log.model_dump()),
        )
    )


def without_password(url: str) -> str:
    """The URL as it may be shown and written down."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}").geturl()


def open_tracing(settings: Settings, service: str, *, daemon: bool = False) -> Tracing:
    """Who this process tells its traces, from now on: nobody, unless the environment asks for it in OTEL_* variables.

    What hinders that is said once, in the log, and fails nothing.
    """
    if is_asked_for(os.environ) and not is_decided():
        use(_open_telemetry(settings, service, daemon=daemon))
    return current()


def _open_telemetry(settings: Settings, service: str, *, daemon: bool) -> Tracing:
    from logging import getLogger

    try:
        from agentq.telemetry import Place, open_telemetry

        place = Place(without_password(settings.broker[0]), settings.namespace)
        return open_telemetry(place, service, os.environ, daemon=daemon)
    except ImportError:
        what = "OTEL_* asks for them, and OpenTelemetry is missing; install it: pip install 'agentq[otel]'"
    except Invalid as error:
        what = str(error)
    getLogger("agentq").warning("agentq: no traces: %s (or set OTEL_TRACES_EXPORTER=none)", what)
    return Tracing()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if need be; raises StoreUnavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the folder {folder} cannot be made: {error.strerror}",
            hint="Choose another place: --store, AGENTQ_STORE, or `store` in agentq.toml.",
        ) from error
