"""What is still to be told: no task waits for it, nothing is lost while there is room, and it comes in order."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq import journal as journals
from agentq.errors import EngineUnavailable
from agentq.events import Event
from agentq.journal import Journal
from agentq.messages import utc_now
from agentq.telling import pump as pumps
from agentq.telling.pump import Pump


class Takers:
    """The one thing that a journal asks of an engine: `append`, which may be away or slow."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.batches: list[int] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, events: Sequence[Event]) -> None:
        await self.gate.wait()
        if self.is_away:
            raise EngineUnavailable("away")
        self.batches.append(len(events))
        self.taken += [event.id for event in events]


def event(name: object, kind: str = "claimed") -> Event:
    return Event(id=str(name), kind=kind, at=utc_now())


def tell(journal: Journal, *names: object, kind: str = "claimed") -> None:
    journal.tell(*(event(name, kind) for name in names))


async def drained(journal: Journal) -> list[str]:
    engine = Takers()
    await journal.hand_on(engine)
    return engine.taken


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_is_told_is_handed_on_in_order_and_in_batches() -> None:
    journal, engine = Journal(), Takers()
    tell(journal, *range(2 * journals.BATCH + 1))
    await journal.hand_on(engine)
    assert engine.taken == [str(n) for n in range(2 * journals.BATCH + 1)]
    assert engine.batches == [journals.BATCH, journals.BATCH, 1]
    assert not journal


async def test_what_the_engine_did_not_take_is_kept_in_order() -> None:
    journal, engine = Journal(), Takers()
    tell(journal, 1, 2, 3)
    engine.is_away = True
    with pytest.raises(EngineUnavailable):
        await journal.hand_on(engine)
    tell(journal, 4)
    engine.is_away = False
    await journal.hand_on(engine)
    assert engine.taken == ["1", "2", "3", "4"]


async def test_a_cancelled_hand_keeps_what_it_held() -> None:
    journal, engine = Journal(), Takers()
    tell(journal, 1, 2)
    engine.gate.clear()
    hand = asyncio.create_task(journal.hand_on(engine))
    await asyncio.sleep(0)
    hand.cancel()
    with suppress(asyncio.CancelledError):
        await hand
    assert await drained(journal) == ["1", "2"]


async def test_nobody_takes_what_is_on_its_way_for_appended() -> None:
    """Settling waits for what the pump is just appending: else a task would be closed before its end is in the log."""
    journal, engine = Journal(), Takers()
    tell(journal, "end")
    engine.gate.clear()
    pump = asyncio.create_task(journal.hand_on(engine))
    await asyncio.sleep(0)
    settling = asyncio.create_task(journal.hand_on(engine))
    await asyncio.sleep(0.01)
    assert not settling.done()
    engine.gate.set()
    await asyncio.gather(pump, settling)
    assert engine.taken == ["end"]


@pytest.mark.promise("told")
async def test_the_pump_hands_on_what_another_hand_could_not() -> None:
    """Settling takes what is to be told just when the engine goes away; nothing else is told after that."""
    journal, engine = Journal(), Takers()
    pump = asyncio.create_task(Pump(journal, engine).run())
    await asyncio.sleep(0.01)
    engine.gate.clear()
    tell(journal, "end")
    settling = asyncio.create_task(journal.try_to_hand_on(engine))
    await asyncio.sleep(2 * pumps.SOON)  # the pump was woken, and found that all is on its way
    engine.is_away = True
    engine.gate.set()
    assert await settling
    engine.is_away = False
    await until(lambda: engine.taken == ["end"])
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)


async def test_a_step_waits_a_bounded_time_and_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SECONDS", 0.05)
    journal, engine = Journal(), Takers()
    tell(journal, 1)
    engine.gate.clear()
    error = await journal.try_to_hand_on(engine)
    assert "did not take an event within 0.05 s" in str(error)
    engine.gate.set()
    engine.is_away = True
    assert str(await journal.try_to_hand_on(engine)) == "away"
    assert len(journal) == 1


