"""The server over streamable HTTP: for this machine, and for others only with a token."""

import asyncio
import contextlib
import hmac
import ipaddress
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentq.errors import ExitCode, Invalid, Unavailable
from agentq.integrations.desk import Desk
from agentq.integrations.mcp.server import make_server

PATH = "/mcp"
TOKEN = "AGENTQ_MCP_TOKEN"
SHORTEST_TOKEN = 16
CLOSE_SECONDS = 1
"""How long connections that are open have to end when the server does."""


def serve(
    desk: Desk, where: str, *, token_file: str | None, names: Sequence[str], say: Callable[[str], object]
) -> None:
    """Serve until a signal comes, having said at which URL.

    Raises Invalid for what is open to others without a token, Unavailable for a port that cannot be had.
    """
    host, port = _place(where)
    token = _token(token_file)
    if token is None and not _is_loopback(host):
        raise Invalid(
            f"{host} may be reached by others, and there is no token",
            hint=f"Serve 127.0.0.1, or give --token-file PATH or {TOKEN}.",
        )
    listening = _listen(host, port)
    with listening:
        app = make_app(desk, host, token, names)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=CLOSE_SECONDS
        )
        say(f"serving http://{_in_url(host)}:{listening.getsockname()[1]}{PATH}")
        code = asyncio.run(_Server(config).run_on(listening))
    desk.close()
    if code:
        sys.exit(code)


def make_app(desk: Desk, host: str, token: str | None, names: Sequence[str] = ()) -> ASGIApp:
    """The application: only for requests to this host by one of its names, from no foreign web page, with the token."""
    loopback = ("127.0.0.1", "localhost", "[::1]")
    hosts = [*(loopback if _is_loopback(host) else (_in_url(host),)), *names]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[either for name in hosts for either in (name, f"{name}:*")],
        allowed_origins=[f"http://{either}" for name in hosts for either in (name, f"{name}:*")],
    )
    app = make_server(desk).streamable_http_app(streamable_http_path=PATH, host=host, transport_security=security)
    return app if token is None else _Guarded(app, token)


class _Guarded:
    """An application that answers only who brings the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._brings_it(scope):
            headers = {"www-authenticate": "Bearer"}
            await PlainTextResponse("bring the token: Authorization: Bearer TOKEN\n", 401, headers)(
                scope, receive, send
            )
            return
        await self._app(scope, receive, send)

    def _brings_it(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return hmac.compare_digest(token.strip(), self._token) and kind.lower() == b"bearer"


class _Server(uvicorn.Server):
    """One that ends with an exit code instead of the signal that it got."""

    code = ExitCode.OK

    async def run_on(self, listening: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave, ExitCode.OK)
        loop.add_signal_handler(signal.SIGINT, self._leave, ExitCode.INTERRUPTED)
        await self.serve(sockets=[listening])
        return self.code

    def _leave(self, code: ExitCode) -> None:
        self.force_exit = self.should_exit  # the second one waits for nobody
        self.should_exit, self.code = True, code

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are taken already."""
        yield


def _place(where: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Invalid(f"--http {where!r} is no place to serve", hint="Write HOST:PORT, such as 127.0.0.1:8765.")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _token(path: str | None) -> str | None:
    """The token in a file, or in the environment; raises Invalid for one that is none, or that others may read."""
    token = os.environ.get(TOKEN) if path is None else _of_file(Path(path))
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid(
            f"the token in {path or TOKEN} is none",
            hint=f"At least {SHORTEST_TOKEN} characters without spaces, such as: openssl rand -hex 24",
        )
    return token


def _of_file(path: Path) -> str:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Invalid(f"others may read {path}", hint=f"chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {error}", hint="Give a file with the token in it.") from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"{host} cannot be served: {error}", hint="Give a host of this machine.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise Unavailable(
            f"{host}:{port} cannot be had: {error.strerror}", hint="Choose another port, or 0."
        ) from error
    return listening
