"""agentq for a process that stays, such as a chat server: one engine for all its calls, which come from any thread."""

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from agentq.agents import Agents
from agentq.app import App
from agentq.config import Settings
from agentq.coordinator import Registered
from agentq.engine import Engine
from agentq.errors import AgentqError, Unavailable
from agentq.journal import Journal
from agentq.messages import Envelope

T = TypeVar("T")
LOG = logging.getLogger("agentq")
START_SECONDS = 10.0
LONGEST_PAUSE = 2.0
"""Seconds between two looks, at most."""
HANDS = 16
"""How many calls read and write the store at once."""
LATE = 1000
"""For how many calls what the log did not take is kept."""


class _Seat(App):
    """An App for one call: its engine is the desk's inside the desk's own loop, and one of its own in any other."""

    def __init__(self, desk: "Desk") -> None:
        super().__init__(desk.settings)
        self._desk = desk
        for shared in ("store", "keyring"):
            self.__dict__[shared] = getattr(desk.app, shared)

    @functools.cached_property
    def agents(self) -> Agents:
        return self._desk.agents()

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        if not self._desk.is_here:
            async with super().engine() as engine:
                yield engine
            return
        yield await self._desk.engine()

    async def _apart(self, act: Callable[[], T]) -> T:
        return await asyncio.to_thread(act) if self._desk.is_here else act()

    @property
    def untold(self) -> Journal:
        """What it has to tell the log, as far as the log has not taken it."""
        return self._journal


@dataclass(frozen=True, slots=True)
class _Room:
    """The loop and the thread that calls run in, and those calls."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    calls: "set[asyncio.Task[Any] | None]" = field(default_factory=set)

    async def hold(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine answers that is one of the calls."""
        task = asyncio.current_task()
        self.calls.add(task)
        try:
            return await make()
        finally:
            self.calls.discard(task)

    async def clear(self, stack: contextlib.AsyncExitStack | None) -> None:
        """Break the calls off, and then let go of what they used."""
        calls = {task for task in self.calls if task}
        for task in calls:
            task.cancel()
        if calls:
            await asyncio.wait(calls, timeout=START_SECONDS / 2)
        if stack:
            await stack.aclose()


