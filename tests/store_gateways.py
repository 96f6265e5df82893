"""Gateways of which tests use the store's door: in a thread of the test, or as a process that may be killed.

`python -m tests.store_gateways PORT` serves what the settings in its environment name.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvicorn
from starlette.applications import Starlette

from agentq.config import GatewaySection, Settings, load_settings
from agentq.desk import Desk
from agentq.gateway.guard import Guard, Names
from agentq.gateway.place import Gateway
from agentq.gateway.store_door import routes
from agentq.remote import Remote
from agentq.stores.gateway import GatewayStore
from agentq.tokens import Tokens
from tests.object_servers import free_port

if TYPE_CHECKING:
    from agentq.gateway.hub import Hub

ROOT = Path(__file__).parent.parent
PATIENCE = 30.0


def settings_in(folder: Path, **more: str) -> Settings:
    """Settings with everything below one folder."""
    return load_settings(
        environ={"HOME": str(folder / "home"), "AGENTQ_STORE": str(folder / "störe"), **more}, cwd=folder
    )


def make(settings: Settings) -> tuple[Gateway, Guard]:
    """A gateway with nothing but the store's door, and its application."""
    desk = Desk(settings)
    gateway = Gateway(desk, Tokens(desk.app.store), cast("Hub", None))
    return gateway, Guard(Starlette(routes=routes(gateway)), gateway, Names.of("127.0.0.1", ()))


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A gateway in a thread; its URL."""
    _, app = make(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1, ws="none")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


def client(url: str, token: str | None = None, *, timeout: float = 10.0, retry_seconds: float = 5.0) -> GatewayStore:
    """The store over a gateway, or over what stands before one."""
    section = GatewaySection(timeout=timeout, retry_seconds=retry_seconds, token=token)  # type: ignore[arg-type]
    return GatewayStore(Remote.at(f"{url}/store", section))


class GatewayProcess:
    """A gateway on a port of its own; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "AGENTQ_STORE": str(self.folder / "störe"),
        }
        command = [sys.executable, "-m", "tests.store_gateways", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def memory(self) -> int:
        """The most bytes that it had in memory so far."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True
        return False


@contextmanager
def running(folder: Path) -> Iterator[GatewayProcess]:
    """One that runs until the block ends."""
    gateway = GatewayProcess(folder)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.kill()


if __name__ == "__main__":
    _, app = make(load_settings())
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off", ws="none")
