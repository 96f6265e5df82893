"""What the log of every engine does, through the port alone; an instance of an engine stands for a process."""

import asyncio
import secrets
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from datetime import timedelta

import pytest

from agentq.engine import Engine, Page
from agentq.engines.log import PAGE, Retention
from agentq.errors import EngineUnavailable
from agentq.events import EVENT_LIMIT, Event
from agentq.messages import utc_now
from agentq.observing.follower import catch_up, follow
from tests.conformance.engines import (
    APPENDED,
    NAMES,
    PATIENCE,
    EngineUnderTest,
    an_envelope,
    an_event,
    another_process,
    under_test,
)

GARBAGE = (b"\x00\xff{not json", b"", b"[]", b'{"id": "no-kind"}', b"{" * 10_000, b"x" * (2 * EVENT_LIMIT))
PROMPT = 1.0
"""Seconds within which a follower must have what was appended."""


@pytest.fixture(params=NAMES)
def new_system(request: pytest.FixtureRequest) -> Callable[[str], EngineUnderTest]:
    """Makes the engine under test; one that is RabbitMQ in a namespace of that name."""
    return lambda namespace: under_test(request.param, request, namespace)


@pytest.fixture
async def log(new_system: Callable[[str], EngineUnderTest]) -> AsyncIterator[EngineUnderTest]:
    """The engine under test, with a log that may hold events of other tests."""
    system = new_system("logs")
    await system.new().declare([], [])
    yield system
    await system.close()


@pytest.fixture
async def own_log(new_system: Callable[[str], EngineUnderTest]) -> AsyncIterator[EngineUnderTest]:
    """The same with a log of this test's own."""
    system = new_system(f"log-{secrets.token_hex(4)}")
    yield system
    await system.close()


@pytest.fixture
def engine(log: EngineUnderTest) -> Engine:
    """An instance."""
    return log.new()


@pytest.fixture
def other(log: EngineUnderTest) -> Engine:
    """An instance in another process."""
    return log.new()


@pytest.fixture
async def start(other: Engine) -> str:
    """The end of the log when the test begins."""
    return await end_of(other)


@pytest.fixture
def name() -> str:
    """What the ids of this test's events begin with."""
    return secrets.token_hex(4)


async def pages_of(engine: Engine, **how: object) -> list[Page]:
    """What a reader gets until it has caught up."""
    async with asyncio.timeout(6 * PATIENCE):
        return [page async for page in engine.read(**how)]  # type: ignore[arg-type]


async def end_of(engine: Engine) -> str:
    return (await pages_of(engine))[-1].position


def ids(pages: list[Page]) -> list[str]:
    return [event.id for page in pages for event in page.events]


def some(name: str, count: int, **more: object) -> list[Event]:
    return [an_event(f"{name}-{number}", **more) for number in range(count)]  # type: ignore[arg-type]


async def until_it_has(engine: Engine, wanted: int, **how: object) -> list[str]:
    """The ids that a follower gets, as soon as it has so many."""
    got: list[str] = []
    async with asyncio.timeout(6 * PATIENCE), aclosing(engine.read(follow=True, **how)) as pages:  # type: ignore[arg-type]
        async for page in pages:
            got += [event.id for event in page.events]
            if len(got) >= wanted:
                break
    return got


# What comes


@pytest.mark.promise("log-in-order")
async def test_events_come_out_as_they_went_in(engine: Engine, other: Engine, start: str, name: str) -> None:
    sent = [
        an_event(
            f"{name}-{n}", agent="worker", attempt=n + 1, host="日本", worker="w@h:1", by="me", data={"ü": [1, None]}
        )
        for n in range(3)
    ]
    await other.append(sent)
    assert [event for page in await pages_of(engine, after=start) for event in page.events] == sent


@pytest.mark.promise("log-in-order")
async def test_a_backlog_comes_in_order_and_in_pages(engine: Engine, other: Engine, start: str, name: str) -> None:
    sent = some(name, 3 * PAGE + 7)
    for begin in range(0, len(sent), 700):
        await other.append(sent[begin : begin + 700])
    pages = await pages_of(engine, after=start)
    assert ids(pages) == [event.id for event in sent]
    assert max(len(page.events) for page in pages) <= PAGE
    assert [page.caught_up for page in pages] == [False] * (len(pages) - 1) + [True]
    assert not any(page.gap for page in pages)


async def test_appending_nothing_is_nothing(engine: Engine, start: str) -> None:
    await engine.append([])
    assert ids(await pages_of(engine, after=start)) == []


