"""The command runner, with real programs."""

import asyncio
import contextlib
import dataclasses
import errno
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path

import pytest

from agentq import processes
from agentq.errors import Invalid
from agentq.messages import utc_now
from agentq.process_table import process_of
from agentq.processes import MARKER
from agentq.runner import Job, Ran
from agentq.runners.command import PROMPT_FILE, CommandRunner

SECONDS = 20.0
MIB = 1 << 20

# Detaches as a daemon does, ignores the polite signals, keeps the output open, and stays.
DAEMON = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for polite in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(polite, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
os.wait()
"""


# Ignores what it is asked, as do its children: one in a session of its own, and one that forgot whose child it is.
DEAF = """
trap '' TERM HUP INT
setsid sleep 600 & echo $!
env -i setsid sleep 600 & echo $!
(env -i setsid sleep 600 & echo $!)
echo ready
while :; do sleep 0.01; done
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    token = secrets.token_hex(8)
    (tmp_path / "work").mkdir()
    (tmp_path / "output").mkdir()
    return Job(
        task_id="task-1",
        attempt=1,
        token=token,
        prompt="the prompt",
        workdir=tmp_path / "work",
        output=tmp_path / "output",
        transcript=tmp_path / "transcript.log",
        environment={"PATH": os.environ["PATH"], MARKER: token},
    )


async def run(job: Job, *command: str, grace: float = SECONDS) -> Ran:
    async with asyncio.timeout(SECONDS):
        return await CommandRunner(command, grace_seconds=grace).run(job)


async def sh(job: Job, script: str, grace: float = SECONDS) -> Ran:
    return await run(job, "sh", "-c", script, grace=grace)


async def python(job: Job, script: str, grace: float = SECONDS) -> Ran:
    return await run(job, sys.executable, "-c", script, grace=grace)


def left(job: Job) -> list[int]:
    """What still lives of the job."""
    return [process.pid for process in processes._marked(processes._mark(job.token))]


def lives(pid: int) -> bool:
    process = process_of(pid)
    return process is not None and not process.is_dead


@contextlib.asynccontextmanager
async def running(job: Job, *command: str, grace: float = SECONDS) -> AsyncIterator["asyncio.Task[Ran]"]:
    """A run that has printed `ready`."""
    task = asyncio.create_task(CommandRunner(command, grace_seconds=grace).run(job))
    try:
        async with asyncio.timeout(SECONDS):
            while not (job.transcript.exists() and b"ready" in job.transcript.read_bytes()):
                await asyncio.sleep(0.005)
                assert not task.done(), task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------------- how it ends


async def test_exit_0_is_done(job: Job) -> None:
    ran = await sh(job, "echo all good; exit 0")
    assert (ran.ended, ran.reason, ran.exit_code, ran.final_text) == ("done", None, 0, "all good\n")
    assert ran.usage.seconds is not None
    assert 0 < ran.usage.seconds < SECONDS


@pytest.mark.parametrize(
    ("script", "ended", "reason"),
    [
        ("exit 1", "failed", "exited with status 1"),
        ("exit 143", "failed", "exited with status 143"),
        ("exit 255", "failed", "exited with status 255"),
        ("exit 75", "try_again", "asked to be tried again (status 75)"),
        ("exit 65", "refused", "refused the task (status 65)"),
        ("echo out; echo first >&2; echo '  why  ' >&2; echo >&2; exit 2", "failed", "exited with status 2: why"),
        ("echo out; exit 2", "failed", "exited with status 2: out"),
        ("echo rate limit; exit 75", "try_again", "asked to be tried again (status 75): rate limit"),
        ("echo no such repository; exit 65", "refused", "refused the task (status 65): no such repository"),
        ("kill -KILL $$", "failed", "killed by signal SIGKILL"),
        ("echo oops; kill -SEGV $$", "failed", "killed by signal SIGSEGV: oops"),
        ("kill -40 $$", "failed", "killed by signal 40"),
    ],
)
async def test_other_ends_have_a_reason(job: Job, script: str, ended: str, reason: str) -> None:
    ran = await sh(job, script)
    assert (ran.ended, ran.reason) == (ended, reason)


async def test_75_with_a_time_parks_the_task_until_then(job: Job) -> None:
    for text in ("2031-02-03T04:05:06Z", " 2031-02-03T06:05:06+02:00\n"):
        (job.output / "not-before").write_text(text)
        ran = await sh(job, "echo rate limit; exit 75")
        assert (ran.ended, ran.not_before) == ("parked", datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))
        assert ran.reason == "asked not to be tried again before 2031-02-03 04:05:06 UTC: rate limit"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5\n", 1.5), ("10m", 600)])
