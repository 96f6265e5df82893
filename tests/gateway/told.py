"""Logs in memory that a hub follows, and clients that come and go: for tests of what subscribers are told."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from agentq.engine import Engine, Log, Page
from agentq.engines.log import Retention, log_of
from agentq.errors import EngineUnavailable
from agentq.events import Event
from agentq.gateway.chronicle import Chronicle
from agentq.gateway.entries import Owner, OwnerOf, asked
from agentq.gateway.frames import Frame
from agentq.gateway.hub import Hub
from agentq.gateway.subscription import Subscription
from agentq.gateway.topics import LOGS, Topic, topics_of
from tests import tales

PATIENCE = 20.0


def output(task_id: str, number: int, kind: str = "output", **data: Any) -> Event:
    """A piece of what an agent prints or answers."""
    return tales.event(task_id, kind, number, f"1/{number}", attempt=1, data={"text": f"{number}", **data})


class Broker:
    """Two logs in memory, which may be away, or hang, and whose beginning may be cut off."""

    url = "memory://broker"

    def __init__(self, *, page: int = 50) -> None:
        self.page = page
        self.logs: dict[Log, list[Event]] = {"events": [], "output": []}
        self.cut: dict[Log, int] = {"events": 0, "output": 0}
        self.away = False
        self.answering = asyncio.Event()
        self.answering.set()
        self._changed = asyncio.Condition()

    async def append(self, *events: Event) -> None:
        """Add events."""
        for event in events:
            self.logs[log_of(event)].append(event)
        await self.change()

    async def change(self, *, away: bool | None = None) -> None:
        """Let readers notice that something changed."""
        self.away = self.away if away is None else away
        async with self._changed:
            self._changed.notify_all()

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """What a hub opens: it does nothing but read."""
        yield cast(Engine, self)

    async def read(
        self,
        log: Log = "events",
        *,
        after: str | None = None,
        since: datetime | None = None,
        tasks: Collection[str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """As an engine reads."""
        events, place = self.logs[log], int(after) if after else self.cut[log]
        end, caught_up = len(events), False
        while True:
            if self.away:
                raise EngineUnavailable("it is away")
            gap, place = place < self.cut[log], max(place, self.cut[log])
            found = events[place : place + self.page]
            place += len(found)
            if found or gap or (place >= end and not caught_up):
                caught_up = caught_up or place >= end
                yield Page(tuple(found), str(place), caught_up, gap)
                continue
            if not follow:
                return
            async with self._changed:
                await self._changed.wait()

    async def count_dead_letters(self) -> int:
        """What is asked to see whether it answers."""
        await self.answering.wait()
        return 0

    def owner_of(self, task_id: str) -> Owner | None:
        """Whose a task is, as its papers say, which are there before any event of it."""
        return next((asked(e) for e in self.logs["events"] if (e.task_id, e.kind) == (task_id, "submitted")), None)

    def first_told(self, topic: Topic, log: Log) -> list[str]:
        """The ids of a topic's events in the order of a log, each where it first stood."""
        owners = {e.task_id: e for e in self.logs["events"] if e.kind == "submitted"}
        ids: dict[str, None] = {}
        for event in self.logs[log][self.cut[log] :]:
            told = owners.get(event.task_id)
            thread = told.data.get("labels", {}).get("thread") if told else event.data.get("thread")
            agent = told.agent if told else event.agent
            if topic in topics_of(log, event.kind, event.task_id, agent, thread) and event.kind != "worker_heartbeat":
                ids[event.id] = None
        return list(ids)


@asynccontextmanager
async def hub_of(
    broker: Broker, path: Path, keep: Retention = Retention(), owner_of: OwnerOf = lambda _: None
) -> AsyncIterator[Hub]:
    """A hub that follows a broker's logs, with its chronicle there."""
    hub = Hub(lambda: Chronicle(path, keep, owner_of), broker.engine)
    async with hub.running():
        yield hub


class Client:
    """Subscribes to one topic at one gateway after another, behind the last that it was told."""

    def __init__(self, topic: str, since: str = "start") -> None:
        self.topic, self.since = Topic.parse(topic), since
        self.told: dict[Log, list[str]] = {log: [] for log in LOGS}
        self.gaps = 0
        self._here: Subscription | None = None
        self._signal = asyncio.Event()
        self._taken: deque[Frame] = deque()

    def go_to(self, hub: Hub | None) -> None:
        """Leave where it is, and go there; what was handed over and not looked at is lost on the way."""
        if self._here:
            self._here.close()
        self._taken.clear()
        self._here = hub.subscribe(str(self.topic), self.since, self._signal) if hub else None

    async def listen(self, frames: int, *, patience: float = PATIENCE) -> bool:
        """Take so many frames, or as many as come until it has caught up, which is answered."""
        async with asyncio.timeout(patience):
            while frames > 0:
                frame = await self._next()
                frames -= 1
                self.gaps += frame.op == "gap"
                self.since = frame.cursor or self.since
                if frame.entry:
                    self.told[frame.entry.log].append(frame.entry.id)
                if frame.op == "caught_up":
                    return True
        return False

    async def _next(self) -> Frame:
        assert self._here
        while not self._taken:
            self._signal.clear()
            self._taken.extend(await self._here.take())
            if not self._taken:
                await self._signal.wait()
        return self._taken.popleft()

    async def take_all(self, awaited: Iterable[str], log: Log = "events", *, patience: float = PATIENCE) -> None:
        """Listen until all of these were told."""
        missing = set(awaited) - set(self.told[log])
        async with asyncio.timeout(patience):
            while missing:
                await self.listen(1, patience=patience)
                missing -= set(self.told[log][-1:])
