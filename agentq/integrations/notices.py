"""Bringing the notices of one chat thread, step by step: appended once, proven to be there, then acknowledged.

Whoever dies between two steps, or loses the thread's turn, leaves nothing that the next one cannot see in the thread.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentq.contest import TurnLost, TurnTaken
from agentq.errors import AgentqError, StoreUnavailable
from agentq.harmless import one_line
from agentq.integrations.threads import Mode, Notice, Thread, ThreadFailed, Threads, View
from agentq.messages import Completion

CONFIRM_SECONDS = 2.0
"""How long a notice must have been in a thread before it is acknowledged."""
START_SECONDS = 0.25
"""How long a notice stands before its thread is run: whoever began a turn beside it has written that down by then."""
UNATTENDED_LIMIT = 10
"""After so many notices without a word of a person a thread is not woken any more."""
WAKES: tuple[Mode, ...] = ("wake", "notify+wake")

TextOf = Callable[[Completion], Awaitable[str]]
Stand = Literal["done", "waits", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """A task that has ended, whose coordinator has not read that yet, and the chat thread that asked for it."""

    completion: Completion
    thread: Thread
    mode: Mode

    @property
    def task_id(self) -> str:
        """Its task."""
        return self.completion.task_id


class HeldTurn(Protocol):
    """A thread's turn that is held."""

    def check(self) -> None:
        """Raise TurnLost when somebody else may write to the thread now."""


class NoRoom(Exception):
    """As many threads run as may, or none may start any more."""


@dataclass(slots=True)
class Passed:
    """How a thread stands after one pass: `done` when nothing is left to do but perhaps to confirm, in `again` seconds.

    `why` says in words what it waits for, or what failed.
    """

    stand: Stand = "done"
    why: str = ""
    appended: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    ran: bool = False
    again: float | None = None


@dataclass(slots=True)
class Ways:
    """What bringing notices goes by: the threads, the turn of each, the words for a job, and how it is acknowledged.

    `unread` reads a thread's jobs anew; `running` is entered around each run, and raises NoRoom when it must not begin.
    """

    threads: Threads
    unread: Callable[[Thread], Awaitable[Sequence[Job]]]
    turn: Callable[[Thread], AbstractAsyncContextManager[HeldTurn]]
    text_of: TextOf
    acknowledge: Callable[[str], Awaitable[None]]
    running: Callable[[Thread], AbstractContextManager[object]]
    clock: Callable[[], float]
    pause: Callable[[float], Awaitable[object]]
    confirm_seconds: float = CONFIRM_SECONDS


