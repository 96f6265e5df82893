"""A front before an S3 server that does to requests what networks and servers do: cut, delay, refuse, forget."""

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.object_servers import ObjectServer

ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def conditional(self) -> bool:
        """Whether it is a conditional put."""
        return self.method == "PUT" and "if-none-match" in self.headers


class Answer(NamedTuple):
    """An answer as it goes back; `cut` leaves out its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int = 0


class Cut(Exception):
    """The connection is cut."""


Fault = Callable[[Asked, Callable[[Asked], Answer]], Answer]


@dataclass
class Front:
    """Faults are used up in order, each by the first request that its condition fits."""

    server: str
    url: str = ""
    faults: list[tuple[Callable[[Asked], bool], Fault]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def will(
        self, fault: Fault, fits: Callable[[Asked], bool] = lambda asked: asked.conditional, times: int = 1
    ) -> None:
        """Do that to the next requests that fit."""
        self.faults += [(fits, fault)] * times

    def methods(self) -> list[str]:
        """What was asked, in order."""
        return [asked.method for asked in self.asked]

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request, after its fault."""
        try:
            with self.lock:
                self.under_way += 1
            return self._answer(asked)
        finally:
            with self.lock:
                self.under_way -= 1

    def is_idle(self) -> None:
        """Wait until nothing is under way."""
        deadline = time.monotonic() + 10
        while self.under_way:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _answer(self, asked: Asked) -> Answer:
        with self.lock:
            self.asked.append(asked)
            found = next((entry for entry in self.faults if entry[0](asked)), None)
            if found:
                self.faults.remove(found)
        return found[1](asked, self.forward) if found else self.forward(asked)

    def forward(self, asked: Asked) -> Answer:
        """What the server behind it answers."""
        connection = http.client.HTTPConnection(urlsplit(self.server).netloc, timeout=30)
        try:
            connection.request(asked.method, asked.path, asked.body, asked.headers)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Answer(answer.status, headers, answer.read())
        finally:
            connection.close()


_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "server", "date"}


def cut_before(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
    """The request never arrives."""
    raise Cut


def cut_after(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
    """It arrives, and its answer does not."""
    forward(asked)
    raise Cut


def repeated(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
    """A proxy sends it twice and answers with the second answer."""
    forward(asked)
    return forward(asked)


def unconditional(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
    """The server does not know If-None-Match."""
    return forward(asked._replace(headers={k: v for k, v in asked.headers.items() if k != "if-none-match"}))


def says(status: int, code: str, *, done: bool = False, message: str = "no") -> Fault:
    """It is answered so, after it was done or not."""

    def fault(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        if done:
            forward(asked)
        body = b"" if asked.method == "HEAD" else ERROR.format(code, message).encode()
        return Answer(status, {"Content-Type": "application/xml"}, body)

    return fault


def after(seconds: float, fault: Fault = lambda asked, forward: forward(asked)) -> Fault:
    """The same, late."""

    def late(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        time.sleep(seconds)
        return fault(asked, forward)

    return late


def meanwhile(act: Callable[[], Any], fault: Fault = lambda asked, forward: forward(asked)) -> Fault:
    """Somebody else acts first."""

    def second(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        act()
        return fault(asked, forward)

    return second


def half(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
    """The answer's second half is cut off."""
    answer = forward(asked)
    return answer._replace(cut=len(answer.body) - len(answer.body) // 2)


@contextmanager
def fronting(server: str, tls: ssl.SSLContext | None = None) -> Iterator[Front]:
    """A front before that server, on a port of its own."""
    front = Front(server)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"front": front}))
    httpd.daemon_threads = True
    front.url = f"{'https' if tls else 'http'}://127.0.0.1:{httpd.server_port}"
    if tls:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield front
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture(scope="session")
def shared_front(moto: ObjectServer) -> Iterator[Front]:
    with fronting(moto.url) as front:
        yield front


@pytest.fixture
def front(shared_front: Front) -> Front:
    """A front that does nothing yet."""
    shared_front.faults.clear()
    shared_front.asked.clear()
    return shared_front


class _Handler(BaseHTTPRequestHandler):
    front: Front
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.pop("transfer-encoding", ""):
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(headers.get("content-length", 0)))
        asked = Asked(self.command, self.path, headers, body)
        try:
            answer = self.front.answer(asked)
        except (Cut, OSError):
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        length = len(answer.body) if self.command != "HEAD" else 0
        for name, value in {**headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # it was given up
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) - answer.cut])
        self.close_connection = self.close_connection or bool(answer.cut)

    def _chunk(self) -> bytes:
        """The next chunk of a body, none at its end."""
        data = self.rfile.read(int(self.rfile.readline() or b"0", 16))
        self.rfile.readline()
        return data

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