async def test_the_oldest_go_and_output_before_them_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "LIMIT", 4)
    journal = Journal()
    tell(journal, "a", "b")
    tell(journal, "o1", "o2", kind="output")
    tell(journal, "c")
    assert (len(journal), journal.dropped) == (3, 2)
    tell(journal, "d", "e", "f")
    assert await drained(journal) == ["c", "d", "e", "f"]
    assert journal.dropped == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    tell(journal, *range(5))
    assert len(caplog.records) == 2, "after the engine was back it is news again"


STEPS = st.lists(
    st.one_of(st.integers(1, 6), st.just("output"), st.just("away"), st.just("back"), st.just("hand on")), max_size=40
)


@given(steps=STEPS)
@settings(deadline=None)
def test_whatever_comes_in_between_what_is_not_shed_comes_once_and_in_order(steps: list[int | str]) -> None:
    async def play() -> None:
        journal, engine, told = Journal(), Takers(), 0
        for step in (*steps, "back", "hand on"):
            if step in ("away", "back"):
                engine.is_away = step == "away"
            elif step == "hand on":
                await journal.try_to_hand_on(engine)
            else:
                count = step if isinstance(step, int) else 1
                tell(journal, *range(told, told + count), kind="claimed" if isinstance(step, int) else "output")
                told += count
        assert engine.taken == [str(n) for n in range(told)]

    asyncio.run(play())


@given(steps=STEPS, limit=st.integers(1, 8))
@settings(deadline=None)
def test_what_is_shed_is_counted_and_the_newest_that_matters_stays(steps: list[int | str], limit: int) -> None:
    async def play() -> None:
        journal, told = Journal(), list[str]()
        total = 0
        for step in steps:
            if isinstance(step, int):
                tell(journal, *range(total, total + step))
                told += [str(n) for n in range(total, total + step)]
                total += step
            elif step == "output":
                tell(journal, total, kind="output")
                total += 1
            assert len(journal) <= limit
        held = await drained(journal)
        assert len(held) + journal.dropped == total
        assert [name for name in held if name in told] == told[len(told) - min(len(told), limit) :]

    before, journals.LIMIT = journals.LIMIT, limit
    try:
        asyncio.run(play())
    finally:
        journals.LIMIT = before


async def test_what_threads_tell_is_pumped_without_being_asked() -> None:
    journal, engine = Journal(), Takers()
    pump = asyncio.create_task(Pump(journal, engine).run())
    await asyncio.sleep(0.01)

    def many(thread: int) -> None:
        for number in range(200):
            tell(journal, f"{thread}.{number}")

    threads = [threading.Thread(target=many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await until(lambda: len(engine.taken) == 800)
    for thread in threads:
        thread.join()
        own = [name for name in engine.taken if name.startswith(f"{threads.index(thread)}.")]
        assert own == [f"{threads.index(thread)}.{number}" for number in range(200)]
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    tell(journal, "after")  # whoever tells after that does no harm
    assert len(journal) == 1


async def test_the_pump_waits_for_an_engine_that_is_away_and_survives_a_bug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, engine = Journal(), Takers()
    engine.is_away = True
    tell(journal, "early")
    pump = asyncio.create_task(Pump(journal, engine).run())
    await asyncio.sleep(0.05)
    tell(journal, "late")
    assert engine.taken == []
    engine.is_away = False
    await until(lambda: engine.taken == ["early", "late"])

    good, failed = engine.append, list[str]()

    async def bad(events: Sequence[Event]) -> None:
        failed.append(events[0].id)
        monkeypatch.setattr(engine, "append", good)
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine, "append", bad)
    tell(journal, "again")
    await until(lambda: engine.taken == ["early", "late", "again"])
    assert failed == ["again"]
    assert "the log could not be told" in caplog.text
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
