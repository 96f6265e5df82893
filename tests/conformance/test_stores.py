"""What every store does. A new store gives a line in `STORES`, and passes."""

import hashlib
import multiprocessing
import secrets
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from agentq.adapters import open_store
from agentq.config import S3Section
from agentq.errors import Invalid
from agentq.store import Store
from agentq.stores.file import FileStore
from agentq.stores.gateway import GatewayStore
from tests.object_servers import BUCKET, ObjectServer
from tests.store_gateways import client, serving, settings_in

MIB = 1 << 20

BAD_KEYS = [
    *("", "/", "/tasks/a", "tasks/", "tasks//a", ".", "..", "../a", "tasks/../a", "tasks/..", "tasks/./a"),
    *(".hidden", "tasks/.tmp-1", "tasks/a b", "tasks/ä", "tasks/a\0b", "tasks/a\nb", "tasks/a\n", "tasks\\a", "a:b"),
    *("tasks/%2e%2e/a", "tasks/a*", "~/a", "tasks/" + "a" * 256),
]


def open_again(url: str) -> Store:
    """The same store, as another process would open it."""
    return open_store(url, S3Section())


def address(store: Store) -> str:
    """What another process opens it by: its URL, or the gateway that it is behind."""
    return store.place if isinstance(store, GatewayStore) else store.url


def _in_a_folder(request: pytest.FixtureRequest) -> Store:
    return FileStore(request.getfixturevalue("tmp_path") / "a störe")


def _on_a_server(request: pytest.FixtureRequest, name: str) -> Store:
    server: ObjectServer = request.getfixturevalue(name)
    request.getfixturevalue("monkeypatch").setenv("AWS_ENDPOINT_URL_S3", server.url)
    return open_again(f"s3://{BUCKET}/{secrets.token_hex(4)}")


def _behind_a_gateway(request: pytest.FixtureRequest) -> Store:
    return client(request.getfixturevalue("gateway_url"))


@pytest.fixture
def gateway_url(tmp_path: Path) -> Iterator[str]:
    with serving(settings_in(tmp_path)) as url:
        yield url


STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "file": _in_a_folder,
    "s3-moto": lambda request: _on_a_server(request, "moto"),
    "s3-ministack": lambda request: _on_a_server(request, "ministack"),
    "gateway": _behind_a_gateway,
}


def fewer(store: Store, count: int) -> int:
    """So many on a disk, a tenth of it where each is a request to a server written for tests."""
    return count if address(store).startswith("file:") else count // 10


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param](request)


def test_an_object_comes_back_as_it_was_put(store: Store) -> None:
    for data in (b"", b"\0\xff\r\n", b"x" * MIB):
        store.put("tasks/a.json", data)
        assert store.get("tasks/a.json") == data


def test_a_new_object_is_created_once_and_stays(store: Store) -> None:
    assert store.put_new("tasks/a.json", b"first") is True
    assert store.put_new("tasks/a.json", b"second") is False
    assert store.get("tasks/a.json") == b"first"


def test_an_empty_object_takes_its_key_too(store: Store) -> None:
    assert store.put_new("open/a", b"") is True
    assert store.put_new("open/a", b"x") is False
    assert store.get("open/a") == b""


@pytest.mark.parametrize("durable", [True, False])
def test_put_replaces(store: Store, durable: bool) -> None:
    store.put("attempts/a/1.lease.json", b"longer than the next", durable=durable)
    store.put("attempts/a/1.lease.json", b"2", durable=durable)
    assert store.get("attempts/a/1.lease.json") == b"2"


def test_what_is_not_there_is_none(store: Store) -> None:
    assert store.get("tasks/a.json") is None
    assert store.open("tasks/a.json") is None
    assert list(store.keys("tasks/")) == []
    store.put("tasks/a.json", b"")
    assert store.get("tasks/b.json") is None
    assert store.get("tasks/a.json/below") is None
    assert store.open("tasks/a.json/below") is None


def test_a_folder_of_objects_is_no_object(store: Store) -> None:
    store.put("artifacts/a/1/report.md", b"x")
    assert store.get("artifacts/a") is None
    assert store.open("artifacts/a") is None
    store.delete("artifacts/a")
    assert store.get("artifacts/a/1/report.md") == b"x"


