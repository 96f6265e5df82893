"""`agentq demo --agent` with the real tools: they find their login as the user's tool does, and do all of the walk."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.conftest import TOOLS
from tests.agents.stub import Step, Stub
from tests.agents.tools import IN_TEST_ALL, MODELS, Installed

SECONDS = 100.0
MEND: list[Step] = [
    {"shell": "sed -i 's/(len(values) - 1)/len(values)/' stats.py && python3 -B -m unittest -q"},
    {"shell": "for name in summary risks; do echo The mean is right. > $AGENTQ_OUTPUT/$name.md; done"},
    {"say": "The mean is right."},
]
REVIEW: list[Step] = [
    {"shell": "grep -e '^+' $AGENTQ_CONTEXT > $AGENTQ_OUTPUT/summary.md"},
    {"say": "Verdict: accept."},
]


@pytest.fixture(params=[tool for tool in TOOLS if tool in IN_TEST_ALL])
def tool(request: pytest.FixtureRequest, stub: Stub, tmp_path: Path) -> Installed:
    """Each tool that CI runs, whose model does what the demo asks for."""
    stub.parts = {"# A failing test": MEND, "Review this patch": REVIEW}
    return Installed(request.param, stub, tmp_path / "home")


def demo(tool: Installed, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run it as the user who is logged in to the tool."""
    command = [sys.executable, "-m", "agentq", "demo", "--agent", tool.kind, "--dir", str(folder)]
    own = tool.environment
    config = tool.home / ".codex/config.toml"
    if config.exists():  # of a provider of one's own only a key under a name that Codex has is let through
        text = config.read_text().replace("STUB_API_KEY", "OPENAI_API_KEY")
        config.write_text(f'model = "{MODELS["codex"]}"\n{text}')
        own["OPENAI_API_KEY"] = own.pop("STUB_API_KEY")
    own["PATH"] = f"{_guarded(tool, own)}{os.pathsep}{own['PATH']}"
    return subprocess.run(command, cwd=tool.home, env=own, capture_output=True, text=True, timeout=SECONDS)


def _guarded(tool: Installed, environment: dict[str, str]) -> Path:
    """A folder with the tool as a program that keeps it to the stub: the demo lets nothing of that through to it."""
    kept = [name for name in environment if name.endswith("_PROXY") or name.startswith("CLAUDE_CODE_DISABLE")]
    lines = [f"export {name}={shlex.quote(environment[name])}" for name in kept]
    real = shutil.which(tool.kind, path=environment["PATH"])
    folder = tool.home / "bin"
    folder.mkdir()
    (folder / tool.kind).write_text("\n".join(("#!/bin/sh", *lines, f'exec {real} "$@"\n')))
    (folder / tool.kind).chmod(0o755)
    return folder


def test_the_tool_does_the_work_and_reviews_it(tool: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = demo(tool, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *rest = done.stdout.lstrip().splitlines()
    assert f"YOUR {tool.kind}: this costs money" in first
    assert re.search(rf"^{tool.kind} .*\d", "\n".join(rest), re.MULTILINE), "its version"
    for line in (
        "demo-fix completed by implementation-worker, attempt 1, verified",
        "demo-review completed by review-worker, attempt 1, verified",
        "| summary: +++ b/stats.py + return total / len(values)",
        "git apply: ok, tests: pass",
    ):
        assert line in re.sub(r"(?<=\S)  +", " ", done.stdout), f"{line!r} is not in:\n{done.stdout}"
    assert tool.stub.requests


def test_a_login_that_turns_out_not_to_work_ends_the_demo(tool: Installed, tmp_path: Path) -> None:
    tool.stub.step = lambda asked: {"status": 401, "message": "no such key"}  # type: ignore[method-assign]
    done = demo(tool, tmp_path / "demo")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a worker ended" in done.stderr
    assert "can do nothing here" in done.stderr
    assert "Traceback" not in done.stderr
