"""The hub: subscribers are told each event once and in order, whatever gateway they come to, and whatever happens to
the log, the file and themselves. INTERLEAVINGS=20000 looks further."""

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.engine import Log, Page
from agentq.engines.log import Retention
from agentq.errors import Invalid, Unavailable
from agentq.events import Event
from agentq.gateway import hub as hub_module
from agentq.gateway import subscription as subscription_module
from agentq.gateway.entries import Entry
from agentq.gateway.frames import Frame
from agentq.gateway.hub import Hub
from agentq.gateway.subscription import Subscription
from tests import tales
from tests.gateway.told import PATIENCE, Broker, Client, hub_of, output

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "25"))


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def hub(broker: Broker, tmp_path: Path) -> AsyncIterator[Hub]:
    async with hub_of(broker, tmp_path / "c.db") as made:
        yield made


def many(count: int, first: int = 0) -> list[Event]:
    return [tales.event("a", "progress", number, str(number)) for number in range(first, first + count)]


async def ops(hub: Hub, topic: str, since: str | None, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE), hub.subscribe(topic, since) as subscription:
        told = []
        async for frame in subscription:
            told.append(frame.op if frame.entry is None else frame.entry.id)
            if len(told) == count:
                return told
    raise AssertionError("unreachable: frames end with a time-out")


# ---------------------------------------------------------------------- where a subscriber begins


async def test_without_a_cursor_it_is_told_what_comes(hub: Hub, broker: Broker) -> None:
    await broker.append(*many(10))
    client = Client("/events", since="")
    client.go_to(hub)
    assert await client.listen(5)
    await broker.append(tales.event("a", "progress", 99, "99"))
    await client.take_all(["a/progress/99"])
    assert client.told["events"] == ["a/progress/99"]


async def test_what_comes_begins_behind_what_a_new_gateway_still_reads(broker: Broker, tmp_path: Path) -> None:
    """A gateway whose file was lost reads weeks of log: none of that is news."""
    await broker.append(*many(1000))
    async with hub_of(broker, tmp_path / "new.db") as hub:
        client = Client("/events", since="")
        client.go_to(hub)
        assert await client.listen(5)
        assert hub.caught_up
        await broker.append(*many(1, first=5000))
        await client.take_all(["a/progress/5000"])
    assert client.told["events"] == ["a/progress/5000"]


async def test_from_the_start_it_is_told_all(hub: Hub, broker: Broker) -> None:
    await broker.append(*many(300), *(output("a", n) for n in range(300)))
    client = Client("/tasks/a")
    client.go_to(hub)
    await client.take_all([f"a/progress/{n}" for n in range(300)])
    await client.take_all([f"a/output/1/{n}" for n in range(300)], "output")
    assert client.told["events"] == [f"a/progress/{n}" for n in range(300)]
    assert client.told["output"] == [f"a/output/1/{n}" for n in range(300)]


async def test_the_cursor_of_an_empty_log_misses_nothing(hub: Hub, broker: Broker) -> None:
    client = Client("/tasks/a", since="")
    client.go_to(hub)
    assert await client.listen(5)
    client.go_to(None)
    await broker.append(tales.submitted("a"), output("a", 1))
    client.go_to(hub)
    await client.take_all(["a/submitted"])
    await client.take_all(["a/output/1/1"], "output")


async def test_an_unknown_event_is_a_gap_after_a_while(
    hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "ARRIVE_SECONDS", 0.2)
    await broker.append(*many(3))
    assert await ops(hub, "/events", "nobody/knows", 3) == ["gap", "subscribed", "caught_up"]


async def test_an_event_seen_elsewhere_is_waited_for(hub: Hub, broker: Broker) -> None:
    """A client that comes from a gateway that is a hair ahead."""
    await broker.append(*many(3))
    here = asyncio.create_task(ops(hub, "/events", "a/progress/4", 3))
    await broker.append(*many(3, first=3))
    assert await here == ["subscribed", "a/progress/5", "caught_up"]


