"""What only the file store can get wrong: crashes, full disks, links, folders that come and go."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.stores.file import FileStore

ROOT = Path(__file__).parent.parent
PAPER = 300_000


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def temporaries(store: FileStore) -> list[Path]:
    return store.stale_temporaries(-60)


# ---------------------------------------------------------------------- crashes

WRITER = """
import os, signal, sys
from pathlib import Path
from agentq.stores.file import FileStore

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(descriptor, data):
    write(descriptor, data[: len(data) // 2])
    die()

write = os.write
seam = sys.argv[2]
if seam == "write":
    os.write = half
elif seam == "after link":
    link = os.link
    os.link = lambda *a, **k: (link(*a, **k), die())
elif seam != "nowhere":
    setattr(os, seam, die)
store = FileStore(Path(sys.argv[1]))
for number in range(int(sys.argv[3]), 1_000_000):
    store.put_new(f"tasks/{number}.json", bytes([number % 256]) * 300_000)
    print(number, flush=True)
"""


def start_writer(store: FileStore, seam: str, first: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(store.root), seam, str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def check_papers(store: FileStore) -> list[int]:
    """The numbers of the papers, after making sure that each is whole."""
    numbers = [int(Path(key).stem) for key in store.keys("tasks/")]
    for number in numbers:
        assert store.get(f"tasks/{number}.json") == bytes([number % 256]) * PAPER
    return numbers


@pytest.mark.parametrize(("seam", "papers"), [("write", 0), ("fsync", 0), ("link", 0), ("after link", 1)])
def test_a_writer_killed_at_any_step_leaves_a_whole_paper_or_none(store: FileStore, seam: str, papers: int) -> None:
    (store.root / "tasks").mkdir(parents=True)
    with start_writer(store, seam, 7) as writer:
        assert writer.wait(30) == -signal.SIGKILL
    assert len(check_papers(store)) == papers
    assert len(temporaries(store)) == 1
    assert store.put_new("tasks/7.json", bytes([7]) * PAPER) is (papers == 0)
    assert check_papers(store) == [7]


def test_writers_killed_anywhere_never_leave_half_a_paper(store: FileStore) -> None:
    first = 0
    for round_ in range(12):
        with start_writer(store, "nowhere", first) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(1 + round_)]
            writer.kill()
        there = check_papers(store)
        assert set(said) <= set(there)
        first = max(there) + 1


def test_leftovers_of_the_dead_are_found_and_removed_but_not_those_of_the_living(store: FileStore) -> None:
    store.put("attempts/a/1.json", b"x")
    old, young = store.root / "attempts/a/.tmp-old", store.root / "attempts/.tmp-young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    assert list(store.keys("attempts/")) == ["attempts/a/1.json"]
    assert store.stale_temporaries(600) == [old]
    assert store.remove_temporaries(600) == 1
    assert temporaries(store) == [young]
    assert store.get("attempts/a/1.json") == b"x"


def test_a_store_that_does_not_exist_has_no_leftovers(store: FileStore) -> None:
    assert store.stale_temporaries(0) == []
    assert store.remove_temporaries(0) == 0


# ---------------------------------------------------------------------- durability


@pytest.fixture
def steps(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made durable and when, as `sync <path>`, `link` and `rename`."""
    said: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def note_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        name = "temporary" if path.name.startswith(".tmp-") else str(path.relative_to(store.root.parent))
        said.append(f"sync {name}")
        fsync(descriptor)

    def note_link(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        said.append("link")
        link(source, target, follow_symlinks=follow_symlinks)

    def note_replace(source: Path, target: Path) -> None:
        said.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(os, "replace", note_replace)
    return said


def test_a_paper_and_every_new_folder_above_it_are_durable_before_put_new_returns(
    store: FileStore, steps: list[str]
) -> None:
    store.put_new("attempts/a/1.json", b"x")
    made = ["sync .", "sync store", "sync store/attempts"]
    assert steps == [*made, "sync temporary", "link", "sync store/attempts/a"]
    steps.clear()
    store.put_new("attempts/a/2.json", b"x")
    assert steps == ["sync temporary", "link", "sync store/attempts/a"]


def test_who_is_told_that_a_paper_exists_may_rely_on_it(store: FileStore, steps: list[str]) -> None:
    store.put_new("open/a", b"1")
    steps.clear()
    assert store.put_new("open/a", b"2") is False
    assert steps[-1] == "sync store/open"


def test_put_is_durable_when_asked(store: FileStore, steps: list[str]) -> None:
    store.put("open/a", b"1")
    steps.clear()
    store.put("open/a", b"2")
    assert steps == ["sync temporary", "rename", "sync store/open"]
    steps.clear()
    store.put("open/a", b"3", durable=False)
    assert steps == ["rename"]


# ---------------------------------------------------------------------- a disk that does not do as it is told

WRITES: list[Callable[[FileStore, Path], object]] = [
    lambda store, _: store.put_new("tasks/new.json", b"x" * 200_000),
    lambda store, _: store.put("tasks/old.json", b"x" * 200_000),
    lambda store, source: store.put_file("tasks/old.json", source),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"x" * 200_000)
    return path


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_nothing_happened(store: FileStore) -> None:
    assert list(store.keys("tasks/")) == ["tasks/old.json"]
    assert store.get("tasks/old.json") == b"old"
    assert temporaries(store) == []


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_the_disk_breaks_off_leaves_nothing(
    store: FileStore, source: Path, write: Callable[[FileStore, Path], object]
) -> None:
    store.put("tasks/old.json", b"old")
    with files_up_to(100_000), pytest.raises(StoreUnavailable, match="larger than this process or disk allows"):
        write(store, source)
    check_nothing_happened(store)


@pytest.mark.parametrize("step", ["write", "fsync", "open"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the store's disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "this user may not do that"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_every_failure_is_said_in_words_and_leaves_nothing(
    store: FileStore,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[FileStore, Path], object],
    step: str,
    number: int,
    words: str,
) -> None:
    store.put("tasks/old.json", b"old")
    fail_at(monkeypatch, step, number)
    with pytest.raises(StoreUnavailable, match=words) as caught:
        write(store, source)
    monkeypatch.undo()
    assert "'tasks/" in str(caught.value)
    assert store.url in str(caught.value)
    assert bool(caught.value.hint) is (number != errno.EIO)
    check_nothing_happened(store)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    real = getattr(os, step)

    def fail(*arguments: object, **named: object) -> object:
        if step == "open" and ".tmp-" not in str(arguments[0]):
            return real(*arguments, **named)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)


def test_a_paper_that_may_not_be_durable_is_told_as_a_failure_and_can_be_read_back(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("tasks/old.json", b"old")
    calls = iter([None, errno.EIO])

    def fsync(_: int) -> None:
        if number := next(calls):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreUnavailable):
        store.put_new("tasks/new.json", b"mine")
    monkeypatch.undo()
    assert store.put_new("tasks/new.json", b"other") is False
    assert store.get("tasks/new.json") == b"mine"
    assert temporaries(store) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_refused(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put("tasks/old.json", b"old")
    fail_at(monkeypatch, "link", number)
    with pytest.raises(StoreUnavailable, match="without hard links"):
        store.put_new("tasks/new.json", b"x")
    check_nothing_happened(store)


@pytest.mark.parametrize("call", ["get", "open", "delete", "keys"])
def test_a_disk_that_cannot_be_read_is_no_empty_store(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store.put("tasks/a", b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken")

    for name in ("open", "unlink", "scandir"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(StoreUnavailable, match="broken"):
        list(store.keys("tasks/")) if call == "keys" else getattr(store, call)("tasks/a")


# ---------------------------------------------------------------------- where the store is


def test_the_store_is_made_when_first_written_to(store: FileStore) -> None:
    assert store.get("tasks/a") is None
    store.delete("tasks/a")
    assert not store.root.exists()
    store.put_new("tasks/a", b"x")
    assert store.root.is_dir()


def test_the_folder_above_the_store_is_never_made(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "not mounted" / "store")
    for write in (store.put_new, store.put):
        with pytest.raises(StoreUnavailable, match="does not exist") as caught:
            write("tasks/a", b"x")
        assert "mount" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FileStore(tmp_path / "file")
    for call in (lambda: store.get("a"), lambda: store.put_new("a/b", b""), lambda: store.put("a", b"")):
        with pytest.raises(StoreUnavailable, match="a file stands where a folder should be"):
            call()


def test_the_url_is_absolute_and_its_refs_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ä b").mkdir()
    monkeypatch.chdir(tmp_path)
    store = FileStore(Path("ä b/../ä b/s"))
    assert store.root == tmp_path / "ä b" / "s"
    assert store.url == (tmp_path / "ä b" / "s").as_uri()
    assert "%20" in store.url
    assert store.key(f"file://{tmp_path}/ä b/s/tasks/a") == "tasks/a"
    assert store.key(f"file://localhost{tmp_path}/ä b/s/tasks/a") == "tasks/a"
    assert store.key(f"file://elsewhere{tmp_path}/ä b/s/tasks/a") is None


def test_a_store_may_be_the_top_of_a_file_system() -> None:
    store = FileStore(Path("/"))
    assert store.ref("tasks/a") == "file:///tasks/a"
    assert store.key("file:///tasks/a") == "tasks/a"


def test_a_store_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    store = FileStore(tmp_path / "store")
    store.put_new("tasks/a", b"x")
    assert (tmp_path / "disk/tasks/a").read_bytes() == b"x"
    assert list(store.keys("tasks/")) == ["tasks/a"]


# ---------------------------------------------------------------------- links and other strange files


def test_a_link_to_a_folder_outside_is_refused_by_every_method(store: FileStore, tmp_path: Path, source: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "a").write_bytes(b"secret")
    store.put("artifacts/x", b"")
    (store.root / "artifacts/evil").symlink_to(outside)
    calls: list[Callable[[str], object]] = [
        *(store.get, store.open, store.delete),
        lambda key: store.put(key, b"x"),
        lambda key: store.put_new(key, b"x"),
        lambda key: store.put_file(key, source),
        lambda key: list(store.keys(f"{key}/")),
    ]
    for key in ("artifacts/evil/sub/a", "artifacts/evil/new/a", "artifacts/evil/new"):
        for call in calls:
            if key == "artifacts/evil/new" and call is calls[-1]:
                continue
            with pytest.raises(Invalid, match="leaves the store"):
                call(key)
    assert [path.name for path in outside.rglob("*")] == ["sub", "a"]
    assert list(store.keys("artifacts/")) == ["artifacts/x"]


def test_a_link_that_is_the_object_is_not_followed(store: FileStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store.put("tasks/x", b"")
    link = store.root / "tasks/a"
    link.symlink_to(secret)
    for read in (store.get, store.open):
        with pytest.raises(Invalid, match="leaves the store"):
            read("tasks/a")
    assert store.put_new("tasks/a", b"x") is False
    assert list(store.keys("tasks/")) == ["tasks/x"]
    store.put("tasks/a", b"mine")
    assert not link.is_symlink()
    assert store.get("tasks/a") == b"mine"
    assert secret.read_bytes() == b"secret"


def test_deleting_a_link_leaves_what_it_points_to(store: FileStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store.put("tasks/x", b"")
    (store.root / "tasks/a").symlink_to(secret)
    store.delete("tasks/a")
    assert secret.read_bytes() == b"secret"
    assert not (store.root / "tasks/a").is_symlink()


def test_a_pipe_in_the_store_does_not_hang_a_reader(store: FileStore) -> None:
    store.put("tasks/x", b"")
    os.mkfifo(store.root / "tasks/a")
    assert store.get("tasks/a") is None
    assert list(store.keys("tasks/")) == ["tasks/x"]


def test_only_a_regular_file_can_be_copied_in(store: FileStore, source: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(source)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        with pytest.raises(Invalid, match="cannot read the file"):
            store.put_file("artifacts/a", path)
    assert not store.root.exists()


def test_foreign_files_in_the_store_are_no_keys(store: FileStore) -> None:
    store.put("tasks/a.json", b"")
    (store.root / "tasks/my notes.txt").touch()
    (store.root / "tasks/.nfs0001").touch()
    (store.root / "tasks/.git").mkdir()
    assert list(store.keys("tasks/")) == ["tasks/a.json"]


def test_an_object_cannot_be_put_on_or_below_another(store: FileStore, source: Path) -> None:
    store.put("tasks/a/b", b"x")
    for key in ("tasks/a", "tasks/a/b/c", "tasks/a/b/c/d"):
        for write in (store.put_new, store.put):
            with pytest.raises(Invalid, match="names a folder, or lies below a file"):
                write(key, b"y")
        with pytest.raises(Invalid):
            store.put_file(key, source)
    assert list(store.keys("tasks/")) == ["tasks/a/b"]
    assert temporaries(store) == []


# ---------------------------------------------------------------------- folders that come and go


def test_deleting_removes_empty_folders_but_none_at_the_top(store: FileStore) -> None:
    store.put("attempts/a/b/1", b"")
    store.put("attempts/a/2", b"")
    store.delete("attempts/a/b/1")
    assert sorted(path.name for path in (store.root / "attempts/a").iterdir()) == ["2"]
    store.delete("attempts/a/2")
    assert list((store.root / "attempts").iterdir()) == []


def test_a_listing_does_not_show_what_was_deleted_before_it_came_there(store: FileStore) -> None:
    for number in range(20):
        store.put(f"open/{number:02}/a", b"")
    listing = store.keys("open/")
    seen = [next(listing)]
    for number in range(1, 20):
        store.delete(f"open/{number:02}/a")
    assert [*seen, *listing] == ["open/00/a"]


def test_a_writer_copes_with_its_folder_vanishing_under_it(store: FileStore) -> None:
    threads, rounds = 8, 150
    barrier = threading.Barrier(threads)

    def come_and_go(me: int) -> None:
        barrier.wait(30)
        for number in range(rounds):
            key = f"waits/deep/er/{me}-{number}"
            assert store.put_new(key, b"x") is True
            assert store.get(key) == b"x"
            store.delete(key)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(come_and_go, range(threads)))
    assert list((store.root / "waits").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_not_a_loop(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("tasks/a", b"")
    fail_at(monkeypatch, "mkdir", errno.ENOSPC)
    with pytest.raises(AgentqError, match="disk is full"):
        store.put_new("attempts/a/1", b"x")


def test_a_store_that_vanished_is_away_and_not_empty(tmp_path: Path) -> None:
    """Neither read as empty nor made anew: what is then written would be lost when the real one comes back."""
    store = FileStore(tmp_path / "store")
    assert store.get("tasks/1.json") is None
    store.put("tasks/1.json", b"1")
    store.root.rename(tmp_path / "elsewhere")
    for act in (
        lambda: store.get("tasks/1.json"),
        lambda: list(store.keys("tasks/")),
        lambda: store.put("tasks/1.json", b"2"),
        lambda: store.put_new("tasks/2.json", b"2"),
        lambda: store.delete("tasks/1.json"),
    ):
        with pytest.raises(StoreUnavailable):
            act()
    (tmp_path / "elsewhere").rename(store.root)
    assert store.get("tasks/1.json") == b"1"
