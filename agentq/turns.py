"""Turns: the right to be the only one who does something, among all who share a store."""

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from agentq.contest import FIRST_PAUSE, LEASE_SECONDS, LONGEST_PAUSE, Contest, Ground, TurnLost, TurnTaken
from agentq.errors import StoreUnavailable
from agentq.store import Store

__all__ = ["Hold", "Turn", "TurnLost", "TurnTaken", "Turns"]

LOG = logging.getLogger("agentq")
PATIENCE = 30.0


class Turns:
    """The turns of all who share a store; one of these per process, so that what it saw of others is remembered."""

    def __init__(self, store: Store, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._ground = Ground(store, lease_seconds)

    def hold(self, key: str, *, patience: float = PATIENCE) -> "Hold":
        """The turn of that key (any text), for one `with` or `async with`.

        Raises TurnTaken when others have it for longer than `patience` seconds, StoreUnavailable; TurnLost at the end
        of the block when it was lost in between. An `async with` is cancelled as soon as that is known.
        """
        return Hold(Contest(self._ground, key), patience)


class Turn:
    """A turn that is held."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest

    @property
    def is_lost(self) -> bool:
        """Whether somebody else may have the turn now."""
        return not self._contest.is_held

    def check(self) -> None:
        """Raise TurnLost when somebody else may have the turn now: to be asked just before a step that needs it."""
        if self.is_lost:
            raise self._contest.lost()


@dataclass(eq=False)
class Hold:
    """A turn for the length of one block. A thread of its own takes it, renews it and gives it back."""

    contest: Contest
    patience: float
    _stop: threading.Event = field(default_factory=threading.Event)
    _taken: "Future[None]" = field(default_factory=Future)
    _over: "Future[None]" = field(default_factory=Future)
    _task: "asyncio.Task[object] | None" = None
    _timer: asyncio.TimerHandle | None = None
    _was_told: bool = False

    @property
    def turn(self) -> Turn:
        """The turn, as the block is given it."""
        return Turn(self.contest)

    # ------------------------------------------------------------------ with

    def __enter__(self) -> Turn:
        self._start()
        try:
            self._taken.result()
        except BaseException:
            self._stop.set()
            raise
        return self.turn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        is_lost = not self.contest.is_held
        self._stop.set()
        self._over.result()
        if is_lost and kind is None:
            raise self.contest.lost()

    # ------------------------------------------------------------------ async with

    async def __aenter__(self) -> Turn:
        self._start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._taken))
        except BaseException:
            await self._give_back()
            raise
        self._task = asyncio.current_task()
        self._watch()
        return self.turn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        is_lost = not self.contest.is_held
        if self._timer:
            self._timer.cancel()
        with contextlib.suppress(*([asyncio.CancelledError] if self._was_told else [])):
            await self._give_back()
        cancels = task.uncancel() if self._was_told and task else 0
        if cancels and kind is None:
            raise asyncio.CancelledError
        if is_lost and not cancels and (kind is None or (self._was_told and issubclass(kind, asyncio.CancelledError))):
            raise self.contest.lost() from error

    async def _give_back(self) -> None:
        """Until the turn is given back; who is cancelled meanwhile leaves that to the thread."""
        self._stop.set()
        await asyncio.shield(asyncio.wrap_future(self._over))

    def _watch(self) -> None:
        """Cancel the block as soon as its turn is lost; also when the store does not answer."""
        if self._task is None:
            return
        left = self.contest.seconds_left
        if left > 0:
            step = min(left, self.contest.renew_seconds)
            self._timer = asyncio.get_running_loop().call_later(step, self._watch)
        else:
            self._was_told = True
            self._task.cancel()

    # ------------------------------------------------------------------ the thread

    def _start(self) -> None:
        for future in (self._taken, self._over):
            future.set_running_or_notify_cancel()  # else a waiter's cancellation would be theirs
        threading.Thread(target=self._live, name="agentq-turn", daemon=True).start()

    def _live(self) -> None:
        try:
            self.contest.take(self.patience, self._stop.wait)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the turn is told
            self._over.set_result(None)
            self._taken.set_exception(error)
            return
        self._taken.set_result(None)
        self._keep()
        self._let_go()

    def _keep(self) -> None:
        """Renew the turn until the block ends; one that is lost is kept as it is, the block may be at its last step."""
        try:
            while not self._stop.wait(self.contest.renew_seconds):
                with contextlib.suppress(StoreUnavailable):  # until it is lost for that
                    if not self.contest.renew():
                        break
        except Exception:
            LOG.exception("the turn of %s is not renewed any more", self.contest.key)
        self._stop.wait()

    def _let_go(self) -> None:
        """Give the turn back; while the store is away, beside what the block's owner does next."""
        deadline, pause = self.contest.seconds_left + time.monotonic(), FIRST_PAUSE
        while not self._has_let_go() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    def _has_let_go(self) -> bool:
        try:
            self.contest.let_go()
        except StoreUnavailable:
            return False
        finally:
            if not self._over.done():
                self._over.set_result(None)
        return True
