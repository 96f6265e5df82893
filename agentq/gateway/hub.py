"""What brings both logs into the chronicle, and tells subscribers as it does."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentq.engine import Engine, Log, Page
from agentq.engines.log import Retention
from agentq.errors import AgentqError, Unavailable
from agentq.gateway.chronicle import Chronicle
from agentq.gateway.entries import Entry, Owner
from agentq.gateway.frames import Frame
from agentq.gateway.subscription import Subscription
from agentq.gateway.tail import Mark, Tail
from agentq.gateway.topics import LOGS, Cursor, Topic
from agentq.observing.follower import follow
from agentq.patience import cancelled
from agentq.sqlite_errors import Damaged

if TYPE_CHECKING:
    from agentq.app import App

T = TypeVar("T")
LOG = logging.getLogger("agentq")

PAUSE = 1.0
"""Seconds between two tries to write a chronicle that cannot be written to."""
EYES = 2
"""How many threads read the chronicle for those who are behind."""
LOOK_SECONDS, SILENT_SECONDS = 5.0, 5.0
"""How often the engine is asked whether it is there, and how soon it has to answer."""
AT_ONCE = 20
"""How many entries are told before others get a turn."""


class Hub:
    """Both logs of one engine as they come, for any number of subscribers, none of whom is waited for.

    While it runs, `chronicle` is what it keeps, `caught_up` whether all is read that the logs had, and `trouble` says
    what keeps it from reading or writing.
    """

    def __init__(
        self, open_chronicle: Callable[[], Chronicle], engine: Callable[[], AbstractAsyncContextManager[Engine]]
    ) -> None:
        self.tails: dict[Log, Tail] = {log: Tail() for log in LOGS}
        self._open_chronicle, self._engine = open_chronicle, engine
        self._chronicle: Chronicle | None = None
        self._troubles: dict[str, str] = {}
        self._at_tip: dict[Topic, set[Subscription]] = {}
        self._all: set[Subscription] = set()
        self._listeners: set[asyncio.Event] = set()
        self._damage = asyncio.Event()
        self._reader: Engine | None = None
        self._unread: dict[Log, asyncio.Task[set[str]]] = {}
        self._reading_ahead = asyncio.Lock()
        self._hand = ThreadPoolExecutor(1, "agentq-chronicle")
        self._eyes = ThreadPoolExecutor(EYES, "agentq-reading")

    @classmethod
    def of(cls, app: "App") -> Self:
        """The hub of an App that nobody else uses."""
        settings = app.settings
        keep = Retention(**settings.log.model_dump())
        owner_of = functools.partial(_owner_of, app)
        folder = settings.data / "chronicles"
        return cls(lambda: Chronicle.on(folder, app.log_name, keep, owner_of), app.engine)

    @property
    def chronicle(self) -> Chronicle:
        """What it keeps; its methods block."""
        if self._chronicle is None:
            raise Unavailable("the gateway follows no log just now", hint="Try again in a moment.")
        return self._chronicle

    @property
    def caught_up(self) -> bool:
        """Whether all is read that was in the logs when the reading began; not while the engine is away."""
        return all(tail.caught_up.is_set() for tail in self.tails.values())

    @property
    def trouble(self) -> str | None:
        """What is wrong just now, None when nothing is."""
        return next(iter(self._troubles.values()), None)

    # ------------------------------------------------------------------ running

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the logs meanwhile; raises Unavailable when there is nowhere to keep a chronicle."""
        self._loop = asyncio.get_running_loop()
        self._chronicle = await self._by_hand(self._open_chronicle)
        await self._find_tails()
        following = asyncio.create_task(self._follow_for_ever())
        try:
            yield
        finally:
            await cancelled(following, *self._unread.values())
            self._end_all("the gateway ends")
            chronicle, self._chronicle = self._chronicle, None  # from now on nobody begins to read
            for threads in (self._eyes, self._hand):
                await asyncio.to_thread(threads.shutdown)
            chronicle.close()

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self._follow_both()
            except* Damaged as damaged:
                self._tell("chronicle", _first_of(damaged))
                await self._begin_anew(Chronicle.renew)
            except* Exception:
                LOG.exception("the gateway cannot follow the logs, and tries again")
                self._tell("gateway", Unavailable("the gateway cannot follow the logs: see what it logged"))
                await asyncio.sleep(PAUSE)
                await self._begin_anew()

    async def _find_tails(self) -> None:
        """Find where the chronicle ends: what comes is told from there on."""
        for log, tail in self.tails.items():
            last = await self._by_hand(self.chronicle.last, log)
            tail.mark = Mark(last.place, last.id) if last else Mark(await self._by_hand(self.chronicle.floor, log))

    async def _follow_both(self) -> None:
        async with self._engine() as engine, asyncio.TaskGroup() as group:
            self._reader = engine
            for log in LOGS:
                group.create_task(self._follow(engine, log))
            group.create_task(self._notice_damage())
            group.create_task(self._notice_silence(engine))

    async def _follow(self, engine: Engine, log: Log) -> None:
        position = await self._by_hand(self.chronicle.position, log)
        heard = functools.partial(self._heard, log)
        async with aclosing(follow(engine, log, after=position, on_trouble=heard)) as pages:
            async for page in pages:
                await self._bring(log, page)
                self._tell("gateway", None)

    async def _bring(self, log: Log, page: Page) -> None:
        if page.gap:
            LOG.warning("a part of the log of %s was gone before the gateway read it", log)
        entries = await self._take(log, page)
        if page.gap:
            self._tell_gap(log)
        for count, entry in enumerate(entries):
            self._publish(entry)
            if count % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        if self.tails[log].note(page.caught_up):
            for subscription in tuple(self._all):
                subscription.look_up()

    async def _take(self, log: Log, page: Page) -> list[Entry]:
        """Bring a page into the chronicle, however long it takes until that can be written."""
        while True:
            try:
                entries = await self._by_hand(self.chronicle.take, log, page)
            except Damaged:
                raise
            except Unavailable as trouble:
                self._tell("chronicle", trouble)
                await asyncio.sleep(PAUSE)
            else:
                self._tell("chronicle", None)
                return entries

    async def _notice_damage(self) -> None:
        await self._damage.wait()
        raise Damaged("the chronicle is damaged")

    async def _notice_silence(self, engine: Engine) -> None:
        """Tell of an engine that hangs: its connections stand, so that whoever reads the log notices nothing."""
        while True:
            trouble: AgentqError | None = None
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    await engine.count_dead_letters()
            except TimeoutError:
                silent = f"{engine.url} has not answered within {SILENT_SECONDS:g} s"
                trouble = Unavailable(silent, hint="Look at the host that it runs on: agentq doctor")
            except Unavailable as error:
                trouble = error
            except AgentqError as error:
                LOG.debug("whether the engine answers cannot be told: %s", error)
            self._tell("engine", trouble)
            await asyncio.sleep(PAUSE if trouble else LOOK_SECONDS)

    async def _begin_anew(self, mend: Callable[[Chronicle], None] = lambda _: None) -> None:
        """Follow the logs again from where the chronicle ends; whoever subscribed resumes by their cursor."""
        self._reader = None
        self._damage.clear()
        for tail in self.tails.values():
            tail.begun.clear()
            tail.caught_up.clear()
        while True:
            self._end_all("the gateway reads its logs anew")
            try:
                await self._by_hand(mend, self.chronicle)
                await self._find_tails()
            except Unavailable as trouble:
                self._tell("chronicle", trouble)
                await asyncio.sleep(PAUSE)
            else:
                return self._end_all("the gateway reads its logs anew")

    async def is_to_come(self, log: Log, event_id: str) -> bool:
        """Whether the log holds an event that was not told yet; so it is while the engine is away, for all we know."""
        unread = self._unread.get(log)
        if unread is None:
            unread = self._unread[log] = asyncio.create_task(self._read_ahead(log))
        try:
            ahead = await asyncio.shield(unread)
        except Unavailable:
            return True
        return event_id in ahead or await self.read(Chronicle.place_of, log, event_id) is not None

    async def _read_ahead(self, log: Log) -> set[str]:
        """The ids that the log holds behind what was brought in; one reading for all who ask before it begins."""
        async with self._reading_ahead:
            del self._unread[log]
            if self._reader is None:
                raise Unavailable("the gateway follows no log just now")
            position, found = await self.read(Chronicle.position, log), set[str]()
            async with aclosing(self._reader.read(log, after=position)) as pages:
                async for page in pages:
                    found.update(event.id for event in page.events)
            return found

    def _by_hand(self, act: Callable[..., T], *given: Any) -> Awaitable[T]:
        return self._loop.run_in_executor(self._hand, act, *given)

    # ------------------------------------------------------------------ telling

    def _publish(self, entry: Entry) -> None:
        """Tell an entry to those who are at the tip; then the tip is behind it."""
        mark = Mark(entry.place, entry.id)
        ids = {log: tail.mark.id for log, tail in self.tails.items()} | {entry.log: entry.id}
        for topic in entry.topics:
            if here := self._at_tip.get(topic):
                frame = Frame("event", str(topic), Cursor.at(topic, ids["events"], ids["output"]), entry)
                for subscription in tuple(here):
                    subscription.push(frame)
        self.tails[entry.log].advance(mark)

    def _tell_gap(self, log: Log) -> None:
        for subscription in tuple(self._all):
            if log in subscription.topic.logs and subscription.has_begun:
                subscription.tell_gap()

    def _heard(self, log: Log, trouble: AgentqError | None) -> None:
        if trouble:
            self.tails[log].note(False)
        self._tell(log, trouble)

    def _tell(self, what: str, trouble: AgentqError | None) -> None:
        before = self.trouble
        if trouble:
            self._troubles[what] = f"{trouble}. {trouble.hint}" if trouble.hint else str(trouble)
        else:
            self._troubles.pop(what, None)
        if self.trouble != before:
            LOG.warning("gateway: %s", self.trouble or "all is well again")
            for signal in self._listeners:
                signal.set()

    def _end_all(self, why: str) -> None:
        for subscription in tuple(self._all):
            subscription.end(Unavailable(why, hint="Subscribe again with the last id."))

    # ------------------------------------------------------------------ subscribing

    def subscribe(self, topic: str, since: str | None = None, signal: asyncio.Event | None = None) -> Subscription:
        """Subscribe to a topic, to be closed; `signal` is set whenever there may be frames to take. Raises Invalid."""
        subscription = Subscription(self, Topic.parse(topic), Cursor.parse(since), signal or asyncio.Event())
        self._all.add(subscription)
        return subscription

    @contextlib.contextmanager
    def listening(self, signal: asyncio.Event) -> Iterator[None]:
        """Set the signal whenever `trouble` changes."""
        self._listeners.add(signal)
        try:
            yield
        finally:
            self._listeners.discard(signal)

    def cursor(self, topic: str) -> str:
        """The cursor of a topic behind all that was told until now."""
        return Cursor.at(Topic.parse(topic), *(self.tails[log].mark.id for log in LOGS))

    def read(self, act: Callable[..., T], *given: object) -> Awaitable[T]:
        """What an act on the chronicle answers, in a thread; raises Unavailable unless this runs."""
        return self._loop.run_in_executor(self._eyes, self._read, self.chronicle, act, given)

    def forget(self, subscription: Subscription) -> None:
        """It was closed."""
        self.leave(subscription)
        self._all.discard(subscription)

    def _read(self, chronicle: Chronicle, act: Callable[..., T], given: tuple[object, ...]) -> T:
        try:
            return act(chronicle, *given)
        except Damaged:
            self._loop.call_soon_threadsafe(self._damage.set)
            raise

    def enter(self, subscription: Subscription) -> None:
        """Tell a subscription what comes from now on."""
        self._at_tip.setdefault(subscription.topic, set()).add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Tell it no more."""
        here = self._at_tip.get(subscription.topic, set())
        here.discard(subscription)
        if not here:
            self._at_tip.pop(subscription.topic, None)


def _owner_of(app: "App", task_id: str) -> Owner | None:
    """Whose a task is as its papers say; what they say of a damaged one does not count."""
    try:
        envelope = app.records.envelope(task_id)
    except Unavailable:
        raise
    except AgentqError:
        return None
    return Owner(envelope.to, envelope.labels.get("thread")) if envelope else None


def _first_of(group: ExceptionGroup[Damaged]) -> AgentqError:
    first = group.exceptions[0]
    return first if isinstance(first, AgentqError) else _first_of(first)
