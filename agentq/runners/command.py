"""The command runner: any program that reads a prompt, prints, and says how it went by its exit code."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Literal

from agentq import request
from agentq.errors import Invalid
from agentq.messages import Usage, utc_now
from agentq.runner import NOT_BEFORE, Ended, Job, Ran
from agentq.runners.program import Over, as_stdin, findable, run_program, with_last_line

PROMPT_FILE = "AGENTQ_PROMPT_FILE"
EXIT_REFUSED = 65  # EX_DATAERR of sysexits.h
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL

_MOMENT = 64

_OUTCOMES: dict[int, tuple[Ended, str | None]] = {
    0: ("done", None),
    EXIT_REFUSED: ("refused", f"refused the task (status {EXIT_REFUSED})"),
    EXIT_TRY_AGAIN: ("try_again", f"asked to be tried again (status {EXIT_TRY_AGAIN})"),
}


class CommandRunner:
    """Runs a command without a shell: in the job's workdir, with exactly its environment, the prompt on stdin or in
    the file that AGENTQ_PROMPT_FILE names. A program given as a relative path with a '/' is the workdir's."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        prompt_via: Literal["stdin", "file"] = "stdin",
        grace_seconds: float = 5.0,
    ) -> None:
        if not command or not command[0]:
            raise Invalid("the worker's command is empty", hint="name a program and its arguments")
        self._command = tuple(command)
        self._prompt_via = prompt_via
        self._grace = grace_seconds

    def check(self) -> None:
        """Raise Invalid when the program is missing or not executable; one of the workdir cannot be known before."""
        findable(self._command[0])

    async def run(self, job: Job) -> Ran:
        """Run the command to its end; its whole process tree is stopped first, also when this is cancelled."""
        began = time.monotonic()
        try:
            with self._prompt(job) as (stdin, environment):
                over = await run_program(self._command, job, stdin=stdin, environment=environment, grace=self._grace)
        except (Invalid, OSError, ValueError) as error:
            return Ran("failed", f"failed to start: {error}")
        ran = replace(over.verdict or _as_it_says(over, job), final_text=over.stdout, exit_code=over.exit_code)
        return replace(ran, usage=Usage(seconds=round(time.monotonic() - began, 3)), proven=over.proven)

    @contextmanager
    def _prompt(self, job: Job) -> Iterator[tuple[IO[bytes], Mapping[str, str]]]:
        """The program's stdin and environment. A prompt is a file either way: no pipe can fill up or break."""
        if self._prompt_via == "file":
            path = job.output.with_name(f"{job.output.name}.prompt.md")
            path.write_text(job.prompt, encoding="utf-8")
            with Path(os.devnull).open("rb") as nothing:
                yield nothing, {**job.environment, PROMPT_FILE: str(path)}
        else:
            with as_stdin(job.prompt) as file:
                yield file, job.environment


def _as_it_says(over: Over, job: Job) -> Ran:
    """What its exit code means, with its last words; `not-before` turns "try again" into a moment."""
    ended, reason = _OUTCOMES.get(-1 if over.exit_code is None else over.exit_code, ("failed", over.how))
    until = _not_before(job.output) if ended == "try_again" else None
    if until:
        ended, reason = "parked", f"asked not to be tried again before {until:%Y-%m-%d %H:%M:%S} UTC"
    return Ran(ended, reason and with_last_line(reason, over), not_before=until)


def _not_before(output: Path) -> datetime | None:
    """The moment that the agent's file names, None when it left none, or one that names none."""
    path = output / NOT_BEFORE
    if path.is_symlink() or not path.is_file():
        return None
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_MOMENT).strip()
        with suppress(Invalid):
            return utc_now() + timedelta(seconds=request.seconds(NOT_BEFORE, text))
        with suppress(Invalid):
            return request.moment(NOT_BEFORE, text)
    return None
