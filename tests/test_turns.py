"""Turns: never two at once, whatever is slow, stalls or dies; free soon after. INTERLEAVINGS=20000 looks further."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq import contest as contest_module
from agentq.contest import Contest, Flag, Ground
from agentq.errors import StoreUnavailable
from agentq.messages import utc_now
from agentq.ownership import this_process
from agentq.store import Store
from agentq.stores.file import FileStore
from agentq.turns import TurnLost, Turns, TurnTaken
from tests.daemons.harness import ROOT, until
from tests.desk import Desk
from tests.object_servers import ObjectServer
from tests.simulation import MemoryStore, Turn
from tests.turns_simulation import Broken, Meeting, TurnsWorld, Wish

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "100"))

pytestmark = [pytest.mark.timeout(0)] if "INTERLEAVINGS" in os.environ else []

FAULTS = ("crash-before", "crash-after", "lost-answer", "refused", "late")
steps = st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(0, 4) | st.integers(1, 20),
    fault=st.none() | st.sampled_from(FAULTS),
    writes=st.booleans(),
)
wishes = st.builds(
    Wish, st.sampled_from((0.0, 0.0, 4.0, 30.0, 45.0)), st.integers(1, 8), st.sampled_from((0.0, 1.0, 7.0, 24.0))
)
MEETING: dict[str, st.SearchStrategy[Any]] = {
    "wishes": st.lists(wishes, min_size=2, max_size=3).map(tuple),
    "turns": st.lists(steps, max_size=40).map(tuple),
    "jumps": st.lists(st.sampled_from((0.0, 9.0, 11.0, 25.0, 41.0)), max_size=8).map(tuple),
    "same_host": st.booleans(),
    "newcomers": st.integers(0, 7),
}
searched = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.promise("turns")
@searched
@given(st.builds(Meeting, **MEETING))
def test_two_never_hold_a_turn_and_everybody_gets_it(meeting: Meeting) -> None:
    TurnsWorld(meeting).play()


class ListsBefore(Contest):
    """Looks who is there before it puts its own flag, instead of after that."""

    def attempt(self) -> Flag | None:
        began, token = self._clock(), contest_module.new_token()
        other = self.look()
        self._store.put_new(self._flag_of(token), self._flag(token).to_json())
        if other is None:
            self._token, self._proven = token, began
        return other


class NeverTidies(Contest):
    """Leaves the renewals of flags that are gone."""

    def _tidy(self, tokens: set[str]) -> None:
        pass


@pytest.mark.parametrize(
    ("contest", "dead", "doubtful"),
    [(ListsBefore, 2.0, 1.5), (NeverTidies, 2.0, 1.5), (Contest, 1.0, 1.5), (Contest, 2.0, 3.0)],
    ids=["lists too early", "does not tidy", "is impatient", "trusts itself for too long"],
)
def test_the_search_finds_what_is_wrong(
    contest: type[Contest], dead: float, doubtful: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest_module, "DEAD", dead)
    monkeypatch.setattr(contest_module, "DOUBTFUL", doubtful)
    chance = Random(1)
    assert any(_breaks(_any_meeting(chance), contest) for _ in range(3000))


def _breaks(meeting: Meeting, contest: type[Contest]) -> bool:
    try:
        TurnsWorld(meeting, contest).play()
    except Broken:
        return True
    return False


def _any_meeting(chance: Random) -> Meeting:
    pick = chance.choice
    return Meeting(
        wishes=tuple(
            Wish(pick((0, 0, 4, 30, 45)), chance.randint(1, 8), pick((0, 1, 7, 24))) for _ in range(pick((2, 3)))
        ),
        turns=tuple(
            Turn(chance.randint(0, 9), pick((chance.randint(0, 4), chance.randint(1, 20))), pick((None, *FAULTS)))
            for _ in range(chance.randint(0, 40))
        ),
        jumps=tuple(pick((0.0, 9.0, 11.0, 25.0, 41.0)) for _ in range(pick((0, 4, 10)))),
        same_host=pick((True, False)),
        newcomers=chance.randint(0, 7),
    )


# ---------------------------------------------------------------------- time


class SlowStore(MemoryStore):
    """A store whose answers take so many seconds of a clock that only it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.slow = 0.0, dict[str, float]()

    def get(self, key: str) -> bytes | None:
        data = super().get(key)
        self.now += self.slow.get("get", 0.0)
        return data

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        super().put(key, data)
        self.now += self.slow.get("put", 0.0)


def contests(store: SlowStore, number: int = 2) -> list[Contest]:
    """So many contests for one turn, each of a process of its own."""
    return [Contest(Ground(store, 20.0, lambda: store.now, lambda flag: False), "a thread") for _ in range(number)]


def test_a_renewal_counts_from_before_it_was_written() -> None:
    store = SlowStore()
    [mine] = contests(store, 1)
    mine.attempt()
    store.now, store.slow = 5.0, {"put": 12.0, "get": 4.0}
    assert mine.renew()
    assert mine.seconds_left == pytest.approx(30 - 4 - 12 - 4)


