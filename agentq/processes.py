"""The processes of an attempt: found wherever they hide, stopped, and proven gone.

An agent's tools start sessions of their own, detach, and outlive their parent. So on Linux three things hold them:
an environment marker that children inherit, the parent and session ids in /proc, and this process being the one that
orphans are handed to. Elsewhere only the process group is known, and nothing is ever proven.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from agentq.process_table import LINUX, Process, environment_of, process_of, process_table, with_descendants

MARKER = "AGENTQ_TOKEN"

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE = 0.02
_QUIET_LOOKS = 2

Look = Callable[[], "list[Process]"]

# The leaders of the trees that live now, and how many are being started. The kernel keeps parenthood per process, so
# this is kept per process too: of our children in other sessions than ours, all but the leaders were adopted.
_leaders: set[int] = set()
_starting = 0
# Children in sessions of their own that were there before any tree lived: whoever uses this as a library has some too.
_others: frozenset[tuple[int, str]] = frozenset()


class ProcessTree:
    """The processes of one attempt: the leader, its session, its descendants, and whoever carries its token.

    The leader is a child that `start` made; asyncio reaps it, and the orphans it leaves are reaped here.
    """

    def __init__(self, leader: int, token: str) -> None:
        self.leader = leader
        self._mark = _mark(token)
        found = process_of(leader)
        self._known = {(leader, found.started)} if found else set()
        _leaders.add(leader)

    def look(self) -> list[Process]:
        """The living members; they stay known, even if they hide later. Reaps dead orphans on the way."""
        table = list(process_table())
        _reap(table)
        roots = [process for process in table if self._is_root(process, table)]
        members = [process for process in with_descendants(roots, table) if not process.is_dead]
        self._known |= {(process.pid, process.started) for process in members}
        return members

    def ask_to_end(self) -> None:
        """Send SIGTERM to those members that are still in the leader's process group."""
        if not LINUX:
            _signal_group(self.leader, signal.SIGTERM)
        for process in self._group():
            _send(process, signal.SIGTERM)

    async def stop(self, grace: float, deadline: float = 5.0) -> bool:
        """Ask, give those who were asked `grace` seconds, then `kill`; a cancellation shortens the grace, no more."""
        try:
            if grace > 0:
                await asyncio.to_thread(self.ask_to_end)
                await self._group_ended_within(grace)
        finally:
            proven = await _to_the_end(asyncio.create_task(asyncio.to_thread(self.kill, deadline)))
        return proven

    def kill(self, deadline: float) -> bool:
        """SIGKILL every member until none is left, for `deadline` seconds at most; True when all are proven gone."""
        if not LINUX:
            _signal_group(self.leader, signal.SIGKILL)
            return False
        # Orphans are handed to this process, so one without a child has no descendant either.
        return _is_childless() or (_kill_until_gone(self.look, deadline) and not self._strangers(list(process_table())))

    def close(self) -> None:
        """Forget the tree, once its leader has been reaped."""
        _leaders.discard(self.leader)

    async def _group_ended_within(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while await asyncio.to_thread(self._group_lives) and time.monotonic() < end:  # noqa: ASYNC110 - no events there
            await asyncio.sleep(_PAUSE)

    def _group_lives(self) -> bool:
        return bool(self._group()) if LINUX else _signal_group(self.leader, 0)

    def _group(self) -> list[Process]:
        return [process for process in self.look() if process.group == self.leader]

    def _is_root(self, process: Process, table: list[Process]) -> bool:
        return (
            (process.pid, process.started) in self._known
            or process.session == self.leader
            or _carries(process.pid, self._mark)
            # Nobody else can have left it behind.
            or (_leaders == {self.leader} and _is_stranger(process))
        )

    def _strangers(self, table: list[Process]) -> list[Process]:
        """Adopted orphans of nobody knows which tree; while one lives, nothing is proven."""
        return [process for process in table if _is_stranger(process) and not process.is_dead]


async def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    token: str,
    cwd: Path,
    stdin: "int | IO[bytes]",
    stdout: int,
    stderr: int,
) -> tuple[asyncio.subprocess.Process, ProcessTree]:
    """Start a program, given by its absolute path, as the leader of a tree that does not outlive this process.

    The environment must hold the token under MARKER. Raises OSError when nothing can be started in `cwd`; a program
    that cannot be executed says so on stderr, and its exit code is not 0.
    """
    global _starting
    adopt_orphans()
    _note_others()
    _starting += 1
    try:
        process = await asyncio.create_subprocess_exec(
            *_tether(),
            *command,
            env=environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        return process, ProcessTree(process.pid, token)
    except asyncio.CancelledError:
        await asyncio.to_thread(kill_marked, token)
        raise
    finally:
        _starting -= 1


def kill_marked(token: str, deadline: float = 5.0) -> bool:
    """Kill what an attempt left on this machine whose daemon died; True when all that carried the token are gone."""
    mark = _mark(token)
    return LINUX and _kill_until_gone(lambda: _marked(mark), deadline)


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants whose own parent dies, instead of pid 1."""
    if LINUX:
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _tether() -> tuple[str, ...]:
    """What to put before a command so that it is killed when this process dies, and not begun when it is dead.

    A small program does it after the fork: a `preexec_fn` is not safe in a process with threads, and Python warns. It
    is no `setpriv --pdeathsig`, which begins an orphan: whoever looked for the token before the fork became a program
    did not find it, and has begun the next attempt.
    """
    return (sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid())) if LINUX else ()


_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
# Python adds LC_CTYPE to its own environment; the program gets the one that was given.
with open("/proc/self/environ", "rb") as given:
    environment = dict(entry.split(b"=", 1) for entry in given.read().split(b"\\0") if b"=" in entry)
try:
    os.execve(sys.argv[2], sys.argv[2:], environment)
except OSError as error:
    sys.exit(f"cannot execute {sys.argv[2]}: {error.strerror}")
"""


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


async def _to_the_end(task: "asyncio.Task[bool]") -> bool:
    """Await a task to its end through cancellations; they are raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    return task.result()


# ---------------------------------------------------------------------- whose a process is


def _mark(token: str) -> bytes:
    return f"{MARKER}={token}".encode()


def _carries(pid: int, mark: bytes) -> bool:
    return mark in environment_of(pid)


def _marked(mark: bytes) -> list[Process]:
    table = list(process_table())
    _reap(table)
    roots = [process for process in table if _carries(process.pid, mark)]
    return [process for process in with_descendants(roots, table) if not process.is_dead]


def _note_others() -> None:
    global _others
    if not _leaders and not _starting:
        _others = frozenset()
        children = () if _is_childless() else process_table()
        _others = frozenset((process.pid, process.started) for process in children if _is_adopted(process))


def _is_childless() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _is_adopted(process: Process) -> bool:
    # While a leader is being started it cannot be told from an orphan yet.
    if _starting or process.pid in _leaders or (process.pid, process.started) in _others:
        return False
    return process.parent == os.getpid() and process.session != os.getsid(0)


def _is_stranger(process: Process) -> bool:
    """True for an adopted orphan without a marker: it was started with another environment."""
    if not _is_adopted(process):
        return False
    return not any(entry.startswith(f"{MARKER}=".encode()) for entry in environment_of(process.pid))


def _reap(table: Iterable[Process]) -> None:
    for process in table:
        if process.is_dead and _is_adopted(process):
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


# ---------------------------------------------------------------------- killing


def _kill_until_gone(look: Look, deadline: float) -> bool:
    """Kill and look again; one look may miss a process that was forked meanwhile, so it takes two quiet ones."""
    end = time.monotonic() + deadline
    quiet = 0
    while True:
        members = look()
        quiet = 0 if members else quiet + 1
        if quiet == _QUIET_LOOKS:
            return True
        if time.monotonic() > end:
            return False
        for process in members:
            _send(process, signal.SIGKILL)
        if members:
            time.sleep(_PAUSE / 4)


def _send(process: Process, what: signal.Signals) -> None:
    now = process_of(process.pid)
    if now and now.started == process.started:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, what)


def _signal_group(leader: int, what: int) -> bool:
    try:
        os.killpg(leader, what)
    except (ProcessLookupError, PermissionError):
        return False
    return True
