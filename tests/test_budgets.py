"""What a task may still spend: the smallest limit holds, over all attempts, and what is not told is not counted."""

from dataclasses import replace
from typing import Any

import pytest

from agentq.budgets import Limit, Limits
from agentq.claim import Claims
from agentq.errors import ExitCode
from agentq.messages import Budget, Envelope, Usage, total
from agentq.papers import Lease
from agentq.records import Records
from agentq.verdict import Settle, Start, Verdict
from tests.desk import Desk
from tests.samples import AGENT, NOW, TASK, claim, claims_for, completion, end, registered, request
from tests.simulation import MemoryStore

HALF = Usage(input_tokens=400, output_tokens=100, cost_usd=0.5)


@pytest.fixture
def records() -> Records:
    return Records(MemoryStore())


def pick_up(records: Records, envelope: Envelope, own: Budget = Budget()) -> Verdict:
    claims = claims_for(records)
    terms = replace(claims.terms, budget=own)
    return Claims(records, terms, is_gone=lambda _: False, now=lambda: NOW).pick_up(envelope.to_json(), None, NOW)


def tried(records: Records, usage: Usage | None, number: int = 1, **how: Any) -> None:
    """An attempt that brought no result and took that."""
    records.take(TASK, claim(number))
    records.end(TASK, end(number).model_copy(update={"usage": usage, **how}))


@pytest.mark.promise("budget")
@pytest.mark.parametrize(
    ("budget", "own", "reason"),
    [
        ({"max_cost_usd": 0.5}, {}, "its budget of $0.5 is used up: $0.5 spent"),
        ({"max_cost_usd": 9, "max_tokens": 500}, {}, "its budget of 500 tokens is used up: 500 tokens spent"),
        ({"max_cost_usd": 9}, {"max_cost_usd": 0.25}, "its worker's budget for a task of $0.25 is used up: $0.5 spent"),
        ({"max_cost_usd": 0.51, "max_tokens": 501}, {"max_tokens": 600}, None),
        (None, {}, None),
    ],
)
def test_the_smallest_limit_holds_over_all_attempts(
    records: Records, budget: Any, own: Any, reason: str | None
) -> None:
    envelope = registered(records, budget=budget)
    tried(records, HALF)
    verdict = pick_up(records, envelope, Budget(**own))
    if reason is None:
        assert isinstance(verdict, Start)
        return
    assert isinstance(verdict, Settle)
    manifest = verdict.manifest
    assert (manifest.status, manifest.reason, manifest.given_up) == ("failed", reason, False)
    assert manifest.usage == HALF


def test_what_is_not_told_is_not_counted_but_told_to_be_lacking(records: Records) -> None:
    envelope = registered(records, budget={"max_cost_usd": 0.6})
    tried(records, Usage(input_tokens=9))
    assert isinstance(pick_up(records, envelope), Start)
    records.end(TASK, end(2).model_copy(update={"usage": Usage(cost_usd=0.7)}))
    verdict = pick_up(records, envelope)
    assert isinstance(verdict, Settle)
    assert verdict.manifest.usage == Usage(input_tokens=9, cost_usd=0.7, at_least=True)


def test_an_attempt_whose_agent_never_ran_took_nothing(records: Records) -> None:
    registered(records)
    tried(records, Usage(seconds=1), started=False)
    tried(records, HALF, 2)
    assert total(records.known(TASK).spent) == HALF


@pytest.mark.promise("budget")
def test_of_a_dead_worker_counts_what_its_last_renewal_said(records: Records) -> None:
    envelope = registered(records, budget={"max_tokens": 500})
    records.take(TASK, claim())
    records.renew(TASK, 1, Lease(token="owner", counter=1, at=NOW, usage=HALF))
    claims = claims_for(records)
    papers = records.known(TASK)
    claims.bury_silent(papers)
    (attempt,) = records.attempts(TASK)
    assert attempt.end is not None
    assert attempt.end.usage == HALF.model_copy(update={"at_least": True})
    verdict = pick_up(records, envelope)
    assert isinstance(verdict, Settle)
    assert verdict.manifest.usage.at_least


def plan(records: Records, budget: Any) -> list[Envelope]:
    """A registered plan of three tasks; its first one is TASK."""
    names = (TASK, "task-2", "task-3")
    tasks = tuple(request(task_id=name, group="plan-1") for name in names)
    whole = request(task_id="plan-1", to="agentq", type="plan", plan=tasks, budget=budget)
    whole = whole.model_copy(update={"created_at": NOW, "store": records.store.url})
    records.register(whole.model_copy(update={"request_sha256": whole.request_digest()}), published=True)
    return [registered(records, task_id=name, group="plan-1") for name in names]


