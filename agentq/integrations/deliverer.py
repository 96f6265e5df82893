"""The notices of all chat threads: each brought as soon as its job ends, for as long as this process runs."""

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from agentq.desk import Desk
from agentq.errors import AgentqError, StoreUnavailable
from agentq.integrations.chat_inbox import ChatInbox
from agentq.integrations.notices import CONFIRM_SECONDS, Bringer, Job, NoRoom, Passed, TextOf, Ways
from agentq.integrations.threads import COORDINATOR, Thread, Threads
from agentq.messages import utc_now
from agentq.patience import cancelled
from agentq.turns import PATIENCE, Hold, Turns

LOG = logging.getLogger("agentq")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are looked at, in seconds, the first time and at most; how many threads are written to at once,
    how many may run beside that, and how long these have to end when the bridge does."""

    poll: tuple[float, float] = (2.0, 5.0)
    waiting: tuple[float, float] = (0.2, 5.0)
    failing: tuple[float, float] = (2.0, 600.0)
    gone: tuple[float, float] = (60.0, 60.0)
    confirm: float = CONFIRM_SECONDS
    at_once: int = 8
    runs: int = 8
    drain: float = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass over an inbox did, by task, and how the threads stand that are not done, with why.

    `again` is in how many seconds there is something to look at, None when nothing is left.
    """

    appended: tuple[str, ...] = ()
    acknowledged: tuple[str, ...] = ()
    waits: dict[Thread, str] = field(default_factory=dict)
    failed: dict[Thread, str] = field(default_factory=dict)
    gone: tuple[Thread, ...] = ()
    again: float | None = None


@dataclass(slots=True)
class _Chat:
    """One thread between two passes: how it stood in the last one, for how many of them, and when the next is due."""

    thread: Thread
    bringer: Bringer
    jobs: dict[str, Job] = field(default_factory=dict)
    passed: Passed = field(default_factory=Passed)
    times: int = 0
    due: float = 0.0
    has_slot: bool = False
    task: "asyncio.Task[None] | None" = None


