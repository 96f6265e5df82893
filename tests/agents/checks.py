"""`agentq worker check` with the real tools: their versions, what they say of their login, and one question to them."""

import json
from typing import Any

import pytest

from agentq.errors import ExitCode
from tests.agents.conftest import TOOLS
from tests.agents.stub import Stub
from tests.agents.tools import IN_TEST_ALL, Installed
from tests.desk import Desk

KEYS = ("ANTHROPIC_API_KEY", "STUB_API_KEY")


@pytest.fixture(params=[tool for tool in TOOLS if tool in IN_TEST_ALL])
def tool(request: pytest.FixtureRequest, stub: Stub, desk: Desk) -> Installed:
    """Each tool that tells whether it is logged in, at home on the desk, and a worker whose agent it is."""
    tool = Installed(request.param, stub, desk.home)
    desk.environment |= {name: value for name, value in tool.environment.items() if name not in KEYS}
    desk.ok("worker", "new", "mine", "--runner", tool.kind)
    desk.ok("init")
    profile = desk.project / "workers/mine/worker.toml"
    text = profile.read_text()
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in tool.settings.items())
    text = text.replace(f'kind = "{tool.kind}"\n', settings)
    passed = sorted({*tool.environment} - {"PATH", "HOME"})
    profile.write_text(f"{text}\n[environment]\nlet_through = {json.dumps(passed)}\n")
    return tool


def looked(desk: Desk, *flags: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and each check by its name."""
    done = desk.run("worker", "check", "mine", "--json", *flags, **environment)
    return done.code, {one["name"]: one for one in done.json["checks"]}


@pytest.mark.promise("worker-check")
def test_one_that_is_logged_in_answers_and_obeys(tool: Installed, desk: Desk) -> None:
    keys = {name: value for name, value in tool.environment.items() if name in KEYS}
    code, checks = looked(desk, **keys)
    assert code == 0, checks
    assert any(char.isdigit() for char in checks["agent"]["said"]), checks
    assert checks["login"]["well"] is (True if tool.kind == "claude" else None)
    assert tool.stub.requests == [], "nothing was asked that costs money"
    code, checks = looked(desk, "--live", **keys)
    assert code == 0, checks
    assert (checks["answer"]["well"], checks["limits"]["well"]) == (True, True)
    assert tool.stub.requests


@pytest.mark.promise("worker-check")
def test_one_that_is_not_logged_in_is_found_out(tool: Installed, desk: Desk) -> None:
    (desk.home / ".codex/config.toml").unlink(missing_ok=True)
    code, checks = looked(desk)
    assert code == ExitCode.NEEDS_MENDING
    assert checks["login"]["well"] is False, checks
    assert f"As its user: {tool.kind}" in checks["login"]["hint"]
    assert tool.stub.requests == []


@pytest.mark.promise("worker-check")
def test_one_whose_key_is_refused_says_so_when_it_is_asked(tool: Installed, desk: Desk) -> None:
    """Claude Code believes any key until it is used."""
    tool.stub.step = lambda asked: {"status": 401}  # type: ignore[method-assign]
    keys = {name: value for name, value in tool.environment.items() if name in KEYS}
    code, checks = looked(desk, "--live", **keys)
    assert code == ExitCode.NEEDS_MENDING
    assert checks["answer"]["well"] is False, checks