@pytest.mark.promise("budget")
def test_a_plan_whose_budget_is_used_up_ends_its_other_tasks(records: Records) -> None:
    first, second, third = plan(records, {"max_cost_usd": 1})
    tried(records, HALF)
    assert isinstance(pick_up(records, second), Start)
    records.commit(completion(task_id="task-2").model_copy(update={"usage": Usage(cost_usd=0.5)}))
    for task in (first, third):
        verdict = pick_up(records, task)
        assert isinstance(verdict, Settle)
        assert verdict.manifest.reason == "the budget of plan-1 of $1 is used up: $1 spent"


def test_an_attempt_gets_what_is_left_of_a_plan(records: Records) -> None:
    plan(records, {"max_cost_usd": 1, "max_tokens": 600})
    tried(records, HALF)
    limits = claims_for(records).limits(records.known("task-3"))
    assert limits.cost_left == 0.5
    assert limits.passed(Usage(input_tokens=100)) is None
    assert limits.passed(Usage(input_tokens=101)) == "the budget of plan-1 of 600 tokens is used up: 601 tokens spent"


def test_a_limit_that_is_reached_stops_nobody_and_lets_nobody_begin() -> None:
    limits = Limits((Limit("its budget", Budget(max_cost_usd=1), Usage(cost_usd=0.5)),))
    assert limits.passed(Usage(cost_usd=0.5)) is None
    assert limits.used_up(Usage(cost_usd=0.5)) == "its budget of $1 is used up: $1 spent"
    assert limits.used_up() is None
    assert Limits().cost_left is None


# ---------------------------------------------------------------------- asking for it


def test_a_budget_is_part_of_what_is_asked_and_none_changes_nothing() -> None:
    assert request().request_digest() == request(budget=None).request_digest()
    assert request(budget={"max_tokens": 5}).request_digest() != request().request_digest()
    kept = request(budget={"max_tokens": 5, "mood": "good"})
    assert kept.budget is not None
    assert kept.budget.model_extra == {"mood": "good"}


def test_submit_takes_a_budget(desk: Desk) -> None:
    task = desk.task("--max-cost-usd", "2.5", "--max-tokens", "1000")
    assert desk.records.known(task).envelope.budget == Budget(max_cost_usd=2.5, max_tokens=1000)
    assert desk.records.known(desk.task()).envelope.budget is None


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--max-cost-usd", "0"), ("--max-cost-usd", "nan"), ("--max-cost-usd", "inf"), ("--max-tokens", "0")],
)
def test_a_budget_that_is_none_is_refused(desk: Desk, flag: str, value: str) -> None:
    done = desk.run("submit", "--to", AGENT, "--type", "implementation", "--instructions", "Do it.", flag, value)
    assert done.code == ExitCode.INVALID
    assert flag in done.err


def test_a_plan_has_budgets_for_itself_and_for_its_tasks(desk: Desk) -> None:
    (desk.project / "plan.yaml").write_text(
        "plan: p\nbudget: {max_cost_usd: 10}\n"
        "defaults: {to: review-worker, type: review, instructions: Look., max_tokens: 1000}\n"
        "tasks: {a: {}, b: {max_tokens: 2000, max_cost_usd: 1.5}}\n"
    )
    desk.ok("plan", "submit", "plan.yaml")
    budgets = [desk.records.known(name).envelope.budget for name in ("p", "p.a", "p.b")]
    assert budgets == [
        Budget(max_cost_usd=10),
        Budget(max_tokens=1000),
        Budget(max_tokens=2000, max_cost_usd=1.5),
    ]


def test_what_is_wrong_with_a_plans_budget_is_told_with_its_line(desk: Desk) -> None:
    (desk.project / "plan.yaml").write_text(
        "plan: p\nbudget:\n  max_cost: 10\n  max_tokens: many\n"
        "tasks:\n  a: {to: review-worker, type: review, instructions: Look., max_cost_usd: -1}\n"
    )
    done = desk.run("plan", "submit", "plan.yaml")
    assert done.code == ExitCode.INVALID
    for words in (
        "line 3, budget.max_cost: there is no such key",
        "line 4, budget.max_tokens",
        "line 6, tasks.a.max_cost",
    ):
        assert words in done.err
