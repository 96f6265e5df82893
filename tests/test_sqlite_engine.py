"""What is special to the SQLite engine: its file, who holds what when processes die, and what can go wrong with it."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from agentq.engines import sqlite, sqlite_file, sqlite_holders, sqlite_log
from agentq.engines.sqlite import Retention, SQLiteEngine
from agentq.engines.sqlite_holders import Holder
from agentq.errors import AgentqError, EngineUnavailable, Invalid
from agentq.messages import Completion
from tests.conformance.engines import PATIENCE, an_envelope, an_event, drain, nothing_waits, take, task_of

AGENT = "worker"
NOBODY = 65534
FORKING = """
import asyncio, os, signal, sys, time
from pathlib import Path
from agentq.engines.sqlite import SQLiteEngine

async def main():
    await SQLiteEngine(Path(sys.argv[1])).receive("worker")
    child = os.fork()
    if child == 0:
        os.closerange(1, 3)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def new(path: Path) -> AsyncIterator[Callable[..., SQLiteEngine]]:
    """Each call makes an engine, at `path` if nothing else is said."""
    engines: list[SQLiteEngine] = []

    def one(at: Path = path, retention: Retention = Retention()) -> SQLiteEngine:
        engines.append(SQLiteEngine(at, retention))
        return engines[-1]

    yield one
    for engine in engines:
        await engine.close()


@pytest.fixture
def engine(new: Callable[..., SQLiteEngine]) -> SQLiteEngine:
    return new()


@pytest.fixture
def other(new: Callable[..., SQLiteEngine]) -> SQLiteEngine:
    return new()


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)


def lock_files(path: Path) -> list[Path]:
    return list(path.with_name(f"{path.name}-holders").iterdir())


# The file


async def test_making_and_closing_an_engine_touches_nothing(engine: SQLiteEngine, path: Path) -> None:
    await engine.close()
    assert list(path.parent.iterdir()) == []


async def test_it_needs_no_declaring(new: Callable[..., SQLiteEngine], tmp_path: Path) -> None:
    engine = new(tmp_path / "not" / "yet" / "there ü" / "queue.db")
    await engine.publish(an_envelope(AGENT))
    assert await drain(engine, AGENT, 1) == ["task-1"]


async def test_many_can_make_it_at_once(new: Callable[..., SQLiteEngine], tmp_path: Path) -> None:
    for round_ in range(20):
        engines = [new(tmp_path / str(round_) / "queue.db") for _ in range(5)]
        await asyncio.gather(*(engine.publish(an_envelope(AGENT)) for engine in engines))
        assert await engines[0].depth(AGENT) == 5


async def test_declare_says_whether_it_made_the_file(engine: SQLiteEngine, other: SQLiteEngine, path: Path) -> None:
    assert (await engine.declare([AGENT], [])).created == (str(path),)
    assert (await other.declare([AGENT], [])).found == (str(path),)


async def test_a_database_that_was_taken_away_is_made_anew(new: Callable[..., SQLiteEngine], tmp_path: Path) -> None:
    path = tmp_path / "folder" / "queue.db"
    engine, other = new(path), new(path)
    await other.publish(an_envelope(AGENT, "taken-away"), delay=60)
    assert await nothing_waits(engine, AGENT)
    waiting = asyncio.create_task(take(engine, AGENT))
    await engine.depth(AGENT)
    path.parent.rename(tmp_path / "elsewhere")
    await other.publish(an_envelope(AGENT))
    assert task_of(await waiting) == "task-1"


async def test_closing_after_the_database_was_deleted_makes_none(engine: SQLiteEngine, path: Path) -> None:
    await engine.publish(an_envelope(AGENT))
    await take(engine, AGENT)
    path.unlink()
    await engine.close()
    assert not path.exists()


