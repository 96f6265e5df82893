"""A tool that prints a JSON event on each line: started, heard, and judged by more than its exit code."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

from agentq.errors import Invalid
from agentq.runner import Job, Ran
from agentq.runners.heard import Heard
from agentq.runners.program import Over, as_stdin, findable, run_program
from agentq.runners.said import Lines, Said, parsed

LONGEST_LINE = 8 * 1024 * 1024

Reader = Callable[[Said], None]
"""Takes one event of a run; ignores what it does not know, and never raises."""


class Tool(Protocol):
    """One kind of tool: how it is started, and what its events mean. It gets its prompt on standard input."""

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments."""

    def environment(self, job: Job) -> Mapping[str, str]:
        """What its environment has, unless the job's says otherwise."""

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run, in order."""


class StreamRunner:
    """Runs such a tool. `answer_seconds` is how long its model may let it wait, all that it tries again included."""

    def __init__(self, tool: Tool, program: str, *, grace_seconds: float, answer_seconds: float = inf) -> None:
        self._tool = tool
        self._program = program
        self._grace = grace_seconds
        self._answer_seconds = answer_seconds

    def check(self) -> None:
        """Raise Invalid when the tool is not installed."""
        findable(self._program)

    async def run(self, job: Job) -> Ran:
        """Run the tool to its end; its whole process tree is stopped first, also when this is cancelled."""
        began, heard = time.monotonic(), Heard(job, self._answer_seconds)
        try:
            over = await self._run(job, heard)
        except Invalid as error:
            return Ran("unusable", str(error))
        except (OSError, ValueError) as error:
            return Ran("failed", f"failed to start: {error}")
        usage = heard.usage.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
        ran = replace(heard.outcome(over), final_text=heard.final_text, exit_code=over.exit_code)
        return replace(ran, usage=usage, session=heard.session, proven=over.proven)

    async def _run(self, job: Job, heard: Heard) -> Over:
        ear = _Ear(job, self._tool.reader(job, heard))
        environment = {**self._tool.environment(job), **job.environment}
        with as_stdin(job.prompt) as stdin:
            over = await run_program(
                self._tool.command(job),
                replace(job, heard=ear.hear),
                stdin=stdin,
                environment=environment,
                grace=self._grace,
                doubt=heard.doubt,
            )
        ear.end()
        return over


class _Ear:
    """Takes what the tool prints, and tells apart what is an event."""

    def __init__(self, job: Job, reader: Reader) -> None:
        self._heard = job.heard
        self._reader = reader
        self._lines = Lines(LONGEST_LINE)

    def hear(self, stream: int, chunk: bytes) -> None:
        if stream != 1:
            return self._heard(stream, chunk)
        for line in self._lines.add(chunk):
            self._read(line)

    def end(self) -> None:
        self._read(self._lines.rest())

    def _read(self, line: bytes) -> None:
        event = parsed(line)
        if event:
            self._reader(event)
        elif line.strip():
            self._heard(1, line + b"\n")
