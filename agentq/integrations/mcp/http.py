"""The server over streamable HTTP: for this machine, and for others only with a token."""

import asyncio
import contextlib
import hmac
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentq.desk import Desk
from agentq.door import in_url, is_loopback
from agentq.errors import ExitCode
from agentq.integrations.mcp.door import Door
from agentq.integrations.mcp.server import make_server

PATH = "/mcp"
CLOSE_SECONDS = 1
"""How long connections that are open have to end when the server does."""


def serve(
    desk: Desk, door: Door, listening: socket.socket, *, names: Sequence[str], say: Callable[[str], object]
) -> None:
    """Serve who comes to a socket until a signal does, having said at which URL; the socket is closed then."""
    with listening:
        config = uvicorn.Config(
            make_app(desk, door.host, door.token, names),
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        say(f"serving http://{in_url(door.host)}:{listening.getsockname()[1]}{PATH}")
        code = asyncio.run(_Server(config).run_on(listening))
    desk.close()
    if code:
        sys.exit(code)


def make_app(desk: Desk, host: str, token: str | None, names: Sequence[str] = ()) -> ASGIApp:
    """The application: only for requests to this host by one of its names, from no foreign web page, with the token."""
    loopback = ("127.0.0.1", "localhost", "[::1]")
    hosts = [*(loopback if is_loopback(host) else (in_url(host),)), *names]
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
