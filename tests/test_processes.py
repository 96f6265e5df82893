"""Process trees, with real processes: whatever an agent's tools start is found, stopped, and proven gone."""

import asyncio
import contextlib
import logging
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentq import process_table, processes
from agentq.process_table import Process, ProcessIdentity, is_gone, process_identity, process_of
from agentq.processes import MARKER, ProcessTree, kill_marked, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process trees are followed through /proc")

ROOT = Path(__file__).parent.parent
SECONDS = 20.0

# Detaches as a daemon does, ignores the polite signals, and stays.
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
"""


class Agent:
    """A started leader and the process ids that it and its children print."""

    def __init__(self, process: asyncio.subprocess.Process, tree: ProcessTree, output: int, token: str) -> None:
        self.process = process
        self.tree = tree
        self.token = token
        self._output = os.fdopen(output, "r")

    async def says(self) -> int:
        """The next number that is printed."""
        async with asyncio.timeout(SECONDS):
            return int(await asyncio.to_thread(self._output.readline))

    async def ends(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    def close(self) -> None:
        self.tree.close()
        self._output.close()


@contextlib.asynccontextmanager
async def agent(*command: str, cwd: Path = ROOT) -> AsyncIterator[Agent]:
    token = secrets.token_hex(8)
    program = shutil.which(command[0])
    assert program
    read_end, write_end = os.pipe()
    environment = {"PATH": os.environ["PATH"], MARKER: token}
    process, tree = await start(
        [program, *command[1:]],
        environment,
        token=token,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    one = Agent(process, tree, read_end, token)
    try:
        yield one
    finally:
        await tree.stop(0)
        await one.ends()
        one.close()


def lives(pid: int) -> bool:
    found = process_of(pid)
    return found is not None and not found.is_dead


def gone_within(pid: int, seconds: float = SECONDS) -> bool:
    """Wait for the end of a process that may be anybody's child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def carriers(token: str) -> list[Process]:
    return processes._marked(processes._mark(token))


# ---------------------------------------------------------------------- stopping a tree


async def test_an_obedient_program_ends_by_itself_when_asked(tmp_path: Path) -> None:
    script = f"trap 'echo bye > {tmp_path}/said; exit 7' TERM; echo $$; while :; do sleep 0.01; done"
    async with agent("sh", "-c", script) as one:
        await one.says()
        assert await one.tree.stop(SECONDS) is True
        assert await one.ends() == 7
    assert (tmp_path / "said").read_text() == "bye\n"


async def test_a_deaf_program_is_killed_when_the_grace_is_over() -> None:
    async with agent("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.01; done") as one:
        await one.says()
        assert await one.tree.stop(0.05) is True
        assert await one.ends() == -signal.SIGKILL


async def test_a_daemon_that_left_group_and_session_is_found() -> None:
    async with agent(sys.executable, "-c", DAEMON) as one:
        daemon = await one.says()
        await one.ends()
        assert os.getsid(daemon) != one.tree.leader
        assert [process.pid for process in one.tree.look()] == [daemon]
        assert await one.tree.stop(0.05) is True
        assert gone_within(daemon, 0)


async def test_a_whole_nest_is_stopped() -> None:
    script = "setsid sh -c 'echo $$; sleep 600 & sleep 600' & sh -c 'echo $$; sleep 600' & sleep 600"
    async with agent("sh", "-c", script) as one:
        heads = [await one.says(), await one.says()]
        assert await one.tree.stop(0.05) is True
        assert carriers(one.token) == []
        assert all(gone_within(pid, 0) for pid in heads)


async def test_one_that_was_started_with_another_environment_is_found_by_its_session() -> None:
    async with agent("true") as other, agent("sh", "-c", "env -i /bin/sh -c 'echo $$; exec sleep 600' &") as one:
        hidden = await one.says()
        await one.ends()
        assert await one.tree.stop(0) is True
        assert gone_within(hidden, 0)
        await other.ends()


async def test_one_that_hides_completely_is_known_from_before() -> None:
    script = "env -i setsid /bin/sh -c 'echo $$; exec sleep 600' & wait"
    async with agent("sleep", "600") as other, agent("sh", "-c", script) as one:
        hidden = await one.says()
        assert hidden in [process.pid for process in one.tree.look()]
        os.kill(one.tree.leader, signal.SIGKILL)
        await one.ends()
        assert await one.tree.stop(0) is True
        assert gone_within(hidden, 0)
        assert lives(other.tree.leader)


async def test_a_stranger_belongs_to_the_only_tree_there_is() -> None:
    async with agent("sh", "-c", "env -i setsid /bin/sh -c 'echo $$; exec sleep 600' &") as one:
        stranger = await one.says()
        await one.ends()
        assert await one.tree.stop(0) is True
        assert gone_within(stranger, 0)


