"""Waiting for tasks: bounded and with progress, also as a task of the protocol that a client polls."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentq.desk import Desk
from agentq.harmless import one_line, quoted
from agentq.integrations.mcp.arguments import Wait, checked
from agentq.integrations.mcp.words import BARS
from agentq.messages import Completion
from agentq.standing import line, outcome

if TYPE_CHECKING:
    from agentq.app import App

Progress = Callable[[float, float, str], Awaitable[None]]
"""Tells whoever called how far it is: so much of so much, and in words."""
PROGRESS_SECONDS = 5.0
"""After how many seconds a call that waits says again that it does."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class Waited:
    """What somebody waits for: the end of all of these tasks, or of one of them."""

    ids: tuple[str, ...]
    any: bool = False

    @classmethod
    def of(cls, asked: Wait) -> "Waited":
        """What a call waits for; raises Invalid for what can be no task's id."""
        return cls(tuple(dict.fromkeys(checked(one) for one in asked.ids)), asked.any)


class _Ended:
    """What has ended of what somebody waits for; other threads write it."""

    def __init__(self, waited: Waited) -> None:
        self.waited = waited
        self.found: list[Completion] = []

    @property
    def wanted(self) -> int:
        return 1 if self.waited.any else len(self.waited.ids)

    def looking(self, app: "App") -> Callable[[], list[Completion]]:
        """The look at all of them, again and again; raises NotFound for what nobody submitted."""
        for task_id in self.waited.ids:
            app.coordinator.envelope(task_id)
        look = app.coordinator.looking(self.waited.ids)

        def once() -> list[Completion]:
            self.found = look()
            return self.found

        return once

    def is_enough(self, found: Sequence[Completion]) -> bool:
        return len(found) >= self.wanted


async def wait(desk: Desk, waited: Waited, seconds: float, progress: Progress) -> str:
    """Wait so many seconds at most, and tell in lines what has ended and where the others stand."""
    ended = _Ended(waited)
    telling = asyncio.create_task(_tell(ended, seconds, progress))
    try:
        await desk.looking(ended.looking, enough=ended.is_enough, seconds=seconds)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
    return await desk.call(lambda app: told(app, waited, ended.found, seconds))


async def look(desk: Desk, waited: Waited) -> tuple[str | None, str]:
    """What a wait answers if it is over, else None; and how far it is, in words."""
    ended = _Ended(waited)
    found = await desk.looking(ended.looking, enough=ended.is_enough, seconds=0)
    where = _how_far(ended)
    if not ended.is_enough(found):
        return None, where
    return await desk.call(lambda app: told(app, waited, found, 0)), where


async def _tell(ended: _Ended, seconds: float, progress: Progress) -> None:
    """Say every few seconds how long it has been waited for, and at once when another one has ended."""
    loop = asyncio.get_running_loop()
    began, said, count = loop.time(), -PROGRESS_SECONDS, -1
    while True:
        gone = loop.time() - began
        if len(ended.found) != count or gone - said >= PROGRESS_SECONDS:
            said, count = gone, len(ended.found)
            await progress(min(gone, seconds), seconds, _how_far(ended))
        await asyncio.sleep(0.25)


def _how_far(ended: _Ended) -> str:
    left = [one for one in ended.waited.ids if one not in {done.task_id for done in ended.found}]
    named = f": {', '.join(left[:NAMED])}{'…' if len(left) > NAMED else ''}" if left else ""
    return f"{len(ended.found)} of {len(ended.waited.ids)} ended, {len(left)} left{named}"


def told(app: "App", waited: Waited, ended: Sequence[Completion], seconds: float) -> str:
    """What has ended, a line each, and where the others stand."""
    app.tracing.received(list(ended))
    said = [each for done in ended for each in _ended_lines(done)]
    left = [one for one in waited.ids if one not in {done.task_id for done in ended}]
    if ended:
        said.append("→ read what it came to: the tool result")
    if left and not (waited.any and ended):
        said.append(f"not ended after {seconds:g} s:")
        said += [line(app.coordinator.status(one).model_copy(update={"reason": None})) for one in left[:NAMED]]
        said += [f"and {len(left) - NAMED} more"] if len(left) > NAMED else []
        said.append("→ go on with other work, or call wait again; the inbox will have them when they end")
    return "\n".join(said)


def _ended_lines(done: Completion) -> list[str]:
    head = f"{done.task_id} {outcome(done)}"
    return [f"{head}, because {BARS}", quoted(one_line(done.reason))] if done.reason else [head]
