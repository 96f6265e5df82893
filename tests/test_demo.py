"""`agentq demo`: the whole walk-through, as a stranger runs it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from tests.brokers.node import Node
from tests.desk import Desk

ROOT = Path(__file__).parents[1]
EVIDENCE = ("summary", "patch", "test-output", "risks", "report", "transcript")


def daemons_of(folder: Path) -> list[int]:
    """The workers that run in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if process.joinpath("cwd").readlink() == folder:
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def check(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    """Fail unless the walk-through came to its end, left its evidence behind, and nobody running."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for line in (
        "SCRIPTED agent",
        "$ agentq submit --to implementation-worker --type implementation --id demo-fix --repo repo --file task.md",
        "demo-fix completed by implementation-worker, attempt 1, verified",
        "demo-review completed by review-worker, attempt 1, verified",
        "Verdict: accept",
        "git apply: ok, tests: pass",
        f"all evidence stays in {folder}/shared",
    ):
        assert line in done.stdout, f"{line!r} is not in:\n{done.stdout}"
    for name in EVIDENCE:
        (piece,) = (folder / "shared/artifacts/demo-fix/1").glob(f"{name}.*")
        assert piece.stat().st_size > 0
    assert (folder / "shared/results/demo-fix.md").is_file()
    assert (folder / "shared/results/demo-review.md").is_file()
    assert not list((folder / "shared/open").glob("*")), "everything is settled"
    assert not daemons_of(folder)


def demo(desk: Desk, *arguments: str, python: str = sys.executable, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run the demo in a home that has nothing, with variables that must not disturb it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(desk.home), "AGENTQ_STORE": "s3://nonsense", **more}
    command = [python, "-m", "agentq", "demo", *arguments]
    return subprocess.run(command, cwd=desk.home, env=environment, capture_output=True, text=True, timeout=100)


def test_the_demo_on_the_embedded_default(desk: Desk) -> None:
    done = demo(desk)
    match = re.search(r"all evidence stays in (.*)/shared", done.stdout)
    assert match, done
    check(Path(match[1]), done)
    assert not list(desk.home.iterdir()), "it keeps to its folder"
    # What it left behind can be read where it lies, by its own settings.
    desk.project, desk.environment = Path(match[1]), {"PATH": os.environ["PATH"], "HOME": str(desk.home)}
    assert "demo-fix completed" in desk.ok("result", "demo-fix")


@pytest.mark.promise("no-secrets")
def test_the_demo_on_rabbitmq_with_a_user_of_its_own(desk: Desk, rabbitmq: Node) -> None:
    rabbitmq.ctl("add_user", "demo", "s3cret")
    rabbitmq.ctl("set_permissions", "demo", ".*", ".*", ".*")
    try:
        folder = desk.folder / "demo"
        url, login = f"amqp://demo@127.0.0.1:{rabbitmq.port}/", {"AGENTQ_BROKER_PASSWORD": "s3cret"}
        done = demo(desk, "--dir", str(folder), "--broker", url, **login)
        check(folder, done)
        assert "s3cret" not in done.stdout + (folder / "agentq.toml").read_text()
    finally:
        rabbitmq.ctl("delete_user", "demo")


def test_a_step_that_fails_says_what_went_wrong(desk: Desk) -> None:
    done = demo(
        desk, "--dir", str(desk.folder / "demo"), "--broker", "amqp://u@127.0.0.1:1/", AGENTQ_BROKER_PASSWORD="s3cret"
    )
    assert done.returncode == 1
    assert "agentq init --write" in done.stderr
    assert "RabbitMQ at amqp://u@127.0.0.1:1/ cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert not daemons_of(desk.folder / "demo")


def test_without_git_it_says_so(desk: Desk, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(desk.home)}
    command = [sys.executable, "-m", "agentq", "demo", "--dir", str(desk.folder / "demo")]
    done = subprocess.run(command, cwd=desk.home, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "agentq: git is not installed\n  → Install git and try again.\n"


def tool(folder: Path, *lines: str) -> str:
    """A PATH with a `claude` that is this shell script."""
    folder.mkdir()
    (folder / "claude").write_text("\n".join(("#!/bin/sh", *lines)))
    (folder / "claude").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def refused(desk: Desk, agent: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A demo with an agent that cannot do it, which is said without a traceback, and leaves nobody running."""
    folder = desk.folder / "demo"
    done = demo(desk, "--dir", str(folder), "--agent", agent, **environment)
    assert done.returncode in (1, 3), done
    assert "Traceback" not in done.stderr
    assert "agentq submit" not in done.stdout
    assert not daemons_of(folder)
    return done


def test_an_agent_that_is_not_known_is_refused_before_anything_is_made(desk: Desk) -> None:
    done = refused(desk, "emacs")
    assert done.stderr == (
        "agentq: the demo knows no agent 'emacs'\n  → It knows claude, codex, gemini, qwen, opencode.\n"
    )
    assert done.stdout == ""
    assert not (desk.folder / "demo").exists()


def test_an_agent_that_is_not_installed_is_found_out(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to(str(shutil.which("git")))
    done = refused(desk, "claude", PATH=str(tmp_path / "bin"))
    assert "two workers that run YOUR claude: this costs money with its provider" in done.stdout
    assert done.stderr == (
        "agentq: the program 'claude' is missing or not executable\n"
        "  → Install claude where PATH finds it, and log in to it.\n"
    )


def test_an_agent_that_is_not_logged_in_is_found_out(desk: Desk, tmp_path: Path) -> None:
    path = tool(tmp_path / "bin", 'case $1 in --version) echo "1.2.3";; auth) exit 1;; *) touch "$HOME/asked";; esac')
    done = refused(desk, "claude", PATH=path)
    assert done.stderr == ("agentq: claude is not logged in\n  → As its user: claude auth login, or set its key.\n")
    assert not (desk.home / "asked").exists(), "it was asked something that costs money"


def test_make_demo_takes_the_agent_from_its_arguments_alone() -> None:
    """Some agents set AGENT for what they run; that must not make the demo cost money."""

    def recipe(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "-n", "demo", *arguments]
        return (
            subprocess.run(
                command,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "AGENT": "amp"},
                capture_output=True,
                text=True,
                check=True,
            )
            .stdout.splitlines()[-1]
            .strip()
        )

    assert recipe() == ".venv/bin/agentq demo"
    assert recipe("AGENT=codex") == ".venv/bin/agentq demo --agent 'codex'"


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_stops_its_daemons(desk: Desk, what: signal.Signals) -> None:
    folder = desk.folder / "demo"
    process = desk.start("demo", "--dir", str(folder))
    deadline = time.monotonic() + 30
    while not (log := folder / "review-worker.log").exists() or ": ready" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(what)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + what
    assert b"Traceback" not in err
    while daemons_of(folder):  # a command that was just being started ends by itself
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_demo_that_is_stopped_stops_the_users_agent(desk: Desk, tmp_path: Path) -> None:
    desk.environment["PATH"] = tool(tmp_path / "bin", 'case $1 in -p) touch "$HOME/asked"; sleep 1000;; esac')
    folder = desk.folder / "demo"
    process = desk.start("demo", "--dir", str(folder), "--agent", "claude")
    deadline = time.monotonic() + 60
    while not (desk.home / "asked").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    assert [place for place in Path("/proc").glob("[0-9]*") if _is_within(place, folder / "data")]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert not [place for place in Path("/proc").glob("[0-9]*") if _is_within(place, folder)]


def _is_within(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The package as pip builds it from the checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", str(ROOT)]
    subprocess.run([*command, "--wheel-dir", str(tmp_path / "wheel")], check=True)
    (found,) = (tmp_path / "wheel").glob("agentq-*.whl")
    return found


def test_the_demo_from_a_wheel(desk: Desk, wheel: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "agentq/cli/guide.md",
        "agentq/profiles/review/worker.toml",
        "agentq/profiles/review/prompt.md",
        "agentq/profiles/mention/prompt.md",
    } <= {*names}
    assert not [name for name in names if name.startswith(("tests/", "shared/", "workers/"))]

    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
    subprocess.run(command, check=True)
    check(desk.folder / "demo", demo(desk, "--dir", str(desk.folder / "demo"), python=python))

    agentq = [str(tmp_path / "venv" / "bin" / "agentq"), "submit", "--to", "review-worker", "--type", "review"]
    done = subprocess.run([*agentq, "-i", "Look."], cwd=desk.project, env=desk.environment, capture_output=True)
    assert done.returncode == 0, "the built-in profiles are in the wheel"