async def test_a_gateway_that_lags_tells_no_gap(hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another gateway told already is in the log: it is waited for however long this one needs for it."""
    monkeypatch.setattr(subscription_module, "ARRIVE_SECONDS", 0.05)
    await broker.append(*many(3))
    await _until_told(hub, "a/progress/2")
    writing = hub.chronicle._writing
    assert await asyncio.to_thread(writing.acquire)
    try:
        await broker.append(*many(10, first=3))
        here = asyncio.create_task(ops(hub, "/events", "a/progress/8", 3))
        done, _ = await asyncio.wait({here}, timeout=0.5)
        assert not done
    finally:
        writing.release()
    assert await here == ["subscribed", "a/progress/9", "a/progress/10"]


async def test_an_unknown_event_is_waited_for_while_the_engine_is_away(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "ARRIVE_SECONDS", 0.1)
    broker.away = True
    broker.logs["events"] += many(5)
    async with hub_of(broker, tmp_path / "c.db") as hub:
        here = asyncio.create_task(ops(hub, "/events", "a/progress/2", 3))
        done, _ = await asyncio.wait({here}, timeout=0.5)
        assert not done
        await broker.change(away=False)
        assert await here == ["subscribed", "a/progress/3", "a/progress/4"]


async def test_a_part_left_empty_begins_now(hub: Hub, broker: Broker) -> None:
    await broker.append(*(output("a", n) for n in range(5)), *many(5))
    client = Client("/tasks/a", since="a/progress/1~")
    client.go_to(hub)
    await client.take_all(["a/progress/4"])
    await broker.append(output("a", 9))
    await client.take_all(["a/output/1/9"], "output")
    assert client.told == {
        "events": ["a/progress/2", "a/progress/3", "a/progress/4"],
        "output": ["a/output/1/9"],
    }


@pytest.mark.parametrize("topic", ["", "/nope", "/tasks/a b"])
async def test_what_is_no_topic_is_refused(hub: Hub, topic: str) -> None:
    with pytest.raises(Invalid):
        hub.subscribe(topic)


async def test_the_cursor_of_now_continues_behind_now(hub: Hub, broker: Broker) -> None:
    client = Client("/tasks/a", since="")
    client.go_to(hub)
    assert await client.listen(5)
    await broker.append(*many(3), output("a", 1))
    await client.take_all(["a/progress/2"])
    await client.take_all(["a/output/1/1"], "output")
    later = Client("/tasks/a", since=hub.cursor("/tasks/a"))
    assert later.since == client.since
    await broker.append(*many(1, first=3))
    later.go_to(hub)
    await later.take_all(["a/progress/3"])
    assert later.told == {"events": ["a/progress/3"], "output": []}


@pytest.mark.promise("push-no-gap")
async def test_what_is_kept_and_not_told_yet_is_told_once(
    hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads the chronicle just between the moment when a page is in it and the one when it is told."""
    await broker.append(*many(3))
    await _until_told(hub, "a/progress/2")
    kept, go_on, take = asyncio.Event(), asyncio.Event(), hub._take

    async def slowly(log: Log, page: Page) -> list[Entry]:
        entries = await take(log, page)
        kept.set()
        await go_on.wait()
        return entries

    monkeypatch.setattr(hub, "_take", slowly)
    await broker.append(*many(3, first=3))
    await _until(kept)
    client = Client("/events")
    client.go_to(hub)
    await client.take_all([event.id for event in many(3)])
    go_on.set()
    await broker.append(*many(1, first=6))
    await client.take_all(["a/progress/6"])
    assert client.told["events"] == [event.id for event in many(7)]


# ---------------------------------------------------------------------- who is slow


@pytest.mark.promise("slow-never-slows")
async def test_who_takes_nothing_falls_behind_and_misses_nothing(hub: Hub, broker: Broker) -> None:
    slow, quick = Client("/events", since=""), Client("/events", since="")
    for client in (slow, quick):
        client.go_to(hub)
        assert await client.listen(5)
    everything = [event.id for event in many(2000)]
    listening = asyncio.create_task(quick.take_all(everything))
    for start in range(0, 2000, 100):
        await broker.append(*many(100, first=start))
    await listening
    assert quick.told["events"] == everything
    await slow.take_all(everything)
    assert slow.told["events"] == everything
    await broker.append(*many(1, first=2000))
    await slow.take_all(["a/progress/2000"])
    assert slow.told["events"] == [*everything, "a/progress/2000"]


async def test_little_is_kept_for_who_takes_nothing(hub: Hub, broker: Broker) -> None:
    async with hub.subscribe("/events") as subscription:
        await broker.append(*many(1000))
        await _until_told(hub, "a/progress/999")
        assert len(subscription._ready) <= subscription_module.AHEAD


# ---------------------------------------------------------------------- trouble


@pytest.mark.promise("gateway-away")
async def test_an_engine_that_hangs_is_told(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stand, so whoever reads the log hears nothing, for ever."""
    monkeypatch.setattr(hub_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(hub_module, "SILENT_SECONDS", 0.05)
    signal = asyncio.Event()
    async with hub_of(broker, tmp_path / "hanging.db") as hub:
        with hub.listening(signal):
            broker.answering.clear()
            await _until(signal)
            assert (hub.trouble or "").startswith("memory://broker has not answered within 0.05 s. Look at the host")
            signal.clear()
            broker.answering.set()
            await _until(signal)
        assert hub.trouble is None


async def test_an_engine_that_was_away_is_caught_up_with(hub: Hub, broker: Broker) -> None:
    client, signal = Client("/events", since=""), asyncio.Event()
    client.go_to(hub)
    assert await client.listen(5)
    await broker.append(*many(3))
    with hub.listening(signal):
        await broker.change(away=True)
        await _until(signal)
        assert hub.trouble == "it is away"
        assert not hub.caught_up
        signal.clear()
        broker.logs["events"] += many(3, first=3)
        await broker.change(away=False)
        await _until(signal)
    assert hub.trouble is None
    await client.take_all(["a/progress/5"])
    assert client.told["events"] == [event.id for event in many(6)]


async def test_a_locked_file_is_told_and_caught_up_with(
    hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSE", 0.05)
    hub.chronicle._db.execute("PRAGMA busy_timeout = 10")
    client, signal = Client("/events", since=""), asyncio.Event()
    client.go_to(hub)
    assert await client.listen(5)
    locked = sqlite3.connect(hub.chronicle.path, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    with hub.listening(signal):
        await broker.append(*many(20))
        await _until(signal)
        assert "locked" in (hub.trouble or "")
        signal.clear()
        locked.execute("ROLLBACK")
        locked.close()
        await _until(signal)
    assert hub.trouble is None
    await client.take_all([event.id for event in many(20)])


async def test_a_full_disk_is_told_and_caught_up_with(
    hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSE", 0.05)
    client, signal = Client("/events", since=""), asyncio.Event()
    client.go_to(hub)
    assert await client.listen(5)
    db = hub.chronicle._db
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + 1}")
    with hub.listening(signal):
        await broker.append(*many(500))
        await _until(signal)
        assert "the disk is full" in (hub.trouble or "")
        async with hub.subscribe("/events", "start") as other:
            assert (await _next(other)).op == "subscribed"
        signal.clear()
        db.execute("PRAGMA max_page_count = 1000000")
        await _until(signal)
    await client.take_all([event.id for event in many(500)])
    assert client.told["events"] == [event.id for event in many(500)]


async def test_a_damaged_file_is_made_anew_and_clients_resume(
    hub: Hub, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSE", 0.05)
    client = Client("/events")
    client.go_to(hub)
    await broker.append(*many(500))
    await client.take_all([event.id for event in many(500)])
    hub.chronicle._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    with hub.chronicle.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (hub.chronicle.path.stat().st_size - 4096))
    while hub.chronicle._idle:
        hub.chronicle._idle.pop().close()  # they remember what stood there
    another = Client("/events")
    another.go_to(hub)
    with pytest.raises(Unavailable):
        await another.take_all([event.id for event in many(500)])
    await broker.append(*many(500, first=500))
    with pytest.raises(Unavailable):
        await client.take_all([event.id for event in many(1000)])
    async with asyncio.timeout(PATIENCE):
        while len(client.told["events"]) < 1000:
            client.go_to(hub)
            with contextlib.suppress(Unavailable):  # ended until it is made
                await client.take_all([event.id for event in many(1000)])
    assert client.told["events"] == [event.id for event in many(1000)]


async def test_what_the_log_lost_is_told_as_a_gap(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "ARRIVE_SECONDS", 0.2)
    await broker.append(*many(10))
    client, late = Client("/events"), Client("/events", since="a/progress/3")
    async with hub_of(broker, tmp_path / "c.db") as hub:
        client.go_to(hub)
        await client.take_all([event.id for event in many(10)])
    await broker.append(*many(10, first=10))
    broker.cut["events"] = 15
    async with hub_of(broker, tmp_path / "c.db") as hub:
        for one in (client, late):
            one.go_to(hub)
            while not await one.listen(5):
                pass
        await broker.append(*many(1, first=20))
        await client.take_all(["a/progress/20"])
        await late.take_all(["a/progress/20"])
    assert client.gaps >= 1
    assert late.gaps >= 1


async def test_what_is_cut_under_a_slow_reader_is_a_gap(broker: Broker, tmp_path: Path) -> None:
    keep = Retention(events_bytes=20_000)
    async with hub_of(broker, tmp_path / "c.db", keep) as hub:
        client = Client("/events", since="")
        client.go_to(hub)
        assert await client.listen(5)
        for start in range(0, 2000, 100):
            await broker.append(*many(100, first=start))
        await _until_told(hub, "a/progress/1999")
        await broker.append(*many(1, first=2000))
        assert not await client.listen(subscription_module.AHEAD + 1)
        assert client.gaps == 1


async def test_who_subscribes_while_a_gateway_ends_is_told_so(broker: Broker, tmp_path: Path) -> None:
    async with hub_of(broker, tmp_path / "c.db") as hub:
        pass
    client = Client("/events")
    client.go_to(hub)
    with pytest.raises(Unavailable):
        await client.listen(1)


# ---------------------------------------------------------------------- anything in any order

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12), st.booleans()),
        st.tuples(st.just("listen"), st.integers(0, 3), st.integers(1, 30)),
        st.tuples(st.just("move"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.booleans()),
        st.tuples(st.just("away"), st.just(0), st.booleans()),
    ),
    max_size=30,
)
TOPICS = ("/events", "/agents/w/tasks", "/tasks/m.w", "/threads/th")


@pytest.mark.promise("push-no-gap")
@pytest.mark.timeout(0 if "INTERLEAVINGS" in os.environ else 120)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.lists(st.sampled_from(TOPICS), min_size=4, max_size=4), st.sampled_from([3, 500]))
def test_nothing_is_missed_or_repeated(steps: list[tuple[str, int, int]], topics: list[str], page: int) -> None:
    """Clients that come and go between two gateways, which end and begin again with or without what they kept, over a
    log that holds events again and again and is away at times: each is told each event of its topic once, in order."""
    asyncio.run(_play(steps, topics, page))


async def _play(steps: list[tuple[str, int, int]], topics: list[str], page: int) -> None:
    broker = Broker(page=page)
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(broker, Path(folder))
        await stage.begin(0, False)
        await stage.begin(1, False)
        clients = [Client(topic) for topic in topics]
        for number, client in enumerate(clients):
            client.go_to(stage.hubs[number % 2])
            stage.at[client] = number % 2
        for step in steps:
            await stage.act(clients, *step)
        await broker.change(away=False)
        for client in clients:
            for log in client.topic.logs:
                await client.take_all(broker.first_told(client.topic, log), log)
                assert client.told[log] == broker.first_told(client.topic, log)
            assert client.gaps == 0
        await stage.end(0)
        await stage.end(1)


class Stage:
    """Two gateways over one broker, and where clients are."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.hubs: dict[int, Hub] = {}
        self.at: dict[Client, int] = {}
        self._stacks: dict[int, AsyncExitStack] = {}
        self._count = 0

    async def begin(self, number: int, anew: bool) -> None:
        path = self.folder / f"{number}.db"
        if anew:
            path.unlink()
        self._stacks[number] = AsyncExitStack()
        self.hubs[number] = await self._stacks[number].enter_async_context(
            hub_of(self.broker, path, owner_of=self.broker.owner_of)
        )

    async def end(self, number: int) -> None:
        await self._stacks[number].aclose()

    async def act(self, clients: list[Client], step: str, which: int, value: int) -> None:
        match step:
            case "append":
                await self.broker.append(*self._news(which, repeats=bool(value)))
            case "listen":
                try:
                    await clients[which].listen(value, patience=0.05)
                except TimeoutError:
                    self._go(clients[which], self.at[clients[which]])  # what was being handed over is lost
            case "move":
                self._go(clients[which], value)
            case "away":
                await self.broker.change(away=bool(value))
            case "restart":
                for client in clients:
                    if self.at[client] == which:
                        client.go_to(None)
                await self.end(which)
                await self.begin(which, bool(value))
                for client in clients:
                    if self.at[client] == which:
                        self._go(client, which)

    def _go(self, client: Client, number: int) -> None:
        client.go_to(self.hubs[number])
        self.at[client] = number

    def _news(self, count: int, *, repeats: bool) -> list[Event]:
        new = [self._event(self._count + n) for n in range(count)]
        self._count += count
        told = self.broker.logs["events"] + self.broker.logs["output"]
        return [*told[-3:], *new, *told[::7]] if repeats else new

    def _event(self, number: int) -> Event:
        if number == 0:
            return tales.submitted("m.w", agent="w", labels={"thread": "th"})
        kind = ("progress", "output", "reply", "claimed", "released")[number % 5]
        if number % 4 == 0:
            return tales.event("other", "progress", number, str(number))
        return tales.event("m.w", kind, number, str(number), data={"text": str(number)})


async def _until(signal: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await signal.wait()


async def _until_told(hub: Hub, event_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        with hub.tails["events"].expecting(event_id) as coming:
            if hub.tails["events"].mark.id != event_id:
                await coming


async def _next(subscription: Subscription) -> Frame:
    async with asyncio.timeout(PATIENCE):
        async for frame in subscription:
            return frame
    raise AssertionError("unreachable: frames end with a time-out")