def test_what_was_read_long_ago_says_nothing_of_now() -> None:
    store = SlowStore()
    mine, other = contests(store)
    mine.attempt()
    assert other.look()
    store.now, store.slow = 25.0, {"get": 20.0}
    assert other.look(), "it was there at 25 s, and might have been renewed since"
    store.slow = {}
    assert len(store.objects) == 1, "it was not removed"
    assert other.look() is None, "now it is dead"
    assert not store.objects


def test_a_turn_whose_renewals_are_not_answered_is_lost_before_others_take_it() -> None:
    store = SlowStore()
    mine, other = contests(store)
    mine.attempt()
    other.look()
    store.now = 29.9
    assert mine.is_held
    store.now = 30.0
    assert not mine.is_held
    assert other.look(), "there is time to stop"
    store.now = 40.1
    assert other.look() is None
    assert not mine.renew(), "what is lost stays so"
    assert not store.objects


def test_a_flag_that_nobody_understands_is_taken_for_a_living_one_for_a_while() -> None:
    store = SlowStore()
    mine, _ = contests(store)
    mine.attempt()
    [key] = store.objects
    mine.let_go()
    store.objects[key] = b"{"
    assert mine.look()
    store.now = 41.0
    assert mine.look() is None


# ---------------------------------------------------------------------- with and async with


