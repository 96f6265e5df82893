"""The process table: who lives, who descends from whom, and whether a process that was is gone; Linux tells it."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform == "linux"
"""Whether there is a table to read; elsewhere it is empty."""

_PROC = Path("/proc")


class ProcessIdentity(NamedTuple):
    """A process that was: where (boot and pid namespace), its pid, and when it started in that boot."""

    boot: str
    pid: int
    started: str


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    threads: int
    started: str

    @property
    def is_dead(self) -> bool:
        """True for a zombie; one whose other threads still run is alive."""
        return self.state in "ZX" and self.threads <= 1


def process_table() -> Iterator[Process]:
    """All processes that there are."""
    if not LINUX:
        return
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and (process := process_of(int(entry.name))):
            yield process


def process_of(pid: int) -> Process | None:
    """The process of that pid, None when there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses included.
    fields = text[text.rindex(b")") + 2 :].decode().split()
    parent, group, session = map(int, fields[1:4])
    return Process(pid, fields[0], parent, group, session, int(fields[17]), fields[19])


def environment_of(pid: int) -> list[bytes]:
    """What a process was started with, `NAME=value` each; nothing when it may not be read."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def with_descendants(roots: Iterable[Process], table: Iterable[Process]) -> list[Process]:
    """The roots and all below them, but never this process."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    waiting = list(roots)
    while waiting:
        process = waiting.pop()
        if process.pid not in found and process.pid != os.getpid():
            found[process.pid] = process
            waiting += children.get(process.pid, [])
    return list(found.values())


def process_identity() -> ProcessIdentity:
    """Who this process is, for a later process of this machine to ask whether it is gone."""
    me = process_of(os.getpid())
    return ProcessIdentity(_boot(), os.getpid(), me.started if me else "")


def is_gone(identity: ProcessIdentity) -> bool | None:
    """True when that process is proven gone, False while it lives, None when that cannot be told from here."""
    if not identity.boot or not identity.started or identity.pid <= 0 or identity.boot != _boot():
        return None
    try:
        os.kill(identity.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it exists, and is another user's
    process = process_of(identity.pid)
    if process is None:
        return None
    return process.started != identity.started or process.is_dead


def _boot() -> str:
    """The boot and pid namespace: the same elsewhere only if pids mean the same. Empty when there is no telling."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""
