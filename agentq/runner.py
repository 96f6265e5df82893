"""The runner port: how an agent is started and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from agentq.messages import Usage

Ended = Literal["done", "failed", "refused", "try_again", "timed_out", "stopped"]


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt as the runner sees it. Times are seconds; `output` gets the agent's own files."""

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


@dataclass(frozen=True, slots=True)
class Ran:
    """How the agent ended: `refused` is final, `failed`, `try_again` and `timed_out` may be tried again, `stopped`
    was our own doing. `final_text` is its last word, where the runner can tell."""

    ended: Ended
    reason: str | None = None
    final_text: str = ""
    exit_code: int | None = None
    usage: Usage = field(default_factory=Usage)


class Runner(Protocol):
    """Starts one kind of agent."""

    async def run(self, job: Job) -> Ran:
        """Run the agent to its end and answer how it ended; when cancelled, stop the whole process tree first."""

    def check(self) -> None:
        """Raise Invalid when the agent cannot be started on this machine."""
