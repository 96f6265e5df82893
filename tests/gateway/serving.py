"""Gateways for tests: in a thread of this process, quick to start, or as `agentq serve` itself; and who calls them."""

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentq import desk as resident
from agentq.door import in_url
from agentq.door import listen as listen_at
from agentq.gateway.guard import Names
from agentq.gateway.place import Gateway
from agentq.gateway.server import Server, Tls, config_of, make_gateway
from agentq.tokens import Role, Tokens
from tests.desk import Desk

SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    def ok(self, status: int | None = None) -> Any:
        """The JSON of an answer that must be a success."""
        assert self.status == status if status else 200 <= self.status < 300, (self.status, self.body)
        return self.json if self.body else None

    def problem(self, status: int) -> dict[str, Any]:
        """The problem that it must be."""
        assert (self.status, self.headers.get("content-type")) == (status, "application/problem+json"), self
        found: dict[str, Any] = self.json
        assert found["status"] == status
        return found


@dataclass(frozen=True)
class Client:
    """Somebody who calls a gateway, with a token or none."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """What a request is answered; `body` is sent as JSON unless it is bytes."""
        said = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None and not isinstance(body, bytes):
            body, said = json.dumps(body).encode(), said | {"Content-Type": "application/json"}
        connection = self._connection()
        try:
            connection.request(method, path, body, said | dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """What is answered to GET; headers are written with `_` for `-`."""
        return self.request("GET", path, headers=_named(headers))

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        """What is answered to POST."""
        return self.request("POST", path, {} if body is None else body, _named(headers))

    def delete(self, path: str) -> Reply:
        """What is answered to DELETE."""
        return self.request("DELETE", path)

    def bringing(self, token: str | None) -> "Client":
        """The same with that token."""
        return Client(self.url, token, self.tls)

    def raw(self, data: bytes, *, seconds: float = SECONDS) -> bytes:
        """All that comes back to some bytes, until the gateway closes the connection."""
        parts, found = urlsplit(self.url), b""
        with socket.create_connection((parts.hostname or "", parts.port or 0), seconds) as connection:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                found += chunk
        return found

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, timeout=SECONDS, context=self.tls)
        return http.client.HTTPConnection(parts.netloc, timeout=SECONDS)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Served(Client):
    """A gateway in a thread of this process, as whoever calls it sees it, and the desk beside it."""

    desk: Desk = field(kw_only=True)
    gateway: Gateway = field(kw_only=True)

    def new_token(self, *roles: Role, name: str = "ann", agent: str | None = None) -> str:
        """A new token with these roles; from now on everybody needs one."""
        return self.gateway.tokens.new(name, roles, agent)[0]

    def caller(self, *roles: Role, name: str = "ann", agent: str | None = None) -> Client:
        """Somebody with a new token."""
        return self.bringing(self.new_token(*roles, name=name, agent=agent))

    @property
    def ws(self) -> str:
        """The URL that WebSocket paths are put behind."""
        return self.url.replace("http", "ws", 1)

    @property
    def tokens(self) -> Tokens:
        """The gateway's own tokens."""
        return self.gateway.tokens


@contextlib.contextmanager
def serving(
    desk: Desk,
    *,
    host: str = "127.0.0.1",
    names: tuple[str, ...] = (),
    is_local: bool = True,
    tls: Tls | None = None,
) -> Iterator[Served]:
    """A gateway of a desk's settings, which ends with the block."""
    holder = resident.Desk(desk.app().settings)
    known = Names.of(host, names)
    gateway = make_gateway(holder, known, is_local=is_local)
    listening = listen_at(host, 0)
    ready = threading.Event()
    server = Server(config_of(gateway, known, tls), gateway, ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), name="gateway")
    url = f"{'https' if tls else 'http'}://{in_url(host)}:{listening.getsockname()[1]}"
    thread.start()
    try:
        assert ready.wait(SECONDS), "the gateway does not serve"
        yield Served(url, desk=desk, gateway=gateway)
    finally:
        server.should_exit = True
        gateway.closing.set()
        thread.join(SECONDS)
        holder.close()
        listening.close()
        assert not thread.is_alive(), "the gateway does not end"


@dataclass(frozen=True)
class Started(Client):
    """`agentq serve` as a process of its own."""

    process: "subprocess.Popen[bytes]" = field(kw_only=True)
    said: list[str] = field(kw_only=True)
    reader: threading.Thread = field(kw_only=True)

    @property
    def ws(self) -> str:
        """The URL that WebSocket paths are put behind."""
        return self.url.replace("http", "ws", 1)

    def end(self, sign: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """End it; answers with its exit code, and how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(sign)
        code = self.process.wait(SECONDS)
        self.reader.join(SECONDS)
        return code, time.monotonic() - began


@contextlib.contextmanager
def started(
    desk: Desk, *flags: str, listen: str = "127.0.0.1:0", tls: ssl.SSLContext | None = None
) -> Iterator[Started]:
    """`agentq serve` at a desk, once it serves; killed at the end unless it ended before."""
    process = desk.start("serve", "--listen", listen, *flags, stdout=subprocess.DEVNULL)
    said: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr
        for line in process.stderr:
            said.append(line.decode(errors="replace").rstrip())
            if "serving http" in said[-1]:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, name="gateway's words")
    reader.start()
    try:
        assert ready.wait(SECONDS), said
        found = next((match[0] for line in said if (match := re.search(r"https?://[^\s\"]+", line))), None)
        assert found, f"it does not serve: {said}"
        yield Started(found, tls=tls, process=process, said=said, reader=reader)
    finally:
        process.kill()
        process.wait(SECONDS)
        reader.join(SECONDS)
        assert process.stderr
        process.stderr.close()
