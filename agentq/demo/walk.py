"""The demo's steps: a repository with a failing test, two worker daemons, and a coordinator that only uses the CLI."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from agentq.demo.cast import Cast
from agentq.errors import AgentqError, ExitCode

FILES = {
    "stats.py": "def mean(values):\n    total = sum(values)\n    return total / (len(values) - 1)\n",
    "test_stats.py": (
        "import unittest\n\nfrom stats import mean\n\n\nclass Mean(unittest.TestCase):\n"
        "    def test_of_three(self):\n        self.assertEqual(mean([1, 2, 3]), 2)\n"
    ),
}
TASK = "# A failing test\n\n`python -m unittest` fails in this repository. Find out why, mend the code, not the test.\n"
WORKERS = ("implementation-worker", "review-worker")
NAMESPACE = "agentq-demo"
READY_SECONDS, LOOK_SECONDS = 30.0, 0.5
STOPS = ((signal.SIGTERM, 2), (signal.SIGTERM, 20), (signal.SIGKILL, None))
"""How a daemon is ended, and the seconds that it gets: the first lets it finish, the second ends its agent, too."""


class DemoFailed(AgentqError):
    """A step of the demo did not end as it must."""


class Daemon(NamedTuple):
    """A worker's process and what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


LOGIN = ("AGENTQ_BROKER_USER", "AGENTQ_BROKER_PASSWORD")
"""What is believed of the user's own variables, for the broker that was given."""


