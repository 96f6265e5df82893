"""The server is killed with SIGKILL under the store's hands, and started again on what it had written down."""

import hashlib
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentq.errors import StoreUnavailable
from agentq.records import Records
from agentq.stores.s3 import S3Store
from tests.object_faults import Front, fronting
from tests.object_servers import ObjectServer

KEY, MIB = "artifacts/a/1/large", 1 << 20


@pytest.fixture
def server(ministack_of_my_own: ObjectServer) -> ObjectServer:
    return ministack_of_my_own


@pytest.fixture
def front(server: ObjectServer) -> Iterator[Front]:
    with fronting(server.url) as front:
        yield front


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of six parts."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        for number in range(48):
            file.write(bytes([number]) * MIB)
    return path


def restarted(server: ObjectServer) -> Callable[[], None]:
    def restart() -> None:
        server.kill()
        server.start()

    return restart


@pytest.mark.promise("bucket-outages")
@pytest.mark.parametrize("back", [True, False], ids=["and comes back", "and stays away"])
def test_killed_in_the_middle_of_an_upload(server: ObjectServer, large: Path, back: bool) -> None:
    """ministack forgets uploads when it dies, which is told; nothing half-done shows, and a repetition works."""
    store = server.store("crash", retry_seconds=3.0)
    store.put(KEY, b"old")
    moved: list[int] = []

    def die(count: int) -> None:
        moved.append(count)
        if len(moved) == 1:
            server.kill()
            if back:
                server.start()

    tracemalloc.start()
    try:
        with pytest.raises(StoreUnavailable):
            store.put_file(KEY, large, progress=die)
        if not back:
            server.start()
        assert store.get(KEY) == b"old"
        assert store.stale_temporaries(-60) == []
        assert store.put_file(KEY, large).bytes == 48 * MIB
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    stream = store.open(KEY)
    assert stream is not None
    with stream:
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(large.read_bytes()).digest()


def test_killed_in_the_middle_of_a_download(server: ObjectServer, front: Front, large: Path) -> None:
    store = server.store("crash", endpoint=front.url)
    store.put_file(KEY, large)
    stream = store.open(KEY)
    assert stream is not None
    with stream:
        first = stream.read(MIB)
        restarted(server)()
        assert first + stream.read() == large.read_bytes()


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("other", [False, True], ids=["alone", "second"])
def test_killed_around_a_creation(server: ObjectServer, front: Front, when: str, other: bool) -> None:
    store, behind = server.store("crash", endpoint=front.url), server.store("crash")
    if other:
        assert behind.put_new("attempts/a/1.json", b"another's")
    arrived = [] if when == "before" else [1]

    def die(asked: object, forward: Callable[..., object]) -> None:
        if arrived:
            forward(asked)
        restarted(server)()
        raise ConnectionError

    front.will(die)  # type: ignore[arg-type]
    assert store.put_new("attempts/a/1.json", b"mine") is not other
    assert behind.get("attempts/a/1.json") == (b"another's" if other else b"mine")


@pytest.mark.promise("put-if-absent")
@pytest.mark.promise("bucket-outages")
def test_killed_anywhere_it_keeps_what_was_promised(server: ObjectServer) -> None:
    """Through Records, which reads a doubtful paper back: ministack may die between an object and its metadata."""
    created: list[int] = []
    enough = threading.Event()
    broken: list[BaseException] = []

    def write(store: S3Store) -> None:
        try:
            for number in range(100_000):
                if enough.is_set():
                    return
                assert Records(store).create(f"attempts/{number}", paper(number)) is None
                created.append(number)
        except BaseException as error:
            broken.append(error)
            raise

    store = server.store("crash", retry_seconds=20.0)
    writer = threading.Thread(target=write, args=(store,))
    writer.start()
    for round_ in range(1, 4):
        while len(created) < 20 * round_ and writer.is_alive():
            enough.wait(0.005)
        restarted(server)()
    enough.set()
    writer.join(30)
    assert not broken
    assert len(created) >= 60
    for number in created:
        assert store.get(f"attempts/{number}") == paper(number)


def paper(number: int) -> bytes:
    return f"paper {number}".encode() * 100