async def test_what_is_too_long_does_not_hold_up_the_rest(engine: Engine, start: str, name: str) -> None:
    long = an_event(f"{name}-long", data={"text": "x" * EVENT_LIMIT})
    largest = an_event(f"{name}-largest", data={"text": ""})
    largest = an_event(f"{name}-largest", data={"text": "x" * (EVENT_LIMIT - len(largest.to_json()) - 20)})
    await engine.append([an_event(f"{name}-a"), long, largest, an_event(f"{name}-b")])
    assert ids(await pages_of(engine, after=start)) == [f"{name}-a", f"{name}-largest", f"{name}-b"]


async def test_the_longest_id_comes_out_whole(engine: Engine, start: str, name: str) -> None:
    sent = [an_event(f"{name}{'é' * 500}{n}") for n in range(2)]
    await engine.append(sent)
    pages = await pages_of(engine, after=start)
    assert ids(pages) == [event.id for event in sent]
    assert ids(await pages_of(engine, after=pages[-1].position)) == []


@pytest.mark.promise("log-durable")
async def test_what_was_appended_outlives_its_teller(
    log: EngineUnderTest, engine: Engine, start: str, name: str
) -> None:
    with another_process("append", log, name) as child:
        await child.has_done()
        child.kill()
    assert ids(await pages_of(engine, after=start)) == [f"{name}-{n}" for n in range(APPENDED)]


async def test_garbage_is_passed_over(log: EngineUnderTest, engine: Engine, start: str, name: str) -> None:
    await engine.append([an_event(f"{name}-a")])
    for body in GARBAGE:
        await log.append_raw(body)
    end = (await pages_of(engine, after=start))[-1].position
    await engine.append([an_event(f"{name}-b")])
    assert ids(await pages_of(engine, after=start)) == [f"{name}-a", f"{name}-b"]
    pages = await pages_of(engine, after=end)
    assert (ids(pages), any(page.gap for page in pages)) == ([f"{name}-b"], False)


async def test_what_a_newer_agentq_tells_is_read(log: EngineUnderTest, engine: Engine, start: str, name: str) -> None:
    await log.append_raw(b'{"id": "%s", "kind": "sneezed", "at": "2030-01-01T00:00:00Z", "nose": 1}' % name.encode())
    (event,) = [event for page in await pages_of(engine, after=start) for event in page.events]
    assert (event.id, event.kind) == (name, "sneezed")


# Positions


@pytest.mark.promise("log-position")
async def test_a_position_is_good_in_another_process(
    log: EngineUnderTest, engine: Engine, start: str, name: str
) -> None:
    await engine.append(some(name, 2))
    position = (await pages_of(engine, after=start))[-1].position
    await engine.append(some(f"{name}-later", 3))
    with another_process("read", log, position) as child:
        assert (await child.has_done()).split() == [f"{name}-later-{n}" for n in range(3)]


@pytest.mark.promise("log-position")
async def test_every_pages_position_goes_on_behind_it(engine: Engine, start: str, name: str) -> None:
    sent = [event.id for event in some(name, 2 * PAGE + 10)]
    await engine.append(some(name, len(sent)))
    pages, seen = await pages_of(engine, after=start), 0
    for page in pages:
        seen += len(page.events)
        rest = await pages_of(engine, after=page.position)
        assert ids(rest) == sent[seen:]
        assert not any(page.gap for page in rest)


async def test_what_was_appended_twice_comes_twice_and_is_dropped_by_its_id(
    engine: Engine, start: str, name: str
) -> None:
    sent = some(name, 3)
    await engine.append(sent)
    await engine.append(sent)
    assert len(ids(await pages_of(engine, after=start))) == 6
    assert ids([page async for page in catch_up(engine, after=start)]) == [event.id for event in sent]


@pytest.mark.promise("log-gap")
async def test_a_log_that_was_cut_says_so(own_log: EngineUnderTest) -> None:
    own_log.retention = Retention(events_bytes=400_000)
    engine = own_log.new()
    await engine.declare([], [])
    await engine.append(some("old", 10, data={"text": "x" * 1000}))
    position = await end_of(engine)
    for batch in range(20):
        await engine.append(some(f"new-{batch}", 100, data={"text": "x" * 1000}))
    pages = await pages_of(engine, after=position)
    async with asyncio.timeout(PATIENCE):
        while not pages[0].gap:  # a broker cuts a moment later
            pages = await pages_of(engine, after=position)
    assert [page.gap for page in pages] == [True] + [False] * (len(pages) - 1)
    told = [f"new-{batch}-{n}" for batch in range(20) for n in range(100)]
    came = ids(pages)
    assert came == told[-len(came) :]
    assert 100 < len(came) < 1000
    after = await pages_of(engine, after=pages[-1].position)
    assert (ids(after), any(page.gap for page in after)) == ([], False)


