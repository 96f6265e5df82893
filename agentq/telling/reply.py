"""What an attempt tells of its answer while it is written: every character once and in order, without credentials.

Live text only grows. It is what stands in the agent's answer.md; of a tool that writes none, what its model says once
it has decided. What counts in the end is the artifact.
"""

import asyncio
import codecs
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agentq.decided import DECISION
from agentq.decided import FILE as DECISION_FILE
from agentq.messages import Envelope
from agentq.profile import LimitsSection, Profile
from agentq.telling.answer import Tail, Words, is_there
from agentq.telling.attempt import Telling
from agentq.telling.output import Allowance, Part

IN_THREAD = ("thread", "message")
"""The labels that say where a task's answer belongs."""
SOON = 0.05
"""Seconds between two looks at an answer that grows."""
Tell = Callable[[Sequence[tuple[int, str]]], None]
"""Is called with pieces: the characters before each, and its text."""


def reply_of(task: Envelope, profile: Profile, output: Path, telling: Telling) -> "Reply":
    """What follows the answer of one attempt and tells it; one is expected where a decision is."""
    where = {name: task.labels[name] for name in IN_THREAD if name in task.labels}
    expected = DECISION in (*task.expected_output.artifacts, *profile.evidence.artifacts)
    return Reply(output, profile.limits, functools.partial(telling.reply, where=where), expected=expected)


class Reply:
    """Follows one attempt's answer; where none is `expected`, it is looked for from time to time."""

    def __init__(self, output: Path, limits: LimitsSection, tell: Tell, *, expected: bool) -> None:
        self._output, self._tell, self.expected = output, tell, expected
        self._look_seconds = limits.look_seconds
        self._allowance = Allowance(limits.live_bytes_per_second, limits.live_bytes)
        self._tail, self._words = Tail(output), Words()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._said: list[str] = []
        self._offset = 0
        self._is_spoken = False
        self._over = asyncio.Event()

    def hear(self, text: str) -> None:
        """More of what the model says."""
        self._said.append(text)

    def end(self) -> None:
        """Say that nothing is added any more."""
        self._over.set()

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Run meanwhile, and to the end of what was said."""
        running = asyncio.create_task(self.run())
        try:
            yield
        finally:
            self.end()
            await running

    async def run(self) -> None:
        """Tell what is added, and in the end, once that was said, the rest."""
        while not self._over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(SOON if self.expected or self._tail.place else self._look_seconds):
                    await self._over.wait()
            await self._step(self._look)
        await self._step(self._finish)

    async def _step(self, look: Callable[[str], list[tuple[int, str]]]) -> None:
        said, self._said = "".join(self._said), []
        if pieces := await asyncio.to_thread(look, said):
            self._tell(pieces)

    def _look(self, said: str) -> list[tuple[int, str]]:
        data = self._added(said)
        return self._pieces(self._words.take(self._decoded(data)) + self._words.let_go()) if data else self._rest()

    def _rest(self) -> list[tuple[int, str]]:
        return self._pieces(self._words.let_go()) if self._words.held else []

    def _finish(self, said: str) -> list[tuple[int, str]]:
        ready, data = b"", self._added(said)
        while data:
            ready += self._words.take(self._decoded(data))
            data = self._added("")
        ready += self._words.take(self._decoder.decode(b"", final=True).encode())
        return self._pieces(ready + self._words.let_go(everything=True))

    def _added(self, said: str) -> bytes:
        """What was added to the file; while there is none, to what the model says."""
        if data := self._tail.more(self._allowance.take):
            between = b"\n\n" if self._is_spoken else b""
            self._is_spoken = False
            return between + data
        if not said or self._tail.place or not is_there(self._output, DECISION_FILE):
            return b""
        data = (said if self._is_spoken else said.lstrip()).encode(errors="replace")
        self._is_spoken = self._is_spoken or bool(data)
        return data[: self._allowance.take(len(data))]

    def _decoded(self, data: bytes) -> bytes:
        """Whole characters, whatever the bytes were."""
        return self._decoder.decode(data).encode()

    def _pieces(self, ready: bytes) -> list[tuple[int, str]]:
        pieces = []
        for piece in Part(self._words, 0, ready, 0).pieces() if ready else ():
            pieces.append((self._offset, piece.text))
            self._offset += len(piece.text)
        return pieces
