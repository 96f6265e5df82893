"""A Python function as an agent, in a process of its own: `python:module:function`, as `agentq.work` says."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agentq.messages import Usage
from agentq.runner import Job
from agentq.runner_sections import PythonSection
from agentq.runners.heard import Heard
from agentq.runners.said import Said
from agentq.runners.stream import Reader


class Python:
    """How a function is started, and what it tells. `folder` is where its module is looked for first."""

    def __init__(self, section: PythonSection, folder: Path) -> None:
        self._function = section.kind.partition(":")[2]
        self._folder = folder

    def command(self, job: Job) -> Sequence[str]:
        """The program that calls it; nothing is imported from the workdir, whose files are others'."""
        return [sys.executable, "-P", "-m", "agentq.runners.calling", self._function, str(self._folder)]

    def environment(self, job: Job) -> Mapping[str, str]:
        """What it prints is heard at once."""
        return {"PYTHONUNBUFFERED": "1"}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes what one run tells."""
        heard.calls(self._function, "function", self._function)  # it may be silent for as long as its limits let it
        return lambda event: _read(event["agentq"], heard) if event["agentq"] else heard.prints(str(event))


def _read(said: Said, heard: Heard) -> None:
    text = said["text"].text
    match said["kind"].text:
        case "doing":
            heard.does(text)
        case "spent":
            tokens = said["input_tokens"].count, said["output_tokens"].count
            heard.spent(Usage(input_tokens=tokens[0], output_tokens=tokens[1], cost_usd=said["cost_usd"].number))
        case "done":
            heard.ends(text)
        case "refuse":
            heard.fails(text, kind="refusal")
        case "later":
            until = said["until"].number
            heard.fails(text, kind="later", until=datetime.fromtimestamp(until, UTC) if until and until < 4e9 else None)
        case "failed":
            heard.fails(text, kind="other")
