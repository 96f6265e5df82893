"""What a Python function is called with that is a worker's agent, and how it ends otherwise than well."""

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


class Refuse(Exception):
    """The task cannot be done, however often it is tried: it fails with this reason."""


class Later(Exception):
    """The task is to be tried again: at `not_before`, and then this attempt does not count; else after a delay."""

    def __init__(self, reason: str, not_before: datetime | None = None) -> None:
        super().__init__(reason)
        self.not_before = not_before


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt: what is asked, the folder it works in (also the current one), and the folder for its files."""

    task_id: str
    attempt: int
    prompt: str
    workdir: Path
    output: Path

    def doing(self, words: str) -> None:
        """Say what it does now, in a few words."""
        tell("doing", text=words)

    def say(self, text: str) -> None:
        """Add to the answer, which is read as it is written."""
        with (self.output / "answer.md").open("a", encoding="utf-8") as file:
            file.write(text)

    def spent(
        self, *, input_tokens: int | None = None, output_tokens: int | None = None, cost_usd: float | None = None
    ) -> None:
        """Say what the attempt has taken so far, all of it; what is not known is left out."""
        tell("spent", input_tokens=input_tokens, output_tokens=output_tokens, cost_usd=cost_usd)


def tell(kind: str, **said: object) -> None:
    """Tell the runner: a JSON object on a line of its own."""
    sys.stdout.write(f"{json.dumps({'agentq': {'kind': kind, **said}})}\n")
    sys.stdout.flush()
