"""The units as systemd reads them, and a worker as it runs them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentq.config import load_settings
from agentq.profile import built_in, load_profile
from agentq.units import Host, Unit, bridge_units, units
from agentq.units import Manager as Whose
from tests.daemons.harness import ROOT, until
from tests.systemd.manager import AGENTQ, Manager, booted

WORKER = "agentq-worker@review-worker.service"
EXPOSURE = 35
"""Tenths: `systemd-analyze security` calls up to 4.9 OK. What is left is what agents cannot do without."""
AGENT = """#!/bin/sh
# The agent of these tests: says what it can do where it runs, and waits for a gate where its task says so.
cat > prompt
can() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name yes"; else echo "$name no"; fi; }
{
    can home touch "$HOME/file"
    can output touch "$AGENTQ_OUTPUT/file"
    can etc touch /etc/file
    can srv touch /srv/file
    can sandbox unshare --user --map-root-user --mount --pid --fork --mount-proc true
    can root test "$(id -u)" = 0
    can node sh -c 'command -v python3 && python3 -c "import mmap, threading"'
    can tmp sh -c 'echo x > /tmp/mine'
} > "$AGENTQ_OUTPUT/summary.md"
if grep -q hold prompt; then
    setsid sleep 300 &
    touch /srv/gates/holds
    while [ ! -e /srv/gates/go ]; do sleep 0.05; done
fi
echo done > "$AGENTQ_OUTPUT/report.md"
"""
ALL = {"home": "yes", "output": "yes", "etc": "no", "srv": "no", "sandbox": "yes", "root": "no", "node": "yes"}


def written(folder: Path, manager: Whose) -> tuple[Unit, Unit]:
    """The units of a worker in a folder."""
    host = Host(manager, "root", Path("/root"), 252, {"PATH": "/usr/bin"})
    profile = load_profile(ROOT / "workers" / "review")
    files = units(profile, load_settings(environ={"HOME": str(folder)}, cwd=folder), host, folder, "codex")
    for unit in files:
        assert unit.write()
    return files


def analyze(*words: str) -> str:
    """What systemd-analyze says; it must be content."""
    there = {**os.environ, "XDG_RUNTIME_DIR": "/run"}
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, env=there, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.promise("units")
@pytest.mark.parametrize("manager", ["system", "user"])
def test_systemd_has_nothing_to_complain_of(tmp_path: Path, manager: Whose) -> None:
    written(tmp_path, manager)
    mode = ["--user"] if manager == "user" else []
    assert analyze("verify", *mode, "--man=no", str(tmp_path / WORKER.replace("review-worker", ""))) == ""
    (tmp_path / WORKER).symlink_to("agentq-worker@.service")
    assert analyze("verify", *mode, "--man=no", str(tmp_path / WORKER)) == ""


@pytest.mark.promise("units")
def test_a_worker_is_exposed_no_more_than_it_must_be(tmp_path: Path) -> None:
    shared, _ = written(tmp_path, "system")
    said = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(shared.path))
    assert "OK" in said.splitlines()[-1]


@pytest.mark.promise("units")
@pytest.mark.parametrize("whose", ["system", "user"])
def test_of_a_bridge_systemd_has_nothing_to_complain_of_and_it_is_little_exposed(tmp_path: Path, whose: Whose) -> None:
    host = Host(whose, "root", Path("/root"), 252, {"PATH": "/usr/bin"})
    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    command = ["bridge", "run", "--as", "chat", "--graph", "app:graph"]
    files = bridge_units("chat", command, settings, host, tmp_path, place=tmp_path)
    assert all(unit.write() for unit in files)
    own = tmp_path / "agentq-bridge@chat.service"
    own.symlink_to("agentq-bridge@.service")
    assert analyze("verify", *(["--user"] if whose == "user" else []), "--man=no", str(own)) == ""
    if whose == "system":
        said = analyze("security", "--offline=true", "--threshold=30", "--no-pager", str(files[0].path))
        assert "OK" in said.splitlines()[-1]


@pytest.mark.promise("units")
def test_of_the_gateway_systemd_has_nothing_to_complain_of_and_it_is_little_exposed(tmp_path: Path) -> None:
    unit = tmp_path / "agentq-gateway.service"
    unit.write_bytes((built_in() / "systemd" / unit.name).read_bytes())
    assert analyze("verify", "--man=no", str(unit)) == ""
    said = analyze("security", "--offline=true", "--threshold=30", "--no-pager", str(unit))
    assert "OK" in said.splitlines()[-1]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager, with a worker installed and running."""
    (tmp_path / "units").mkdir()
    with booted(tmp_path / "units", [Path(sys.base_prefix)]) as manager:
        manager.run("sh", "-c", f"echo {shlex.quote(AGENT)} > /srv/agent && chmod 755 /srv/agent")
        manager.run("install", "-d", "-o", "agentq", "/srv/gates")
        install(manager)
        yield manager


