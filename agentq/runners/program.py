"""A program that runs as an agent: started as a tree of its own, heard, bounded, and stopped with all of it."""

import asyncio
import fcntl
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agentq.errors import Invalid
from agentq.processes import ProcessTree, start
from agentq.runner import Job, Ran

_CHUNK = 64 * 1024
_PIPE = 1024 * 1024
_FINAL_TEXT = 64 * 1024
_LAST_WORDS = 4 * 1024
_REASON = 300
_LINGER_SECONDS = 1.0
_ABANDON_SECONDS = 0.5
_LOOK_SECONDS = 2.0
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")


@dataclass(frozen=True, slots=True)
class Over:
    """How a program ended: `verdict` when it was stopped or broke its limits, else its exit code and last words count.

    `stdout` and `stderr` are the tails of what it printed; `proven` that nothing of its process tree is left.
    """

    verdict: Ran | None
    exit_code: int | None
    stdout: str
    stderr: str
    proven: bool

    @property
    def how(self) -> str:
        """Its exit code in words."""
        if self.exit_code is None:
            return "its end could not be seen"
        if self.exit_code < 0:
            return f"killed by signal {_signal_name(-self.exit_code)}"
        return f"exited with status {self.exit_code}"

    @property
    def last_line(self) -> str:
        """The last line with something in it, without what would play tricks on a terminal."""
        return _last_line(self.stderr) or _last_line(self.stdout)


async def run_program(
    command: Sequence[str],
    job: Job,
    *,
    stdin: "int | IO[bytes]",
    environment: Mapping[str, str],
    grace: float,
    doubt: Callable[[], Ran | None] = lambda: None,
) -> Over:
    """Run a command without a shell to its end, in the job's workdir and within its limits; its whole process tree is
    stopped first, also when this is cancelled. `doubt` is asked every two seconds at least, and stops it by an answer.

    Raises Invalid for a program that cannot be found, OSError or ValueError for one that cannot be started.
    """
    program = find(command[0], job.workdir, environment.get("PATH", os.defpath))
    with ExitStack() as stack:
        transcript = stack.enter_context(job.transcript.open("ab", buffering=0))
        output = stack.enter_context(_output(transcript, job))
        process, tree = await start(
            [program, *command[1:]],
            environment,
            token=job.token,
            cwd=job.workdir,
            stdin=stdin,
            stdout=output.stdout.write_end,
            stderr=output.stderr.write_end,
        )
        return await _Watch(job, process, tree, output, grace, doubt).run()


def with_last_line(reason: str, over: Over) -> str:
    """A reason, with the program's last words."""
    return f"{reason}: {over.last_line}"[:_REASON] if over.last_line else reason


@contextmanager
def as_stdin(text: str) -> Iterator[IO[bytes]]:
    """A text for a program's standard input: a file, because no file can fill up or break as a pipe can."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def findable(program: str) -> None:
    """Raise Invalid when a worker could not find the program; one of the workdir cannot be known before."""
    if Path(program).is_absolute() or os.sep not in program:
        tools = str(Path(sys.executable).parent)  # a worker adds them to its agents' PATH
        find(program, Path(), f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{tools}")


def find(program: str, workdir: Path, path: str) -> str:
    """The absolute path of a program; raises Invalid when there is none that can be executed."""
    wanted = str(workdir / program) if os.sep in program else program
    found = shutil.which(wanted, path=path)
    if found is None:
        raise Invalid(
            f"the program {program!r} is missing or not executable",
            hint="install it, or give its absolute path in the worker's profile",
        )
    return str(Path(found).absolute())


class _Watch:
    """Watches a started program until it is over, however it ends."""

    def __init__(
        self,
        job: Job,
        process: asyncio.subprocess.Process,
        tree: ProcessTree,
        output: "_Output",
        grace: float,
        doubt: Callable[[], Ran | None],
    ) -> None:
        self._job = job
        self._process = process
        self._tree = tree
        self._output = output
        self._grace = grace
        self._doubt = doubt
        self._began = time.monotonic()

    async def run(self) -> Over:
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
        if verdict is None and self._output.trouble.done():
            verdict = Ran("failed", self._output.trouble.result())
        code, stdout, stderr = self._process.returncode, self._output.stdout.text(), self._output.stderr.text()
        return Over(verdict, code, stdout, stderr, proven)

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
        return self._doubt()

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
        _widen(self.write_end)
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


def _widen(pipe: int) -> None:
    """Some programs do not wait at their end until their last words are written: what does not fit in is lost."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _left(seconds: float | None, since: float) -> float:
    return float("inf") if seconds is None else since + seconds - time.monotonic()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _last_line(text: str) -> str:
    """The last line with something in it, without what would play tricks on a terminal."""
    lines = _ESCAPES.sub("", text).splitlines()
    clean = ("".join(c if c.isprintable() else " " for c in line).strip() for line in reversed(lines))
    return next((line for line in clean if line), "")