@pytest.mark.promise("log-gap")
@pytest.mark.parametrize("more", [0, 30])
async def test_a_log_that_was_replaced_says_so(own_log: EngineUnderTest, more: int) -> None:
    """Whether it is shorter than where the reader was, or longer."""
    engine = own_log.new()
    await engine.declare([], [])
    await engine.append(some("old", 10))
    position = await end_of(engine)
    await own_log.replace_log()
    other = own_log.new()
    await other.append(some("new", 1 + more))
    began = time.monotonic()
    pages = await pages_of(other, after=position)
    assert time.monotonic() - began < PATIENCE
    assert pages[0].gap
    assert ids(pages) == [f"new-{n}" for n in range(1 + more)]
    after = await pages_of(other, after=pages[-1].position)
    assert (ids(after), any(page.gap for page in after)) == ([], False)


@pytest.mark.parametrize("position", ["nonsense", "1", "-1:x", "99999999999999999999999:0", "3:\x00", "ab:12", "9:9"])
async def test_a_position_of_another_log_is_a_gap(engine: Engine, other: Engine, position: str, name: str) -> None:
    await other.append([an_event(name)])
    pages = await pages_of(engine, after=position)
    assert pages[0].gap
    assert name in ids(pages)


# Catching up and following


@pytest.mark.promise("log-caught-up")
async def test_who_has_caught_up_has_read_all_that_was_appended(
    engine: Engine, other: Engine, start: str, name: str
) -> None:
    for n in range(20):
        await other.append([an_event(f"{name}-{n}")])
        pages = await pages_of(engine, after=start)
        assert (ids(pages), pages[-1].caught_up) == ([f"{name}-{n}"], True)
        start = pages[-1].position


async def test_an_empty_log_is_caught_up_with(own_log: EngineUnderTest) -> None:
    engine = own_log.new()
    await engine.declare([], [])
    (page,) = await pages_of(engine)
    assert (page.events, page.caught_up, page.gap) == ((), True, False)
    await engine.append([an_event("first")])
    pages = await pages_of(engine, after=page.position)
    assert (ids(pages), pages[0].gap) == (["first"], False)


@pytest.mark.promise("log-follow")
async def test_a_follower_gets_what_comes_at_once(engine: Engine, other: Engine, start: str, name: str) -> None:
    async with asyncio.timeout(6 * PATIENCE), aclosing(engine.read(after=start, follow=True)) as pages:
        assert (await anext(pages)).caught_up
        for n in range(10):
            appended = time.monotonic()
            await other.append([an_event(f"{name}-{n}")])
            page = await anext(pages)
            while not page.events:
                page = await anext(pages)
            assert (ids([page]), page.caught_up) == ([f"{name}-{n}"], True)
            assert time.monotonic() - appended < PROMPT


async def test_a_follower_is_told_when_it_has_caught_up(engine: Engine, other: Engine, start: str, name: str) -> None:
    await other.append(some(name, PAGE + 1))
    came = []
    async with asyncio.timeout(PATIENCE), aclosing(engine.read(after=start, follow=True)) as pages:
        async for page in pages:
            came += ids([page])
            if page.caught_up:
                break
    assert len(came) == PAGE + 1


@pytest.mark.promise("log-follow")
async def test_readers_do_not_take_from_one_another(engine: Engine, other: Engine, start: str, name: str) -> None:
    sent = [event.id for event in some(name, PAGE + 100)]
    following = [
        asyncio.create_task(until_it_has(reader, len(sent), after=start)) for reader in (engine, other, engine)
    ]
    await other.append(some(name, len(sent)))
    assert await asyncio.gather(*following) == [sent] * 3


@pytest.mark.promise("log-in-order")
async def test_nothing_is_lost_while_several_processes_append(
    log: EngineUnderTest, engine: Engine, start: str, name: str
) -> None:
    """And what one process tells comes in its order."""
    tellers = [f"{name}-{n}" for n in range(4)]
    following = asyncio.create_task(until_it_has(engine, len(tellers) * APPENDED, after=start))
    with ExitStack() as processes:
        children = [processes.enter_context(another_process("append", log, teller)) for teller in tellers]
        for child in children:
            await child.has_done()
        came = await following
    assert sorted(came) == sorted(f"{teller}-{n}" for teller in tellers for n in range(APPENDED))
    for teller in tellers:
        assert [event for event in came if event.startswith(teller)] == [f"{teller}-{n}" for n in range(APPENDED)]
    assert ids(await pages_of(engine, after=start)) == came


