"""Two gateways over one engine, and clients that wander between them: for tests and benchmarks."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from agentq.events import Event
from tests import tales
from tests.desk import Desk
from tests.gateway.ears import PATIENCE, Wanderer
from tests.gateway.serving import Started, started

BATCH = 50
CLIENTS = 4
LONG = 200.0
TASKS = 40


def story(count: int) -> list[Event]:
    """That many events of some tasks, every other one of the agent `w`."""
    begun = [tales.submitted(f"t{n}", agent=("w", "x")[n % 2]) for n in range(min(count, TASKS))]
    steps = range(len(begun), count)
    return begun + [tales.event(f"t{n % TASKS}", "progress", n, str(n), data={"text": f"step {n}"}) for n in steps]


async def append(desk: Desk, events: Sequence[Event], *, repeats: bool) -> None:
    """Tell the log all of them, many of them again and again, as who is unsure does."""
    dice = random.Random(1)
    async with desk.app().engine() as engine:
        for start in range(0, len(events), BATCH):
            again = dice.sample(events[: start + 1], min(start, 10)) if repeats else []
            await engine.append([*events[start : start + BATCH], *again])


class Pair:
    """Two gateways over one desk's engine; either may be killed and begun again."""

    def __init__(self, desk: Desk, stack: ExitStack) -> None:
        self._desk, self._stack = desk, stack
        self.gateways = [self._new(), self._new()]

    def _new(self) -> Started:
        return self._stack.enter_context(started(self._desk))

    def kill(self, number: int) -> None:
        """Kill one: from now on nobody is there."""
        self.gateways[number].process.kill()
        self.gateways[number].process.wait(PATIENCE)

    def begin_again(self, number: int) -> None:
        """Begin another in its place, with what it kept."""
        self.gateways[number] = self._new()

    async def wander(self, client: Wanderer, last: str, dice: random.Random) -> None:
        """Have a client hear all up to an event, at one gateway and the other, for as long as it likes each."""
        async with asyncio.timeout(LONG):
            is_done = False
            while not is_done:  # where nobody is there it is refused at once
                is_done = await client.visit(dice.choice(self.gateways).ws, dice.choice((1, 10, 300, 2000)), last)


@dataclass(frozen=True)
class Wandered:
    """What a client heard, and what it was to hear."""

    heard: list[str]
    expected: list[str]
    gaps: int

    @property
    def repeated(self) -> int:
        """How often it heard what it had heard."""
        return len(self.heard) - len(set(self.heard))

    @property
    def missed(self) -> int:
        """How many it did not hear."""
        return len(set(self.expected) - set(self.heard))


async def wander(desk: Desk, count: int) -> list[Wandered]:
    """Have clients reconnect at random while so many events happen, and one gateway is killed and begun again."""
    events = story(count)
    ids = {"/events": [event.id for event in events]}
    ids["/agents/w/tasks"] = ids["/events"][0:TASKS:2] + ids["/events"][TASKS::2]
    with ExitStack() as stack:
        two = await asyncio.to_thread(Pair, desk, stack)
        clients = [Wanderer("/events") for _ in range(CLIENTS)] + [Wanderer("/agents/w/tasks")]
        wandering = [
            asyncio.create_task(two.wander(client, ids[client.topic][-1], random.Random(n)))
            for n, client in enumerate(clients)
        ]
        half, quarter = count // 2, count // 4
        await append(desk, events[:half], repeats=True)
        two.kill(0)
        await append(desk, events[half : half + quarter], repeats=True)
        await asyncio.to_thread(two.begin_again, 0)
        await append(desk, events[half + quarter :], repeats=True)
        await asyncio.gather(*wandering)
    return [Wandered(client.heard, ids[client.topic], client.gaps) for client in clients]
