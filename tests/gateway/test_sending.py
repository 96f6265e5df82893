"""What an answer is read from is closed, also when nobody is there any more to take the answer."""

import gc
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from agentq.stores.file import FileStore
from tests.gateway.serving import SECONDS, Served
from tests.store_gateways import serving, settings_in

MIB = 1 << 20


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BinaryIO]]:
    """All that is opened of stores; nothing is closed for being forgotten."""
    streams, opening = list[BinaryIO](), FileStore.open

    def noted(self: FileStore, key: str) -> BinaryIO | None:
        if stream := opening(self, key):
            streams.append(stream)
        return stream

    monkeypatch.setattr(FileStore, "open", noted)
    gc.collect()
    gc.disable()
    yield streams
    gc.enable()


def leave_in_the_middle(url: str, path: str) -> None:
    """Ask for something long and reset the connection once it comes."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), SECONDS) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        assert caller.recv(4096).startswith(b"HTTP/1.1 20")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def all_closed(opened: list[BinaryIO]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not all(stream.closed for stream in opened):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.promise("gateway-evidence")
def test_evidence_that_nobody_takes_to_its_end_is_closed(served: Served, opened: list[BinaryIO]) -> None:
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": bytes(64 * MIB)})
    path = "/api/tasks/fix-17/artifacts/report"
    for _ in range(3):
        leave_in_the_middle(served.url, path)
    served.request("HEAD", path)
    assert len(opened) >= 4
    assert all_closed(opened)


def test_an_object_that_nobody_takes_to_its_end_is_closed(tmp_path: Path, opened: list[BinaryIO]) -> None:
    settings = settings_in(tmp_path)
    FileStore(tmp_path / "störe").put("attempts/a/1.json", bytes(64 * MIB))
    with serving(settings) as url:
        for _ in range(3):
            leave_in_the_middle(url, "/store/attempts/a/1.json")
        assert len(opened) == 3
        assert all_closed(opened)
