"""One bucket behind S3's protocol: how it is reached, and for how long a failure that may pass is borne."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.session
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header
from botocore.loaders import Loader

from agentq.config import S3Section
from agentq.errors import Invalid
from agentq.stores.passing import repeatedly
from agentq.stores.s3_words import explain

CONNECTIONS = 32
WRITE = "Write https://host:port, and no user, password or path."
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+/?")

T = TypeVar("T")


class Bucket:
    """A bucket's name and the way to it; the connection is made when first needed."""

    def __init__(self, name: str, section: S3Section) -> None:
        self.name = name
        self._section = section
        self._lock = threading.Lock()
        self._connected: Any = None

    @property
    def endpoint(self) -> str:
        """The server's URL; raises Invalid for settings that cannot be used."""
        return str(self._client("find").meta.endpoint_url)

    def slower(self, seconds: float) -> "Bucket":
        """The same bucket over a connection of its own, which waits so much longer for an answer."""
        return Bucket(self.name, self._section.model_copy(update={"timeout": self._section.timeout + seconds}))

    def ask(self, doing: str, step: Callable[[Any], T]) -> T:
        """What the step answers that is given a client, tried again as `repeatedly` does."""
        return self.repeatedly(lambda: self.once(doing, step))

    def once(self, doing: str, step: Callable[[Any], T]) -> T:
        """The same, tried once; raises StoreUnavailable, and Passing where another try is worth it."""
        client = self._client(doing)
        with _words(doing):
            return step(client)

    def repeatedly(self, act: Callable[[], T]) -> T:
        """What `act` answers; while it raises Passing it is called again, for `retry_seconds`."""
        return repeatedly(act, self._section.retry_seconds)

    def _client(self, doing: str) -> Any:
        with self._lock:
            if self._connected is None:
                with _words(doing):
                    self._connected = _connect(self._section)
            return self._connected


@contextlib.contextmanager
def _words(doing: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise explain(error, doing) from error


class _Descriptions(Loader):
    """Finds a service's description without looking into those of all others, which takes 35 ms."""

    def list_available_services(self, type_name: str) -> list[str]:
        """Every service that has a folder; credentials may need others than S3."""
        return [path.name for folder in map(Path, self.search_paths) if folder.is_dir() for path in folder.iterdir()]


_DESCRIPTIONS = _Descriptions()  # it keeps what it read: another client costs little more


def _connect(section: S3Section) -> Any:
    """A client; for servers other than AWS's own it does what all of them understand, unless it was set otherwise."""
    if section.ca_file and not section.ca_file.is_file():
        raise Invalid(f"there is no CA certificate {section.ca_file}", hint="Correct `ca_file` under [s3].")
    if not section.verify:  # who says so need not be told at every request
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    found = botocore.session.Session(profile=section.profile)
    found.register_component("data_loader", _DESCRIPTIONS)
    session = boto3.session.Session(botocore_session=found)
    client = _client(session, section, {})
    if not _is_amazon(client.meta.endpoint_url):
        client = _client(session, section, _plain(found, section, client.meta.region_name))
        client.meta.events.register("before-call.s3", _stay_here)
    client.meta.events.unregister("before-call.s3", add_expect_header)  # it costs a round trip for each put
    return client


def _client(session: boto3.session.Session, section: S3Section, more: Mapping[str, Any]) -> Any:
    verify = str(section.ca_file) if section.ca_file else None
    config = {
        "region_name": section.region or os.environ.get("AWS_REGION"),
        "connect_timeout": section.timeout,
        "read_timeout": section.timeout,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": CONNECTIONS,
        "parameter_validation": False,
        "s3": {"addressing_style": section.addressing or "auto"},
    }
    try:
        client = session.client(
            "s3",
            endpoint_url=section.endpoint,
            verify=verify if section.verify else False,
            config=Config(**{**config, **more}),
        )
    except ValueError as error:
        raise Invalid("the S3 endpoint is no URL", hint=WRITE) from error
    if not _ENDPOINT.fullmatch(client.meta.endpoint_url):
        raise Invalid("the S3 endpoint is more than a server's URL, or another kind of URL", hint=WRITE)
    return client


def _plain(session: botocore.session.Session, section: S3Section, region: str | None) -> dict[str, Any]:
    """What older and smaller servers understand: path style, any region, and no checksums but those asked for."""
    checksums = ("request_checksum_calculation", "response_checksum_validation")
    return {
        "region_name": region or "us-east-1",
        "s3": {"addressing_style": section.addressing or "path"},
        **{name: _set_by_hand(session, name) or "when_required" for name in checksums},
    }


def _stay_here(params: dict[str, Any], **_: Any) -> None:
    """Keep botocore from looking for the bucket's region, which only AWS has: it would never end."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _set_by_hand(session: botocore.session.Session, name: str) -> str | None:
    return os.environ.get(f"AWS_{name.upper()}") or session.get_scoped_config().get(name)


def _is_amazon(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))
