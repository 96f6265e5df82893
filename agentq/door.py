"""Where a server is reached, and the secret that whoever comes must bring; told before anything heavy is imported."""

import contextlib
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from agentq.errors import Invalid, Unavailable

SHORTEST_TOKEN = 16
_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")


def place_of(flag: str, where: str, such_as: str) -> tuple[str, int]:
    """The host and the port that a flag names as HOST:PORT; raises Invalid, with an example."""
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Invalid(f"{flag} {where!r} is no place to serve", hint=f"Write HOST:PORT, such as {such_as}.")
    return host, int(port)


def names_in(flag: str, given: Iterable[str] | None) -> tuple[str, ...]:
    """The names that a flag gives as a `Host` has them, each with a port or without; raises Invalid."""
    names = tuple(given or ())
    for name in names:
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"{flag} {name!r} is no host name",
                hint="Write what stands in a URL between // and the next /, such as agentq.example.com.",
            )
    return names


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


def secret(path: str | Path | None, variable: str) -> str | None:
    """The token in a file, else in the environment, None in neither; raises Invalid for one that is none, or that
    others may read."""
    token = os.environ.get(variable) if path is None else _of_file(Path(path))
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid(
            f"the token in {path or variable} is none",
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


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises Unavailable when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"{host} cannot be served: {error}", hint="Give a host of this machine.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise Unavailable(
            f"{host}:{port} cannot be had: {error.strerror}", hint="Choose another port, or 0."
        ) from error
    return listening