async def test_while_a_stranger_may_be_another_trees_it_is_spared_and_nothing_is_proven() -> None:
    async with agent("sh", "-c", "env -i setsid /bin/sh -c 'echo $$; exec sleep 600' &") as one:
        async with agent("sleep", "600") as other:
            stranger = await one.says()
            await one.ends()
            assert await one.tree.stop(0) is False
            assert lives(stranger)
            assert lives(other.tree.leader)
        assert await one.tree.stop(0) is True
        assert gone_within(stranger, 0)


async def test_another_tree_is_left_alone() -> None:
    async with agent(sys.executable, "-c", DAEMON) as other, agent("sleep", "600") as one:
        daemon = await other.says()
        assert await one.tree.stop(0.05) is True
        assert lives(daemon)


async def test_cancelling_a_stop_only_shortens_the_grace() -> None:
    async with agent("sh", "-c", "trap 'echo 1' TERM; echo 0; while :; do sleep 0.01; done") as one:
        await one.says()
        stopping = asyncio.create_task(one.tree.stop(600))
        assert await one.says() == 1
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert await one.ends() == -signal.SIGKILL
        assert carriers(one.token) == []


async def test_stopping_may_be_repeated_and_a_tree_that_ended_is_proven_gone() -> None:
    async with agent("true") as one:
        await one.ends()
        assert await one.tree.stop(SECONDS) is True
        assert await one.tree.stop(SECONDS) is True


async def test_what_does_not_go_away_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent("sleep", "600") as one:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "_send", lambda *_: None)
            assert await one.tree.stop(0, deadline=0.05) is False
        assert lives(one.tree.leader)


async def test_dead_orphans_do_not_stay_as_zombies() -> None:
    before = {process.pid for process in process_table.process_table()}
    script = "for i in 1 2 3 4 5; do setsid sh -c 'sleep 0.01' & done; setsid sh -c 'echo $$; exec sleep 600' &"
    async with agent("sh", "-c", script) as one:
        await one.says()
        await one.ends()
        assert await one.tree.stop(0) is True
        one.tree.look()
        orphans = [
            process
            for process in process_table.process_table()
            if process.parent == os.getpid() and process.pid not in before
        ]
        assert [process for process in orphans if process.session not in (os.getsid(0), one.tree.leader)] == []


