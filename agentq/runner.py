"""The runner port: how an agent is started and what came of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from agentq.messages import Usage

Ended = Literal["done", "failed", "refused", "try_again", "parked", "timed_out", "stopped", "unusable"]
NOT_BEFORE = "not-before"
"""The file in its output folder by which an agent says when it wants to be tried again; no evidence."""


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation that a tool keeps on this host: its own id for it, and what it had counted for all of it when it
    was left, as far as that is known."""

    id: str
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt as the runner sees it. Times are seconds; `output` gets the agent's own files; once `stop` is set, it
    has to end; `session` is one to go on with, where the runner can; `max_cost_usd` is for tools that stop themselves.

    The runner calls these in the event loop, and they must be quick: `heard` with what the agent prints, in parts, and
    the stream's number (1 or 2); `doing` with what it does now, in a few words, from time to time; `spent` with what
    this run has taken so far, whenever more of that is known; `met` with the session, as soon as it has an id;
    `answers`, unless nobody waits for that, with what the model says to whoever asked, piece by piece as it comes.
    """

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
    max_cost_usd: float | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    session: Session | None = None
    heard: Callable[[int, bytes], None] = lambda stream, chunk: None
    doing: Callable[[str], None] = lambda words: None
    spent: Callable[[Usage], None] = lambda usage: None
    met: Callable[[Session], None] = lambda session: None
    answers: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """How the agent ended: `refused` is final, `failed`, `try_again` and `timed_out` may be tried again, `stopped`
    was our own doing, `parked` waits for `not_before` and does not count; neither does `unusable`: the agent can do
    nothing here before somebody has mended its login or set-up.

    `limited` says of a parked one that its account's limit is used up: nothing else gets through before then either.
    `final_text` is its last word, where the runner can tell; `usage` what this run took, unknown is None, input with
    what was cached; `session` is left to go on with; `proven` that nothing of its process tree is left.
    """

    ended: Ended
    reason: str | None = None
    final_text: str = ""
    exit_code: int | None = None
    usage: Usage = field(default_factory=Usage)
    session: Session | None = None
    not_before: datetime | None = None
    limited: bool = False
    proven: bool = False


class Runner(Protocol):
    """Starts one kind of agent."""

    async def run(self, job: Job) -> Ran:
        """Run the agent to its end and answer how it ended; its whole process tree is stopped first, also when the job
        is to stop, and when this is cancelled."""

    def check(self) -> None:
        """Raise Invalid when the agent cannot be started on this machine."""
