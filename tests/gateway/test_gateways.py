"""Gateways side by side, as processes: clients that come and go, one that is killed, a broker that stops."""

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.brokers.node import Node
from tests.desk import Desk, on
from tests.gateway.ears import PATIENCE, Wanderer, ear
from tests.gateway.pairs import Pair, append, story, wander
from tests.gateway.serving import started

EVENTS = 3_000
"""`make bench` does the same with 10,000."""


@pytest.mark.promise("push-no-gap")
@pytest.mark.timeout(300)
async def test_nothing_is_missed_or_repeated_between_gateways(any_desk: Desk) -> None:
    """Over two gateways, one of which is killed in the middle and begun again, with clients that reconnect at random:
    each hears every event of its topic exactly once, in the order of the log."""
    for client in await wander(any_desk, EVENTS):
        assert (client.repeated, client.missed, client.gaps) == (0, 0, 0)
        assert client.heard == client.expected


async def test_a_broker_that_stops_is_told_and_caught_up_with(
    tmp_path: Path, broker_of_my_own: Callable[[], Node]
) -> None:
    """Clients hear that the engine is away, stay connected, and hear what happened meanwhile once it is back."""
    node = await asyncio.to_thread(broker_of_my_own)
    desk = Desk(tmp_path, on(node))
    await asyncio.to_thread(_init, desk)
    events = story(100)
    with ExitStack() as stack:
        gateway = await asyncio.to_thread(lambda: stack.enter_context(started(desk)))
        async with ear(gateway.ws) as one:
            await one.subscribe("/events")
            await append(desk, events[:50], repeats=False)
            heard = [(await one.hear("event"))["event"]["id"] for _ in range(50)]
            await asyncio.to_thread(node.stop)
            assert (await one.hear("state"))["engine"] == "away"
            await asyncio.to_thread(node.start)
            await append(desk, events[50:], repeats=False)
            state = None
            while len(heard) < 100:
                frame = await one.hear()
                if frame["op"] == "event":
                    heard.append(frame["event"]["id"])
                state = frame["engine"] if frame["op"] == "state" else state
            state = state if state == "ok" else (await one.hear("state"))["engine"]
    assert heard == [event.id for event in events]
    assert state == "ok"


def _init(desk: Desk) -> None:
    process = desk.start("init")
    assert process.wait(PATIENCE) == 0
    for stream in (process.stdout, process.stderr):
        assert stream
        stream.close()


@pytest.mark.promise("push-no-gap")
async def test_a_gateway_killed_under_fifty_clients_is_come_back_to(desk: Desk) -> None:
    """It is killed under 50 connected clients; begun again at the same place, each goes on behind what it heard."""
    events = story(600)
    with ExitStack() as stack:
        two = await asyncio.to_thread(Pair, desk, stack)
        clients = [Wanderer("/events") for _ in range(50)]
        wandering = [
            asyncio.create_task(two.wander(client, events[-1].id, random.Random(number)))
            for number, client in enumerate(clients)
        ]
        await append(desk, events[:300], repeats=False)
        for number in (0, 1):
            two.kill(number)
            await append(desk, events[300 + 100 * number : 400 + 100 * number], repeats=False)
            await asyncio.to_thread(two.begin_again, number)
        await append(desk, events[500:], repeats=False)
        await asyncio.gather(*wandering)
    for client in clients:
        assert client.heard == [event.id for event in events]
        assert client.gaps == 0