async def test_75_with_seconds_parks_the_task_for_so_long(job: Job, text: str, seconds: float) -> None:
    before = utc_now()
    ran = await sh(job, f"printf '{text}' > {job.output}/not-before; exit 75")
    assert ran.ended == "parked"
    assert ran.not_before
    assert before < ran.not_before - timedelta(seconds=seconds) < utc_now()


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "inf", "1e999", "9" * 400, "\xff\xfe", "2031-99-99"])
async def test_75_with_something_else_is_tried_again_and_counts(job: Job, text: str) -> None:
    (job.output / "not-before").write_bytes(text.encode("latin-1"))
    ran = await sh(job, "exit 75")
    assert (ran.ended, ran.not_before) == ("try_again", None)


async def test_not_before_must_be_a_file(job: Job) -> None:
    (job.workdir / "elsewhere").write_text("90")
    for make in ("ln -s $PWD/elsewhere", "mkfifo", "mkdir"):
        ran = await sh(job, f"rm -rf {job.output}/not-before; {make} {job.output}/not-before; exit 75")
        assert ran.ended == "try_again"


async def test_not_before_means_nothing_without_75(job: Job) -> None:
    (job.output / "not-before").write_text("90")
    for code, ended in ((0, "done"), (1, "failed"), (65, "refused")):
        ran = await sh(job, f"exit {code}")
        assert (ran.ended, ran.not_before) == (ended, None)


async def test_a_reason_is_bounded_and_plays_no_tricks_on_a_terminal(job: Job) -> None:
    ran = await python(job, r"print('\x1b[31mred\x1b[0m\x07\x1b]0;title\x07' + 'x' * 5000); raise SystemExit(1)")
    assert ran.reason is not None
    assert ran.reason.startswith("exited with status 1: red xxx")
    assert len(ran.reason) == 300


async def test_a_missing_program_fails_to_start(job: Job) -> None:
    ran = await run(job, "no-such-program-anywhere")
    assert ran.ended == "failed"
    assert ran.reason == "failed to start: the program 'no-such-program-anywhere' is missing or not executable"


async def test_a_program_that_is_not_executable_fails_to_start(job: Job) -> None:
    (job.workdir / "agent").write_text("#!/bin/sh\n")
    for name in ("./agent", str(job.workdir / "agent"), str(job.workdir)):
        ran = await run(job, name)
        assert ran.ended == "failed"
        assert ran.reason is not None
        assert "missing or not executable" in ran.reason


async def test_a_program_that_the_system_cannot_execute_fails(job: Job) -> None:
    (job.workdir / "agent").write_bytes(b"\x7fELF nonsense")
    (job.workdir / "agent").chmod(0o755)
    ran = await run(job, "./agent")
    assert ran.ended == "failed"
    assert ran.reason is not None
    assert "agent" in ran.reason


async def test_a_missing_workdir_or_transcript_folder_fails_to_start(job: Job, tmp_path: Path) -> None:
    for broken in (
        dataclasses.replace(job, workdir=tmp_path / "missing"),
        dataclasses.replace(job, transcript=tmp_path / "missing" / "transcript.log"),
    ):
        ran = await sh(broken, "exit 0")
        assert ran.ended == "failed"
        assert ran.reason is not None
        assert ran.reason.startswith("failed to start: ")
        assert "missing" in ran.reason


def test_check_finds_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "an-agent"
    script.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in ("an-agent", str(script), str(tmp_path / "nothing"), "nothing"):
        with pytest.raises(Invalid, match="missing or not executable"):
            CommandRunner([command]).check()
    script.chmod(0o755)
    for command in ("an-agent", str(script), "./of-the-workdir", Path(sys.executable).name):
        CommandRunner([command]).check()


@pytest.mark.parametrize("command", [[], [""]])
def test_an_empty_command_is_refused(command: list[str]) -> None:
    with pytest.raises(Invalid):
        CommandRunner(command)


# ---------------------------------------------------------------------- what it gets


