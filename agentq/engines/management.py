"""RabbitMQ's management API over HTTP, as an administrator, and its failures in our words."""

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from agentq.engines.tls import FAILURES
from agentq.errors import AgentqError, EngineUnavailable, Invalid

PORTS = {"http": 15672, "https": 15671}
_OTHER = ("", "fails TLS", "check the port, and `ca_file` and `verify` in [rabbitmq]")
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API is."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads a URL; raises Invalid, and repeats nothing of a URL that may hold a password."""
        if "@" in text:
            hint = "Set AGENTQ_MANAGEMENT_USER and AGENTQ_MANAGEMENT_PASSWORD instead."
            raise Invalid("a login does not belong into the URL of the management API", hint=hint)
        try:
            parts = urlsplit(text)
            usual, host = PORTS[parts.scheme], parts.hostname
            port = parts.port or usual
        except (KeyError, ValueError):
            host, port = None, 0
        if not host:
            hint = "For example http://localhost:15672 or https://rabbit-1:15671."
            raise Invalid(f"{text!r} is no URL of a management API", hint=hint)
        return cls(parts.scheme, host, port, parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    @property
    def is_overheard(self) -> bool:
        """Whether the login would cross a network in the clear."""
        return self.scheme == "http" and self.host not in LOCAL


@dataclass(slots=True)
class Management:
    """The API of one broker. Every method raises EngineUnavailable when it cannot be reached or refuses."""

    address: Address
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext
    timeout: float = 10.0

    def get(self, *path: str) -> Any:
        """What is there, None when there is nothing."""
        return self._ask("GET", path, missing_is_none=True)

    def put(self, *path: str, **fields: Any) -> None:
        """Make it, or replace it."""
        self._ask("PUT", path, fields)

    def delete(self, *path: str) -> None:
        """Remove it; what is not there is removed."""
        self._ask("DELETE", path, missing_is_none=True)

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        fields: Mapping[str, Any] | None = None,
        *,
        missing_is_none: bool = False,
    ) -> Any:
        body = None if fields is None else json.dumps(fields)
        try:
            status, answer = self._exchange(method, path, body)
            if status == 404 and missing_is_none:
                return None
            if status >= 300:
                raise self._refusal(status, f"{method} {'/'.join(path)}", answer)
            return json.loads(answer) if answer else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(error) from error

    def _exchange(self, method: str, path: tuple[str, ...], body: str | None) -> tuple[int, bytes]:
        connection = self._connection()
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        where = "/".join((self.address.prefix, "api", *(quote(part, safe="") for part in path)))
        try:
            connection.request(method, where, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if self.address.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self.tls)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def _refusal(self, status: int, doing: str, answer: bytes) -> AgentqError:
        where = f"the management API at {self.address}"
        if status in (401, 403):
            what = f"{where} refused {self.user!r} ({doing})"
            return EngineUnavailable(what, hint="it must be an administrator: AGENTQ_MANAGEMENT_USER and _PASSWORD")
        return EngineUnavailable(f"{where} answered {status} ({doing}): {_words(answer)}", hint="see the broker's log")

    def _failure(self, error: Exception) -> AgentqError:
        where = f"the management API at {self.address}"
        if isinstance(error, ssl.SSLError):
            what, hint = next((what, hint) for words, what, hint in (*FAILURES, _OTHER) if words in str(error))
            return EngineUnavailable(f"{where} {what}: {error}", hint=hint)
        if isinstance(error, OSError):
            what = f"{where} cannot be reached: {error}"
            return EngineUnavailable(what, hint="check host and port, and that rabbitmq_management is enabled")
        return EngineUnavailable(f"{where} does not talk as such: {error}", hint="check host and port")


def _words(answer: bytes) -> str:
    return answer[:300].decode(errors="replace")