class Walk:
    """One walk through in a folder of its own, which stays behind with all evidence."""

    def __init__(self, folder: Path, broker: str | None, cast: Cast) -> None:
        self._folder, self._cast = folder, cast
        self._daemons: list[Daemon] = []
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("AGENTQ_", "GIT_")) or (broker and key in LOGIN)
        }
        self._environment = kept | {
            "AGENTQ_BROKER": broker or folder.as_uri().replace("file:", "sqlite:", 1) + "/queue.db",
            "AGENTQ_NAMESPACE": NAMESPACE,  # on a broker that others use, theirs are other queues
            "AGENTQ_DATA": str(folder / "data"),
        }

    def run(self) -> None:
        """Do it all; raises DemoFailed with the step that went wrong."""
        started = time.monotonic()
        self._say(f"a git repository with a failing test, and {self._cast.opening}")
        self._make_repository()
        self._make_workers()
        self._agentq("init", "--write", "--store", str(self._folder / "shared"), quiet=True)
        if self._cast.tool:
            self._check_agent(self._cast.tool)
        with ExitStack() as daemons:
            self._daemons = [daemons.enter_context(self._daemon(name)) for name in WORKERS]
            daemons.callback(self._daemons.clear)  # from then on they may end
            for daemon in self._daemons:
                self._until_ready(daemon)
            self._walk()
        self._check_patch()
        self._say(f"done in {time.monotonic() - started:.1f} s; all evidence stays in {self._folder / 'shared'}")
        print(f"look again: cd {shlex.quote(str(self._folder))} && agentq result demo-fix", flush=True)

    def _walk(self) -> None:
        self._say("the coordinator submits, and is free at once")
        submit = ("submit", "--to", "implementation-worker", "--type", "implementation", "--id", "demo-fix")
        self._agentq(*submit, "--repo", "repo", "--file", "task.md", "--expect", "test-output")
        self._agentq("status", "demo-fix")
        self._say("later it reads the evidence: every digest is checked, and the worker ran the tests itself")
        self._agentq("wait", "demo-fix", "--timeout", str(self._cast.seconds))
        self._agentq("result", "demo-fix")
        self._say("the patch goes to a reviewer, straight out of the store")
        patch = self._agentq("result", "demo-fix", "--artifact", "patch", "--path", quiet=True).strip()
        review = ("submit", "--to", "review-worker", "--type", "review", "--id", "demo-review")
        self._agentq(*review, "--file", patch, "--instructions", "Review this patch and identify risks.")
        self._agentq("wait", "demo-review", "--timeout", str(self._cast.seconds))
        self._agentq("result", "demo-review")
        self._agentq("inbox", "--ack")

    def _check_patch(self) -> None:
        """Believe nothing: apply the accepted patch to the untouched repository and run its tests."""
        self._say("the coordinator applies the patch to its own checkout and runs the tests once more")
        patch = self._agentq("result", "demo-fix", "--artifact", "patch", "--path", quiet=True).strip()
        self._run(["git", "apply", patch], self._folder / "repo")
        self._run([sys.executable, "-B", "-m", "unittest", "-q"], self._folder / "repo")
        print("git apply: ok, tests: pass", flush=True)

    # ------------------------------------------------------------------ the stage

    def _make_repository(self) -> None:
        repository = self._folder / "repo"
        repository.mkdir()
        for name, text in FILES.items():
            (repository / name).write_text(text, encoding="utf-8")
        settings = (
            "user.name=agentq demo",
            "user.email=demo@localhost",
            "commit.gpgsign=false",
            "core.hooksPath=/dev/null",
        )
        own = [word for setting in settings for word in ("-c", setting)]
        for command in (["init", "-q"], ["add", "."], [*own, "commit", "-q", "-m", "A mean that is off by one"]):
            self._run(["git", *command], repository)
        (self._folder / "task.md").write_text(TASK, encoding="utf-8")

    def _make_workers(self) -> None:
        for name, text in self._cast.profiles().items():
            folder = self._folder / "workers" / name
            folder.mkdir(parents=True)
            (folder / "worker.toml").write_text(text, encoding="utf-8")
            (folder / "prompt.md").write_text(self._cast.prompts[name], encoding="utf-8")

    def _check_agent(self, tool: str) -> None:
        """Raise DemoFailed unless the tool is there and logged in, as far as it tells without being asked anything."""
        check = ("worker", "check", WORKERS[0], "--json")
        found = json.loads(self._agentq(*check, quiet=True, codes=(ExitCode.OK, ExitCode.NEEDS_MENDING)))
        for one in found["checks"]:
            if one["well"] is False:
                missing = f"Install {tool} where PATH finds it, and log in to it."
                raise DemoFailed(one["said"], hint=missing if one["name"] == "agent" else one["hint"])
        print("\n".join(one["said"] for one in found["checks"] if one["name"] in ("agent", "login")), flush=True)

    @contextmanager
    def _daemon(self, name: str) -> Iterator[Daemon]:
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-m", "agentq", "worker", "run", name]
        print(f"$ agentq worker run {name} &", flush=True)
        with log.open("wb") as stream:
            daemon = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        try:
            yield Daemon(daemon, log)
        finally:
            _end(daemon)

    def _until_ready(self, daemon: Daemon) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while ": ready" not in daemon.said:
            if daemon.process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"a worker did not come up:\n{daemon.said}", hint=f"Its log is {daemon.log}.")
            time.sleep(0.02)

    # ------------------------------------------------------------------ running things

    def _agentq(self, *arguments: str, quiet: bool = False, codes: Collection[int] = (ExitCode.OK,)) -> str:
        if not quiet:
            print(f"$ agentq {shlex.join(arguments)}".replace(f"{self._folder}/", ""), flush=True)
        text = self._run([sys.executable, "-m", "agentq", *arguments], self._folder, codes)
        if not quiet:
            print(text, end="", flush=True)
        return text

    def _run(self, command: list[str], folder: Path, codes: Collection[int] = (0,)) -> str:
        """What it prints; raises DemoFailed for another exit status than these."""
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            raise DemoFailed(f"{command[0]} is not installed", hint=f"Install {command[0]} and try again.") from error
        with process:
            try:
                out, err = self._communicate(process)
            except BaseException:
                process.kill()
                raise
        if process.returncode not in codes:
            raise DemoFailed(
                f"{shlex.join(command)} ended with status {process.returncode}:\n{out}{err}",
                hint=f"The workers' logs are in {self._folder}.",
            )
        return out

    def _communicate(self, process: "subprocess.Popen[str]") -> tuple[str, str]:
        """What it prints on both streams; raises DemoFailed when a worker ends before it."""
        deadline = time.monotonic() + self._cast.seconds + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=LOOK_SECONDS)
            for daemon in self._daemons:
                if daemon.process.poll() is not None:
                    raise DemoFailed(f"a worker ended:\n{daemon.said}", hint=f"Its log is {daemon.log}.")
        raise DemoFailed("a command does not end", hint=f"The workers' logs are in {self._folder}.")

    def _say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    for what, seconds in STOPS:
        daemon.send_signal(what)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=seconds)
            return
