"""Bringing notices as a process that stays: from the real inbox, on both engines, whatever goes away meanwhile."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentq.desk import Desk as Office
from agentq.errors import StoreUnavailable
from agentq.integrations.deliverer import Deliverer, Pace, turn_key
from agentq.integrations.threads import Notice, State, Thread, ThreadFailed, View
from agentq.messages import Completion, Envelope, new_task_id
from agentq.settle import settle
from agentq.turns import Turns, TurnTaken
from tests.desk import Desk
from tests.object_servers import free_port

PATIENCE = 20.0
QUICK = Pace(poll=(0.05, 0.1), waiting=(0.02, 0.1), failing=(0.05, 0.2), gone=(0.1, 0.1), confirm=0.05)
SELDOM = Pace(poll=(60.0, 60.0), confirm=0.05)


class Chats:
    """Threads in memory: what was written to each, in order, and how they are to behave."""

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = defaultdict(lambda: ["person"])
        self.states: dict[str, State] = {}
        self.failures: dict[str, int] = {}
        self.let_run: dict[str, asyncio.Event] = {}
        self.texts: dict[str, str] = {}
        self.at_once = self.most_at_once = 0
        self.may_append: asyncio.Event | None = None

    async def look(self, thread: Thread) -> View:
        words = self.words[thread.id]
        last = words[-1]
        state = self.states.get(thread.id, "running" if last.startswith("job") or last == "half" else "idle")
        return View(state, noticed=last.startswith("job"), woken=last == "half")

    async def missing(self, thread: Thread, task_ids: Sequence[str]) -> list[str]:
        return [task_id for task_id in task_ids if f"job {task_id}" not in self.words[thread.id]]

    async def append(self, thread: Thread, notices: Sequence[Notice]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.may_append:
            await self.may_append.wait()
        self.at_once -= 1
        self.words[thread.id] += [f"job {notice.task_id}" for notice in notices]
        self.texts |= {notice.task_id: notice.text for notice in notices}

    async def rest(self, thread: Thread) -> None:
        self.words[thread.id].append("rest")

    async def run(self, thread: Thread, task_ids: Sequence[str]) -> None:
        self.words[thread.id].append("half")
        if thread.id in self.let_run:
            await self.let_run[thread.id].wait()
        if self.failures.get(thread.id, 0) > 0:
            self.failures[thread.id] -= 1
            raise ThreadFailed("its code failed", hint="Mend it.")
        self.words[thread.id].append("ran")

    def told(self, thread: str) -> list[str]:
        """The jobs that a thread was told of, in order."""
        return [word.removeprefix("job ") for word in self.words[thread] if word.startswith("job")]


async def text_of(completion: Completion) -> str:
    return f"{completion.task_id} {completion.status}"


class House:
    """An office with an inbox, and the chats that its notices go to."""

    def __init__(self, desk: Desk, office: Office) -> None:
        self.desk, self.office, self.chats = desk, office, Chats()

    def deliverer(self, pace: Pace = QUICK, **more: object) -> Deliverer:
        return Deliverer(self.office, self.chats, text_of, pace=pace, **more)  # type: ignore[arg-type]

    async def job(self, thread: str | None = "t", mode: str = "notify", *, tenant: str | None = None) -> str:
        """A job that a thread asked for, and that has not ended."""
        labels = {"thread": thread, "notice": mode, "tenant": tenant}
        asked = {
            "task_id": new_task_id(),
            "from": "chat",
            "to": "implementation-worker",
            "type": "implementation",
            "reply_to": "results.chat",
            "instructions": "Do it.",
            "labels": {key: value for key, value in labels.items() if value},
        }
        return (await self.office.submit(Envelope.model_validate(asked))).envelope.task_id

    async def ended(self, thread: str | None = "t", mode: str = "notify", *, tenant: str | None = None) -> str:
        """A job that has ended."""
        task_id = await self.job(thread, mode, tenant=tenant)
        self.desk.finish(task_id)
        return task_id

    async def end(self, task_id: str) -> None:
        """End a job as a worker does: settled, and told to the log."""

        def act() -> None:
            manifest = self.desk.finish(task_id, settled=False)
            self.desk.with_engine(lambda engine: settle(self.desk.records, engine, manifest))

        await asyncio.to_thread(act)

    def unread(self) -> list[str]:
        return sorted(m.task_id for m in self.desk.app().coordinator.inbox("chat"))


@asynccontextmanager
async def running(deliverer: Deliverer) -> AsyncIterator[asyncio.Event]:
    """A deliverer that runs until the block ends, or the event is set in it."""
    stop = asyncio.Event()
    task = asyncio.create_task(deliverer.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE)


async def until(look: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, what or look
        await asyncio.sleep(0.01)


@pytest.fixture
def house(desk: Desk) -> Iterator[House]:
    with Office(desk.app().settings) as office:
        yield House(desk, office)


@pytest.fixture
def any_house(any_desk: Desk) -> Iterator[House]:
    with Office(any_desk.app().settings) as office:
        yield House(any_desk, office)


async def confirmed(house: House) -> None:
    await until(lambda: not house.unread(), "nothing to be unread")


# ---------------------------------------------------------------------- one pass


async def test_a_pass_tells_each_thread_of_its_own_jobs_and_the_next_one_acknowledges(any_house: House) -> None:
    house = any_house
    first, second = await house.ended("a"), await house.ended("b", tenant="acme")
    await house.ended(None)
    deliverer = house.deliverer(replace(QUICK, confirm=0.5))
    outcome = await deliverer.sweep()
    assert sorted(outcome.appended) == sorted((first, second))
    assert (outcome.acknowledged, outcome.waits, outcome.failed, outcome.gone) == ((), {}, {}, ())
    assert outcome.again is not None
    assert 0 < outcome.again <= 0.5
    acknowledged = list[str]()
    while outcome.again is not None:
        await asyncio.sleep(outcome.again)
        outcome = await deliverer.sweep()
        assert not outcome.appended
        acknowledged += outcome.acknowledged
    assert sorted(acknowledged) == sorted((first, second))
    assert len(house.unread()) == 1, "what no thread asked for is left to others"
    assert house.chats.told("a") == [first]
    assert house.chats.texts[first] == f"{first} completed"


async def test_a_thread_that_waits_fails_or_is_gone_is_said(house: House) -> None:
    for name in ("busy", "bad", "gone"):
        await house.ended(name, "wake")
    house.chats.states = {"busy": "interrupted", "gone": "gone"}
    house.chats.failures = {"bad": 1}
    outcome = await house.deliverer().sweep()
    assert outcome.waits == {Thread("busy"): "it is interrupted for a human"}
    assert outcome.failed == {Thread("bad"): "its code failed (Mend it.)"}
    assert outcome.gone == (Thread("gone"),)
    assert len(house.unread()) == 3


async def test_a_label_that_says_nothing_known_means_to_notify(house: House) -> None:
    task_id = await house.ended("t", "shout")
    await house.deliverer().sweep()
    assert house.chats.words["t"] == ["person", f"job {task_id}", "rest"]


async def test_many_threads_are_told_at_once_but_not_all(house: House) -> None:
    for number in range(10):
        await house.ended(f"thread-{number}")
    house.chats.may_append = asyncio.Event()
    sweeping = asyncio.create_task(house.deliverer(replace(QUICK, at_once=3)).sweep())
    await until(lambda: house.chats.at_once == 3)
    house.chats.may_append.set()
    assert len((await sweeping).appended) == 10
    assert house.chats.most_at_once == 3


# ---------------------------------------------------------------------- for as long as the process runs


async def test_a_notice_comes_as_soon_as_the_log_tells_of_the_end(any_house: House) -> None:
    house = any_house
    tasks = [await house.job("t") for _ in range(3)]
    async with running(house.deliverer(SELDOM)) as stop:
        await asyncio.sleep(1.0)  # nothing tells when the log is being followed
        for task_id in tasks:
            began = time.monotonic()
            await house.end(task_id)
            await until(lambda task_id=task_id: task_id in house.chats.told("t"), "the notice")
            assert time.monotonic() - began < 10, "long before the next look"
        await confirmed(house)
        stop.set()
    assert house.chats.told("t") == tasks


async def test_a_job_that_ends_while_its_thread_is_looked_at_is_told_at_once(house: House) -> None:
    first, missing = await house.ended("t"), house.chats.missing
    later = list[str]()

    async def slow(thread: Thread, task_ids: Sequence[str]) -> list[str]:
        if not later:
            later.append(await house.job("t"))
            await house.end(later[0])
            await until(lambda: later[0] in deliverer._chats[Thread("t")].jobs)
        return await missing(thread, task_ids)

    house.chats.missing = slow  # type: ignore[method-assign]
    deliverer = house.deliverer(replace(SELDOM, confirm=60.0))
    async with running(deliverer):
        await until(lambda: later and house.chats.told("t") == [first, *later], "long before the next look")


async def test_a_notice_comes_without_the_log_too(house: House) -> None:
    async with running(house.deliverer()):
        task_id = await house.ended("t")
        await until(lambda: house.chats.told("t") == [task_id])
        await confirmed(house)


async def test_a_slow_run_holds_up_nobody_else_and_the_next_notice_of_its_thread_comes_after_it(house: House) -> None:
    slow = await house.ended("slow", "wake")
    house.chats.let_run["slow"] = asyncio.Event()
    async with running(house.deliverer(replace(QUICK, at_once=1))):
        await until(lambda: house.chats.words["slow"][-1] == "half")
        later, other = await house.ended("slow"), await house.ended("other", "wake")
        await until(lambda: house.chats.words["other"][-1] == "ran")
        assert house.chats.told("slow") == [slow]
        assert house.unread() == sorted({slow, later} | ({other} & set(house.unread())))
        house.chats.let_run["slow"].set()
        await confirmed(house)
    assert house.chats.words["slow"] == ["person", f"job {slow}", "half", "ran", f"job {later}", "rest"]


async def test_no_more_threads_run_at_once_than_may(house: House) -> None:
    for name in ("a", "b"):
        await house.ended(name, "wake")
        house.chats.let_run[name] = asyncio.Event()
    async with running(house.deliverer(replace(QUICK, runs=1))):
        await until(lambda: len([1 for name in "ab" if house.chats.words[name][-1] == "half"]) == 1)
        first = next(name for name in "ab" if house.chats.words[name][-1] == "half")
        other = "b" if first == "a" else "a"
        await until(lambda: house.chats.told(other), "the other one is told, and runs later")
        assert house.chats.words[other][-1] != "half"
        for name in "ab":
            house.chats.let_run[name].set()
        await confirmed(house)
    assert house.chats.words[other][-2:] == ["half", "ran"]


async def test_a_run_that_fails_is_tried_again_and_said_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.ended("t", "wake")
    house.chats.failures["t"] = 3
    with caplog.at_level(logging.INFO, "agentq"):
        async with running(house.deliverer()):
            await confirmed(house)
    assert house.chats.words["t"].count("half") == 4
    said = [record.getMessage() for record in caplog.records]
    assert (
        said.count('thread "t" cannot be told or run, trying again ever more seldom: its code failed (Mend it.)') == 1
    )
    assert 'thread "t" is well again' in said


async def test_a_thread_that_is_gone_is_said_once_and_told_when_it_is_back(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await house.ended("t")
    house.chats.states["t"] = "gone"
    looks = list[str]()
    look = house.chats.look

    async def counted(thread: Thread) -> View:
        looks.append(thread.id)
        return await look(thread)

    house.chats.look = counted  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "agentq"):
        async with running(house.deliverer()):
            await until(lambda: len(looks) > 3)
            assert house.unread() == [task_id]
            del house.chats.states["t"]
            await confirmed(house)
    gone = [record.getMessage() for record in caplog.records if "gone" in record.getMessage()]
    assert gone == [
        f'thread "t" is gone, nothing is lost: {task_id} stays unread; see: agentq inbox --for chat',
    ]


async def test_a_store_that_is_away_is_said_once_and_waited_for(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, away = await house.ended("t"), house.desk.shared.with_name("away")
    with caplog.at_level(logging.INFO, "agentq"):
        house.office.app.store.get("tasks/none.json")  # it was there once
        house.desk.shared.rename(away)
        async with running(house.deliverer()):
            await until(lambda: "the store is unavailable" in caplog.text)
            await asyncio.sleep(0.3)  # several looks
            away.rename(house.desk.shared)
            await confirmed(house)
    assert house.chats.told("t") == [task_id]
    assert caplog.text.count("the store is unavailable, trying again") == 1
    assert "the store is back" in caplog.text


async def test_an_engine_that_is_away_is_said_once_and_the_inbox_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path, {"AGENTQ_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/"})
    with Office(desk.app().settings) as office, caplog.at_level(logging.INFO, "agentq"):
        house = House(desk, office)
        async with running(house.deliverer()):
            await until(lambda: "the engine is unavailable" in caplog.text)
            for _ in range(2):
                task_id = new_task_id()
                asked = {"task_id": task_id, "to": "worker", "type": "work", "instructions": "Do it."}
                reply = {"from": "chat", "reply_to": "results.chat", "labels": {"thread": "t"}}
                desk.app().coordinator.register(Envelope.model_validate(asked | reply))
                desk.finish(task_id)
                await until(lambda task_id=task_id: task_id in house.chats.told("t"))
            await confirmed(house)
    assert caplog.text.count("the engine is unavailable") == 1


async def test_a_store_that_is_away_is_told_to_whoever_asks_for_one_pass(house: House) -> None:
    house.office.app.store.get("tasks/none.json")
    house.desk.shared.rename(house.desk.shared.with_name("away"))
    with pytest.raises(StoreUnavailable):
        await house.deliverer().sweep()


async def test_an_error_of_the_threads_own_code_ends_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.ended("bad")
    missing = house.chats.missing

    async def broken(thread: Thread, task_ids: Sequence[str]) -> list[str]:
        if thread.id == "bad":
            raise ZeroDivisionError
        return await missing(thread, task_ids)

    house.chats.missing = broken  # type: ignore[method-assign]
    async with running(house.deliverer()):
        task_id = await house.ended("good")
        await until(lambda: house.chats.told("good") == [task_id])
        house.chats.missing = missing  # type: ignore[method-assign]
        await confirmed(house)
    assert 'the notices of thread "bad" cannot be brought' in caplog.text


# ---------------------------------------------------------------------- several, and the end


async def test_any_number_of_bridges_bring_each_notice_once(house: House) -> None:
    tasks = {name: [await house.ended(name, "notify+wake") for _ in range(3)] for name in "abcd"}
    bridges = [house.deliverer(turns=Turns(house.desk.store)) for _ in range(3)]
    async with running(bridges[0]), running(bridges[1]), running(bridges[2]):
        await confirmed(house)
    for name, jobs in tasks.items():
        assert sorted(house.chats.told(name)) == sorted(jobs)
        assert house.chats.words[name][-1] == "ran"
    assert not list(house.desk.store.keys("turns/"))


async def test_a_server_that_holds_the_turn_is_waited_for(house: House) -> None:
    await house.ended("t")
    deliverer = house.deliverer()
    async with running(deliverer):
        async with deliverer.turn(Thread("t"), patience=5):
            await house.ended("t")
            await asyncio.sleep(0.3)  # several looks
            before = house.chats.told("t")
        await confirmed(house)
    assert len(house.chats.told("t")) == 2
    assert len(before) < 2


async def test_the_turns_of_two_threads_are_two() -> None:
    keys = {turn_key(Thread("a")), turn_key(Thread("a", "x")), turn_key(Thread('a" of "x'))}
    assert len(keys) == 3


async def test_a_run_that_has_begun_may_end_before_the_bridge_does(house: House) -> None:
    await house.ended("t", "wake")
    house.chats.let_run["t"] = asyncio.Event()
    async with running(house.deliverer(replace(QUICK, drain=PATIENCE))) as stop:
        await until(lambda: house.chats.words["t"][-1] == "half")
        stop.set()
        asyncio.get_running_loop().call_later(0.2, house.chats.let_run["t"].set)
    assert house.chats.words["t"][-1] == "ran"


async def test_a_run_that_takes_too_long_is_cancelled_and_gone_on_with(house: House) -> None:
    task_id = await house.ended("t", "wake")
    house.chats.let_run["t"] = asyncio.Event()
    async with running(house.deliverer(replace(QUICK, drain=0.05))) as stop:
        await until(lambda: house.chats.words["t"][-1] == "half")
        with pytest.raises(TurnTaken):
            await house.deliverer().turn(Thread("t"), patience=0).__aenter__()
        stop.set()
    assert house.unread() == [task_id]
    assert not list(house.desk.store.keys("turns/"))
    house.chats.let_run["t"].set()
    async with running(house.deliverer()):
        await confirmed(house)
    assert house.chats.words["t"] == ["person", f"job {task_id}", "half", "half", "ran"]


async def test_what_is_still_to_be_run_is_left_to_the_next_bridge(house: House) -> None:
    task_id = await house.ended("t", "wake")
    deliverer = house.deliverer()
    deliverer._is_draining = True
    assert (await deliverer.sweep()).waits == {Thread("t"): "as many threads run as may"}
    assert house.chats.words["t"] == ["person", f"job {task_id}"]
    async with running(house.deliverer()):
        await confirmed(house)
    assert house.chats.words["t"][-1] == "ran"
