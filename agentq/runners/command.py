"""The command runner: any program that reads a prompt, prints, and says how it went by its exit code."""

import asyncio
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

from agentq import request
from agentq.errors import Invalid
from agentq.messages import Usage, utc_now
from agentq.processes import ProcessTree, start
from agentq.runner import NOT_BEFORE, Ended, Job, Ran

PROMPT_FILE = "AGENTQ_PROMPT_FILE"
EXIT_REFUSED = 65  # EX_DATAERR of sysexits.h
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL

_CHUNK = 64 * 1024
_FINAL_TEXT = 64 * 1024
_LAST_WORDS = 4 * 1024
_REASON = 300
_MOMENT = 64
_LINGER_SECONDS = 1.0
_ABANDON_SECONDS = 0.5
_LOOK_SECONDS = 2.0
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")

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
        program = self._command[0]
        if Path(program).is_absolute() or os.sep not in program:
            tools = str(Path(sys.executable).parent)  # a worker adds them to its agents' PATH
            _find(program, Path(), f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{tools}")

    async def run(self, job: Job) -> Ran:
        """Run the command to its end; its whole process tree is stopped first, also when this is cancelled."""
        began = time.monotonic()
        try:
            ran = await self._run(job)
        except (Invalid, OSError, ValueError) as error:
            return Ran("failed", f"failed to start: {error}")
        return replace(ran, usage=Usage(seconds=round(time.monotonic() - began, 3)))

    async def _run(self, job: Job) -> Ran:
        program = _find(self._command[0], job.workdir, job.environment.get("PATH", os.defpath))
        with ExitStack() as stack:
            stdin, environment = stack.enter_context(self._prompt(job))
            transcript = stack.enter_context(job.transcript.open("ab", buffering=0))
            output = stack.enter_context(_output(transcript, job))
            process, tree = await start(
                [program, *self._command[1:]],
                environment,
                token=job.token,
                cwd=job.workdir,
                stdin=stdin,
                stdout=output.stdout.write_end,
                stderr=output.stderr.write_end,
            )
            return await _Watch(job, process, tree, output, self._grace).run()

    @contextmanager
    def _prompt(self, job: Job) -> Iterator[tuple[IO[bytes], Mapping[str, str]]]:
        """The program's stdin and environment. A prompt is a file either way: no pipe can fill up or break."""
        if self._prompt_via == "file":
            path = job.output.with_name(f"{job.output.name}.prompt.md")
            path.write_text(job.prompt, encoding="utf-8")
            with Path(os.devnull).open("rb") as nothing:
                yield nothing, {**job.environment, PROMPT_FILE: str(path)}
        else:
            with tempfile.TemporaryFile() as file:
                file.write(job.prompt.encode())
                file.seek(0)
                yield file, job.environment


class _Watch:
    """Watches a started program until it is over, however it ends."""

    def __init__(
        self, job: Job, process: asyncio.subprocess.Process, tree: ProcessTree, output: "_Output", grace: float
    ) -> None:
        self._job = job
        self._process = process
        self._tree = tree
        self._output = output
        self._grace = grace
        self._began = time.monotonic()

    async def run(self) -> Ran:
        """Wait for the end, or bring it about; nothing of the tree is left afterwards."""
        self._output.close_write_ends()
        exited = asyncio.create_task(self._process.wait())
        stop = asyncio.create_task(self._job.stop.wait())
        try:
            verdict = await self._until_over(exited, stop)
            if verdict is None:
                await self._output.ended(_LINGER_SECONDS)
        except BaseException:
            await self._end(exited, self._grace)
            raise
        finally:
            stop.cancel()
        proven = await self._end(exited, self._grace if verdict else 0.0)
        return replace(self._ran(verdict), proven=proven)

    async def _until_over(self, exited: "asyncio.Task[int]", stop: "asyncio.Task[Any]") -> Ran | None:
        """None when the program exited by itself, else why it must be stopped."""
        pause = 0.05
        while not exited.done():
            verdict = self._verdict()
            if verdict:
                return verdict
            events: set[asyncio.Future[Any]] = {exited, stop, self._output.trouble}
            left = min(pause, self._time_left())
            await asyncio.wait(events, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():  # whoever was seen once is found again, even when it hides later
                await asyncio.to_thread(self._tree.look)
            pause = min(2 * pause, _LOOK_SECONDS)
        return None

    def _verdict(self) -> Ran | None:
        if self._job.stop.is_set():
            return Ran("stopped", "stopped by its worker")
        if self._output.trouble.done():
            return Ran("failed", self._output.trouble.result())
        if self._timeout_left() <= 0:
            return Ran("timed_out", f"took longer than {self._job.timeout_seconds:g} s")
        if self._silence_left() <= 0:
            return Ran("timed_out", f"printed nothing for {self._job.silence_seconds:g} s")
        return None

    def _time_left(self) -> float:
        return max(0.0, min(self._timeout_left(), self._silence_left()))

    def _timeout_left(self) -> float:
        return _left(self._job.timeout_seconds, self._began)

    def _silence_left(self) -> float:
        return _left(self._job.silence_seconds, max(self._began, self._output.last_at))

    async def _end(self, exited: "asyncio.Task[int]", grace: float) -> bool:
        """Stop what is left, and let go of the output even if somebody still holds it; True when the tree is gone."""
        try:
            proven = await self._tree.stop(grace)
            await asyncio.wait({exited}, timeout=_ABANDON_SECONDS)
            await self._output.ended(_ABANDON_SECONDS)
            return proven
        finally:
            exited.cancel()
            self._tree.close()

    def _ran(self, verdict: Ran | None) -> Ran:
        code = self._process.returncode
        text = self._output.stdout.text()
        if verdict is None and self._output.trouble.done():
            verdict = Ran("failed", self._output.trouble.result())
        if verdict is None:
            verdict = self._as_it_says(code)
        return replace(verdict, final_text=text, exit_code=code)

    def _as_it_says(self, code: int | None) -> Ran:
        """What its exit code means, with its last words; `not-before` turns "try again" into a moment."""
        ended, reason = _outcome(code)
        until = _not_before(self._job.output) if ended == "try_again" else None
        if until:
            ended, reason = "parked", f"asked not to be tried again before {until:%Y-%m-%d %H:%M:%S} UTC"
        return Ran(ended, reason and _with_last_line(reason, self._output), not_before=until)


class _Output:
    """What a program prints: written to the transcript as it comes, counted, and its tails kept."""

    def __init__(self, transcript: IO[bytes], job: Job) -> None:
        self._transcript = transcript
        self._limit = self._left = job.output_limit
        self._heard = job.heard
        self.last_at = 0.0
        self.trouble: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stdout = _Pipe(functools.partial(self._take, 1), _FINAL_TEXT)
        self.stderr = _Pipe(functools.partial(self._take, 2), _LAST_WORDS)

    def close_write_ends(self) -> None:
        """Leave the writing to the program alone, so that its end is noticed."""
        self.stdout.close_write_end()
        self.stderr.close_write_end()

    async def ended(self, seconds: float) -> bool:
        """True when all that can print is gone, or as soon as it is; False when it is not, after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.stdout.ended.wait()
                await self.stderr.ended.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Stop reading."""
        self.stdout.close()
        self.stderr.close()
        self.trouble.cancel()

    def _take(self, stream: int, chunk: bytes) -> None:
        self.last_at = time.monotonic()
        if self.trouble.done():
            return
        if self._left is not None and len(chunk) > self._left:
            self.trouble.set_result(f"printed more than {self._limit} bytes")
            chunk = chunk[: self._left]
        try:
            self._write(chunk)
        except OSError as error:
            self._fail(f"the transcript cannot be written: {error.strerror}")
        else:
            self._heard(stream, chunk)

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._transcript.write(rest) :]
        if self._left is not None:
            self._left -= len(chunk)

    def _fail(self, why: str) -> None:
        if not self.trouble.done():
            self.trouble.set_result(why)


@contextmanager
def _output(transcript: IO[bytes], job: Job) -> Iterator[_Output]:
    output = _Output(transcript, job)
    try:
        yield output
    finally:
        output.close()


class _Pipe:
    """A pipe of our own, read by the event loop: asyncio's waits for everyone who inherited it, for ever."""

    def __init__(self, take: Callable[[bytes], None], keep: int) -> None:
        self._take = take
        self._keep = keep
        self._tail = bytearray()
        self._cut = False
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._read_end, self._ready)

    def text(self) -> str:
        """The last of what came, as far as it is kept."""
        text = self._tail.decode(errors="replace")
        return text.lstrip("\ufffd") if self._cut else text

    def close_write_end(self) -> None:
        """Leave the writing to others."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Let go of both ends."""
        self.close_write_end()
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._read_end)
            os.close(self._read_end)
            self.ended.set()

    def _ready(self) -> None:
        try:
            chunk = os.read(self._read_end, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            return self.close()
        self._take(chunk)
        self._tail += chunk
        self._cut = self._cut or len(self._tail) > self._keep
        del self._tail[: -self._keep]


def _find(program: str, workdir: Path, path: str) -> str:
    """The absolute path of a program; raises Invalid when there is none that can be executed."""
    wanted = str(workdir / program) if os.sep in program else program
    found = shutil.which(wanted, path=path)
    if found is None:
        raise Invalid(
            f"the program {program!r} is missing or not executable",
            hint="install it, or give its absolute path in the worker's profile",
        )
    return str(Path(found).absolute())


def _left(seconds: float | None, since: float) -> float:
    return float("inf") if seconds is None else since + seconds - time.monotonic()


def _outcome(code: int | None) -> tuple[Ended, str | None]:
    if code is None:
        return "failed", "its end could not be seen"
    if code < 0:
        return "failed", f"killed by signal {_signal_name(-code)}"
    return _OUTCOMES.get(code, ("failed", f"exited with status {code}"))


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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _with_last_line(reason: str, output: _Output) -> str:
    line = _last_line(output.stderr.text()) or _last_line(output.stdout.text())
    return f"{reason}: {line}"[:_REASON] if line else reason


def _last_line(text: str) -> str:
    """The last line with something in it, without what would play tricks on a terminal."""
    lines = _ESCAPES.sub("", text).splitlines()
    clean = ("".join(c if c.isprintable() else " " for c in line).strip() for line in reversed(lines))
    return next((line for line in clean if line), "")
