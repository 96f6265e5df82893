"""Workers and budgets: an agent that takes too much is stopped, whatever of its task was spent before and by whom.

The tool is the scripted agent of these tests, which prints what the real ones print; those are in tests/agents.
"""

import json

import pytest

from tests.daemons.harness import Deployment, script, until
from tests.daemons.test_tools import DONE, INIT, USAGE, event


def says(number: int) -> str:
    """The step that tells of an answer of the model, which took 1234 tokens."""
    return event(type="assistant", message={"id": f"m{number}", "content": [], "usage": USAGE})


@pytest.fixture(autouse=True)
def tool(deployment: Deployment) -> None:
    """The worker's agent is a tool."""
    deployment.profile(runner={"kind": "claude"})


@pytest.mark.promise("budget")
def test_an_agent_is_stopped_at_its_limit_and_keeps_its_evidence(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(INIT, says(1), "report so far", says(2), "hold never", max_tokens="1500")
    manifest = deployment.check(task, "failed", starts=[1], attempt=1)
    assert manifest.reason == "stopped: its budget of 1500 tokens is used up: 2468 tokens spent"
    assert manifest.usage.tokens == 2468
    assert not manifest.given_up
    assert deployment.evidence(task, 1)["report.md"] == "so far\n"
    assert manifest.artifact("transcript")
    assert "took 2400 tokens in, 68 out" in deployment.cli("result", task).stdout
    deployment.rest()


@pytest.mark.promise("budget")
def test_a_task_whose_attempt_took_all_of_it_is_not_tried_again(deployment: Deployment) -> None:
    deployment.start_worker()
    broke = event(type="result", subtype="error_max_budget_usd", is_error=True, total_cost_usd=0.5, usage=USAGE)
    task = deployment.submit(INIT, broke, "exit 1", max_cost_usd="0.5")
    manifest = deployment.check(task, "failed", starts=[1], attempt=2)
    assert manifest.reason == "its budget of $0.5 is used up: $0.5 spent"
    assert manifest.usage.cost_usd == 0.5
    assert manifest.artifact("transcript")
    end = deployment.papers(task).attempts[0].end
    assert end is not None
    assert end.retry_at is None
    deployment.rest()


def test_the_profiles_limit_holds_and_what_all_attempts_took_is_in_the_result(deployment: Deployment) -> None:
    deployment.profile(runner={"kind": "claude"}, limits={"max_cost_usd": 0.5})
    deployment.start_worker()
    fine = deployment.submit(INIT, DONE)
    assert deployment.check(fine, starts=[1], attempt=1).usage.cost_usd == 0.25
    first = event(type="result", subtype="error_during_execution", is_error=True, total_cost_usd=0.3, usage=USAGE)
    task = deployment.submit(INIT, f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {first}; exit 1; }}", DONE)
    manifest = deployment.check(task, "failed", starts=[1, 2], attempt=2)
    assert manifest.reason == "stopped: its worker's budget for a task of $0.5 is used up: $0.55 spent"
    assert (manifest.usage.cost_usd, manifest.usage.at_least) == (0.55, None)
    deployment.rest()


@pytest.mark.promise("budget")
def test_what_a_killed_workers_agent_took_counts(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(INIT, says(1), "hold go", max_tokens="2000")
    until(lambda: (lease := deployment.records.lease(task, 1)) and lease.usage, "what it took, in its lease")
    worker.kill()
    deployment.start_worker()
    manifest = deployment.check(task, "failed", starts=[1, 2], attempt=2)
    assert manifest.reason == "stopped: its budget of 2000 tokens is used up: 2468 tokens spent"
    assert manifest.usage.at_least
    assert "took at least 2400 tokens in" in deployment.cli("result", task).stdout
    deployment.rest()


@pytest.mark.promise("budget")
def test_a_plan_whose_budget_is_used_up_ends_what_is_left_of_it(deployment: Deployment) -> None:
    deployment.start_worker()
    whole = {
        "plan": f"plan-{deployment.agent}",
        "budget": {"max_tokens": 2000},
        "defaults": {"to": deployment.agent, "type": "work"},
        "tasks": {
            "a": {"instructions": script(INIT, says(1), DONE)},
            "b": {"needs": ["a"], "instructions": script(INIT, says(1), "hold never")},
            "c": {"needs": ["b"], "run_if": "always", "instructions": script(INIT, DONE)},
        },
    }
    (deployment.home / "plan.json").write_text(json.dumps(whole))
    plan = deployment.cli("plan", "submit", "plan.json").stdout.strip()
    deployment.ended(plan)
    first, second, third = (deployment.ended(f"{plan}.{name}") for name in "abc")
    assert (first.status, first.usage.tokens) == ("completed", 1234)
    spent = f"the budget of {plan} of 2000 tokens is used up: 2468 tokens spent"
    assert (second.status, second.reason) == ("failed", f"stopped: {spent}")
    assert (third.status, third.reason) == ("failed", spent)
    assert deployment.starts(f"{plan}.c") == []
    deployment.rest()


@pytest.mark.promise("budget")
def test_that_a_limit_cannot_hold_is_said_and_the_task_runs(deployment: Deployment) -> None:
    deployment.profile()
    worker = deployment.start_worker()
    task = deployment.submit("report done", max_cost_usd="0.01")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert "max_cost_usd does not hold: an agent of kind command does not tell what it takes" in worker.said()
    assert manifest.usage.cost_usd is None
    deployment.rest()


def test_the_last_attempt_says_of_no_other_try(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(INIT, "exit 1", max_attempts="2")
    deployment.check(task, "failed", starts=[1, 2], attempt=3)
    first, last = (attempt.end for attempt in deployment.papers(task).attempts[:2])
    assert first is not None
    assert last is not None
    assert first.retry_at is not None
    assert last.retry_at is None
    deployment.rest()
