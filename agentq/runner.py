"""The runner port: how an agent is started and what came of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from agentq.messages import Usage

Ended = Literal["done", "failed", "refused", "try_again", "parked", "timed_out", "stopped"]
NOT_BEFORE = "not-before"
"""The file in its output folder by which an agent says when it wants to be tried again; no evidence."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt as the runner sees it. Times are seconds; `output` gets the agent's own files; `heard` is called with
    what it prints, in parts, and the stream's number (1 or 2), and must be quick; once `stop` is set, it has to end."""

    task_id: str
    attempt: int
    token: str
    prompt: str
    workdir: Path
    output: Path
    transcript: Path
    environment: Mapping[str, str]
    timeout_seconds: float | None = None
    silence_seconds: float | None = None
    output_limit: int | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    heard: Callable[[int, bytes], None] = lambda stream, chunk: None


@dataclass(frozen=True, slots=True)
class Ran:
    """How the agent ended: `refused` is final, `failed`, `try_again` and `timed_out` may be tried again, `stopped`
    was our own doing, `parked` waits for `not_before` (a rate limit) and does not count. `final_text` is its last
    word, where the runner can tell; `proven` that nothing of its process tree is left."""

    ended: Ended
    reason: str | None = None
    final_text: str = ""
    exit_code: int | None = None
    usage: Usage = field(default_factory=Usage)
    not_before: datetime | None = None
    proven: bool = False


class Runner(Protocol):
    """Starts one kind of agent."""

    async def run(self, job: Job) -> Ran:
        """Run the agent to its end and answer how it ended; its whole process tree is stopped first, also when the job
        is to stop, and when this is cancelled."""

    def check(self) -> None:
        """Raise Invalid when the agent cannot be started on this machine."""
