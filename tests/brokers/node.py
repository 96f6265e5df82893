"""A RabbitMQ server that belongs to the tests: what every kind of node does, and how to get one."""

import asyncio
import atexit
import random
import re
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, Self

import aio_pika

LOOPBACK = "127.0.0.1"
# Below the ports that the kernel hands out to clients: one of them could sit on a killed node's port, and a client
# that keeps dialling a free port of that range ends up connected to itself.
PORTS = range(20_000, 32_000)


class NodeFailed(Exception):
    """A node did not start, or a command on it failed; the message ends with what the node said."""


TLS_FILES = ("ca.pem", "certificate.pem", "key.pem")


@dataclass(frozen=True)
class Equipment:
    """What a node has beyond a port for clients: the management API, and TLS with these files, named as above."""

    management: bool = False
    tls: Mapping[str, bytes] = field(default_factory=dict)

    def configuration(self, address: str, management: int, tls: int, https: int, folder: str) -> str:
        """Returns the lines for rabbitmq.conf; clients must show a certificate, those of the API need none."""
        files = dict(zip(("cacertfile", "certfile", "keyfile"), TLS_FILES, strict=True)) if self.tls else {}
        lines = [f"ssl_options.{key} = {folder}/{name}" for key, name in files.items()]
        if self.tls:
            lines += [f"listeners.ssl.1 = {address}:{tls}"]
            lines += ["ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true"]
        if self.management:
            lines += [f"management.tcp.ip = {address}", f"management.tcp.port = {management}"]
        if self.management and self.tls:
            lines += [f"management.ssl.ip = {address}", f"management.ssl.port = {https}"]
            lines += [f"management.ssl.{key} = {folder}/{name}" for key, name in files.items()]
        return "".join(f"{line}\n" for line in lines)


class Installation(Protocol):
    """One RabbitMQ from which nodes are made."""

    @property
    def version(self) -> str: ...

    def new(self, equipment: Equipment = ...) -> "Node":
        """Returns a node with ports and an empty data directory of its own, not started yet."""
        ...


class Node(ABC):
    """A server on loopback that keeps its port and its data over stop, kill and start, until it is closed."""

    def __init__(self, more_ports: int = 0) -> None:
        self._held = [_hold_port() for _ in range(4 + more_ports)]
        self._ports: list[int] = [held.getsockname()[1] for held in self._held]
        self.port, self.management_port, self.tls_port, self.https_port, *self._more_ports = self._ports
        self.version = ""  # as the server itself reported it at its last start
        atexit.register(self.close)

    @staticmethod
    def find(series: str) -> "Node":
        """Returns a new node of the newest release found in a series such as "4.3"; LookupError if there is none."""
        releases = available()
        for version, installation in releases.items():
            if f"{version}.".startswith(f"{series}."):
                return installation.new()
        raise LookupError(f"no RabbitMQ {series} found, only: {', '.join(releases) or 'none at all'}")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/"

    def start(self, timeout: float = 60) -> Self:
        """Returns once clients are served, at once on a running node; NodeFailed if it ends or takes too long."""
        if self.running:
            return self
        earlier, deadline = self._starts(), time.monotonic() + timeout
        try:
            self._boot()
            # Clients are served a moment before the last steps of a start; being stopped amid these breaks them.
            while not (version := _greeting(self.port, self.url)) or self._starts() == earlier:
                if not self._runs_on(0.05):
                    raise NodeFailed(f"RabbitMQ ended while it was starting:\n{self.log()}")
                if time.monotonic() > deadline:
                    raise NodeFailed(f"RabbitMQ serves nobody after {timeout:g} s:\n{self.log()}")
        except BaseException:
            self.kill()
            raise
        self.version = version
        return self

    def close(self) -> None:
        """Ends the node and deletes its data; it cannot be started again, and closing it twice is harmless."""
        atexit.unregister(self.close)
        self._remove()
        for held in self._held:
            held.close()

    def flush(self) -> None:
        """Writes down which queues exist; a kill less than a second after a declare loses the queue's messages."""
        self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()].")

    def _starts(self) -> int:
        return self.log(lines=1_000_000).count("Server startup complete")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def running(self) -> bool: ...

    @abstractmethod
    def stop(self) -> None:
        """Shuts the server down in order and keeps its data; a node that does not run is left alone."""

    @abstractmethod
    def kill(self) -> None:
        """Ends the server at once, as a power cut would, and keeps its data; repeating it is harmless."""

    @abstractmethod
    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """Returns what `rabbitmqctl --quiet` prints about the running node; NodeFailed if the command fails."""

    @abstractmethod
    def load(self, definitions: str) -> None:
        """Has `rabbitmqctl import_definitions` read these; NodeFailed if it fails."""

    @abstractmethod
    def log(self, lines: int = 100) -> str:
        """Returns the end of what the server has said in all its starts."""

    @abstractmethod
    def _boot(self) -> None:
        """Launches the server without waiting until it serves."""

    @abstractmethod
    def _runs_on(self, seconds: float) -> bool:
        """Returns True when the server still runs after so many seconds, False as soon as it does not."""

    @abstractmethod
    def _remove(self) -> None:
        """Ends the server and deletes what it leaves; repeating it is harmless."""


def available() -> dict[str, Installation]:
    """Returns every RabbitMQ that can be started here by its version, the newest first."""
    from tests.brokers import local

    found: list[Installation] = [*local.installations()]
    if _docker_answers():
        from tests.brokers import container

        found.extend(container.installations())
    return {each.version: each for each in sorted(found, key=lambda each: release(each.version), reverse=True)}


def release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version, to compare by."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def accepts(port: int) -> bool:
    """Returns whether somebody listens on that port of loopback."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=5).close()
    except OSError:
        return False
    return True


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def _hold_port() -> socket.socket:
    """Returns a socket that keeps other test runs from choosing its port, which is free for TCP."""
    for port in random.sample(PORTS, 200):
        # UDP, so that the server can still listen on the same number; the kernel lets go when this process dies.
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind((LOOPBACK, port))
            with socket.socket() as probe:
                probe.bind((LOOPBACK, port))
        except OSError:
            held.close()
        else:
            return held
    raise NodeFailed(f"no free port in {PORTS}")


def _greeting(port: int, url: str) -> str | None:
    if not accepts(port):
        return None
    with ThreadPoolExecutor(1) as thread:  # the caller's thread may run an event loop already
        return thread.submit(asyncio.run, _version(url)).result()


async def _version(url: str) -> str | None:
    try:
        async with asyncio.timeout(10):
            connection = await aio_pika.connect(url)
    except (aio_pika.exceptions.AMQPError, OSError, EOFError):
        return None
    async with connection:
        assert connection.transport is not None
        return str(connection.transport.connection.server_properties["version"])