async def test_it_runs_in_the_workdir_with_exactly_its_environment(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTQ_TEST_SECRET", "of the daemon")
    (job.workdir / "own").write_text('#!/bin/sh\npwd\ntr "\\0" "\\n" < /proc/$$/environ\nprintf "%s|" "$@"')
    (job.workdir / "own").chmod(0o755)
    ran = await run(job, "./own", "a b", "", "$HOME", "--x")
    where, *environment, arguments = ran.final_text.splitlines()
    assert where == str(job.workdir)
    assert sorted(environment) == sorted(f"{name}={value}" for name, value in job.environment.items())
    assert arguments == "a b||$HOME|--x|"


@pytest.mark.parametrize("prompt", ["", "ä prompt\nof two lines\n", "x" * MIB])
async def test_the_prompt_is_on_stdin(job: Job, prompt: str) -> None:
    job = dataclasses.replace(job, prompt=prompt)
    ran = await sh(job, f'cat > "{job.output}/prompt"')
    assert ran.ended == "done"
    assert (job.output / "prompt").read_text() == prompt


@pytest.mark.parametrize("script", ["exit 0", "exec 0<&-; exit 0", "head -c 1 > /dev/null"])
async def test_a_program_need_not_read_its_prompt(job: Job, script: str) -> None:
    ran = await sh(dataclasses.replace(job, prompt="x" * MIB), script)
    assert ran.ended == "done"


async def test_the_prompt_may_come_as_a_file_and_stdin_is_empty_then(job: Job) -> None:
    job = dataclasses.replace(job, prompt="ä" * MIB)
    runner = CommandRunner(["sh", "-c", f'cat; cp "${PROMPT_FILE}" copy; echo "${PROMPT_FILE}"'], prompt_via="file")
    ran = await runner.run(job)
    assert ran.ended == "done"
    path = Path(ran.final_text.strip())
    assert path.parent == job.output.parent
    assert (job.workdir / "copy").read_text() == job.prompt
    assert list(job.output.iterdir()) == []


# ---------------------------------------------------------------------- what it prints


async def test_everything_printed_is_in_the_transcript_as_it_comes(job: Job) -> None:
    os.mkfifo(job.workdir / "fifo")
    async with running(job, "sh", "-c", "echo ready; echo to stderr >&2; read _ < fifo; echo end") as task:
        assert job.transcript.read_bytes().startswith(b"ready\n")
        assert not task.done()
        (job.workdir / "fifo").write_text("go on\n")
    ran = await sh(job, "echo once more; echo error >&2")
    assert ran.final_text == "once more\n"
    lines = job.transcript.read_text().splitlines()
    assert lines[0] == "ready"
    assert lines.index("once more") > 0
    assert "error" in lines


async def test_output_that_is_not_utf_8_is_kept_as_it_is(job: Job) -> None:
    data = bytes(range(256)) * 10
    ran = await python(job, f"import sys; sys.stdout.buffer.write({data!r}); sys.stderr.buffer.write(b'\\xff')")
    assert ran.ended == "done"
    assert sorted(job.transcript.read_bytes()) == sorted(data + b"\xff")
    assert "ABC" in ran.final_text
    assert "\ufffd" in ran.final_text


async def test_the_last_words_of_a_program_that_does_not_wait_for_its_pipe_are_heard(job: Job) -> None:
    script = "import os, sys; os.set_blocking(1, False); sys.exit(os.write(1, b'x' * 900_000) != 900_000)"
    ran = await python(job, script)
    assert (ran.ended, job.transcript.stat().st_size) == ("done", 900_000)


async def test_the_final_text_is_the_end_of_stdout_and_whole_letters(job: Job) -> None:
    ran = await python(job, "import sys; sys.stdout.write('ä' * 100_000 + 'x'); print('noise', file=sys.stderr)")
    assert ran.final_text.endswith("ääx")
    assert set(ran.final_text) == {"ä", "x"}
    assert 64 * 1024 - 2 <= len(ran.final_text.encode()) <= 64 * 1024
    assert len(job.transcript.read_bytes()) == 200_001 + len("noise\n")


async def test_a_flood_within_the_limit_is_all_there(job: Job) -> None:
    size = 20 * MIB
    ran = await sh(dataclasses.replace(job, output_limit=size), f"head -c {size} /dev/zero")
    assert ran.ended == "done"
    assert job.transcript.stat().st_size == size


async def test_a_flood_over_the_limit_is_stopped(job: Job) -> None:
    ran = await run(dataclasses.replace(job, output_limit=100_000), "yes")
    assert (ran.ended, ran.reason) == ("failed", "printed more than 100000 bytes")
    assert job.transcript.stat().st_size == 100_000
    assert left(job) == []


async def test_the_limit_holds_for_the_last_words_too(job: Job) -> None:
    after_the_end = "(while kill -0 $$ 2>/dev/null; do :; done; printf 9ab >&2) & printf 12345678"
    ran = await sh(dataclasses.replace(job, output_limit=10), after_the_end)
    assert (ran.ended, ran.reason, ran.exit_code) == ("failed", "printed more than 10 bytes", 0)
    assert job.transcript.stat().st_size == 10


async def test_a_transcript_that_cannot_be_written_is_a_failure_not_a_silence(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode, **_: Full(self, mode.replace("b", "")))
    ran = await sh(job, "echo hello; sleep 600")
    assert (ran.ended, ran.reason) == ("failed", "the transcript cannot be written: No space left on device")
    assert left(job) == []


# ---------------------------------------------------------------------- how it is stopped


async def test_a_run_that_takes_too_long_is_stopped(job: Job) -> None:
    ran = await sh(dataclasses.replace(job, timeout_seconds=0.1), "while :; do echo busy; sleep 0.01; done")
    assert (ran.ended, ran.reason) == ("timed_out", "took longer than 0.1 s")
    assert "busy" in ran.final_text
    assert left(job) == []


async def test_silence_is_stopped(job: Job) -> None:
    ran = await sh(dataclasses.replace(job, silence_seconds=0.1), "echo hello; sleep 600")
    assert (ran.ended, ran.reason) == ("timed_out", "printed nothing for 0.1 s")
    assert ran.final_text == "hello\n"


async def test_any_output_breaks_the_silence(job: Job) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.1; echo $i >&2; done"
    ran = await sh(dataclasses.replace(job, silence_seconds=0.7), script)
    assert ran.ended == "done"


async def test_stopping_is_gentle_first(job: Job) -> None:
    script = "trap 'echo saved; exit 3' TERM; while :; do sleep 0.01; done"
    ran = await sh(dataclasses.replace(job, timeout_seconds=0.2), script)
    assert (ran.ended, ran.exit_code, ran.final_text) == ("timed_out", 3, "saved\n")


async def test_stopping_is_hard_when_the_grace_is_over(job: Job) -> None:
    script = "trap '' TERM; sleep 600; sleep 600"
    ran = await sh(dataclasses.replace(job, timeout_seconds=0.1), script, grace=0.1)
    assert (ran.ended, ran.exit_code) == ("timed_out", -signal.SIGKILL)
    assert left(job) == []


async def test_a_daemon_that_ignores_signals_is_gone_after_a_stop(job: Job) -> None:
    script = DAEMON.replace("print(os.getpid()", "print('ready'") + "signal.pause()"
    async with running(job, sys.executable, "-c", script, grace=0.1) as task:
        assert len(left(job)) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(job) == []


async def test_told_to_stop_it_answers_when_all_of_the_tree_is_proven_gone(job: Job) -> None:
    async with asyncio.timeout(SECONDS), running(job, "sh", "-c", DEAF, grace=0.1) as task:
        children = [int(line) for line in job.transcript.read_text().split() if line != "ready"]
        assert len([pid for pid in children if lives(pid)]) == 3
        job.stop.set()
        ran = await task
    assert (ran.ended, ran.proven, ran.exit_code) == ("stopped", True, -signal.SIGKILL)
    assert not [pid for pid in children if lives(pid)]


async def test_told_to_stop_it_is_gentle_first(job: Job) -> None:
    script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    async with running(job, "sh", "-c", script) as task:
        job.stop.set()
        ran = await task
    assert (ran.ended, ran.proven, ran.exit_code, ran.final_text) == ("stopped", True, 0, "ready\nsaved\n")


async def test_what_would_not_go_is_not_called_gone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(job, "sh", "-c", "echo ready; sleep 600", grace=0.05) as task:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "_send", lambda *_: None)
            patch.setattr(processes.ProcessTree.stop, "__defaults__", (0.05,))
            job.stop.set()
            ran = await task
        assert (ran.ended, ran.proven) == ("stopped", False)
        processes.kill_marked(job.token)


