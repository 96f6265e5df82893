"""Daemons whose agents are the real tools, on both engines: what they took is in the result, a login that does not work
stops the worker, and a limit pauses it."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGTERM

import pytest

from agentq.errors import ExitCode
from agentq.messages import utc_now
from agentq.papers import Claim
from agentq.sessions import Sessions
from tests.agents.conftest import TOOLS
from tests.agents.dialects import INPUT, OUTPUT
from tests.agents.stub import Step, Stub, script
from tests.agents.tools import IN_TEST_ALL, Installed
from tests.daemons import conftest as daemons
from tests.daemons.harness import Deployment, Process, until

SECONDS = 60.0
deployment, nursery = daemons.deployment, daemons.nursery  # fixtures


class Place:
    """A deployment whose worker's agent is a real tool."""

    def __init__(self, deployment: Deployment, tool: Installed) -> None:
        self.deployment, self.tool = deployment, tool
        environment = {**tool.environment, "DESK": str(deployment.desk)}
        del environment["PATH"]
        if environment.pop("ANTHROPIC_API_KEY", None):  # only an account with a plan is told when its limit ends
            environment["CLAUDE_CODE_OAUTH_TOKEN"] = "sk-ant-oat01-dummy"
        limits = {"timeout_seconds": SECONDS}
        deployment.profile(runner={"command": [], **tool.settings}, environment={"set": environment}, limits=limits)
        (deployment.home / "workers/worker/prompt.md").write_text("You are an agent.")

    def remembers(self) -> bool:
        """Whether the tool has written down what the script made it do: else a killed one has nothing to go on with."""
        kept = (path.read_text(errors="replace") for path in self.tool.home.rglob("*.jsonl"))
        return any("SCRIPT: [" in text and text.count("echo one > first") > 1 for text in kept)

    def submit(self, *steps: Step, **flags: str) -> str:
        arguments = self.deployment.submission(**flags)
        arguments[arguments.index("--instructions") + 1] = script(*steps)
        done = self.deployment.cli(*arguments)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def worker(self) -> Process:
        return self.deployment.start_worker()

    def claimed_at(self, task: str) -> datetime:
        claim = self.deployment.papers(task).attempts[-1].paper
        assert isinstance(claim, Claim)
        return claim.at

    def ends(self, task: str, status: str = "completed") -> None:
        records = self.deployment.records
        until(lambda: records.manifest(task) and not records.marks.is_open(task), task, SECONDS)
        assert self.deployment.status(task) == status


