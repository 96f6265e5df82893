"""The gateway as a process: it serves until a signal ends it, and tells its supervisor how it stands."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentq.app import App
from agentq.desk import Desk
from agentq.door import in_url, is_loopback
from agentq.errors import ExitCode, Invalid
from agentq.gateway.app import make_app
from agentq.gateway.guard import Names
from agentq.gateway.hub import Hub
from agentq.gateway.place import Gateway
from agentq.gateway.wire import Wire
from agentq.supervisor import Supervisor
from agentq.tokens import Tokens

log = logging.getLogger("agentq")

CLOSE_SECONDS = 2
"""How long requests that are open have to end when the gateway does."""
HEADER_SECONDS = 10.0
"""How long a client may take to send the head of a request, and what is left of its body once it was answered."""
KEEP_SECONDS = 65
"""How long a connection is kept that nobody uses: longer than proxies keep theirs."""
TAKE_SECONDS = 60
"""How long a client may take nothing before its connection is dropped, whatever is open on it."""
HEADER_BYTES = 32 * 1024
FRAME_BYTES = 4 << 20
"""Bytes of a WebSocket message that are read at all, of clients that are known; see wire.py for the others."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate with its chain, and its key, as files in PEM."""

    cert: Path
    key: Path

    def check(self) -> None:
        """Raise Invalid for what is no certificate with its key."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise Invalid(
                f"{self.cert} and {self.key} are no certificate with its key: {error}",
                hint="Give both in PEM, the certificate with its chain, the key without a passphrase.",
            ) from error


def make_gateway(desk: Desk, names: Names, *, is_local: bool) -> Gateway:
    """The gateway over a desk; raises Invalid where others than this machine are served and nobody has a token."""
    tokens = Tokens(desk.app.store)
    if not is_local and not tokens.any():
        raise Invalid(
            "this would serve other machines, and nobody has a token",
            hint="Make one first: agentq token new NAME --role observer. Or listen at 127.0.0.1 alone.",
        )
    return Gateway(desk, tokens, Hub.of(App(desk.settings)), is_local=is_local)


def serve(
    desk: Desk,
    host: str,
    listening: socket.socket,
    *,
    more_names: tuple[str, ...] = (),
    tls: Tls | None = None,
    say: Callable[[str], object],
) -> None:
    """Serve who comes to a socket until a signal does, having said at which URL; the socket is closed then."""
    with listening:
        names = Names.of(host, more_names)
        gateway = make_gateway(desk, names, is_local=is_loopback(host) and names.are_local)
        if tls is None and not is_loopback(host):
            hint = "give --cert and --key, or let a proxy that speaks TLS stand before it"
            log.warning("%s is served without TLS: tokens can be read on their way (%s)", host, hint)
        where = f"{'https' if tls else 'http'}://{in_url(host)}:{listening.getsockname()[1]}"
        server = Server(config_of(gateway, names, tls), gateway, partial(say, f"serving {where}"))
        code = asyncio.run(server.run_on(listening))
    desk.close()
    if code:
        sys.exit(code)


def config_of(gateway: Gateway, names: Names, tls: Tls | None = None) -> uvicorn.Config:
    """How the application is served."""
    files: dict[str, Any] = {"ssl_certfile": tls.cert, "ssl_keyfile": tls.key} if tls else {}
    return uvicorn.Config(
        make_app(gateway, names),
        http=Patient,
        ws=Wire,
        ws_max_size=FRAME_BYTES,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        access_log=False,
        lifespan="on",
        **files,
    )


def _give_up_who_takes_nothing(listening: socket.socket) -> None:
    """Have the system drop connections whose peer takes nothing of what is sent, where it can."""
    with contextlib.suppress(AttributeError, OSError):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * TAKE_SECONDS)


@contextlib.contextmanager
def _shaking_hands_within(seconds: float) -> Iterator[None]:
    """Let TLS servers that are made give up on who has not shaken hands by then, for which uvicorn has no setting."""
    loop: Any = asyncio.get_running_loop()
    make = loop.create_server

    async def made(*arguments: Any, **named: Any) -> Any:
        return await make(*arguments, **named, **({"ssl_handshake_timeout": seconds} if named.get("ssl") else {}))

    loop.create_server = made
    try:
        yield
    finally:
        loop.create_server = make


class Patient(H11Protocol):
    """HTTP for clients that say what they want within 10 s: who sends half a request holds no connection for ever.

    Who was answered before all of the body came is heard for 10 s more, so that they come to read the answer.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.scope
        super().handle_events()
        if self.scope is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._late is None and self.cycle.response_complete and self.cycle.more_body:
            self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._late:
            self._late.cancel()
        self._late = None

    def _give_up(self) -> None:
        self._late = None
        self.transport.close()


class Server(uvicorn.Server):
    """One that says when it serves, hears of its end from signals, and ends with an exit code of ours."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._gateway, self._on_ready = gateway, on_ready
        self._supervisor = Supervisor()
        self.code = ExitCode.OK

    async def run_on(self, listening: socket.socket) -> int:
        """Serve until a signal; the second one waits for nobody."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.leave, ExitCode.OK)
        loop.add_signal_handler(signal.SIGINT, self.leave, ExitCode.INTERRUPTED)
        async with self._supervisor.hears(self._standing):
            await self.serve(sockets=[listening])
        return self.code

    def leave(self, code: ExitCode = ExitCode.OK) -> None:
        """End: take nothing new, tell WebSockets that it is restarting, let requests end for a moment."""
        self.force_exit = self.should_exit
        self.should_exit, self.code = True, code
        self._gateway.closing.set()
        self._supervisor.stopping()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        for listening in sockets or ():
            _give_up_who_takes_nothing(listening)
        with _shaking_hands_within(HEADER_SECONDS):
            await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()
            self._supervisor.ready()

    def _standing(self) -> str:
        trouble = self._gateway.hub.trouble
        return f"serving; {trouble}" if trouble else "serving"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are taken already."""
        yield
