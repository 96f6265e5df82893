"""The desk: one engine for calls from any thread and any event loop, and what becomes of them when it is closed."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentq.app import App
from agentq.desk import Desk
from agentq.errors import Unavailable
from agentq.messages import Envelope
from tests import desk as commands

PATIENCE = 10.0


def request(task_id: str) -> Envelope:
    return Envelope.model_validate(
        {"task_id": task_id, "to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
    )


def until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def seated(any_desk: commands.Desk) -> Iterator[Desk]:
    with Desk(any_desk.app().settings) as desk:
        yield desk


@pytest.fixture
def alone(desk: commands.Desk) -> Iterator[Desk]:
    with Desk(desk.app().settings) as seated:
        yield seated


def desks() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agentq-desk"]


def calls(desk: Desk) -> int:
    """How many calls are under way."""
    return len(desk._room.calls) if desk._room else 0


def test_it_is_called_from_any_thread_and_any_loop(any_desk: commands.Desk, seated: Desk) -> None:
    def from_a_thread(number: int) -> str:
        return seated.wait(lambda: seated.submit(request(f"thread-{number}"))).envelope.task_id

    def from_a_loop_of_its_own(number: int) -> str:
        return asyncio.run(seated.submit(request(f"loop-{number}"))).envelope.task_id

    with ThreadPoolExecutor(8) as pool:
        found = {*pool.map(from_a_thread, range(8)), *pool.map(from_a_loop_of_its_own, range(8))}
    assert len(found) == 16
    assert any_desk.waiting() == 16
    assert len(desks()) == 1


async def test_it_is_called_inside_a_running_loop_that_is_blocked(seated: Desk) -> None:
    found = seated.wait(lambda: seated.submit(request("blocked")))
    assert found.new
    again = await seated.submit(request("blocked"))
    assert not again.new


async def test_a_call_releases_what_it_ends_to_the_queue(any_desk: commands.Desk, seated: Desk) -> None:
    await seated.submit(request("first"))
    second = request("second").model_copy(update={"depends_on": ("first",)})
    await seated.submit(second)
    assert await asyncio.to_thread(any_desk.waiting) == 1
    any_desk.finish("first", settled=False)
    await seated.call(lambda app: app.coordinator.acknowledge("coordinator", "first"))
    assert await asyncio.to_thread(any_desk.waiting) == 2


async def test_one_who_is_cancelled_leaves_nothing_running(alone: Desk) -> None:
    looks = []

    def look(app: App) -> Callable[[], int]:
        return lambda: looks.append(1) or len(looks)

    waiting = asyncio.create_task(alone.looking(look, enough=lambda _: False, seconds=600))
    await asyncio.to_thread(until, lambda: looks, "a look")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(until, lambda: calls(alone) == 0, "the end of the call")
    seen = len(looks)
    await asyncio.sleep(0.3)
    assert len(looks) == seen


async def test_calls_under_way_are_broken_off_when_it_is_closed(alone: Desk) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def long() -> None:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.sleep(600)

    waiting = asyncio.create_task(alone.run(long))
    await begun.wait()
    blocked = loop.run_in_executor(None, lambda: alone.wait(lambda: asyncio.sleep(600)))
    await asyncio.to_thread(until, lambda: calls(alone) == 2, "two calls")
    await asyncio.to_thread(alone.close)
    for one in (waiting, blocked):
        with pytest.raises(Unavailable, match="the desk was closed"):
            await asyncio.wait_for(one, PATIENCE)
    assert not desks()
    assert (await alone.submit(request("anew"))).new, "a later call opens it anew"


def test_closing_again_and_again_harms_nothing(alone: Desk) -> None:
    alone.close()
    alone.wait(lambda: alone.submit(request("once")))
    alone.close()
    alone.close()
    assert not desks()


def test_many_open_and_close_it_at_once(alone: Desk) -> None:
    def act(number: int) -> str:
        if number % 5 == 0:
            alone.close()
            return "closed"
        try:
            return alone.wait(lambda: alone.submit(request(f"task-{number}"))).envelope.task_id
        except Unavailable:
            return "broken off"

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(act, range(40), timeout=60))) == 40
    alone.close()
    assert not desks()


def test_its_own_loop_does_not_wait_for_itself(alone: Desk) -> None:
    async def act() -> None:
        alone.wait(lambda: asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="wait for itself"):
        alone.wait(act)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_opens_one_of_its_own(desk: commands.Desk, alone: Desk) -> None:
    alone.wait(lambda: alone.submit(request("before")))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if alone.wait(lambda: alone.submit(request("in-the-child"))).new else 2
            alone.close()
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert alone.wait(lambda: alone.submit(request("after"))).new
    assert {"before", "in-the-child", "after"} <= set(desk.records.registered_ids())
