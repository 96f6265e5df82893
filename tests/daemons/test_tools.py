"""A worker whose agent is a tool that prints events: what it took, the limits of its account, and its login.

The tool is the scripted agent of these tests, which prints what the real ones print; those are in tests/agents.
"""

import json
from datetime import datetime, timedelta
from signal import SIGTERM
from typing import Any

import pytest

from agentq.errors import ExitCode
from agentq.messages import utc_now
from agentq.papers import Claim
from agentq.sessions import Sessions
from tests.daemons.harness import Deployment, until
from tests.daemons.test_telling import of, printed, read

SESSION = "0d5e7e3e-0000-4000-8000-000000000001"


def event(**said: Any) -> str:
    """A step that prints an event."""
    return f"echo '{json.dumps(said)}'"


INIT = event(type="system", subtype="init", session_id=SESSION)
USAGE = {"input_tokens": 400, "cache_read_input_tokens": 800, "output_tokens": 34}
DONE = event(type="result", subtype="success", is_error=False, result="All done.", usage=USAGE, total_cost_usd=0.25)
NO_LOGIN = {"content": [{"type": "text", "text": "Please run /login"}]}
BAD_LOGIN = event(type="assistant", error="authentication_failed", message=NO_LOGIN)
ERROR = event(type="result", subtype="success", is_error=True, result="Please run /login", api_error_status=401)


def limit(resets: datetime) -> str:
    """The step that tells of a limit."""
    info = {"status": "rejected", "resetsAt": int(resets.timestamp()), "rateLimitType": "five_hour"}
    return event(type="rate_limit_event", rate_limit_info=info)


@pytest.fixture(autouse=True)
def tool(deployment: Deployment) -> None:
    """The worker's agent is a tool."""
    deployment.profile(runner={"kind": "claude"})


def claimed_at(deployment: Deployment, task: str, attempt: int) -> datetime:
    """When an attempt was claimed."""
    claim = next(one.paper for one in deployment.papers(task).attempts if one.number == attempt)
    assert isinstance(claim, Claim)
    return claim.at


def test_what_it_took_is_in_the_result(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(INIT, DONE)
    manifest = deployment.check(task, starts=[1], attempt=1)
    usage = manifest.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (1200, 34, 0.25)
    assert "took 1200 tokens in, 34 out, $0.25" in deployment.cli("result", task).stdout
    assert manifest.summary == "All done."
    deployment.rest()


def test_what_a_failed_attempt_took_is_in_its_end(deployment: Deployment) -> None:
    deployment.start_worker()
    broke = event(type="result", subtype="error_during_execution", is_error=True, total_cost_usd=0.5, usage=USAGE)
    task = deployment.submit(INIT, f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {broke}; exit 1; }}", DONE)
    deployment.check(task, starts=[1, 2], attempt=2)
    end = deployment.papers(task).attempts[0].end
    assert end is not None
    assert end.usage is not None
    assert (end.usage.cost_usd, end.usage.input_tokens, end.counts) == (0.5, 1200, True)
    assert deployment.records.manifest(task).usage.cost_usd == 0.75  # type: ignore[union-attr]
    deployment.rest()