async def test_the_log_is_kept_short(
    new: Callable[..., SQLiteEngine], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a database which is reached through a link: SQLite keeps it beside the file."""
    monkeypatch.setattr(sqlite_file, "WAL_BYTES", 100_000)
    link = path.with_name("link.db")
    link.symlink_to(path)
    engine = new(link)
    for n in range(200):
        await engine.publish(an_envelope(AGENT, f"task-{n}"))
    assert path.with_name("queue.db-wal").stat().st_size < 200_000
    assert await drain(engine, AGENT, 200) == [f"task-{n}" for n in range(200)]


async def test_only_the_newest_results_are_kept(
    engine: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "RESULTS_KEPT", 3)
    for n, coordinator in enumerate(["one", "two", "one", "one", "one", "one"]):
        notice = Completion(
            task_id=f"task-{n}",
            from_=AGENT,
            to=coordinator,
            status="completed",
            attempt=1,
            finished_at=datetime.now(UTC),
        )
        await engine.notify(notice, f"results.{coordinator}")
    with closing(sqlite3.connect(path)) as db:
        kept = db.execute("SELECT coordinator, count(*) FROM results GROUP BY 1 ORDER BY 1").fetchall()
    assert kept == [("one", 3), ("two", 1)]


# Who holds what


async def test_closing_removes_the_lock_file(engine: SQLiteEngine, path: Path) -> None:
    await engine.publish(an_envelope(AGENT))
    await take(engine, AGENT)
    assert len(lock_files(path)) == 1
    await engine.close()
    assert lock_files(path) == []


async def test_a_lock_file_that_is_gone_means_a_dead_holder(engine: SQLiteEngine, path: Path) -> None:
    await engine.publish(an_envelope(AGENT))
    change(path, "UPDATE messages SET holder = 'gone'")
    assert await drain(engine, AGENT, 1) == ["task-1"]


async def test_what_another_reclaims_just_now_is_left_to_it(engine: SQLiteEngine, path: Path) -> None:
    await engine.publish(an_envelope(AGENT))
    dead = path.with_name("queue.db-holders") / "dead"
    dead.parent.mkdir()
    dead.touch()
    change(path, "UPDATE messages SET holder = 'dead'")
    with sqlite_holders._locked_if_dead(dead) as found_dead:
        assert found_dead
        assert await nothing_waits(engine, AGENT)
    assert await drain(engine, AGENT, 1) == ["task-1"]
    assert dead not in lock_files(path)


async def test_a_dead_holder_of_nothing_leaves_no_file(engine: SQLiteEngine, path: Path) -> None:
    dead = path.with_name("queue.db-holders") / "dead"
    dead.parent.mkdir()
    dead.touch()
    await engine.publish(an_envelope(AGENT))
    await take(engine, AGENT)
    assert dead not in lock_files(path)


@pytest.mark.parametrize("rival", ["removes the file", "has locked the file"])
async def test_a_lock_file_taken_for_a_dead_holders_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    """Between making the file and locking it, it looks like that of a dead process."""
    really, tried = sqlite_holders._try_lock, []

    def interrupted(lock: int) -> bool:
        tried.append(lock)
        if len(tried) > 1:
            return really(lock)
        lock_files(path)[0].unlink()
        return really(lock) if rival == "removes the file" else False

    monkeypatch.setattr(sqlite_holders, "_try_lock", interrupted)
    holder = Holder(path)
    token = holder.token()
    assert len(tried) == 2
    assert [file.name for file in lock_files(path)] == [token]
    holder._unlock()


async def test_a_forked_child_does_not_keep_its_dead_parents_messages(engine: SQLiteEngine, path: Path) -> None:
    await engine.publish(an_envelope(AGENT))
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(path)]
    parent = await asyncio.to_thread(subprocess.run, command, capture_output=True, cwd=Path(__file__).parents[1])
    child = int(parent.stdout)
    try:
        assert await drain(engine, AGENT, 1) == ["task-1"]
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


async def test_every_name_of_a_database_leads_to_the_same_holders(
    engine: SQLiteEngine, new: Callable[..., SQLiteEngine], path: Path, tmp_path: Path
) -> None:
    await engine.publish(an_envelope(AGENT))
    await take(engine, AGENT)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    assert await nothing_waits(new(link), AGENT)


async def test_what_could_not_be_given_back_is_given_back_later(
    engine: SQLiteEngine, other: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.publish(an_envelope(AGENT))
    failures = [sqlite3.OperationalError("once")]
    really = sqlite.release

    def release(db: sqlite3.Connection, token: str, message: int | None = None) -> None:
        if failures:
            raise failures.pop()
        really(db, token, message)

    monkeypatch.setattr(sqlite, "release", release)
    receiving = asyncio.create_task(engine.receive(AGENT))
    await asyncio.sleep(0)  # until it has asked for a message
    engine._thread.submit(lambda: None).result()  # until it has been taken
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await engine.depth(AGENT)  # until giving it back has failed
    assert not failures
    assert await drain(engine, AGENT, 1) == ["task-1"]


# Who waits


async def seen(count: int, engine: SQLiteEngine) -> None:
    async with asyncio.timeout(PATIENCE):
        while await engine.listeners(AGENT) != count:
            pass


async def test_waiting_writes_nothing(
    engine: SQLiteEngine, other: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, loop, really = asyncio.Semaphore(0), asyncio.get_running_loop(), sqlite._seconds_until_ready

    def look(db: sqlite3.Connection, agent: str) -> float:
        loop.call_soon_threadsafe(looked.release)
        return min(0.01, really(db, agent))

    monkeypatch.setattr(sqlite, "_seconds_until_ready", look)
    receiving = asyncio.create_task(engine.receive(AGENT))
    await seen(1, other)
    with closing(sqlite3.connect(path)) as db:

        def version() -> object:
            (file,) = lock_files(path)
            return (
                db.execute("PRAGMA data_version").fetchone(),
                file,
                file.stat().st_mtime_ns,
                file.parent.stat().st_mtime_ns,
            )

        before = version()
        for _ in range(10):
            await looked.acquire()
        assert version() == before
    assert await other.listeners(AGENT) == 1
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert lock_files(path) == []


async def test_a_dead_receivers_file_counts_for_nothing_and_goes(engine: SQLiteEngine, path: Path) -> None:
    dead = path.with_name("queue.db-holders") / f"dead.{AGENT}"
    dead.parent.mkdir()
    dead.touch()
    assert await engine.listeners(AGENT) == 0
    await engine.publish(an_envelope(AGENT))
    await take(engine, AGENT)
    assert dead not in lock_files(path)


async def test_a_receiver_whose_file_was_taken_away_is_seen_again(
    engine: SQLiteEngine, other: SQLiteEngine, path: Path
) -> None:
    receiving = asyncio.create_task(engine.receive(AGENT))
    await seen(1, other)
    lock_files(path)[0].unlink()
    await other.publish(an_envelope("another"))  # which makes the receiver look
    await seen(1, other)
    await other.publish(an_envelope(AGENT))
    assert task_of(await receiving) == "task-1"


async def test_who_cannot_be_seen_receives_all_the_same(
    engine: SQLiteEngine, other: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, tried = sqlite_holders._new_lock, asyncio.Event()

    def refuse(file: Path) -> int | None:
        if not file.name.endswith(AGENT):
            return really(file)
        tried.set()
        raise OSError("no space")

    monkeypatch.setattr(sqlite_holders, "_new_lock", refuse)
    receiving = asyncio.create_task(take(engine, AGENT))
    await tried.wait()
    assert await other.listeners(AGENT) == 0
    await other.publish(an_envelope(AGENT))
    assert task_of(await receiving) == "task-1"


# What can go wrong


async def complaint(engine: SQLiteEngine) -> AgentqError:
    with pytest.raises(AgentqError) as caught:
        await engine.publish(an_envelope(AGENT))
    return caught.value


async def test_a_closed_engine_says_so(engine: SQLiteEngine) -> None:
    receiving = asyncio.create_task(engine.receive(AGENT))
    await engine.depth(AGENT)
    await engine.close()
    with pytest.raises(EngineUnavailable, match="is closed"):
        await receiving
    assert "is closed" in str(await complaint(engine))


async def test_another_file_is_invalid(engine: SQLiteEngine, path: Path) -> None:
    path.write_bytes(b"these are my notes\n" * 100)
    error = await complaint(engine)
    assert isinstance(error, Invalid)
    assert str(error) == f"{path} is not a SQLite database"
    assert error.hint
    assert path.read_bytes() == b"these are my notes\n" * 100


async def test_another_programs_database_is_invalid(engine: SQLiteEngine, path: Path) -> None:
    change(path, "CREATE TABLE recipes (name)")
    before = path.read_bytes()
    assert "is not a queue of agentq" in str(await complaint(engine))
    assert path.read_bytes() == before


async def test_what_is_too_old_or_too_much_goes_from_the_log_little_by_little(
    new: Callable[..., SQLiteEngine], path: Path
) -> None:
    engine = new(path, Retention(events_days=1, output_bytes=30_000))
    await engine.append([an_event(f"old-{n}") for n in range(5000)])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE events SET at = at - 100000")
        counts = []
        for n in range(5 * sqlite_log.CUT_EVERY):
            await engine.append([an_event(f"new-{n}")])
            counts.append(db.execute("SELECT count(*) FROM events").fetchone()[0])
        cuts = [earlier + 1 - later for earlier, later in pairwise(counts) if later <= earlier]
        assert len(cuts) == 5
        assert max(cuts) <= sqlite_log.CUT_AT_ONCE + 1
        assert counts[-1] == 5 * sqlite_log.CUT_EVERY
        for n in range(40):
            await engine.append([an_event(f"output-{n}-{m}", "output", data={"text": "x" * 100}) for m in range(50)])
        for log in ("events", "output"):
            kept = db.execute(f"SELECT sum(length(body)) FROM {log}").fetchone()
            assert kept == db.execute("SELECT bytes FROM logs WHERE log = ?", (log,)).fetchone()
        assert 20_000 < kept[0] < 30_000 + sqlite_log.CUT_EVERY * 300
    assert [event.id async for page in engine.read() for event in page.events] == [
        f"new-{n}" for n in range(5 * sqlite_log.CUT_EVERY)
    ]


async def test_a_position_in_a_copy_that_was_put_back_is_a_gap(engine: SQLiteEngine, path: Path) -> None:
    await engine.append([an_event("a")])
    await engine.close()
    copy = path.read_bytes()
    second = SQLiteEngine(path)
    await second.append([an_event("b")])
    (position,) = [page.position async for page in second.read()]
    await second.close()
    path.write_bytes(copy)
    third = SQLiteEngine(path)
    (page,) = [page async for page in third.read(after=position)]
    await third.close()
    assert (page.gap, [event.id for event in page.events]) == (True, ["a"])


@pytest.mark.parametrize("schema", [1, 2])
async def test_a_file_of_an_earlier_schema_is_brought_up_to_this_one(
    new: Callable[..., SQLiteEngine], path: Path, schema: int
) -> None:
    """What waits in it is kept; two processes may do it at once, and it happens once."""
    old = new()
    for task_id in ("one", "two"):
        await old.publish(an_envelope(AGENT, task_id))
    await old.close()
    for table in ("logs", "events", "output"):
        change(path, f"DROP TABLE {table}")
    if schema == 1:
        change(path, "ALTER TABLE messages DROP COLUMN was_delayed")
    change(path, f"PRAGMA user_version = {schema}")
    first, second = new(), new()
    await asyncio.gather(first.publish(an_envelope(AGENT, "three"), delay=0.01), second.append([an_event("a")]))
    seen = {}
    for _ in range(3):
        delivery = await take(first, AGENT)
        seen[task_of(delivery)] = delivery.was_delayed
    assert seen == {"one": False, "two": False, "three": True}
    assert [event.id async for page in first.read() for event in page.events] == ["a"]


async def test_a_newer_schema_is_invalid(engine: SQLiteEngine, other: SQLiteEngine, path: Path) -> None:
    await engine.declare([], [])
    await engine.close()
    change(path, "PRAGMA user_version = 99")
    error = await complaint(other)
    assert isinstance(error, Invalid)
    assert "newer agentq" in str(error)
    assert "upgrade" in error.hint


async def test_a_folder_is_invalid(new: Callable[..., SQLiteEngine], tmp_path: Path) -> None:
    error = await complaint(new(tmp_path))
    assert isinstance(error, Invalid)
    assert str(error) == f"{tmp_path} is a folder"


async def test_a_file_where_the_folder_should_be(new: Callable[..., SQLiteEngine], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(await complaint(new(tmp_path / "file" / "queue.db")), EngineUnavailable)
    assert isinstance(await complaint(new(tmp_path / "file" / "deeper" / "queue.db")), EngineUnavailable)


async def test_a_damaged_database_is_unavailable(engine: SQLiteEngine, other: SQLiteEngine, path: Path) -> None:
    for n in range(50):
        await engine.publish(an_envelope(AGENT, f"task-{n}"))
    await engine.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    error = await complaint(other)
    assert isinstance(error, EngineUnavailable)
    assert "is damaged" in str(error)
    assert "doctor --repair" in error.hint


async def test_a_locked_database_is_unavailable_until_it_is_free(
    engine: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    await engine.declare([], [])
    with closing(sqlite3.connect(path, isolation_level=None)) as hog:
        hog.execute("BEGIN IMMEDIATE")
        error = await complaint(engine)
        assert isinstance(error, EngineUnavailable)
        assert "is locked by another process" in str(error)
    await engine.publish(an_envelope(AGENT))


async def test_a_full_disk_is_unavailable_until_there_is_space(engine: SQLiteEngine) -> None:
    await engine._run(lambda db: db.execute("PRAGMA max_page_count = 20").fetchone())
    large = an_envelope(AGENT, "large", padding="x" * 60_000, priority="urgent")
    await engine.publish(an_envelope(AGENT, "before"))
    with pytest.raises(EngineUnavailable, match="the disk is full") as caught:
        await engine.publish(large)
    assert "Free some space" in caught.value.hint
    await engine.publish(an_envelope(AGENT, "after", priority="urgent"))  # on a connection without that limit
    assert await drain(engine, AGENT, 2) == ["after", "before"]


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may not write to, even when it runs as root."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid()
        Path(name).chmod(0o755 if user == 0 else 0o555)
        if user == 0:
            os.seteuid(NOBODY)
        yield Path(name)
        os.seteuid(user)
        Path(name).chmod(0o755)


async def test_a_read_only_folder_is_unavailable(new: Callable[..., SQLiteEngine], read_only_folder: Path) -> None:
    error = await complaint(new(read_only_folder / "queue.db"))
    assert isinstance(error, EngineUnavailable)
    assert "Let this user write" in error.hint


async def test_a_read_only_database_is_unavailable(engine: SQLiteEngine) -> None:
    await engine._run(lambda db: db.execute("PRAGMA query_only = 1").fetchone())
    error = await complaint(engine)
    assert isinstance(error, EngineUnavailable)
    assert "cannot be written to" in str(error)


def failures(kind: type[Exception] = sqlite3.Error) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from failures(each)


@pytest.mark.parametrize("failure", [*failures(), OSError])
async def test_no_foreign_exception_gets_out(engine: SQLiteEngine, failure: type[Exception]) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise failure("something")

    with pytest.raises(EngineUnavailable):
        await engine._run(fail)