class Desk:
    """Calls of agentq that run beside the caller's own event loop, if it has one; made once, closed at the end.

    A call that is under way when the desk is closed is broken off: Unavailable. A forked process opens one of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._forget()

    def _forget(self) -> None:
        """Be as new: what this process was forked from keeps its loop, engine and connections to itself."""
        self.app = App(self.settings)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._room: _Room | None = None
        self._stack: contextlib.AsyncExitStack | None = None
        self._engine: Engine | None = None
        self._late: deque[Journal] = deque(maxlen=LATE)

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """One with the settings in force, flags first, as for every command: what the process makes from now on is as
        private as they say (`umask`)."""
        return cls(App.load(**flags).settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ calls

    async def submit(
        self, request: Envelope, context: bytes | None = None, *, allow_secrets: bool = False
    ) -> Registered:
        """`App.submit`, from any event loop."""
        return await self.run(
            lambda: self._asked(lambda seat: seat.submit(request, context, allow_secrets=allow_secrets))
        )

    async def submit_plan(
        self, request: Envelope, contexts: Mapping[str, bytes] | None = None, *, allow_secrets: bool = False
    ) -> Registered:
        """`App.submit_plan`, from any event loop."""
        return await self.run(
            lambda: self._asked(lambda seat: seat.submit_plan(request, contexts or {}, allow_secrets=allow_secrets))
        )

    async def _asked(self, submit: Callable[[_Seat], Coroutine[Any, Any, Registered]]) -> Registered:
        seat = _Seat(self)
        await asyncio.to_thread(lambda: seat.agents.profiles)
        try:
            registered = await submit(seat)
        except AgentqError:
            self._keep(seat)
            raise
        await self._tell_late()
        self._keep(seat)
        return registered

    async def call(self, act: Callable[[App], T]) -> T:
        """What `act` answers, given an App of its own in a thread of its own; what it released or has to tell is handed
        to the engine afterwards, as after a command."""
        return await self.run(lambda: self._call(act))

    async def _call(self, act: Callable[[App], T]) -> T:
        seat = _Seat(self)
        answer = await asyncio.to_thread(act, seat)
        await self._hand_over(seat)
        return answer

    async def _hand_over(self, seat: _Seat) -> None:
        if undone := await seat.hand_over_here():
            LOG.warning("agentq: %s", undone)
            self._keep(seat)

    def _keep(self, seat: _Seat) -> None:
        """Remember what the log did not take: one that is made for a single call cannot tell it later."""
        if seat.untold:
            self._late.append(seat.untold)

    async def _tell_late(self) -> None:
        """Tell the log what it did not take before, once there is reason to think that it takes something."""
        if not self._late:
            return
        engine = await self.engine()
        while self._late:
            journal = self._late[0]
            if await journal.try_to_hand_on(engine):
                return
            with contextlib.suppress(ValueError):  # another call was quicker
                self._late.remove(journal)

    async def looking(
        self, look: Callable[[App], Callable[[], T]], *, enough: Callable[[T], bool], seconds: float
    ) -> T:
        """What the last look answers: one that is enough, or the first one after so many seconds. Between two looks
        nothing is held, and whoever is cancelled leaves no thread behind."""
        return await self.run(lambda: self._looking(look, enough, seconds))

    async def _looking(self, look: Callable[[App], Callable[[], T]], enough: Callable[[T], bool], seconds: float) -> T:
        seat, loop = _Seat(self), asyncio.get_running_loop()
        again, deadline, pause = await asyncio.to_thread(look, seat), loop.time() + seconds, 0.05
        while True:
            found = await asyncio.to_thread(again)
            await self._hand_over(seat)
            left = min(pause, deadline - loop.time())
            if left <= 0 or enough(found):
                return found
            await asyncio.sleep(left)
            pause = min(LONGEST_PAUSE, pause * 1.5)

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine answers that runs in the desk's own loop; cancelled with its caller."""
        future = self._begin(make)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._room is None and not (caller and caller.cancelling()):
                raise _closed() from None
            raise

    def wait(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same for a caller that has no event loop, or lets it stand."""
        if self.is_here:
            raise RuntimeError("the desk's own loop would wait for itself")
        future = self._begin(make)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        finally:
            future.cancel()  # who waits no more, such as after Ctrl-C, wants it no more

    def _begin(self, make: Callable[[], Coroutine[Any, Any, T]]) -> "concurrent.futures.Future[T]":
        if os.getpid() != self._pid:
            self._forget()
        with contextlib.nullcontext() if self.is_here else self._lock:  # nobody comes in while it is being closed
            room = self._room or self._open()
            return asyncio.run_coroutine_threadsafe(room.hold(make), room.loop)

    # ------------------------------------------------------------------ the loop and the engine

    def agents(self) -> Agents:
        """The agents that there are now: a profile that was written since the last call is known."""
        self.app.agents = self.app.agents.now()
        return self.app.agents

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the desk's own loop."""
        return self._room is not None and threading.current_thread() is self._room.thread

    async def engine(self) -> Engine:
        """The desk's engine, for callers in its loop; opened when it is first needed."""
        if self._engine is None:
            self._stack = contextlib.AsyncExitStack()
            self._engine = await self._stack.enter_async_context(self.app.engine())
        return self._engine

    def _open(self) -> _Room:
        started, loop = threading.Event(), asyncio.new_event_loop()
        thread = threading.Thread(target=_turn, args=(loop, started), name="agentq-desk", daemon=True)
        thread.start()
        if not started.wait(START_SECONDS):
            raise Unavailable("the thread that talks to the engine does not start", hint="Look at the load.")
        self._room = _Room(loop, thread)
        atexit.register(self.close)
        return self._room

    def close(self) -> None:
        """Break off what is under way, and let go of the engine and the thread; a later call opens both anew."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            room, self._room = self._room, None
            stack, self._stack, self._engine = self._stack, None, None
        atexit.unregister(self.close)
        if room is None:
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(room.clear(stack), room.loop).result(START_SECONDS)
        room.loop.call_soon_threadsafe(room.loop.stop)
        room.thread.join(START_SECONDS)


def _turn(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(HANDS, thread_name_prefix="agentq-hand"))
    loop.call_soon(started.set)
    loop.run_forever()
    loop.close()


def _closed() -> Unavailable:
    return Unavailable("the desk was closed while that was under way", hint="Look what became of it: agentq list")