def test_deleting_may_be_repeated(store: Store) -> None:
    store.delete("inbox/me/a.json")
    store.put("inbox/me/a.json", b"x")
    store.delete("inbox/me/a.json")
    store.delete("inbox/me/a.json")
    assert store.get("inbox/me/a.json") is None
    assert list(store.keys("inbox/")) == []


def test_a_deleted_key_is_free_again(store: Store) -> None:
    store.put_new("open/a", b"1")
    store.delete("open/a")
    assert store.put_new("open/a", b"2") is True


def test_keys_are_all_below_the_prefix_in_the_order_of_their_text(store: Store) -> None:
    keys = ["t/a-b", "t/a.json", "t/a/1", "t/a/b/2", "t/a0", "t/B", "t/b", "t/_"]
    for key in [*keys, "tt/x", "s/x"]:
        store.put(key, b"")
    assert list(store.keys("t/")) == sorted(keys)
    assert list(store.keys("t/a/")) == ["t/a/1", "t/a/b/2"]


def test_a_listing_lives_with_deletions(store: Store) -> None:
    keys = [f"open/{number:02}/a" for number in range(20)]
    for key in keys:
        store.put(key, b"")
    listing = store.keys("open/")
    seen = [next(listing)]
    for key in keys[1:]:
        store.delete(key)
    seen += listing  # what is deleted meanwhile may show: S3 answers with a page of keys
    assert seen[0] == keys[0]
    assert seen == sorted(set(seen) & set(keys))
    assert list(store.keys("open/")) == keys[:1]


def test_a_listing_while_others_write_holds_all_that_stood_still(store: Store) -> None:
    still = [f"open/{number:03}/a" for number in range(0, 100, 2)]
    for key in still:
        store.put(key, b"", durable=False)

    def come_and_go() -> None:
        for number in range(1, 100, 2):
            store.put(f"open/{number:03}/a", b"", durable=False)
        for number in range(1, 100, 2):
            store.delete(f"open/{number:03}/a")

    with _going_on(come_and_go):
        for _ in range(fewer(store, 50)):
            seen = list(store.keys("open/"))
            assert seen == sorted(seen)
            assert set(still) <= set(seen)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_is_refused_by_every_method(store: Store, tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.open(key),
        lambda: store.put(key, b""),
        lambda: store.put_new(key, b""),
        lambda: store.put_file(key, source),
        lambda: store.delete(key),
        lambda: store.ref(key),
        lambda: list(store.keys(key)),
    ]
    if key == "tasks/":
        calls.pop()  # the one that is a good prefix
    for call in calls:
        with pytest.raises(Invalid):
            call()


def test_a_key_of_all_letters_that_are_allowed(store: Store) -> None:
    key = "artifacts/task-1.a_B/01/" + "z" * 200 + ".json"
    store.put_new(key, b"x")
    assert store.get(key) == b"x"
    assert list(store.keys("artifacts/")) == [key]


def test_a_key_comes_back_from_its_ref(store: Store) -> None:
    ref = store.ref("results/task-1.md")
    assert ref == f"{store.url}/results/task-1.md"
    assert store.key(ref) == "results/task-1.md"
    assert open_again(address(store)).key(ref) == "results/task-1.md"


def test_a_ref_of_another_place_has_no_key(store: Store) -> None:
    refs = ["", "results/a", "https://example.org/a", "file:///elsewhere/a", "s3://elsewhere/a"]
    assert [store.key(ref) for ref in [*refs, store.url, f"{store.url}-2/a"]] == [None] * 7


@pytest.mark.parametrize("rest", ["../a", "tasks/../../a", "tasks/%2e%2e/%2e%2e/a", "%2e%2e%2fa", "", "tasks//a"])
def test_a_ref_below_the_store_that_is_no_key_is_refused(store: Store, rest: str) -> None:
    with pytest.raises(Invalid):
        store.key(f"{store.url}/{rest}")


def test_another_client_sees_what_this_one_put(store: Store) -> None:
    store.put("tasks/a.json", b"x")
    assert open_again(address(store)).get("tasks/a.json") == b"x"


