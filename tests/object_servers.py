"""S3 servers for tests, as processes of their own: moto, and ministack, which keeps what it was given."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import botocore.session
import pytest

from agentq.config import S3Section
from agentq.stores.s3 import S3Store

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent
BUCKET = "agentq-test"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
PATIENCE = 30.0


class ObjectServer:
    """A server on a port of its own, with one bucket; it may be killed and started again."""

    def __init__(self, folder: Path, program: str, port: int = 0) -> None:
        self.folder, self.program, self.port = folder, program, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[Any, Any] = {}

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=self._environment(), stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def pause(self) -> None:
        """Let it stop answering, without ending it."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """A bare client."""
        session = botocore.session.Session()
        session.set_credentials("test", "test")
        return session.create_client("s3", region_name="us-east-1", endpoint_url=self.url)

    def store(self, prefix: str = "", **section: Any) -> S3Store:
        """A store below a prefix of its own; those of one kind share a client, which is slow to make."""
        section = {"endpoint": self.url, "timeout": 10.0, "retry_seconds": 5.0, **section}
        store = S3Store(f"s3://{BUCKET}/{prefix or secrets.token_hex(4)}", S3Section(**section))
        kind = tuple(sorted(section.items()))
        store._bucket._connected = self._clients.get(kind)
        self._clients[kind] = store._bucket._client("begin")
        return store

    def _command(self) -> list[str]:
        if self.program == "moto":
            return [sys.executable, "-m", "tests.moto_one_by_one", str(self.port)]
        return [str(BIN / "ministack")]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "SERVICES": "s3",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            "S3_PERSIST": "1",
            "PERSIST_STATE": "1",
            "S3_DATA_DIR": str(self.folder / "s3"),
            "STATE_DIR": str(self.folder / "state"),
        }

    def _answers(self) -> bool:
        with suppress(OSError), urlopen(self.url, timeout=5) as answer:
            return answer.status == 200
        return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, program: str) -> Iterator[ObjectServer]:
    """A server that runs, with its bucket, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ObjectServer(folder, program)
    server.start()
    try:
        client = server.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="kept")  # ministack forgets an empty bucket when it is killed
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def aws() -> Iterator[None]:
    """The credentials of these servers in the environment, and none of this machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def moto(aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A moto for the whole session: leave it running."""
    with running(tmp_path_factory.mktemp("moto"), "moto") as server:
        yield server


@pytest.fixture(scope="session")
def ministack(aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A ministack for the whole session: leave it running."""
    with running(tmp_path_factory.mktemp("ministack"), "ministack") as server:
        yield server


@pytest.fixture
def ministack_of_my_own(aws: None, tmp_path: Path) -> Iterator[ObjectServer]:
    """A ministack to be killed at will."""
    with running(tmp_path / "ministack", "ministack") as server:
        yield server
