"""Where the server is reached over HTTP, and with which token; told before anything heavy is imported."""

import contextlib
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from agentq.errors import Invalid, Unavailable

TOKEN = "AGENTQ_MCP_TOKEN"
SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Door:
    """A place to serve at, and the token that whoever comes must bring, None where only this machine can."""

    host: str
    port: int
    token: str | None

    @classmethod
    def at(cls, where: str, token_file: str | None) -> "Door":
        """The door that is asked for; raises Invalid for one that is open to others without a token."""
        host, port = _place(where)
        token = _token(token_file)
        if token is None and not is_loopback(host):
            raise Invalid(
                f"{host} may be reached by others, and there is no token",
                hint=f"Serve 127.0.0.1, or give --token-file PATH or {TOKEN}.",
            )
        return cls(host, port, token)

    def listen(self) -> socket.socket:
        """A socket that listens there; raises Unavailable when it cannot be had."""
        return _listen(self.host, self.port)


def _place(where: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Invalid(f"--http {where!r} is no place to serve", hint="Write HOST:PORT, such as 127.0.0.1:8765.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def in_url(host: str) -> str:
    """The host as it stands in a URL."""
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