async def test_a_reader_that_stops_lets_go(engine: Engine, other: Engine, start: str, name: str) -> None:
    for _ in range(10):
        pages = engine.read(after=start, follow=True)
        await anext(pages)
        await pages.aclose()
    await other.append([an_event(name)])
    assert ids(await pages_of(engine, after=start)) == [name]


async def test_cancelling_a_follower_ends_it(engine: Engine, start: str) -> None:
    following = asyncio.create_task(until_it_has(engine, 1, after=start))
    await pages_of(engine, after=start)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(following, PATIENCE)


async def test_closing_the_engine_ends_who_follows(log: EngineUnderTest, start: str) -> None:
    engine = log.make()
    pages = engine.read(after=start, follow=True)
    await anext(pages)
    waiting = asyncio.create_task(anext(pages))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_following_over_and_over_drops_what_came(engine: Engine, other: Engine, start: str, name: str) -> None:
    sent, came = some(name, 5), []
    await other.append([*sent, *sent])
    await other.append([an_event(f"{name}-last")])
    async with asyncio.timeout(PATIENCE), aclosing(follow(engine, after=start)) as pages:
        async for page in pages:
            came += ids([page])
            if f"{name}-last" in came:
                break
    assert came == [*(event.id for event in sent), f"{name}-last"]


async def test_a_long_backlog_is_read_in_little_memory(own_log: EngineUnderTest) -> None:
    engine = own_log.new()
    await engine.declare([], [])
    text, count = "x" * 2000, 10_000
    for begin in range(0, count, 1000):
        await engine.append(some(f"{begin}", 1000, data={"text": text}))
    tracemalloc.start()
    try:
        read = 0
        async for page in engine.read():
            read += len(page.events)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == count
    assert peak < count * len(text) / 3


# What is asked for


async def test_since_leaves_out_what_is_long_ago(engine: Engine, start: str, name: str) -> None:
    """About: a few that are older may come, none that is newer is missing."""
    before = utc_now()
    await engine.append(some(name, 3))
    assert ids(await pages_of(engine, since=before))[-3:] == [f"{name}-{n}" for n in range(3)]
    later = await pages_of(engine, since=utc_now() + timedelta(minutes=10))
    assert (ids(later), later[-1].caught_up) == ([], True)
    await engine.append([an_event(f"{name}-new")])
    assert ids(await pages_of(engine, after=later[-1].position)) == [f"{name}-new"]


async def test_a_position_matters_more_than_since(engine: Engine, start: str, name: str) -> None:
    await engine.append(some(name, 3))
    assert ids(await pages_of(engine, after=start, since=utc_now() + timedelta(days=1))) == [
        f"{name}-{n}" for n in range(3)
    ]


@pytest.mark.parametrize("which", ["events", "output"])
async def test_the_events_of_one_task(engine: Engine, name: str, which: str) -> None:
    start = (await pages_of(engine, log=which))[-1].position
    kind = "output" if which == "output" else "progress"
    tasks = [f"{name}-task-{n}" for n in range(3)]
    await engine.append([an_event(f"{name}-{n}", kind, tasks[n % 3]) for n in range(2 * PAGE)])
    await engine.append([an_event(f"{name}-nobody", kind, None)])
    pages = await pages_of(engine, log=which, after=start, tasks=tasks[:1])
    assert ids(pages) == [f"{name}-{n}" for n in range(0, 2 * PAGE, 3)]
    assert ids(await pages_of(engine, log=which, after=pages[-1].position)) == []
    two = await pages_of(engine, log=which, after=start, tasks=tasks[1:])
    assert ids(two) == [f"{name}-{n}" for n in range(2 * PAGE) if n % 3]


async def test_output_is_apart(engine: Engine, start: str, name: str) -> None:
    output = (await pages_of(engine, log="output"))[-1].position
    await engine.append([an_event(f"{name}-1", "output"), an_event(f"{name}-2"), an_event(f"{name}-3", "output")])
    assert ids(await pages_of(engine, after=start)) == [f"{name}-2"]
    assert ids(await pages_of(engine, log="output", after=output)) == [f"{name}-1", f"{name}-3"]


async def test_dead_letters_are_counted(own_log: EngineUnderTest) -> None:
    engine, other = own_log.new(), own_log.new()
    await engine.declare([], [])
    assert await engine.count_dead_letters() == 0
    for n in range(3):
        await other.dead_letter(an_envelope("worker", f"task-{n}"), "no more")
    assert await engine.count_dead_letters() == 3