def install(manager: Manager) -> None:
    """Write the system's units and start the worker; what its tests need to be quick is a drop-in.

    Where control groups are of the first version nobody tells a user's manager that one is empty: it waits.
    """
    host = Host("system", "agentq", Path("/var/lib/agentq"), 252, {"PATH": "/usr/bin:/bin"})
    settings = load_settings(environ={"HOME": "/var/lib/agentq"}, cwd=manager.units)
    for unit in units(load_profile(ROOT / "workers/review"), settings, host, manager.units, "/srv/agent"):
        unit.write()
    quick = "[Service]\nWatchdogSec=3s\nRestartSec=100ms\nTimeoutStopSec=12s\nReadWritePaths=/srv/gates\n"
    (manager.units / f"{WORKER}.d" / "quick.conf").write_text(quick)
    manager.systemctl("daemon-reload")
    manager.systemctl("start", WORKER)
    manager.waits(WORKER, "StatusText", "working: 0 of 1 running")


def submit(manager: Manager, words: str) -> str:
    """A task for the worker."""
    flags = ("--to", "review-worker", "--type", "review", "--instructions", words)
    return manager.run(AGENTQ, "submit", *flags, user="agentq")


def holds(manager: Manager) -> None:
    """Wait until the agent waits."""
    until(lambda: manager.run("ls", "/srv/gates").split() == ["holds"], "the agent to wait", 30)


def finished(manager: Manager, task: str) -> str:
    """What the task's result says."""
    manager.run(AGENTQ, "wait", task, "--timeout", "40", user="agentq")
    return manager.run(AGENTQ, "result", task, user="agentq")


@pytest.mark.promise("units")
def test_an_agent_can_work_and_no_more(manager: Manager) -> None:
    task = submit(manager, "Say what you can do.")
    finished(manager, task)
    said = manager.run("sh", "-c", f"cat /var/lib/agentq/.local/share/agentq/store/artifacts/{task}/1/summary.md")
    assert dict(line.split() for line in said.splitlines()) == ALL | {"tmp": "yes"}
    assert manager.run("ls", "/tmp/mine", check=False) == "", "its /tmp is its own"


@pytest.mark.promise("units")
def test_stop_drains(manager: Manager) -> None:
    task = submit(manager, "hold")
    holds(manager)
    manager.systemctl("stop", "--no-block", WORKER)
    manager.waits(WORKER, "StatusText", "draining: 1 of 1 running")
    manager.run("touch", "/srv/gates/go")
    manager.waits(WORKER, "ActiveState", "inactive")
    assert manager.shows(WORKER, "Result") == "success"
    assert "completed" in finished(manager, task)
    assert sleeping(manager) == []


@pytest.mark.promise("units")
def test_nothing_is_left_of_a_daemon_that_was_killed_and_it_comes_back(manager: Manager) -> None:
    task = submit(manager, "hold")
    holds(manager)
    (orphan,) = sleeping(manager)
    manager.systemctl("kill", "--kill-who=main", "--signal=KILL", WORKER)
    manager.waits(WORKER, "NRestarts", "1")
    manager.run("touch", "/srv/gates/go")
    assert orphan not in sleeping(manager)
    assert "completed" in finished(manager, task)


@pytest.mark.promise("units")
def test_a_daemon_that_hangs_is_started_again(manager: Manager) -> None:
    pid = manager.shows(WORKER, "MainPID")
    manager.systemctl("kill", "--kill-who=main", "--signal=STOP", WORKER)
    manager.waits(WORKER, "NRestarts", "1")
    manager.waits(WORKER, "ActiveState", "active")
    assert manager.shows(WORKER, "MainPID") != pid


@pytest.mark.promise("units")
def test_what_somebody_has_to_mend_is_not_started_again(manager: Manager) -> None:
    manager.systemctl("stop", WORKER)
    (manager.units / f"{WORKER}.d" / "wrong.conf").write_text("[Service]\nEnvironment=AGENTQ_RUNNER=no-such-program\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", WORKER, check=False)
    manager.waits(WORKER, "ActiveState", "failed")
    assert (manager.shows(WORKER, "ExecMainStatus"), manager.shows(WORKER, "NRestarts")) == ("3", "0")


def sleeping(manager: Manager) -> list[str]:
    """What the agent started in a session of its own."""
    return manager.run("pgrep", "-f", "^sleep 300$", check=False).split()