@pytest.fixture(params=[tool for tool in TOOLS if tool in IN_TEST_ALL])
def place(
    request: pytest.FixtureRequest,
    deployment: Deployment,
    stub: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """Each tool that CI runs, on each engine."""
    tool = Installed(request.param, stub, tmp_path / "agent's home")
    monkeypatch.setenv("PATH", tool.environment["PATH"])
    return Place(deployment, tool)


def test_a_task_is_done_and_what_it_took_is_known(place: Place) -> None:
    place.worker()
    task = place.submit({"shell": "echo It is done. > $AGENTQ_OUTPUT/summary.md"}, {"say": "All is done."})
    place.ends(task)
    manifest = place.deployment.records.manifest(task)
    assert manifest is not None
    assert (manifest.attempt, manifest.verified, manifest.summary) == (1, True, "It is done.")
    assert (manifest.usage.input_tokens, manifest.usage.output_tokens) == (2 * INPUT, 2 * OUTPUT)
    assert (manifest.usage.cost_usd is not None) == (place.tool.kind == "claude")
    said = place.deployment.cli("result", task).stdout
    assert f"took {2 * INPUT} tokens in, {2 * OUTPUT} out" in said
    assert "All is done." in said
    assert Sessions(place.deployment.data / "sessions" / place.deployment.agent).of(task) is None
    place.deployment.rest()


@pytest.mark.promise("goes-on")
def test_a_killed_workers_task_goes_on_in_its_conversation_and_workspace(place: Place) -> None:
    deployment, stub = place.deployment, place.tool.stub
    worker = place.worker()
    task = place.submit({"shell": "echo one > first"}, {"hang": True, "times": 1}, {"say": "All is done."})
    until(lambda: stub.hanging, "the answer that does not come", SECONDS)
    until(place.remembers, "the tool to write down what it did", SECONDS)
    worker.kill()
    seen = len(stub.requests)
    place.worker().says("attempt 2 goes on where 1 ended")
    place.ends(task)
    asked = [json.dumps(body) for _, body in stub.requests[seen:]]
    assert max(body.count("SCRIPT: [") for body in asked) == 2, "the model is told of both attempts"
    manifest = deployment.records.manifest(task)
    assert manifest is not None
    assert (manifest.attempt, manifest.summary) == (2, "All is done.")
    assert manifest.usage.at_least
    deployment.rest()


@pytest.mark.promise("budget")
def test_a_tool_is_stopped_at_its_budget(place: Place) -> None:
    place.worker()
    steps: list[Step] = [{"shell": f"echo {number}"} for number in range(20)]
    task = place.submit(*steps, {"say": "All is done."}, max_tokens=str(3 * INPUT))
    place.ends(task, "failed")
    manifest = place.deployment.records.manifest(task)
    assert manifest is not None
    assert f"its budget of {3 * INPUT} tokens is used up" in (manifest.reason or "")
    assert manifest.artifact("transcript")
    tokens = manifest.usage.tokens or 0
    assert tokens > 3 * INPUT
    if place.tool.kind == "claude":  # Codex tells only in the end
        assert tokens < 20 * INPUT
    place.deployment.rest()


def test_claude_code_stops_itself_at_its_cost(place: Place) -> None:
    if place.tool.kind != "claude":
        return
    place.worker()
    steps: list[Step] = [{"shell": f"echo {number}"} for number in range(20)]
    task = place.submit(*steps, {"say": "All is done."}, max_cost_usd="0.01")
    place.ends(task, "failed")
    manifest = place.deployment.records.manifest(task)
    assert manifest is not None
    assert "its budget of $0.01 is used up" in (manifest.reason or "")
    assert 0.01 <= (manifest.usage.cost_usd or 0) < 0.03
    place.deployment.rest()


def test_a_login_that_does_not_work_stops_the_worker(place: Place) -> None:
    worker = place.worker()
    task = place.submit({"status": 401, "message": "Invalid API key"}, max_attempts="1")
    assert worker.wait(SECONDS) == ExitCode.UNAVAILABLE
    assert "can do nothing here" in worker.said()
    assert place.deployment.status(task) == "pending delayed"
    (attempt,) = place.deployment.papers(task).attempts
    assert attempt.end is not None
    assert not attempt.end.counts


def test_a_limit_parks_the_task_and_pauses_the_worker(place: Place) -> None:
    worker, resets = place.worker(), _resets(place.tool.kind)
    task = place.submit(_limited(place.tool.kind, int(resets.timestamp())), {"say": "After all."}, max_attempts="1")
    until(lambda: "nothing is taken before" in worker.said(), worker.said(), SECONDS)
    second = place.submit({"say": "Later."})
    (attempt,) = place.deployment.papers(task).attempts
    assert attempt.end is not None
    assert (attempt.end.counts, attempt.end.retry_at) == (False, resets)
    assert place.deployment.status(second) == "pending queued"
    if place.tool.kind == "claude":
        place.ends(second)
        place.ends(task)
        assert place.claimed_at(second) >= resets
        assert place.claimed_at(task) >= resets
    else:
        worker.send(SIGTERM)
        assert worker.wait() == 0


def _resets(kind: str) -> datetime:
    """When the limit ends: Codex tells minutes, Claude Code seconds."""
    if kind == "codex":
        return (utc_now() + timedelta(minutes=3)).replace(second=0, microsecond=0)
    return (utc_now() + timedelta(seconds=10)).replace(microsecond=0)


def _limited(kind: str, resets: int) -> Step:
    if kind == "codex":
        error = {"type": "usage_limit_reached", "message": "It is reached.", "plan_type": "plus", "resets_at": resets}
        return {"status": 429, "times": 1, "error": {"error": error}}
    unified = "anthropic-ratelimit-unified"
    headers = {
        f"{unified}-status": "rejected",
        f"{unified}-reset": resets,
        f"{unified}-representative-claim": "five_hour",
    }
    return {"status": 429, "times": 1, "message": "It is reached.", "headers": headers}
