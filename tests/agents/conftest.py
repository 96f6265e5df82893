"""What the tests of real agents share: the stub of their models, and each tool led to it."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agentq.messages import Usage
from agentq.processes import MARKER
from agentq.runner import Job, Ran, Session
from tests.agents.stub import Step, Stub, script, serving
from tests.agents.tools import ALL, Installed

PATIENCE = 60.0
"""Seconds in which a tool that is not hindered does what the script says."""
TOOLS = os.environ.get("TEST_AGENTS", ",".join(ALL)).split(",")


@dataclass(slots=True)
class Bench:
    """Where a tool is run: a repository, and what its runner told."""

    tool: Installed
    root: Path
    heard: bytearray = field(default_factory=bytearray)
    doing: list[str] = field(default_factory=list)
    spent: list[Usage] = field(default_factory=list)
    met: list[Session] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """The repository."""
        return self.root / "a repository"

    def make(self) -> None:
        """Make the folders, with one commit."""
        (self.root / "attempt/output").mkdir(parents=True)
        self.work.mkdir()
        (self.work / "a.py").write_text("x = 1\n")
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *words], cwd=self.work, check=True)

    def job(self, *steps: Step, **other: Any) -> Job:
        """A job that makes the model take these steps."""
        token = secrets.token_hex(8)
        environment = {**self.tool.environment, MARKER: token, "AGENTQ_OUTPUT": str(self.output)}
        least = Job(
            task_id="task-1",
            attempt=1,
            token=token,
            prompt=script(*steps),
            workdir=self.work,
            output=self.output,
            transcript=self.root / "attempt/transcript.log",
            environment=environment,
            timeout_seconds=PATIENCE,
            heard=lambda stream, chunk: self.heard.extend(chunk),
            doing=self.doing.append,
            spent=self.spent.append,
            met=self.met.append,
        )
        return replace(least, **other)

    @property
    def output(self) -> Path:
        """Where the agent leaves its files, outside of the repository."""
        return self.root / "attempt/output"

    @property
    def transcript(self) -> str:
        """All that the tool printed."""
        return (self.root / "attempt/transcript.log").read_text(errors="replace")

    async def run(self, *steps: Step, settings: dict[str, Any] | None = None, **other: Any) -> Ran:
        """Run the tool to its end."""
        async with asyncio.timeout(2 * PATIENCE):
            return await self.tool.runner(**(settings or {})).run(self.job(*steps, **other))


@pytest.fixture
def stub() -> Iterator[Stub]:
    """The models; in the end nobody has asked for another host."""
    with serving() as running:
        yield running
    assert running.strays == []


@pytest.fixture(params=TOOLS)
def bench(request: pytest.FixtureRequest, stub: Stub, tmp_path: Path) -> Bench:
    """Each tool that is asked for, and where it is run."""
    bench = Bench(Installed(request.param, stub, tmp_path / "home"), tmp_path)
    bench.make()
    return bench
