"""What the documents show is true: every agentq command in them runs, every block of settings is accepted."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentq.config import Settings
from agentq.errors import ExitCode
from agentq.messages import parse_envelope
from agentq.profile import Profile

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "coordinator.md"  # test_guide runs its commands, with a worker
DOCUMENTS = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - {GUIDE})
EXPECTED = {
    "agentq result task-123": ExitCode.NOTHING_YET,  # nobody has worked on it when README shows it
    "agentq wait fix-17 --timeout 10m": ExitCode.WAIT_TIMEOUT,
    "agentq result fix-17": ExitCode.NOTHING_YET,
    "agentq verify": ExitCode.NOTHING_YET,
    "agentq worker check docs-worker": ExitCode.NEEDS_MENDING,  # no tool is logged in here
    "agentq fail task-123": ExitCode.CONFLICT,  # the line before completed it
}
ENDLESS = (
    "agentq worker run",
    "agentq bridge run",
    "agentq metrics serve",
    "agentq serve",
    "agentq demo",
    "agentq watch task-123",
)
"""What would run for ever, or too long: its help is shown instead."""
OTHER_WORDS = ("make ", "docker ", "export ", "#")


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> Iterator[str]:
    """Every agentq command in a document's shell blocks, and in its prose where it stands alone with arguments."""
    for block in blocks(document, "sh"):
        for line in filter(None, (line.partition(" #")[0].strip() for line in block.splitlines())):
            if not line.startswith(OTHER_WORDS):
                yield line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the documents speak of: a store, a brief, a repository."""
    for folder in ("shared/tasks", "shared/results", "home", "project"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "shared/tasks/task-123.md").write_text("Implement one scoped change.\n", encoding="utf-8")
    (tmp_path / "shared/results/task-123.md").write_text("Done, see the patch.\n", encoding="utf-8")
    (tmp_path / "project/brief.md").write_text("Mend the mean.\n", encoding="utf-8")
    line = f"agentq-ed25519 {'A' * 43}= implementation-worker\n"
    (tmp_path / "project/worker.pub").write_text(line, encoding="utf-8")
    (tmp_path / "project/plan.yaml").write_text(blocks(ROOT / "docs/plans.md", "yaml")[0], encoding="utf-8")
    return tmp_path


def run(line: str, place: Path) -> "subprocess.CompletedProcess[str]":
    """Run a documented command; /shared stands for the test's own store."""
    words = [word.replace("/shared", f"{place}/shared").replace("10m", "0.2") for word in shlex.split(line)]
    words = [f"file://{place}/shared/tasks/task-123.md" if word == "REF" else word for word in words]
    assert words[0] == "agentq", line
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=place / "project",
        env={"PATH": os.environ["PATH"], "HOME": str(place / "home"), "AGENTQ_STORE": str(place / "shared")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_runs(document: Path, place: Path) -> None:
    for line in commands(document):
        if line.startswith(ENDLESS):
            line = shlex.join(
                [*shlex.split(line)[: 2 if line.startswith(("agentq demo", "agentq serve")) else 3], "--help"]
            )
        expected = next((code for start, code in EXPECTED.items() if line.startswith(start)), ExitCode.OK)
        done = run(line, place)
        assert done.returncode == expected, f"{line}\n{done.stdout}{done.stderr}"


def test_the_documents_show_commands_at_all() -> None:
    assert sum(len(list(commands(document))) for document in DOCUMENTS) > 12


def test_every_block_of_settings_is_accepted() -> None:
    seen = 0
    for document in DOCUMENTS:
        for block in blocks(document, "toml"):
            values = tomllib.loads(block)
            seen += 1
            if "agent" in values:
                Profile.model_validate(values | {"folder": ROOT, "prompt": ""})
            else:
                Settings.model_validate({"broker": "amqp://x", "store": "x"} | values | {"data": ROOT})
    assert seen >= 3


def test_the_documented_envelope_is_one() -> None:
    (text,) = blocks(ROOT / "docs" / "coordinators.md", "json")
    envelope = parse_envelope(text.encode())
    assert envelope.is_foreign
    assert len(json.loads(text)) == 10


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "coordinators.md").read_text(encoding="utf-8")
    table = {int(code) for code in re.findall(r"\| (\d+) \|", text)}
    assert table == {int(code) for code in ExitCode}


def test_every_command_has_a_place_in_a_guide() -> None:
    from agentq.cli import COMMANDS

    text = "".join(document.read_text(encoding="utf-8") for document in [*DOCUMENTS, GUIDE])
    assert [name for name in COMMANDS if f"agentq {name}" not in text] == []


def test_the_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_compose_file_pins_its_images_and_binds_to_loopback() -> None:
    text = (ROOT / "docker-compose.rabbitmq.yml").read_text(encoding="utf-8")
    assert "image: rabbitmq:4.3-management" in text
    assert "healthcheck:" in text
    assert re.findall(r'^ +- "(?!127\.0\.0\.1:)[^"]*:\d+"', text, re.MULTILINE) == []
