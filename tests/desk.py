"""A coordinator's desk for one test: a home of its own, a store, and agentq's commands run as `main` runs them."""

import asyncio
import io
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest

from agentq.adapters import open_engine
from agentq.app import App
from agentq.artifacts import evidence_prefix
from agentq.cli import main
from agentq.commit import commit, completion_of
from agentq.config import load_settings
from agentq.engine import Engine
from agentq.messages import Completion, Envelope, Outcome, utc_now
from agentq.ownership import this_process
from agentq.papers import Claim, new_token
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.stores.file import FileStore
from tests.brokers.node import Node

T = TypeVar("T")

IMPLEMENT = ("--to", "implementation-worker", "--type", "implementation")
REVIEW = ("--to", "review-worker", "--type", "review")


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout, read as JSON."""
        return loads(self.out)


class Desk:
    """One user's account, working folder and shared store; the broker is SQLite unless `environment` names another."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home, self.project, self.shared = folder / "home", folder / "project", folder / "shared"
        self.home.mkdir()
        self.project.mkdir()
        (self.shared / "tasks").mkdir(parents=True)
        (self.shared / "results").mkdir()
        self.store = FileStore(self.shared)
        self.records = Records(self.store)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AGENTQ_STORE": str(self.shared),
            **(environment or {}),
        }

    # ------------------------------------------------------------------ commands

    def run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run `agentq` in this process, with nothing of its environment but the desk's."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        handler = signal.getsignal(signal.SIGINT)
        with ExitStack() as stack:
            stack.callback(signal.signal, signal.SIGINT, handler)
            stack.callback(os.umask, os.umask(0o022))
            stack.enter_context(mock.patch.dict(os.environ, self.environment | environment, clear=True))
            stack.enter_context(mock.patch.object(sys, "argv", ["agentq", *arguments]))
            stack.enter_context(mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")))
            stack.enter_context(chdir(self.project))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            code = _exit_code()
        return Done(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def ok(self, *arguments: str, **more: Any) -> str:
        """What a command prints that must succeed, without its last newline."""
        done = self.run(*arguments, **more)
        assert done.code == 0, done
        return done.out.rstrip("\n")

    def json(self, *arguments: str, **more: Any) -> Any:
        """What a command prints as JSON; it must succeed."""
        return loads(self.ok(*arguments, "--json", **more))

    def start(self, *arguments: str, **more: Any) -> "subprocess.Popen[bytes]":
        """Start `agentq` as a process of its own."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen[bytes](
            [sys.executable, "-m", "agentq", *arguments], cwd=self.project, env=self.environment, **(streams | more)
        )

    # ------------------------------------------------------------------ the worker's part

    def task(self, *flags: str, to: tuple[str, ...] = IMPLEMENT) -> str:
        """Submit a small task and answer its id."""
        return self.ok("submit", *to, "--instructions", "Do it.", *flags)

    def claim(self, task_id: str, **owner: Any) -> Claim:
        """Claim the next attempt, as a worker of this process would; `owner` makes it another process's."""
        papers = self.records.papers(task_id)
        assert papers
        claim = Claim(
            attempt=papers.next_number,
            token=new_token(),
            worker=papers.envelope.to,
            owner=this_process().model_copy(update=owner),
            at=utc_now(),
            lease_seconds=20,
        )
        assert self.records.take(task_id, claim)
        return claim

    def finish(self, task_id: str, status: Outcome = "completed", *, settled: bool = True, **more: Any) -> Completion:
        """Carry out an attempt; `more` may hold a summary, a reason, whether it is verified, and pieces of evidence,
        made by the agent unless `made_by` says otherwise."""
        claim, papers = self.claim(task_id), self.records.papers(task_id)
        assert papers
        prefix = evidence_prefix(task_id, claim.attempt)
        pieces, made_by = {"report": b"All done.\n"} | more.pop("evidence", {}), more.pop("made_by", {})
        artifacts = tuple(
            self.records.artifacts.add(prefix, name, data, suffix=".md", made_by=made_by.get(name, "agent"))
            for name, data in pieces.items()
        )
        says: dict[str, Any] = {"verified": status == "completed", "summary": "Did it.", "artifacts": artifacts} | more
        done = completion_of(papers, status, by=papers.envelope.to, attempt=claim.attempt, **says)
        manifest = commit(self.records, done)
        if settled:
            settle_in_store(self.records, manifest)
        return manifest

    def path_of(self, manifest: Completion, name: str = "report") -> Path:
        """Where a piece of evidence lies."""
        artifact = manifest.artifact(name)
        assert artifact
        key = self.store.key(artifact.ref)
        assert key
        return self.shared / key

    # ------------------------------------------------------------------ looking behind it

    def with_engine(self, act: Callable[[Engine], Awaitable[T]]) -> T:
        """What a coroutine answers that is given an engine of its own."""

        async def whole() -> T:
            engine = open_engine(load_settings(environ=self.environment, cwd=self.project))
            try:
                return await act(engine)
            finally:
                await engine.close()

        return asyncio.run(whole())

    def app(self) -> App:
        """The app that the commands of this desk work with."""
        return App(load_settings(environ=self.environment, cwd=self.project))

    def waiting(self, agent: str = "implementation-worker") -> int:
        """How many messages wait for an agent."""
        return self.with_engine(lambda engine: engine.depth(agent))

    def bury(self, task: Envelope, reason: str = "tried 3 times") -> None:
        """Put a copy of a task to the dead letters."""
        self.with_engine(lambda engine: engine.dead_letter(task, reason))

    def files(self) -> dict[str, bytes]:
        """Everything in the store, in which somebody may be at work."""
        found = {}
        for folder, _, names in os.walk(self.shared):
            for path in filter(Path.is_file, (Path(folder, name) for name in names)):
                with suppress(FileNotFoundError):
                    found[str(path.relative_to(self.shared))] = path.read_bytes()
        return found

    def envelope(self, task_id: str) -> Envelope:
        """The task as registered."""
        found = self.records.envelope(task_id)
        assert found
        return found


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk with the embedded engine."""
    return Desk(tmp_path)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def any_desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    """A desk with each engine in turn, all of whose queues are declared."""
    desk = Desk(tmp_path, on(request.getfixturevalue("rabbitmq")) if request.param == "rabbitmq" else None)
    desk.ok("init")
    return desk


@pytest.fixture
def rabbit_desk(tmp_path: Path, rabbitmq: Node) -> Desk:
    """A desk with RabbitMQ and a namespace of its own, in which nothing is declared."""
    return Desk(tmp_path, on(rabbitmq))


def on(node: Node) -> dict[str, str]:
    """The settings for a namespace of one's own on a broker."""
    return {"AGENTQ_BROKER": node.url, "AGENTQ_NAMESPACE": f"desk-{secrets.token_hex(4)}"}
