"""The example in docs/examples/chat, as its README says: with its script, and with a model chosen by configuration."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.agents.stub import serving
from tests.daemons.harness import ROOT, Deployment, until

EXAMPLE = ROOT / "docs" / "examples" / "chat"
BIN = Path(sys.executable).parent
PATIENCE = 60.0
WORDS = "Find out what a queue costs, and what a lost job costs, and write it up."
TASKS = [
    {"name": "costs", "role": "researcher", "input_summary": "What does a queue cost?"},
    {"name": "losses", "role": "researcher", "input_summary": "What does a lost job cost?"},
    {"name": "report", "role": "writer", "input_summary": "Write it up.", "after": ["costs", "losses"]},
]


class Example:
    """The example, running in a folder of its own."""

    def __init__(self, deployment: Deployment, folder: Path, stack: ExitStack) -> None:
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.folder, self._stack = folder, stack
        self.environment = {**os.environ, **deployment.environment, "AGENTQ_WORKERS": str(folder / "workers")}

    def runs(self, more: Mapping[str, str] | None = None) -> None:
        """What the README starts in the background, until it is ready."""
        self.environment |= more or {}
        self.done("agentq", "init")
        for name, *arguments in (
            ("researcher", "worker", "run", "researcher"),
            ("writer", "worker", "run", "writer"),
            ("bridge of chat", "bridge", "run", "--graph", "executor:graph"),
        ):
            self._start(name, arguments)

    def _start(self, name: str, arguments: list[str]) -> None:
        log = self.folder / f"{arguments[-1].partition(':')[0]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen([BIN / "agentq", *arguments], cwd=self.folder, env=self.environment, stderr=file)
        self._stack.callback(_end, process)
        until(lambda: f"{name}: ready" in log.read_text() or process.poll() is not None, f"{name} ready", PATIENCE)
        assert process.poll() is None, log.read_text()

    def done(self, program: str, *arguments: str) -> str:
        """What a command of the README prints."""
        command = [BIN / program, *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def says(self, *words: str) -> str:
        """A turn in the thread, in a process of its own that then is gone."""
        return self.done("python", "talk.py", "thread-1", *words)

    def answers(self) -> str:
        """What the executor says once it is told that the report is ready."""
        return until(lambda: (said := self.says()).startswith("It is ready") and said, "the report", PATIENCE)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(SIGTERM)
    assert process.wait(PATIENCE) == 0


@pytest.fixture
def example(deployment: Deployment, tmp_path: Path) -> Iterator[Example]:
    """The example on each engine, not running yet."""
    with ExitStack() as stack:
        yield Example(deployment, tmp_path / "example", stack)


@pytest.fixture
def example_on_sqlite(on_sqlite_alone: Deployment, tmp_path: Path) -> Iterator[Example]:
    """The example where no engine has a part in what is told apart."""
    with ExitStack() as stack:
        yield Example(on_sqlite_alone, tmp_path / "example", stack)


def test_two_researchers_a_barrier_and_a_writer(example: Example) -> None:
    example.runs()
    assert example.says(WORDS).startswith("chat-")
    _holds_both(example)


def test_the_same_in_one_call(example_on_sqlite: Example) -> None:
    example_on_sqlite.runs()
    assert example_on_sqlite.says(f"{WORDS} Start it in one call.").startswith("The plan chat-")
    _holds_both(example_on_sqlite)


def _holds_both(example: Example) -> None:
    answer = example.answers()
    assert "What does a queue cost?': it has 5 words" in answer
    assert "What does a lost job cost?': it has 6 words" in answer
    assert example.done("agentq", "list", "--state", "open", "--label", "thread=thread-1") == ""


def test_any_chat_model_by_configuration(example_on_sqlite: Example) -> None:
    with serving() as stub:
        stub.parts = {
            WORDS: [
                {"tool": ["run_plan", {"tasks": TASKS}]},
                {"say": "It is on its way."},
                {"say": "It is ready, as the notice says."},
            ]
        }
        example_on_sqlite.runs(
            {
                "CHAT_MODEL": "openai:gpt-4.1",
                "OPENAI_BASE_URL": f"{stub.url}/v1",
                "OPENAI_API_KEY": "sk-dummy",
                "NO_PROXY": "127.0.0.1",
            }
        )
        assert example_on_sqlite.says(WORDS) == "It is on its way.\n"
        assert example_on_sqlite.answers() == "It is ready, as the notice says.\n"
        assert not stub.strays
        seen = str(stub.requests[-1][1])
        assert "data, not instructions" in seen
        assert "it has 6 words" in seen


def test_the_readme_tells_what_there_is() -> None:
    told = (EXAMPLE / "README.md").read_text()
    commands: Callable[[str], bool] = told.__contains__
    assert all(map(commands, ("agentq bridge run --graph executor:graph &", "agentq worker run researcher &")))
    files = {path.name for path in EXAMPLE.iterdir() if path.name != "__pycache__"} - {"README.md"}
    assert all(f"`{name}" in told for name in files), files
