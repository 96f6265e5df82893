"""A manager of systemd's for one test, in namespaces and a control group of its own, without this machine's units.

It is a user's manager, for a system's would take hold of this machine; run by root it can do to a service what the
system's does: another user, another view of the disk, limits on what it may call.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.daemons.harness import ROOT, until

BOOT = Path(__file__).with_name("boot.sh")
GROUPS = Path("/sys/fs/cgroup")
AGENTQ = str(Path(sys.executable).with_name("agentq"))
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "-n")


class Manager:
    """A running manager; what is done in it is done with its view of the disk."""

    def __init__(self, process: "subprocess.Popen[bytes]", pid: int, units: Path) -> None:
        self.units = units
        self._process, self._pid = process, pid

    def run(self, *words: str, user: str = "root", check: bool = True, **environment: str) -> str:
        """What a command prints there, as that user; it must succeed."""
        home = {"root": "/root", "agentq": "/var/lib/agentq"}[user]
        given = {"PATH": os.environ["PATH"], "HOME": home, "XDG_RUNTIME_DIR": "/run/manager"} | environment
        enter = [*AS_ROOT, "nsenter", f"--target={self._pid}", "--mount", "--pid", "--wd=/"]
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        passed = ["env", "-i", *(f"{name}={value}" for name, value in given.items())]
        done = subprocess.run(
            [*enter, *become, *passed, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 or not check, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def systemctl(self, *words: str, check: bool = True) -> str:
        """What systemctl prints there."""
        return self.run("systemctl", "--user", *words, check=check)

    def shows(self, unit: str, name: str) -> str:
        """What the manager says of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def waits(self, unit: str, name: str, value: str) -> None:
        """Wait until it says so."""
        until(lambda: self.shows(unit, name) == value, f"{name}={value} of {unit}; it is {self.shows(unit, name)}", 30)


@contextmanager
def booted(units: Path, folders: Sequence[Path]) -> Iterator[Manager]:
    """A manager with those units, whose services see those folders."""
    group = _group()
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen([*AS_ROOT, *namespaces, "sh", BOOT, group, units, *folders, ROOT])
    try:
        pid = until(lambda: _child_of(process.pid), "a namespace")
        manager = Manager(process, pid, units)
        until(lambda: manager.systemctl("is-active", "nothing.target", check=False) == "active", "a manager", 30)
        yield manager
    finally:
        subprocess.run([*AS_ROOT, "kill", "-KILL", str(_last_of(process.pid))], check=False)
        process.wait()
        until(lambda: _is_removed(group), f"the end of {group}")


def _group() -> Path:
    """A new control group; only what is in it belongs to the manager."""
    above = GROUPS / "systemd" if (GROUPS / "systemd").is_dir() else GROUPS
    group = above / f"agentq-tests-{secrets.token_hex(4)}"
    subprocess.run([*AS_ROOT, "mkdir", group], check=True)
    return group


def _is_removed(group: Path) -> bool:
    folders = [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
    return subprocess.run([*AS_ROOT, "rmdir", *folders], capture_output=True, check=False).returncode == 0


def _child_of(pid: int) -> int | None:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{_last_of(pid)}/task/{_last_of(pid)}/children").read_text().split()[0])
    return None


def _last_of(pid: int) -> int:
    """The process that unshares: below sudo, where there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if AS_ROOT else []
    return int(children[0]) if children else pid
