"""The store's door and its adapter when the gateway is killed, and with what is large; `make test-all` runs them."""

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentq.stores.file import FileStore
from tests.object_faults import (
    Answer,
    Asked,
    fronting,
)
from tests.store_gateways import GatewayProcess, client, running

MIB, KEY = 1 << 20, "attempts/a/1.json"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with running(tmp_path) as gateway:
        yield gateway


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("other", [False, True], ids=["alone", "second"])
def test_a_gateway_killed_around_a_creation(gateway: GatewayProcess, when: str, other: bool) -> None:
    behind = FileStore(gateway.folder / "störe")
    if other:
        behind.put_new(KEY, b"another's")

    def die(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        if when == "after":
            forward(asked)
        gateway.restart()
        raise ConnectionError

    with fronting(gateway.url) as front:
        front.will(die)
        assert client(front.url, retry_seconds=20.0).put_new(KEY, b"mine") is not other
    assert behind.get(KEY) == (b"another's" if other else b"mine")


@pytest.mark.promise("gateway-whole")
def test_a_gateway_killed_in_the_middle_of_an_upload_and_of_a_download(gateway: GatewayProcess, tmp_path: Path) -> None:
    behind, source, moved = FileStore(gateway.folder / "störe"), tmp_path / "large", list[int]()
    data = os.urandom(32 * MIB)
    source.write_bytes(data)
    behind.put("results/a.md", b"old")

    def die(count: int) -> None:
        moved.append(count)
        if len(moved) == 40:
            gateway.restart()

    store = client(gateway.url, retry_seconds=30.0)
    assert store.put_file("results/a.md", source, progress=die).sha256 == hashlib.sha256(data).hexdigest()
    assert behind.get("results/a.md") == data
    stream = store.open("results/a.md")
    assert stream is not None
    with stream:
        first = stream.read(MIB)
        gateway.restart()
        assert first + stream.read() == data


@pytest.mark.promise("gateway-whole")
def test_a_large_file_goes_through_a_gateway_in_little_memory(gateway: GatewayProcess, tmp_path: Path) -> None:
    source, size = tmp_path / "large", 200 * MIB
    with source.open("wb") as file:
        file.truncate(size)
    store = client(gateway.url)
    assert store.get("artifacts/a/1/large") is None
    tracemalloc.start()
    try:
        assert store.put_file("artifacts/a/1/large", source).bytes == size
        stream = store.open("artifacts/a/1/large")
        assert stream is not None
        with stream:
            while stream.read(MIB):
                pass
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert gateway.memory() < 200 * MIB


@pytest.mark.promise("put-if-absent")
def test_killed_anywhere_it_keeps_what_was_promised(gateway: GatewayProcess) -> None:
    from agentq.records import Records

    created: list[int] = []
    enough = threading.Event()
    broken: list[BaseException] = []

    def write() -> None:
        records = Records(client(gateway.url, retry_seconds=30.0))
        try:
            for number in range(100_000):
                if enough.is_set():
                    return
                assert records.create(f"attempts/{number}", f"paper {number}".encode()) is None
                created.append(number)
        except BaseException as error:
            broken.append(error)
            raise

    writer = threading.Thread(target=write)
    writer.start()
    for round_ in range(1, 4):
        while len(created) < 20 * round_ and writer.is_alive():
            enough.wait(0.005)
        gateway.restart()
    enough.set()
    writer.join(60)
    assert not broken
    behind = FileStore(gateway.folder / "störe")
    assert len(created) >= 60
    assert all(behind.get(f"attempts/{number}") == f"paper {number}".encode() for number in created)
