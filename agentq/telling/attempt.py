"""What an attempt tells while it runs: what its agent prints, as it is printed, and what it does.

The transcript has all that was printed. What goes into the log is bounded and masked, and nothing waits for it.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agentq.credentials import masked
from agentq.events import Event, Kind
from agentq.journal import Journal
from agentq.messages import shorten, utc_now
from agentq.profile import LimitsSection
from agentq.telling import note
from agentq.telling.output import Allowance, Output, Part

SOON, OFTEN = 0.02, 0.1
"""Seconds: an event waits for what else is printed, and comes not sooner than that after the last one."""
NOTES = 2.0
"""Seconds between two notes of an agent."""


class Telling:
    """Tells the journal of one attempt."""

    def __init__(self, journal: Journal, task_id: str, attempt: int, agent: str, limits: LimitsSection) -> None:
        self._journal = journal
        self._task_id, self._attempt, self._agent = task_id, attempt, agent
        self._look_seconds = limits.look_seconds
        self._heard = asyncio.Event()
        self._output = Output(Allowance(limits.live_bytes_per_second, limits.live_bytes))
        self._over = asyncio.Event()
        self._told_at = 0.0
        self._steps = 0
        self._doing = ""
        self._since = utc_now()

    def at_work(self) -> dict[str, object]:
        """What a heartbeat says of the attempt."""
        since = self._since.isoformat()
        return {"task_id": self._task_id, "attempt": self._attempt, "since": since, "doing": self._doing}

    def progress(self, text: str) -> None:
        """Tell what the attempt does now."""
        self._doing, self._steps = text, self._steps + 1
        self._journal.tell(self._event("progress", str(self._steps), text=text))

    def hear(self, stream: int, chunk: bytes) -> None:
        """What the agent printed, on 1 or 2; told soon."""
        self._output.take(stream, chunk)
        self._heard.set()

    def reply(self, pieces: Iterable[tuple[int, str]], where: Mapping[str, str]) -> None:
        """Tell what was added to the answer: the characters before each piece, and its text."""
        self._journal.tell(
            *(self._made("reply", str(offset), {"text": text, "offset": offset, **where}) for offset, text in pieces)
        )

    def end(self) -> None:
        """Say that the agent prints nothing any more."""
        self._over.set()
        self._heard.set()

    async def run(self) -> None:
        """Tell what is heard, and in the end, once that was said, how much it was."""
        while not self._over.is_set():
            await _within(self._output.patience(), self._heard)
            await _within(max(SOON, self._told_at + OFTEN - time.monotonic()), self._over)
            self._heard.clear()
            self._output.let_go()
            await self._tell()
        self._output.let_go(everything=True)
        await self._tell()
        said = {"whole": True, "bytes": self._output.heard, "left_out": self._output.left_out}
        self._journal.tell(self._event("output", "whole", **said))

    async def watch(self, folder: Path) -> None:
        """Tell what the agent says that it does, from time to time, until cancelled."""
        last = ""
        while True:
            await asyncio.sleep(self._look_seconds)
            text = await asyncio.to_thread(_note_in, folder)
            if text and text != last:
                last = text
                self.progress(text)
                await asyncio.sleep(NOTES)

    async def _tell(self) -> None:
        if ready := self._output.ready():
            self._journal.tell(*await asyncio.to_thread(self._events, ready))
            self._told_at = time.monotonic()

    def _events(self, ready: Sequence[Part]) -> list[Event]:
        return [
            self._event("output", str(piece.offset), text=piece.text, offset=piece.offset, left_out=piece.left_out)
            for part in ready
            for piece in part.pieces()
        ]

    def _event(self, kind: Kind, which: str, **said: object) -> Event:
        return self._made(kind, which, {name: value for name, value in said.items() if value})

    def _made(self, kind: Kind, which: str, data: dict[str, object]) -> Event:
        name = f"{self._task_id}/{kind}/{self._attempt}/{which}"
        task_id, attempt, agent = self._task_id, self._attempt, self._agent
        return Event(id=name, kind=kind, at=utc_now(), task_id=task_id, attempt=attempt, agent=agent, data=data)


async def _within(seconds: float | None, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _note_in(folder: Path) -> str:
    return shorten(masked(note.read(folder)), note.LIMIT)