class Deliverer:
    """Brings the notices of a coordinator's chat threads. Any number of them may share a store and a checkpointer.

    `text_of` makes what a thread is told of a job. To be used in one event loop.
    """

    def __init__(
        self,
        desk: Desk,
        threads: Threads,
        text_of: TextOf,
        *,
        coordinator: str = COORDINATOR,
        turns: Turns | None = None,
        pace: Pace = Pace(),
    ) -> None:
        self._desk, self._pace, self._given_turns = desk, pace, turns
        self._inbox = ChatInbox(desk, coordinator)
        self._ways = Ways(
            threads=threads,
            unread=self._unread_of,
            turn=functools.partial(self.turn, patience=0.1),
            text_of=text_of,
            acknowledge=self._inbox.acknowledge,
            running=self._running,
            clock=time.monotonic,
            pause=asyncio.sleep,
            confirm_seconds=pace.confirm,
        )
        self._chats: dict[Thread, _Chat] = {}
        self._slots = asyncio.Semaphore(pace.at_once)
        self._runs = 0
        self._is_draining = False
        self._moved = asyncio.Event()
        self._is_nudged = True
        self._looked = _Looking()
        self._store_trouble = ""

    @cached_property
    def turns(self) -> Turns:
        """The turns of its store."""
        return self._given_turns or Turns(self._desk.app.store)

    def turn(self, thread: Thread, *, patience: float = PATIENCE) -> Hold:
        """The thread's turn, which whoever writes to the thread holds meanwhile; as `Turns.hold`."""
        return self.turns.hold(turn_key(thread), patience=patience)

    async def sweep(self) -> Outcome:
        """One pass over the inbox and all its threads, until each run that it began has ended.

        What it appended is acknowledged by a pass that comes `again` seconds later. Raises StoreUnavailable.
        """
        await self._look()
        chats = [chat for chat in self._chats.values() if chat.task is None]
        await asyncio.gather(*(self._begin(chat) for chat in chats))
        return self._outcome(chats)

    async def run(self, stop: asyncio.Event) -> None:
        """Bring notices until `stop` is set; then what has begun gets the drain time to end, and is cancelled after it:
        another bridge, or this one the next time, goes on with it."""
        helpers = [asyncio.create_task(self._heed(stop)), asyncio.create_task(self._listen(utc_now()))]
        try:
            while not stop.is_set():
                self._moved.clear()
                await self._look_when_due()
                self._start_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._moved.wait()
        finally:
            self._is_draining = True
            await cancelled(*helpers)
            await self._drain()
            self._is_draining = False

    # ------------------------------------------------------------------ the inbox

    async def _look(self) -> None:
        """Read the inbox: what is new in a thread is looked at now, unless the thread is gone or fails."""
        unread: dict[Thread, dict[str, Job]] = {}
        for job in await self._inbox.unread():
            unread.setdefault(job.thread, {})[job.task_id] = job
        for thread in self._chats.keys() - unread.keys():
            self._chats[thread].jobs = {}
            if self._chats[thread].task is None:
                del self._chats[thread]
        for thread, jobs in unread.items():
            if thread not in self._chats:
                self._chats[thread] = _Chat(thread, Bringer(self._ways, thread))
            chat = self._chats[thread]
            if jobs.keys() - chat.jobs.keys() and _may_move(chat.passed):
                chat.due = 0.0
            chat.jobs = jobs

    async def _unread_of(self, thread: Thread) -> list[Job]:
        return [job for job in await self._inbox.unread() if job.thread == thread]

    async def _look_when_due(self) -> None:
        now = time.monotonic()
        if now < (self._looked.not_before if self._is_nudged else self._looked.due):
            return
        before, self._is_nudged = {i for chat in self._chats.values() for i in chat.jobs}, False
        try:
            await self._look()
            self._store_is(None)
        except StoreUnavailable as error:
            self._store_is(error)
        after = {i for chat in self._chats.values() for i in chat.jobs}
        self._looked.note(now, self._pace.poll, is_new=before != after)

    async def _listen(self, since: datetime) -> None:
        """Have the inbox read as soon as the log tells of a job's end; without the log it is read now and then."""
        try:
            await self._inbox.listen(self._nudge, since)
        except AgentqError as error:
            LOG.warning("the log cannot be followed, so notices come a few seconds later: %s", error)
        except Exception:
            LOG.exception("the log is not followed any more, so notices come a few seconds later")

    def _nudge(self) -> None:
        self._is_nudged = True
        self._moved.set()

    async def _heed(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._moved.set()

    def _store_is(self, trouble: StoreUnavailable | None) -> None:
        """Say once that the store is away, and once that it is back."""
        if trouble and not self._store_trouble:
            hint = f" ({trouble.hint})" if trouble.hint else ""
            LOG.warning("the store is unavailable, trying again: %s%s", trouble, hint)
        elif self._store_trouble and not trouble:
            LOG.info("the store is back")
        self._store_trouble = str(trouble) if trouble else ""

    # ------------------------------------------------------------------ the threads

    def _start_due(self) -> None:
        now = time.monotonic()
        for chat in self._chats.values():
            if chat.jobs and chat.task is None and chat.due <= now:
                self._begin(chat)

    def _begin(self, chat: _Chat) -> "asyncio.Task[None]":
        chat.task = asyncio.create_task(self._bring(chat))
        return chat.task

    async def _bring(self, chat: _Chat) -> None:
        """One pass over a thread; never raises but when it is cancelled."""
        try:
            await self._slots.acquire()
            chat.has_slot = True
            jobs = dict(chat.jobs)
            passed = await self._pass(chat, list(jobs.values()))
        finally:
            if chat.has_slot:
                self._give_slot_back(chat)
            chat.task = None
            self._moved.set()
        for task_id in passed.acknowledged:
            chat.jobs.pop(task_id, None)
        _tell(chat, passed, self._inbox.coordinator)
        chat.times = chat.times + 1 if passed.stand == chat.passed.stand else 0
        chat.passed = passed
        ended_meanwhile = chat.jobs.keys() - jobs.keys() and _may_move(passed)
        chat.due = time.monotonic() + (0.0 if ended_meanwhile else self._delay(chat))

    async def _pass(self, chat: _Chat, jobs: Sequence[Job]) -> Passed:
        try:
            return await chat.bringer.bring(jobs)
        except StoreUnavailable as error:
            self._store_is(error)
            return Passed("waits", "the store is unavailable")
        except AgentqError as error:
            return Passed("failed", f"{error} ({error.hint})" if error.hint else str(error))
        except Exception as error:
            LOG.exception("the notices of %s cannot be brought", turn_key(chat.thread))
            return Passed("failed", repr(error))

    def _delay(self, chat: _Chat) -> float:
        passed = chat.passed
        if passed.stand == "done":
            return self._pace.poll[1] if passed.again is None else passed.again
        paces = {"waits": self._pace.waiting, "failed": self._pace.failing, "gone": self._pace.gone}
        first, longest = paces[passed.stand]
        return min(longest, first * 2.0 ** min(chat.times, 30))

    @contextlib.contextmanager
    def _running(self, thread: Thread) -> Iterator[None]:
        """A run takes as long as it takes, so it makes room for other threads' notices."""
        if self._is_draining or self._runs >= self._pace.runs:
            raise NoRoom
        chat = self._chats[thread]
        self._runs += 1
        if chat.has_slot:
            self._give_slot_back(chat)
        try:
            yield
        finally:
            self._runs -= 1

    def _give_slot_back(self, chat: _Chat) -> None:
        chat.has_slot = False
        self._slots.release()

    def _pause(self) -> float:
        """Seconds until something is due."""
        idle = (chat.due for chat in self._chats.values() if chat.jobs and chat.task is None)
        looking = self._looked.not_before if self._is_nudged else self._looked.due
        return max(0.0, min([looking, *idle]) - time.monotonic())

    async def _drain(self) -> None:
        tasks = [chat.task for chat in self._chats.values() if chat.task]
        if tasks:
            await asyncio.wait(tasks, timeout=self._pace.drain)
            await cancelled(*tasks)

    def _outcome(self, chats: Iterable[_Chat]) -> Outcome:
        now, stands = time.monotonic(), {chat.thread: chat.passed for chat in chats}
        dues = [chat.due for chat in chats if chat.jobs]
        return Outcome(
            appended=tuple(task_id for passed in stands.values() for task_id in passed.appended),
            acknowledged=tuple(task_id for passed in stands.values() for task_id in passed.acknowledged),
            waits={thread: passed.why for thread, passed in stands.items() if passed.stand == "waits"},
            failed={thread: passed.why for thread, passed in stands.items() if passed.stand == "failed"},
            gone=tuple(thread for thread, passed in stands.items() if passed.stand == "gone"),
            again=max(0.0, min(dues) - now) if dues else None,
        )


@dataclass(slots=True)
class _Looking:
    """When the inbox is read next: soon after something was new, else ever more seldom; never for most of the time."""

    due: float = 0.0
    not_before: float = 0.0
    pause: float = 0.0

    def note(self, began: float, poll: tuple[float, float], *, is_new: bool) -> None:
        """It was read just now."""
        first, longest = poll
        now = time.monotonic()
        self.pause = first if is_new or not self.pause else min(longest, self.pause * 1.5)
        self.due, self.not_before = now + self.pause, now + (now - began)


def _may_move(passed: Passed) -> bool:
    """Whether a job that ends is a reason to look at a thread that stood so."""
    return passed.stand in ("done", "waits")


def turn_key(thread: Thread) -> str:
    """What the turn of a thread is called."""
    name = f"thread {json.dumps(thread.id)}"
    return name if thread.tenant is None else f"{name} of {json.dumps(thread.tenant)}"


def _tell(chat: _Chat, passed: Passed, coordinator: str) -> None:
    """Say what was done, and how the thread stands when that is new."""
    name = turn_key(chat.thread)
    if passed.appended:
        LOG.info("%s was told of %s", name, ", ".join(passed.appended))
    if (passed.stand, passed.why) == (chat.passed.stand, chat.passed.why):
        return
    if passed.stand == "gone":
        unread, see = ", ".join(chat.jobs), f"agentq inbox --for {coordinator}"
        LOG.warning("%s is gone, nothing is lost: %s stays unread; see: %s", name, unread, see)
    elif passed.stand == "failed":
        LOG.warning("%s cannot be told or run, trying again ever more seldom: %s", name, passed.why)
    elif passed.stand == "waits":
        LOG.debug("%s has to wait: %s", name, passed.why)
    elif passed.why:
        LOG.warning("%s: %s", name, passed.why)
    elif chat.passed.stand in ("gone", "failed"):
        LOG.info("%s is well again", name)