@pytest.mark.promise("put-if-absent")
def test_one_of_many_threads_creates_an_object(store: Store) -> None:
    threads, rounds = 16, fewer(store, 50)
    barrier = threading.Barrier(threads)

    def race(me: int) -> list[bool]:
        won = []
        for number in range(rounds):
            barrier.wait(30)
            won.append(store.put_new(f"attempts/task-{number}/1.json", str(me).encode()))
        return won

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(race, range(threads)))
    for number in range(rounds):
        winners = [me for me in range(threads) if results[me][number]]
        assert len(winners) == 1
        assert store.get(f"attempts/task-{number}/1.json") == str(winners[0]).encode()


@pytest.mark.promise("put-if-absent")
def test_one_of_several_processes_creates_an_object(store: Store) -> None:
    processes, rounds = 4, fewer(store, 100)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    racers = [context.Process(target=_race, args=(address(store), barrier, me, rounds)) for me in range(processes)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    claimed = [(store.get(f"won/{me}") or b"").decode().split() for me in range(processes)]
    assert sorted(chain.from_iterable(claimed)) == sorted(str(number) for number in range(rounds))
    for me, numbers in enumerate(claimed):
        assert all(store.get(f"attempts/{number}") == str(me).encode() for number in numbers)


def _race(url: str, barrier: Barrier, me: int, rounds: int) -> None:
    store = open_again(url)
    won = []
    for number in range(rounds):
        barrier.wait(30)
        if store.put_new(f"attempts/{number}", str(me).encode()):
            won.append(str(number))
    store.put(f"won/{me}", " ".join(won).encode())


def test_readers_see_the_old_or_the_new_never_a_mixture(store: Store) -> None:
    versions = {bytes([letter]) * (64 * 1024) for letter in b"abcd"}
    store.put("results/a.md", b"a" * (64 * 1024))

    def write() -> None:
        for version in versions:
            store.put("results/a.md", version, durable=False)

    with _going_on(write):
        for _ in range(fewer(store, 300)):
            assert store.get("results/a.md") in versions
            stream = store.open("results/a.md")
            assert stream is not None
            with stream:
                assert stream.read() in versions


def test_a_stream_outlives_a_replacement(store: Store) -> None:
    store.put("results/a.md", b"old" * MIB)
    stream = store.open("results/a.md")
    assert stream is not None
    with stream:
        first = stream.read(3)
        store.put("results/a.md", b"new")
        assert first + stream.read() == b"old" * MIB


def test_a_large_file_is_copied_in_little_memory(store: Store, tmp_path: Path) -> None:
    source, size = tmp_path / "large", max(40, fewer(store, 100)) * MIB
    with source.open("wb") as file:
        for start in range(0, size, MIB):
            file.seek(start)
            file.write(f"block {start}".encode())
        file.truncate(size)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert store.get("artifacts/a/1/large") is None  # what any client needs to begin with is not of this file

    moved: list[int] = []
    with _memory_below(16 * MIB):
        assert store.put_file("artifacts/a/1/large", source, progress=moved.append) == (digest, size)
        assert _digest_of(store, "artifacts/a/1/large") == digest
    assert sum(moved) == size
    assert len(moved) > 3


def test_a_small_file_tells_its_progress_too(store: Store, tmp_path: Path) -> None:
    source, moved = tmp_path / "small", list[int]()
    source.write_bytes(b"x" * 1000)
    store.put_file("artifacts/a/1/small", source, progress=moved.append)
    assert sum(moved) == 1000


def test_a_file_replaces_and_an_empty_one_is_fine(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.touch()
    store.put("artifacts/a/1/x", b"old")
    assert store.put_file("artifacts/a/1/x", source) == (hashlib.sha256().hexdigest(), 0)
    assert store.get("artifacts/a/1/x") == b""


def test_a_file_that_is_not_there_is_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    store.put("artifacts/a/1/x", b"old")
    with pytest.raises(Invalid, match="cannot read the file"):
        store.put_file("artifacts/a/1/x", tmp_path / "missing")
    assert store.get("artifacts/a/1/x") == b"old"


def _digest_of(store: Store, key: str) -> str:
    stream = store.open(key)
    assert stream is not None
    digest = hashlib.sha256()
    with stream:
        while chunk := stream.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@contextmanager
def _going_on(act: Callable[[], None]) -> Iterator[None]:
    """Do something over and over in another thread for as long as the block takes."""
    enough = threading.Event()

    def again() -> None:
        while not enough.is_set():
            act()

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(again)
        try:
            yield
        finally:
            enough.set()
        busy.result(30)