class Bringer:
    """Brings the notices of one thread; what it remembers only spares it work."""

    def __init__(self, ways: Ways, thread: Thread) -> None:
        self._ways, self._threads, self._thread = ways, ways.threads, thread
        self._there_since: dict[str, float] = {}
        self._texts: dict[str, str] = {}

    async def bring(self, jobs: Sequence[Job]) -> Passed:
        """One pass over the thread for its unread jobs, oldest first. Raises StoreUnavailable."""
        passed = Passed()
        try:
            await self._bring(jobs, passed)
        except ThreadFailed as error:
            passed.stand, passed.why = "failed", _words(error)
        except TurnTaken as error:
            passed.stand, passed.why = "waits", str(error)
        except TurnLost as error:
            passed.stand, passed.why = "waits", str(error)
        except NoRoom:
            passed.stand, passed.why = "waits", "as many threads run as may"
        return passed

    async def _bring(self, jobs: Sequence[Job], passed: Passed) -> None:
        view = await self._threads.look(self._thread)
        missing = await self._missing(view, jobs)
        if _is_open(view) and (missing or view.state == "running" or view.noticed):
            await self._prepare(job for job in jobs if job.task_id in missing)
            async with self._ways.turn(self._thread) as turn:
                await self._write(turn, jobs, passed)
            view = await self._threads.look(self._thread)
            missing = await self._missing(view, jobs)
        await self._confirm(view, [job for job in jobs if job.task_id not in missing], passed)
        if view.state == "gone":
            passed.stand = "gone"
        elif missing or not _is_settled(view):
            passed.stand, passed.why = "waits", _waits_for(view)

    async def _missing(self, view: View, jobs: Sequence[Job]) -> set[str]:
        """The jobs whose notice is not in the thread; since when the others' are there is noted."""
        ids = [job.task_id for job in jobs]
        missing = set(ids) if view.state == "gone" else set(await self._threads.missing(self._thread, ids))
        now = self._ways.clock()
        self._there_since = {i: self._there_since.get(i, now) for i in ids if i not in missing}
        self._texts = {i: text for i, text in self._texts.items() if i in missing}
        return missing

    # ------------------------------------------------------------------ under the turn

    async def _write(self, turn: HeldTurn, jobs: Sequence[Job], passed: Passed) -> None:
        """Append what is missing, and do what is to become of it; first end what somebody began who died."""
        view = await self._threads.look(self._thread)
        if view.noticed or view.woken:  # perhaps for jobs that had not ended when these were read
            jobs = await self._ways.unread(self._thread)
        missing = await self._missing(view, jobs)
        if _is_open(view) and view.woken and not view.noticed:
            await self._run(turn, [job for job in jobs if job.task_id not in missing], passed)
            view = await self._threads.look(self._thread)
            missing = await self._missing(view, jobs)
        if not _is_open(view) or not (view.noticed or (view.state == "idle" and missing)):
            return
        new = [job for job in jobs if job.task_id in missing]
        if new:
            await self._prepare(new)  # what was there before the turn, and is not now
            turn.check()
            notices = [Notice(job.task_id, job.mode, self._texts[job.task_id]) for job in new]
            await self._threads.append(self._thread, notices)
            passed.appended += [job.task_id for job in new]
        told = list(jobs) if view.noticed else new
        before = view.unattended - (len(jobs) - len(new) if view.noticed else 0)
        if any(job.mode in WAKES for job in told) and before < UNATTENDED_LIMIT:
            await self._run(turn, told, passed)
        else:
            await self._rest(turn)

    async def _run(self, turn: HeldTurn, jobs: Sequence[Job], passed: Passed) -> None:
        """Run the thread; when that fails, let it rest unless one of the jobs asks for more than one try."""
        with self._ways.running(self._thread):
            await self._ways.pause(START_SECONDS)
            if not await self._is_ours(turn):
                return
            try:
                await self._threads.run(self._thread, [job.task_id for job in jobs])
            except ThreadFailed as error:
                if any(job.mode == "wake" for job in jobs):
                    raise
                passed.why = f"its run failed, and is left to the next turn: {_words(error)}"
                await self._rest(turn)
            else:
                passed.ran = True

    async def _rest(self, turn: HeldTurn) -> None:
        if await self._is_ours(turn):
            await self._threads.rest(self._thread)

    async def _is_ours(self, turn: HeldTurn) -> bool:
        """Whether what would run next is a notice's; whoever runs the thread instead has read that."""
        view = await self._threads.look(self._thread)
        turn.check()
        return _is_open(view) and view.state != "idle"

    async def _prepare(self, jobs: Iterable[Job]) -> None:
        """Make the notices' texts, which may take reading; what cannot be read does not hold up the notice."""
        for job in jobs:
            if job.task_id not in self._texts:
                self._texts[job.task_id] = await self._text_of(job.completion)

    async def _text_of(self, completion: Completion) -> str:
        try:
            return await self._ways.text_of(completion)
        except StoreUnavailable:
            raise
        except AgentqError as error:
            said = f"{completion.task_id} {completion.status}; its result cannot be shown: {error}"
            return one_line(said)

    # ------------------------------------------------------------------ afterwards

    async def _confirm(self, view: View, there: Sequence[Job], passed: Passed) -> None:
        """Acknowledge what has been in the thread for long enough, while nothing runs that could write over it."""
        if not _is_settled(view):
            return
        now = self._ways.clock()
        for job in there:
            left = self._there_since[job.task_id] + self._ways.confirm_seconds - now
            if left > 0:
                passed.again = left if passed.again is None else min(left, passed.again)
                continue
            await self._ways.acknowledge(job.task_id)
            passed.acknowledged.append(job.task_id)


def _is_open(view: View) -> bool:
    """Whether the thread may be written to, for all that can be seen: nobody else is in the middle of a run."""
    is_ours = view.noticed or (view.state == "running" and view.woken)
    return not view.beside and (is_ours or view.state == "idle")


def _is_settled(view: View) -> bool:
    """Whether nothing runs, nor is to be run."""
    return view.state in ("idle", "interrupted", "unanswered") and not view.noticed and not view.beside


def _waits_for(view: View) -> str:
    if view.state == "interrupted":
        return "it is interrupted for a human"
    if view.state == "unanswered":
        return "a tool call in it has no answer yet"
    if view.beside:
        return "a run that began before the last notice has not ended"
    return "it is running" if view.state == "running" else "its notices are not all there yet"


def _words(error: AgentqError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