async def test_one_that_ended_by_itself_is_gone_too(job: Job) -> None:
    ran = await sh(job, "setsid sleep 600 > /dev/null 2>&1 & exit 0")
    assert (ran.ended, ran.proven) == ("done", True)


async def test_what_the_program_leaves_behind_is_stopped_and_holds_nothing_up(job: Job) -> None:
    ran = await python(job, f"{DAEMON}\nprint('done')")
    assert ran.ended == "done"
    assert "done" in ran.final_text.splitlines()
    assert left(job) == []


async def test_what_is_printed_just_after_the_end_is_still_read(job: Job) -> None:
    ran = await sh(job, "(sleep 0.1; echo late) & echo early")
    assert (ran.ended, ran.final_text) == ("done", "early\nlate\n")


async def test_a_pipe_that_nobody_can_be_made_to_close_is_abandoned(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_send", lambda *_: None)
    monkeypatch.setattr(processes.ProcessTree.stop, "__defaults__", (0.05,))
    try:
        ran = await sh(job, "sleep 600 & echo end")
    finally:
        monkeypatch.undo()
        processes.kill_marked(job.token)
    assert (ran.ended, ran.final_text) == ("done", "end\n")


async def test_cancelling_stops_everything_first_and_does_not_wait_for_those_who_were_not_asked(job: Job) -> None:
    async with (
        asyncio.timeout(SECONDS / 2),
        running(job, "sh", "-c", "setsid sleep 600 & sleep 600 & echo ready; wait") as task,
    ):
        assert len(left(job)) == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(job) == []


async def test_cancelling_twice_only_shortens_the_grace(job: Job) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done"
    async with running(job, "sh", "-c", script, grace=600) as task:
        task.cancel()
        async with asyncio.timeout(SECONDS):
            while b"asked" not in job.transcript.read_bytes():  # noqa: ASYNC110 - a file has no events
                await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(job) == []


async def test_cancelling_before_it_started_leaves_nothing(job: Job) -> None:
    task = asyncio.create_task(CommandRunner(["sleep", "600"]).run(job))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(job) == []


async def test_many_runs_at_once_keep_apart(job: Job, tmp_path: Path) -> None:
    async def one(number: int) -> tuple[str, int | None]:
        token = secrets.token_hex(8)
        own = dataclasses.replace(
            job, token=token, transcript=tmp_path / f"{number}.log", environment={**job.environment, MARKER: token}
        )
        ran = await sh(own, f"setsid sleep 600 > /dev/null 2>&1 & echo {number}; exit {number}")
        assert left(own) == []
        return ran.final_text, ran.exit_code

    results = await asyncio.gather(*(one(number) for number in range(12)))
    assert results == [(f"{number}\n", number) for number in range(12)]


async def test_no_run_leaves_a_descriptor_open(job: Job) -> None:
    await sh(job, "exit 0")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await sh(job, "echo x")
        await run(job, "no-such-program-anywhere")
        await sh(dataclasses.replace(job, workdir=job.workdir / "missing"), "exit 0")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---------------------------------------------------------------------- when the daemon dies

KILLED_DAEMON = """
import asyncio, os, sys
from pathlib import Path
from agentq.runner import Job
from agentq.runners.command import CommandRunner

folder = Path(sys.argv[1])
job = Job("task-1", 1, sys.argv[2], "", folder, folder, folder / "log", {**os.environ, "AGENTQ_TOKEN": sys.argv[2]})
asyncio.run(CommandRunner(["sh", "-c", "echo $$ > fifo; while :; do sleep 0.01; done"]).run(job))
"""


@contextlib.contextmanager
def daemon(job: Job) -> Iterator["subprocess.Popen[bytes]"]:
    os.mkfifo(job.workdir / "fifo")
    command = [sys.executable, "-c", KILLED_DAEMON, str(job.workdir), job.token]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent) as process:
        try:
            yield process
        finally:
            process.kill()
            processes.kill_marked(job.token)


def test_a_daemon_killed_the_hard_way_takes_its_agent_along(job: Job) -> None:
    with daemon(job) as process:
        pid = int((job.workdir / "fifo").read_text())
        descriptor = os.pidfd_open(pid)
        process.kill()
        assert select.select([descriptor], [], [], SECONDS)[0]
        os.close(descriptor)