async def test_looking_never_takes_the_exit_code_of_a_child_that_is_just_being_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    enough = asyncio.Event()

    async def keep_looking(tree: ProcessTree) -> None:
        while not enough.is_set():
            await asyncio.to_thread(tree.look)

    async def run(code: int) -> int:
        async with agent("sh", "-c", f"exit {code}") as one:
            return await one.ends()

    async with agent("sleep", "600") as watcher:
        looking = [asyncio.create_task(keep_looking(watcher.tree)) for _ in range(2)]
        codes = [await asyncio.gather(*(run(code) for code in range(1, 6))) for _ in range(8)]
        enough.set()
        await asyncio.gather(*looking)
    assert codes == [[1, 2, 3, 4, 5]] * 8
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    token = secrets.token_hex(8)
    starting = asyncio.create_task(
        start(
            ["/bin/sh", "-c", "setsid sleep 600 & sleep 600"],
            {"PATH": os.environ["PATH"], MARKER: token},
            token=token,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    while not starting.done() and not carriers(token):  # noqa: ASYNC110 - as early as it can be seen
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        process, tree = await starting
        await tree.stop(0)
        await process.wait()
        tree.close()
    assert carriers(token) == []


async def test_a_program_with_a_nasty_name_is_read_right(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    nasty = tmp_path / "a) R 1 (b"
    shutil.copy(sleep, nasty)
    async with agent(str(nasty), "600") as one:
        found = process_of(one.tree.leader)
        assert found is not None
        assert found.parent == os.getpid()
        assert await one.tree.stop(0) is True


def test_a_dead_leader_of_living_threads_is_alive() -> None:
    zombie = Process(1, "Z", 0, 1, 1, threads=1, started="5")
    assert zombie.is_dead
    assert not zombie._replace(threads=2).is_dead
    assert not zombie._replace(state="S").is_dead


# ---------------------------------------------------------------------- when the daemon dies

KILLED_DAEMON = """
import asyncio, os, subprocess, sys
from pathlib import Path
from agentq import processes

async def main():
    process, _ = await processes.start(
        ["/bin/sh", "-c", "echo $$; setsid sh -c 'echo $$; exec sleep 600' & wait"],
        {"PATH": os.environ["PATH"], processes.MARKER: sys.argv[1]},
        token=sys.argv[1], cwd=Path("/"), stdin=subprocess.DEVNULL, stdout=1, stderr=2,
    )
    await process.wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def killed_daemon(token: str) -> Iterator[tuple[int, int]]:
    """The pids of an agent and of its tool, whose daemon was killed the hard way."""
    command = [sys.executable, "-c", KILLED_DAEMON, token]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        leader, tool = (int(daemon.stdout.readline()) for _ in range(2))
        daemon.kill()
    try:
        yield leader, tool
    finally:
        kill_marked(token)


def test_an_agent_dies_with_its_daemon_and_a_later_one_clears_up_the_rest() -> None:
    token = secrets.token_hex(8)
    with killed_daemon(token) as (leader, tool):
        assert gone_within(leader)
        assert lives(tool)
        assert kill_marked(token) is True
        assert gone_within(tool, 0)
        assert kill_marked(token) is True


async def test_only_the_very_token_marks() -> None:
    async with agent("sleep", "600") as one:
        assert kill_marked(one.token[:-1]) is True
        assert kill_marked("") is True
        assert lives(one.tree.leader)
        assert kill_marked(one.token) is True
        assert await one.ends() == -signal.SIGKILL


@pytest.mark.promise("not-twice")
def test_an_agent_whose_daemon_died_before_it_was_a_program_never_begins() -> None:
    """Between fork and exec it carries no token: whoever begins the next attempt cannot see it."""
    orphan = ["/bin/sh", "-c", '"$@"; exit $?', "another parent", *processes._tether(), "/bin/echo", "begun"]
    done = subprocess.run(orphan, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "the parent is gone" in done.stderr


async def test_a_tether_changes_neither_environment_nor_arguments(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f'tr "\\0" "\\n" < /proc/self/environ > {told}; printf "%s|" "$@" >> {told}'
    arguments = ["--", "a b", "", "-c", "ä"]
    async with agent("sh", "-c", script, *arguments) as one:
        assert await one.ends() == 0
        lines = told.read_text().splitlines()
    assert sorted(line.split("=")[0] for line in lines[:-1]) == [MARKER, "PATH"]
    assert lines[-1] == "a b||-c|ä|"


# ---------------------------------------------------------------------- who a process is


def test_this_process_is_not_gone() -> None:
    assert is_gone(process_identity()) is False
    assert process_identity() == process_identity()


def test_a_process_is_gone_once_it_is_dead_even_while_nobody_fetched_it() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        found = process_of(child.pid)
        assert found is not None
        identity = process_identity()._replace(pid=child.pid, started=found.started)
        assert is_gone(identity) is False
        child.kill()
        assert gone_within(child.pid)
        assert is_gone(identity) is True
    assert is_gone(identity) is True


def test_a_pid_that_was_given_again_is_another_process() -> None:
    assert is_gone(process_identity()._replace(started="1")) is True


@pytest.mark.parametrize(
    "identity",
    [
        process_identity()._replace(boot="another/pid:[4026531836]"),
        process_identity()._replace(boot=""),
        process_identity()._replace(started=""),
        process_identity()._replace(pid=0),
        process_identity()._replace(pid=-1),
        ProcessIdentity("", 0, ""),
    ],
)
def test_what_cannot_be_told_from_here_is_not_called_gone(identity: ProcessIdentity) -> None:
    assert is_gone(identity) is None


def test_without_proc_nothing_is_proven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    identity = process_identity()
    monkeypatch.setattr(process_table, "_PROC", tmp_path)
    assert process_identity() == ProcessIdentity("", os.getpid(), "")
    assert is_gone(identity) is None


async def test_elsewhere_the_group_is_stopped_and_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (process_table, processes):
        monkeypatch.setattr(module, "LINUX", False)
    async with agent("sh", "-c", "echo $$; sleep 600 & wait") as one:
        leader = await one.says()
        assert await one.tree.stop(0.05) is False
        assert gone_within(leader)
        assert kill_marked(one.token) is False


@pytest.fixture
def another_child() -> Iterator["subprocess.Popen[bytes]"]:
    """A child of this process, in a session of its own, that no tree knows of."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


async def test_a_child_that_was_there_before_is_no_orphan(
    another_child: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    process, tree = await processes.start(
        [shutil.which("true") or "/bin/true"],
        {processes.MARKER: "token-of-a-tree", "PATH": os.environ["PATH"]},
        token="token-of-a-tree",
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await process.wait()
    assert await tree.stop(0.0)
    tree.close()
    assert another_child.poll() is None
