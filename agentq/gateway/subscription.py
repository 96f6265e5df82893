"""One subscriber to one topic: at the tip, where it is told what comes, or behind, where it reads at its own pace."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, Self, TypeVar

from agentq.engine import Log
from agentq.errors import Unavailable
from agentq.gateway.chronicle import Chronicle, Forgotten
from agentq.gateway.entries import Entry
from agentq.gateway.frames import Frame
from agentq.gateway.tail import Mark, Tail
from agentq.gateway.topics import LOGS, START, Cursor, Topic, id_in

T = TypeVar("T")

AHEAD = 256
"""How many frames wait for a subscriber at the tip; who has more to take is behind."""
AT_ONCE = 100
"""How many frames are handed over, or read, in one go."""
ARRIVE_SECONDS = 1.0
"""How long after all was read an event is waited for before it is looked for in the log."""
GAP = "what stood between your cursor and now is not kept here any more: read anew what you need to know"

Marks = dict[Log, Mark]


class Source(Protocol):
    """Where subscriptions read."""

    tails: dict[Log, Tail]

    @property
    def chronicle(self) -> Chronicle: ...

    def read(self, act: Callable[..., T], *given: object) -> Awaitable[T]:
        """What an act on the chronicle answers, in a thread."""
        ...

    async def is_to_come(self, log: Log, event_id: str) -> bool:
        """Whether the log holds an event that was not told yet, as far as the engine can tell just now."""
        ...

    def enter(self, subscription: "Subscription") -> None:
        """Tell it what comes from now on."""

    def leave(self, subscription: "Subscription") -> None:
        """Tell it no more, for now."""

    def forget(self, subscription: "Subscription") -> None:
        """It was closed."""


class Subscription:
    """What one subscriber is told of a topic, in frames; `signal` is set whenever there may be some to take."""

    def __init__(self, source: Source, topic: Topic, since: Cursor, signal: asyncio.Event) -> None:
        self.topic, self.name = topic, str(topic)
        self._source, self._signal = source, signal
        self._ready: deque[Frame] = deque()
        self._behind: Marks | None = None
        self._has_caught_up = self._is_closed = False
        self._end: Unavailable | None = None
        self._beginning: asyncio.Task[None] | None = None
        if since == Cursor() and all(tail.begun.is_set() for tail in self._tails.values()):
            self._begin(self._now())
        else:
            self._beginning = asyncio.create_task(self._find(since))

    @property
    def _tails(self) -> dict[Log, Tail]:
        return {log: self._source.tails[log] for log in self.topic.logs}

    @property
    def has_begun(self) -> bool:
        """Whether it is known where it begins."""
        return self._beginning is None

    def _now(self) -> Marks:
        return {log: tail.mark for log, tail in self._tails.items()}

    # ------------------------------------------------------------------ where it begins

    async def _find(self, since: Cursor) -> None:
        """Find out where it begins, and begin there; unknown events are waited for a while, and then are a gap."""
        try:
            found = {log: await self._mark(log, since.of(log)) for log in self.topic.logs}
        except Unavailable as error:
            return self.end(error)
        known = {log: mark for log, mark in found.items() if mark}
        if len(known) < len(found):
            self._tell(Frame("gap", self.name, detail=GAP))
        self._begin(
            {log: mark or tail.mark for (log, mark), tail in zip(found.items(), self._tails.values(), strict=True)}
        )

    async def _mark(self, log: Log, part: str) -> Mark | None:
        tail = self._source.tails[log]
        if part == "":
            await tail.begun.wait()
            return tail.mark
        if part == START:
            return Mark(await self._source.read(Chronicle.floor, log))
        with tail.expecting(id_in(part)) as coming:
            place = await self._source.read(Chronicle.place_of, log, id_in(part))
            if place is not None and place <= tail.mark.place:
                return Mark(place, id_in(part))
            while not await tail.come(coming, ARRIVE_SECONDS):
                if not await self._source.is_to_come(log, id_in(part)):
                    return None
            return coming.result()

    def _begin(self, marks: Marks) -> None:
        self._beginning = None
        self._tell(Frame("subscribed", self.name, self._cursor(marks)))
        self._behind = marks
        self._go_on()

    def _go_on(self) -> None:
        """Be at the tip once nothing is left to read."""
        if self._behind == self._now() and not self._is_closed:
            self._behind = None
            self._source.enter(self)
            self.look_up()

    def look_up(self) -> None:
        """Tell once that all is told that had happened, if it is so."""
        is_at_tip = self.has_begun and self._behind is None
        if is_at_tip and not self._has_caught_up and all(tail.caught_up.is_set() for tail in self._tails.values()):
            self._has_caught_up = True
            self._tell(Frame("caught_up", self.name, self._cursor(self._now())))

    # ------------------------------------------------------------------ being told

    def _cursor(self, marks: Marks) -> str:
        return Cursor.at(self.topic, *(marks.get(log, Mark()).id for log in LOGS))

    def _tell(self, frame: Frame) -> None:
        self._ready.append(frame)
        self._signal.set()

    def push(self, frame: Frame) -> None:
        """Tell it what just came; too much of it, and it is behind."""
        if len(self._ready) >= AHEAD:
            self._fall_behind()
        else:
            self._tell(frame)

    def _fall_behind(self) -> None:
        self._behind, self._has_caught_up = self._now(), False
        self._source.leave(self)

    def tell_gap(self) -> None:
        """Tell it that something is missing before what comes next."""
        self._tell(Frame("gap", self.name, detail=GAP))

    def end(self, why: Unavailable) -> None:
        """Let the next look at it raise that."""
        self._end = why
        self._signal.set()

    # ------------------------------------------------------------------ taking

    async def take(self) -> list[Frame]:
        """What there is to tell now, a handful at the most; raises Unavailable when it has ended: resume elsewhere."""
        if self._end:
            raise self._end
        if not self._ready and self._behind is not None:
            await self._read(self._behind)
        return [self._ready.popleft() for _ in range(min(AT_ONCE, len(self._ready)))]

    async def _read(self, marks: Marks) -> None:
        """Read on, a piece of each log."""
        try:
            for log, tip in self._now().items():
                await self._read_log(log, marks, tip)
        except Forgotten:
            self.tell_gap()
            self._behind = self._now()
        self._go_on()
        if self._behind is not None:
            self._signal.set()

    async def _read_log(self, log: Log, marks: Marks, tip: Mark) -> None:
        if marks[log].place >= tip.place:
            marks[log] = tip
            return
        given = (self.topic, log, marks[log].place, AT_ONCE, tip.place)
        entries: list[Entry] = await self._source.read(Chronicle.after, *given)
        for entry in entries:
            marks[log] = Mark(entry.place, entry.id)
            self._tell(Frame("event", self.name, self._cursor(marks), entry))
        if len(entries) < AT_ONCE:
            marks[log] = tip

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self._frames()

    async def _frames(self) -> AsyncIterator[Frame]:
        while True:
            self._signal.clear()
            frames = await self.take()
            for frame in frames:
                yield frame
            if not frames:
                await self._signal.wait()

    def close(self) -> None:
        """Be told nothing more."""
        self._is_closed = True
        if self._beginning:
            self._beginning.cancel()
        self._source.forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
