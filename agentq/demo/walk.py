"""The demo's steps: a repository with a failing test, two worker daemons, and a coordinator that only uses the CLI."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from agentq.errors import AgentqError

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
READY_SECONDS = 30.0


class DemoFailed(AgentqError):
    """A step of the demo did not end as it must."""


class Daemon(NamedTuple):
    """A worker's process and what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path


LOGIN = ("AGENTQ_BROKER_USER", "AGENTQ_BROKER_PASSWORD")
"""What is believed of the user's own variables, for the broker that was given."""


class Walk:
    """One walk through in a folder of its own, which stays behind with all evidence."""

    def __init__(self, folder: Path, broker: str | None) -> None:
        self._folder = folder
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
        self._say("a git repository with a failing test, and two workers with a SCRIPTED agent (no model, no key)")
        self._make_repository()
        self._make_workers()
        self._agentq("init", "--write", "--store", str(self._folder / "shared"), quiet=True)
        with ExitStack() as daemons:
            for daemon in [daemons.enter_context(self._daemon(name)) for name in WORKERS]:
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
        self._agentq("wait", "demo-fix", "--timeout", "60")
        self._agentq("result", "demo-fix")
        self._say("the patch goes to a reviewer, straight out of the store")
        patch = self._agentq("result", "demo-fix", "--artifact", "patch", "--path", quiet=True).strip()
        review = ("submit", "--to", "review-worker", "--type", "review", "--id", "demo-review")
        self._agentq(*review, "--file", patch, "--instructions", "Review this patch and identify risks.")
        self._agentq("wait", "demo-review", "--timeout", "60")
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
        agent = json.dumps([sys.executable, "-m", "agentq.demo.agent"])
        verify = json.dumps([sys.executable, "-B", "-m", "unittest"])
        self._profile(
            "implementation",
            f'types = ["implementation"]\n\n[runner]\ncommand = {agent}\n\n[workspace]\nkind = "git-worktree"\n\n'
            f'[evidence]\nartifacts = ["summary", "patch", "test-output", "risks"]\nverify = {verify}\n',
        )
        self._profile(
            "review", f'types = ["review"]\n\n[runner]\ncommand = {agent}\n\n[evidence]\nartifacts = ["summary"]\n'
        )

    def _profile(self, name: str, text: str) -> None:
        folder = self._folder / "workers" / name
        folder.mkdir(parents=True)
        (folder / "worker.toml").write_text(f'agent = "{name}-worker"\n{text}', encoding="utf-8")
        (folder / "prompt.md").write_text(f"You are the {name} worker of the demo.\n", encoding="utf-8")

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
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _until_ready(self, daemon: Daemon) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while ": ready" not in (text := daemon.log.read_text(encoding="utf-8", errors="replace")):
            if daemon.process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"a worker did not come up:\n{text}", hint=f"Its log is {daemon.log}.")
            time.sleep(0.02)

    # ------------------------------------------------------------------ running things

    def _agentq(self, *arguments: str, quiet: bool = False) -> str:
        if not quiet:
            print(f"$ agentq {shlex.join(arguments)}".replace(f"{self._folder}/", ""), flush=True)
        text = self._run([sys.executable, "-m", "agentq", *arguments], self._folder)
        if not quiet:
            print(text, end="", flush=True)
        return text

    def _run(self, command: list[str], folder: Path) -> str:
        try:
            done = subprocess.run(
                command, cwd=folder, env=self._environment, capture_output=True, text=True, timeout=90, check=False
            )
        except FileNotFoundError as error:
            raise DemoFailed(f"{command[0]} is not installed", hint=f"Install {command[0]} and try again.") from error
        if done.returncode:
            shown = shlex.join(command)
            raise DemoFailed(
                f"{shown} ended with status {done.returncode}:\n{done.stdout}{done.stderr}",
                hint=f"The workers' logs are in {self._folder}.",
            )
        return done.stdout

    def _say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)
