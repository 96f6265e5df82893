"""agentq for a process that stays, such as a chat server: one engine for all its calls, which come from any thread."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Self, TypeVar

from agentq.app import App
from agentq.config import Settings
from agentq.coordinator import Registered
from agentq.engine import Engine
from agentq.errors import Unavailable
from agentq.messages import Envelope

T = TypeVar("T")
LOG = logging.getLogger("agentq")
START_SECONDS = 10.0


class _Seat(App):
    """An App for one call: its engine is the desk's inside the desk's own loop, and one of its own in any other."""

    def __init__(self, desk: "Desk") -> None:
        super().__init__(desk.settings)
        self._desk = desk
        for shared in ("store", "keyring", "agents"):
            self.__dict__[shared] = getattr(desk.app, shared)

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        if not self._desk.is_here:
            async with super().engine() as engine:
                yield engine
            return
        yield await self._desk.engine()


class Desk:
    """Calls of agentq that run beside the caller's own event loop, if it has one; made once, closed at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = App(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stack: contextlib.AsyncExitStack | None = None
        self._engine: Engine | None = None

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """One with the settings in force, flags first, as for every command."""
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
        return await self.run(lambda: _Seat(self).submit(request, context, allow_secrets=allow_secrets))

    async def submit_plan(
        self, request: Envelope, contexts: Mapping[str, bytes] | None = None, *, allow_secrets: bool = False
    ) -> Registered:
        """`App.submit_plan`, from any event loop."""
        return await self.run(lambda: _Seat(self).submit_plan(request, contexts or {}, allow_secrets=allow_secrets))

    async def call(self, act: Callable[[App], T]) -> T:
        """What `act` answers, given an App of its own in a thread of its own; what it released or has to tell is handed
        to the engine afterwards, as after a command."""
        return await self.run(lambda: self._call(act))

    async def _call(self, act: Callable[[App], T]) -> T:
        seat = _Seat(self)
        answer = await asyncio.to_thread(act, seat)
        if undone := await seat.hand_over_here():
            LOG.warning("agentq: %s", undone)
        return answer

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine answers that runs in the desk's own loop; cancelled with its caller."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._running()))

    def wait(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same for a caller without an event loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._running()).result()

    # ------------------------------------------------------------------ the loop and the engine

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the desk's own loop."""
        return threading.current_thread() is self._thread

    async def engine(self) -> Engine:
        """The desk's engine, for callers in its loop; opened when it is first needed."""
        if self._engine is None:
            self._stack = contextlib.AsyncExitStack()
            self._engine = await self._stack.enter_async_context(self.app.engine())
        return self._engine

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                started = threading.Event()
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._turn, args=(loop, started), name="agentq-desk", daemon=True
                )
                self._thread.start()
                if not started.wait(START_SECONDS):
                    raise Unavailable("the thread that talks to the engine does not start", hint="Look at the load.")
                self._loop = loop
            return self._loop

    @staticmethod
    def _turn(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(started.set)
        loop.run_forever()
        loop.close()

    def close(self) -> None:
        """Let go of the engine and the thread; a later call opens both anew."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        stack, self._stack, self._engine = self._stack, None, None
        if stack:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(START_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_SECONDS)
