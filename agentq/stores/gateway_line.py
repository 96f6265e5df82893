"""The way to a gateway's store: requests, what their answers mean in words, and for how long a failure is borne."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, TypeVar

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from agentq.errors import AgentqError, EvidenceError, Invalid, StoreUnavailable
from agentq.messages import shorten
from agentq.remote import Remote
from agentq.stores.gateway_wire import STATE
from agentq.stores.passing import Passing, repeatedly

CONNECTIONS = 32
LONGEST_PROBLEM = 1 << 16
ADDRESS = "look at AGENTQ_VIA, and whether the gateway (`agentq serve`) is up"
TOKEN = "make one with `agentq token new`, and name it with AGENTQ_GATEWAY_TOKEN_FILE"
CERTIFICATE = "name the CA's certificate: `ca_file` under [gateway] in agentq.toml"

T = TypeVar("T")


_WHY: tuple[tuple[type[HTTPError], str], ...] = (
    (NameResolutionError, "nobody knows its host"),
    (NewConnectionError, "it cannot be reached"),
    (ConnectTimeoutError, "no connection within the time allowed"),
    (ReadTimeoutError, "no answer within the time allowed"),
)


class Line:
    """Requests to one gateway, over connections that are kept; the first is made when it is needed."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._lock = threading.Lock()
        self._pool: urllib3.PoolManager | None = None

    def ask(
        self,
        doing: str,
        method: str,
        path: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> "Answer":
        """Send one request, once, and answer with the beginning of its answer, which has to be closed.

        `doing` says what for. Raises StoreUnavailable, and Passing where another try is worth it; Invalid and
        EvidenceError as the gateway does.
        """
        with _words(doing):
            found = self._connections().request(
                method,
                f"{self.remote.url}{path}",
                body=body,
                headers={**self.remote.headers, **(headers or {})},
                preload_content=False,
                redirect=False,
                chunked=not isinstance(body, (bytes, NoneType)),
            )
        answer = Answer(found, doing)
        if found.status >= 400 and not answer.state:
            with answer:
                raise answer.error()
        if not answer.state:
            with answer:
                raise StoreUnavailable(f"cannot {doing}: the answer ({found.status}) is no gateway's", hint=ADDRESS)
        return answer

    def repeatedly(self, act: Callable[[], T]) -> T:
        """What `act` answers; while it raises Passing it is called again, for `retry_seconds`."""
        return repeatedly(act, self.remote.retry_seconds)

    def _connections(self) -> urllib3.PoolManager:
        with self._lock:
            if self._pool is None:
                self._pool = _pool_of(self.remote)
            return self._pool


class Answer:
    """The answer to one request, as far as it was read; `state` is what it says of the object, empty when it is no
    answer of a store's door."""

    def __init__(self, found: urllib3.BaseHTTPResponse, doing: str) -> None:
        self._found, self._doing = found, doing
        self.status = found.status
        self.state: str = found.headers.get(STATE, "")

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int | None = None) -> bytes:
        """The next bytes, none at its end; raises Passing when it breaks off."""
        with _words(self._doing):
            return self._found.read(size)

    def json(self) -> Any:
        """All of it, as JSON; raises StoreUnavailable when it is none."""
        try:
            return json.loads(self.read())
        except ValueError as error:
            raise StoreUnavailable(f"cannot {self._doing}: the answer is no JSON", hint=ADDRESS) from error

    def close(self) -> None:
        """Let go of the connection: others may use it when all was read, else it is closed."""
        if not self._found.closed:
            self._found.close()

    def error(self) -> AgentqError:
        """The error that a refusing answer is."""
        return error_of(self.status, self.read(LONGEST_PROBLEM), self._doing)


@contextlib.contextmanager
def _words(doing: str) -> Iterator[None]:
    """The one place where an error of urllib3 becomes one of ours."""
    try:
        yield
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise StoreUnavailable(f"cannot {doing}: its certificate is not trusted", hint=CERTIFICATE) from error
        raise Passing(f"cannot {doing}: no secure connection can be made", hint=ADDRESS) from error
    except HTTPError as error:
        why = next((words for known, words in _WHY if isinstance(error, known)), "the connection broke")
        raise Passing(f"cannot {doing}: {why}", hint=ADDRESS) from error


def error_of(status: int, problem: bytes, doing: str) -> AgentqError:
    """The error that a status and a problem in JSON stand for; what a proxy says is not repeated."""
    detail, hint, kind = _told(problem)
    if status == 401:
        return StoreUnavailable(f"cannot {doing}: the gateway asks for a token that counts", hint=TOKEN)
    if kind == "urn:agentq:invalid":
        return Invalid(detail, hint=hint)
    if kind == "urn:agentq:evidence":
        return EvidenceError(detail, hint=hint)
    why = detail or f"the gateway, or what stands before it, answers {status}"
    if status in (408, 421, 425, 429) or status >= 500:
        return Passing(f"cannot {doing}: {why}", hint=hint or ADDRESS)
    return StoreUnavailable(f"cannot {doing}: {why}", hint=hint or ADDRESS)


def _told(problem: bytes) -> tuple[str, str, str]:
    """What a problem says in detail, its hint, and its type."""
    try:
        told = json.loads(problem)
    except ValueError:
        return "", "", ""
    if not isinstance(told, dict) or not isinstance(told.get("detail"), str):
        return "", "", ""
    return shorten(told["detail"], 1000), shorten(str(told.get("hint") or ""), 1000), str(told.get("type"))


def _pool_of(remote: Remote) -> urllib3.PoolManager:
    if remote.tls and not remote.tls.check_hostname:  # who says so need not be told at every request
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    options: dict[str, Any] = {"ssl_context": remote.tls} if remote.tls else {}
    timeout = urllib3.Timeout(connect=remote.timeout, read=remote.timeout)
    return urllib3.PoolManager(num_pools=2, maxsize=CONNECTIONS, retries=False, timeout=timeout, **options)