def test_exit_0_without_its_last_event_is_no_success(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(INIT, "report done", max_attempts="1")
    manifest = deployment.check(task, "failed", starts=[1], attempt=2)
    assert "ended without saying that it was done" in (manifest.reason or "")


@pytest.mark.promise("session-kept")
def test_its_session_is_kept_on_this_host_until_the_task_has_its_result(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(INIT, "hold go", DONE)
    sessions = Sessions(deployment.data / "sessions" / deployment.agent)
    until(lambda: sessions.of(task), "the session")
    worker.kill()
    kept = sessions.of(task)
    assert kept is not None
    assert (kept.session, kept.attempt, kept.kind) == (SESSION, 1, "claude")
    deployment.open_gate("go")
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    assert sessions.of(task) is None
    deployment.rest()


@pytest.mark.promise("told-masked")
def test_what_it_does_is_told_without_what_looks_like_a_credential(deployment: Deployment) -> None:
    deployment.start_worker()
    key = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
    call = {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": f"push with {key} now"}}
    task = deployment.submit(INIT, event(type="assistant", message={"content": [call]}), DONE, allow_secrets=True)
    deployment.check(task, starts=[1], attempt=1)
    until(lambda: of(read(deployment), task, "settled"), "the whole walk in the log")
    said = [event.data["text"] for event in of(read(deployment), task, "progress")]
    assert any(words.startswith("Bash: push with") for words in said), said
    assert key not in str(said)
    assert key not in printed(deployment, task)
    deployment.rest()


@pytest.mark.promise("agents-environment")
def test_a_tool_gets_its_own_login_and_no_other_and_its_verify_command_none(deployment: Deployment) -> None:
    keys = {"ANTHROPIC_API_KEY": "one-of-its-own", "OPENAI_API_KEY": "one-of-others"}
    deployment._settings = {**deployment._settings, **keys}
    verify = ["sh", "-c", "env > $DESK/verify"]
    deployment.profile(runner={"kind": "claude"}, evidence={"verify": verify})
    deployment.start_worker()
    task = deployment.submit(INIT, "env > $DESK/agent", DONE)
    deployment.check(task, starts=[1], attempt=1)
    agent, command = ((deployment.desk / name).read_text() for name in ("agent", "verify"))
    assert "ANTHROPIC_API_KEY=one-of-its-own" in agent
    assert "DISABLE_AUTOUPDATER=1" in agent
    assert "one-of-others" not in agent
    assert "one-of-its-own" not in command
    deployment.rest()


@pytest.mark.promise("limit-pauses")
def test_a_limit_parks_the_task_uncounted_and_pauses_the_worker(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    resets = (utc_now() + timedelta(seconds=4)).replace(microsecond=0)
    first = deployment.submit(
        INIT, f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {limit(resets)}; exit 1; }}", DONE, max_attempts="1"
    )
    worker.says("nothing is taken before")
    second = deployment.submit(INIT, DONE)
    end = deployment.papers(first).attempts[0].end
    assert end is not None
    assert (end.counts, end.retry_at, end.reason) == (False, resets, "five_hour limit reached")
    deployment.check(second, starts=[1], attempt=1)
    deployment.check(first, starts=[1, 2], attempt=2)
    assert claimed_at(deployment, second, 1) >= resets
    assert claimed_at(deployment, first, 2) >= resets
    deployment.rest()


@pytest.mark.promise("limit-pauses")
def test_a_worker_that_pauses_drains_at_once(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    deployment.submit(INIT, limit(utc_now() + timedelta(hours=1)), "exit 1")
    worker.says("nothing is taken before")
    worker.send(SIGTERM)
    assert worker.wait() == 0


@pytest.mark.promise("login-stops")
def test_a_login_that_does_not_work_stops_the_worker_and_fails_no_task(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    first = deployment.submit(INIT, BAD_LOGIN, ERROR, "exit 1", max_attempts="1")
    second = deployment.submit(INIT, DONE)
    assert worker.wait() == ExitCode.UNAVAILABLE
    assert "can do nothing here: Please run /login" in worker.said()
    assert "Mend its login" in worker.said()
    assert (deployment.status(first), deployment.status(second)) == ("pending delayed", "pending queued")
    end = deployment.papers(first).attempts[0].end
    assert end is not None
    assert not end.counts
    deployment.start_worker()
    deployment.check(second, starts=[1], attempt=1)


@pytest.mark.promise("login-stops")
def test_what_runs_beside_a_login_that_stopped_working_may_end(deployment: Deployment) -> None:
    deployment.profile(runner={"kind": "claude"}, limits={"parallel": 2})
    worker = deployment.start_worker()
    long = deployment.submit(INIT, "hold go", DONE)
    deployment.agent_runs(long)
    deployment.submit(INIT, ERROR, "exit 1")
    worker.says("can do nothing here")
    deployment.open_gate("go")
    assert worker.wait() == ExitCode.UNAVAILABLE
    deployment.check(long, starts=[1], attempt=1)


def test_a_tool_that_is_not_installed_is_told_before_anything_is_taken(deployment: Deployment) -> None:
    deployment.profile(runner={"kind": "claude", "command": ["/no/such/claude"]})
    task = deployment.submit(DONE)
    worker = deployment.start_worker(ready=False)
    assert worker.wait() == ExitCode.INVALID
    assert "/no/such/claude" in worker.said()
    assert deployment.status(task) == "pending queued"