@pytest.fixture(params=["file", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store in turn."""
    if request.param == "file":
        return FileStore(tmp_path)
    server: ObjectServer = request.getfixturevalue("moto")
    return server.store()


def turns_in(store: Store) -> list[str]:
    """The flags and renewals that are there."""
    return list(store.keys("turns/"))


async def test_a_turn_is_one_persons(store: Store) -> None:
    mine, theirs = Turns(store), Turns(store)
    async with mine.hold("a thread") as turn:
        turn.check()
        assert len(turns_in(store)) == 1
        with pytest.raises(
            TurnTaken, match=f"the turn of a thread is taken by this process since {utc_now():%Y-%m-%d}"
        ):
            async with theirs.hold("a thread", patience=0.1):
                pass
        async with theirs.hold("another thread", patience=0):
            pass
    with theirs.hold("a thread", patience=0) as turn:
        assert not turn.is_lost
    assert not turns_in(store)


async def test_who_waits_gets_it_when_it_is_given_back(store: Store) -> None:
    turns, order = Turns(store), list[int]()

    async def want(number: int) -> None:
        async with turns.hold("a thread", patience=60):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(want(number) for number in range(6)))
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(6))


def test_threads_of_a_server_without_an_event_loop_wait_for_each_other(tmp_path: Path) -> None:
    turns, inside, worst = Turns(FileStore(tmp_path)), set[int](), [0]

    def want(number: int) -> None:
        with turns.hold("a thread", patience=60):
            inside.add(number)
            worst[0] = max(worst[0], len(inside))
            inside.discard(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(want, range(12)))
    assert worst == [1]


async def test_it_is_renewed_while_the_block_lasts_also_when_the_loop_is_busy(store: Store) -> None:
    mine, theirs = Turns(store, lease_seconds=1.0), Turns(store)
    async with mine.hold("a thread"):
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:  # longer than two leases; nothing else runs in this loop
            with pytest.raises(TurnTaken), theirs.hold("a thread", patience=0):
                pass
    assert not turns_in(store)


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.05])
async def test_a_block_that_is_cancelled_gives_its_turn_back(moment: float, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    turns, inside = Turns(store), asyncio.Event()

    async def want() -> None:
        async with turns.hold("a thread"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(want())
    await inside.wait()
    waiting = asyncio.create_task(want())
    await asyncio.sleep(moment)
    for one in (waiting, task):
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
    assert not turns_in(store)


async def test_a_block_whose_turn_was_taken_away_is_told(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    turns = Turns(store, lease_seconds=0.4)
    held = turns.hold("a thread")

    async def block() -> None:
        async with held:
            for key in turns_in(store):
                store.delete(key)
            await asyncio.Event().wait()

    with pytest.raises(TurnLost, match="the turn of a thread was lost"):
        await block()
    assert held.turn.is_lost
    with pytest.raises(TurnLost):
        held.turn.check()
    current = asyncio.current_task()
    assert current
    assert not current.cancelling()


def test_a_block_without_an_event_loop_is_told_at_its_end(tmp_path: Path) -> None:
    store = FileStore(tmp_path)

    def block() -> None:
        with Turns(store, lease_seconds=0.2).hold("a thread") as turn:
            for key in turns_in(store):
                store.delete(key)
            until(lambda: turn.is_lost)

    with pytest.raises(TurnLost):
        block()
    assert not turns_in(store)


class HungStore(FileStore):
    """A store that may stop answering."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()

    def get(self, key: str) -> bytes | None:
        self.answers.wait(10)
        return super().get(key)


async def test_a_store_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    store = HungStore(tmp_path)
    cancelled_after = list[float]()

    async def block() -> None:
        async with Turns(store, lease_seconds=0.4).hold("a thread"):
            store.answers.clear()
            began = time.monotonic()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled_after.append(time.monotonic() - began)
                store.answers.set()

    with pytest.raises(TurnLost):
        await block()
    assert cancelled_after[0] < 0.8, "before others may take it"
    assert not turns_in(store)


async def test_a_store_that_is_away_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        async with Turns(FileStore(tmp_path / "not" / "there")).hold("a thread"):
            pass


# ---------------------------------------------------------------------- processes

HOLDER = """
import sys, time
from pathlib import Path
from agentq.stores.file import FileStore
from agentq.turns import Turns
with Turns(FileStore(Path(sys.argv[1])), lease_seconds=float(sys.argv[2])).hold("a thread", patience=30) as turn:
    print("mine", flush=True)
    while not turn.is_lost:
        time.sleep(0.01)
"""


@contextmanager
def holder(folder: Path, lease_seconds: float = 20.0) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the turn."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(lease_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"mine\n"
            yield process
        finally:
            process.kill()


@pytest.mark.promise("turns")
def test_the_turn_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    turns = Turns(FileStore(tmp_path))
    with holder(tmp_path) as process:
        with pytest.raises(TurnTaken, match=f"process {process.pid} on {socket.gethostname()}"):
            turns.hold("a thread", patience=0).__enter__()
        process.kill()
        process.wait()
        with turns.hold("a thread", patience=0):
            pass
    assert not turns_in(FileStore(tmp_path))


def test_the_turn_of_a_process_that_stands_still_is_free_after_two_leases(tmp_path: Path) -> None:
    with holder(tmp_path, lease_seconds=0.5) as process:
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with Turns(FileStore(tmp_path)).hold("a thread", patience=30):
            assert time.monotonic() - began > 1.0
            process.send_signal(signal.SIGCONT)
            assert process.wait(30) == 1, "TurnLost"
            assert len([key for key in turns_in(FileStore(tmp_path)) if "lease" not in key]) == 1


CONTENDER = """
import os, sys
from pathlib import Path
from agentq.process_table import process_of
from agentq.stores.file import FileStore
from agentq.turns import Turns
folder = Path(sys.argv[1])
turns, inside = Turns(FileStore(folder / "store")), folder / "inside"
while True:
    with turns.hold("a thread", patience=60):
        found = inside.read_text() if inside.exists() else ""
        process = process_of(int(found)) if found else None
        if process and not process.is_dead:
            print("overlap", flush=True)
        inside.write_text(str(os.getpid()))
        with (folder / "done").open("a") as done:
            done.write(f"{os.getpid()}\\n")
        inside.unlink()
"""


@pytest.mark.promise("turns")
def test_processes_that_are_killed_again_and_again_never_overlap(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    chance, said, running = Random(3), list[bytes](), list["subprocess.Popen[bytes]"]()

    def start() -> None:
        command = [sys.executable, "-c", CONTENDER, str(tmp_path)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT))

    def kill(process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        said.append(process.communicate()[0])

    def done() -> int:
        return (tmp_path / "done").read_text().count("\n") if (tmp_path / "done").exists() else 0

    try:
        for _ in range(3):
            start()
        for _ in range(8):
            before = done()
            until(lambda before=before: done() > before + 3, "the others to go on", seconds=60)
            kill(running.pop(chance.randrange(len(running))))
            start()
    finally:
        for process in running:
            kill(process)
    assert b"overlap" not in b"".join(said)
    with Turns(FileStore(tmp_path / "store")).hold("a thread", patience=0):
        pass
    assert not turns_in(FileStore(tmp_path / "store"))


# ---------------------------------------------------------------------- what else looks through a store


def test_turns_do_not_disturb_the_store_and_old_ones_are_collected(desk: Desk) -> None:
    done = desk.finish(desk.task())
    with Turns(desk.store).hold("a thread"):
        [key] = turns_in(desk.store)
        assert desk.json("doctor")
        assert desk.json("store", "gc", "--older-than", "0s")["unowned"] == 0
        assert turns_in(desk.store) == [key]
    assert not turns_in(desk.store)
    old = Flag(token="a", owner=this_process(), at=utc_now() - timedelta(days=3), lease_seconds=20)
    desk.store.put_new("turns/b/a.json", old.to_json())
    assert desk.json("store", "gc", "--older-than", "30d")["unowned"] == 0
    desk.store.put_new("turns/b/b.lease.json", b"{")
    assert desk.json("store", "gc", "--older-than", "1d", "--dry-run")["unowned"] == 2
    assert desk.json("store", "gc", "--older-than", "1d")["unowned"] == 2
    assert not turns_in(desk.store)
    assert desk.records.manifest(done.task_id)
