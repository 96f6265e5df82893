"""Serving Prometheus metrics over HTTP, on whatever path is asked for."""

import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from agentq.errors import AgentqError, Invalid, Unavailable

log = logging.getLogger("agentq")

CLIENT_SECONDS = 5.0
"""How long a client may take to ask."""


@contextlib.contextmanager
def serving(registry: CollectorRegistry, address: str, port: int) -> Iterator[int]:
    """Serve the metrics of a registry in threads of this process; yields the port, which the system chooses for 0.

    Raises Unavailable when the port is taken, Invalid when the address is not one of this machine.
    """
    try:
        server = make_server(address, port, make_wsgi_app(registry), _server(address, port), _Handler)
    except (OSError, OverflowError) as error:
        raise _refused(error, address, port) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def place(address: str, port: int) -> str:
    """Address and port as a URL has them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = False  # who asks just now gets an answer, in bounded time

    def server_bind(self) -> None:
        """Bind without looking up a name for the address, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of ours."""
        log.debug("a client of the metrics went away", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def _server(address: str, port: int) -> type[_Server]:
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return type("_ServerOfFamily", (_Server,), {"address_family": family})


def _refused(error: Exception, address: str, port: int) -> AgentqError:
    where = place(address, port)
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return Unavailable(f"the metrics cannot be served at {where}: the port is taken", hint="Give another one.")
    if code == errno.EACCES:
        what, hint = "this user may not open that port", "Give a port above 1023."
    else:
        what, hint = str(getattr(error, "strerror", None) or error), "Give an address of this machine, and a free port."
    return Invalid(f"the metrics cannot be served at {where}: {what}", hint=hint)
