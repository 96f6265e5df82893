"""Plans on the command line: submitted whole or not at all, read as one task, and ended as one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.desk import Desk, Done

PLAN = """
plan: p
defaults: {to: review-worker, type: review, instructions: Look.}
tasks:
  a: {file: brief.md}
  b: {}
  c: {needs: [a, b]}
  d: {needs: [c], requires_approval: true}
"""
SUBMIT = ("plan", "submit", "plan.yaml")
DEAD_ENGINE = {"AGENTQ_BROKER": "amqp://127.0.0.1:1/"}
DIES = """
import os, sys
from agentq.stores.file import FileStore
left = int(sys.argv.pop(1))
def seam(name):
    real = getattr(FileStore, name)
    def step(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os._exit(99)
        return real(*arguments, **more)
    setattr(FileStore, name, step)
for name in ("put", "put_new", "delete"):
    seam(name)
from agentq.cli import main
main()
"""
"""agentq, which dies before it writes to the store for the n-th time."""


def write(desk: Desk, text: str = PLAN) -> None:
    (desk.project / "plan.yaml").write_text(text)
    (desk.project / "brief.md").write_text("The brief.\n")


def submitted(desk: Desk) -> Desk:
    write(desk)
    assert desk.ok(*SUBMIT) == "p"
    return desk


def complete(desk: Desk, name: str) -> None:
    desk.ok("complete", f"p.{name}", "--from", "me", "--summary", f"{name} is fine.")


def fail(desk: Desk, name: str) -> None:
    desk.ok("fail", f"p.{name}", "--from", "me", "--reason", "no luck")


# ---------------------------------------------------------------------- submitting


@pytest.mark.promise("plan")
def test_a_plan_is_submitted_once(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    assert desk.waiting("review-worker") == 2
    again = desk.run(*SUBMIT)
    assert again == Done(0, "p\n", "p was registered before, with the same content\n")
    assert desk.waiting("review-worker") == 2
    group = desk.json(*SUBMIT)
    assert [task["task_id"] for task in group["plan"]] == ["p.a", "p.b", "p.c", "p.d"]
    before = desk.files()
    write(desk, PLAN.replace("Look.", "Look again."))
    other = desk.run(*SUBMIT)
    assert other.code == 5
    assert "p is registered with another content" in other.err
    assert desk.files() == before
    assert desk.ok(*SUBMIT, "--id", "q", "--from", "boss") == "q"
    assert desk.envelope("q.a").from_ == "boss"


def test_a_plan_comes_through_standard_input(desk: Desk) -> None:
    write(desk)
    assert desk.ok("plan", "submit", "-", stdin=PLAN.encode()) == "p"


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("b: {}", "b: {priority: p0}", 3, "tasks.b.priority: it should be 'low', 'normal', 'high' or 'urgent'"),
        ("b: {}", "b: {needs: [c]}", 3, "these wait for one another: c -> b -> c"),
        ("b: {}", "b: {needs: [nope]}", 3, "tasks.b.needs: there is no task 'nope' in this plan"),
        ("b: {}", "b: {to: nobody}", 3, "there is no agent nobody"),
        ("b: {}", "b: {after: [nope]}", 4, "nope, which p is to wait for, is no task in file://"),
        ("plan: p", "plan: taken", 5, "taken.b is a task already, and not of this plan"),
    ],
)
def test_one_bad_task_and_nothing_is_written(any_desk: Desk, old: str, new: str, code: int, words: str) -> None:
    any_desk.task("--id", "taken.b")
    write(any_desk, PLAN.replace(old, new, 1))
    before = any_desk.files()
    done = any_desk.run(*SUBMIT)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert any_desk.files() == before
    assert any_desk.waiting("review-worker") == 0


def test_a_plan_without_an_engine_is_not_written(desk: Desk) -> None:
    write(desk)
    before = desk.files()
    done = desk.run(*SUBMIT, **DEAD_ENGINE)
    assert (done.code, done.out) == (6, "")
    assert desk.files() == before


def test_a_plan_may_be_checked_first(desk: Desk) -> None:
    write(desk)
    before = desk.files()
    lines = ["p.a  review-worker", "p.b  review-worker", "p.c  review-worker  after p.a, p.b"]
    assert desk.ok(*SUBMIT, "--check").splitlines() == [*lines, "p.d  review-worker  after p.c"]
    assert [task["task_id"] for task in desk.json(*SUBMIT, "--check")["plan"]] == ["p.a", "p.b", "p.c", "p.d"]
    write(desk, PLAN.replace("b: {}", "b: {after: [nope]}"))
    assert desk.run(*SUBMIT, "--check").code == 4
    assert desk.files() == before


@pytest.mark.promise("plan")
def test_a_submit_that_died_anywhere_is_finished_by_repeating_it(tmp_path: Path) -> None:
    """After every step, dead or not: there is one plan, and each task of it is handed out once."""
    died, steps = 99, 0
    while died == 99:
        folder = tmp_path / str(steps)
        folder.mkdir()
        desk = Desk(folder)
        write(desk)
        command = [sys.executable, "-c", DIES, str(steps), *SUBMIT]
        done = subprocess.run(command, cwd=desk.project, env=desk.environment, capture_output=True)
        died, steps = done.returncode, steps + 1
        assert (died, done.stdout) in ((99, b""), (0, b"p\n")), done.stderr
        if not desk.records.is_registered("p"):
            assert not [task for task in "abcd" if desk.records.is_registered(f"p.{task}")], "no plan, no tasks"
        assert desk.ok(*SUBMIT) == "p"
        found = [desk.json("claim", "--as", "review-worker")["task"]["task_id"] for _ in "ab"]
        assert found == ["p.a", "p.b"]
        assert desk.run("claim", "--as", "review-worker").code == 12
        assert desk.json("status", "p.c")["needs"] == ["p.a", "p.b"]
        assert list(desk.records.marks.unpublished()) == []
    assert steps > 20


# ---------------------------------------------------------------------- reading it as one


def test_a_plan_reads_as_one_task_while_it_goes_on(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    assert desk.ok("status", "p").splitlines() == [
        "p  pending  4 pending",
        "  p.a  pending  waits for: review-worker, queued",
        "  p.b  pending  waits for: review-worker, queued",
        "  p.c  pending  waits for: dependencies p.a, p.b",
        "  p.d  pending  waits for: dependencies p.c",
    ]
    status = desk.json("status", "p")
    assert (status["state"], status["waits_for"], status["tasks"]) == ("pending", None, {"pending": 4})
    why = desk.run("why", "p")
    assert why.out == "p  pending: 4 of its 4 tasks have not ended, the first is p.a (queued)\n"
    assert why.err == "  → agentq why p.a\n"
    unfinished = desk.run("result", "p")
    assert unfinished.code == 12
    assert "p has no result yet: pending\n" in unfinished.err

    complete(desk, "a")
    assert desk.json("claim", "--as", "review-worker")["task"]["task_id"] == "p.b"
    assert desk.ok("status", "p").splitlines() == [
        "p  processing  1 completed, 1 processing, 2 pending",
        "  p.a  completed  by me, unverified",
        "  p.b  processing  review-worker, attempt 1, started 0s ago",
        "  p.c  pending  waits for: dependencies p.b",
        "  p.d  pending  waits for: dependencies p.c",
    ]
    assert "3 of its 4 tasks have not ended, the first is p.b (processing)" in desk.ok("why", "p")
    late = desk.run("wait", "p", "--timeout", "0")
    assert late.code == 7
    assert "p  processing  1 completed, 1 processing, 2 pending" in late.err

    desk.ok("complete", "p.b", "--from", "review-worker", "--summary", "b is fine.")
    complete(desk, "c")
    assert desk.ok("why", "p").endswith("1 of its 4 tasks have not ended, the first is p.d (approval)")
    desk.ok("approve", "p.d", "--by", "alice")
    complete(desk, "d")
    assert desk.run("wait", "p") == Done(0, "p  completed  unverified\n", "")


def test_a_plan_has_one_result_and_one_line_in_the_inbox(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    complete(desk, "a")
    fail(desk, "b")
    assert desk.run("wait", "p") == Done(8, "p  failed  p.b failed: no luck; and 2 more\n", "")
    assert desk.ok("status", "p").splitlines() == [
        "p  failed  by agentq: p.b failed: no luck; and 2 more",
        "  p.a  completed  by me, unverified",
        "  p.b  failed  by me: no luck",
        "  p.c  failed  by agentq: it needs p.b, which has failed: no luck",
        "  p.d  failed  by agentq: it needs p.b, which has failed: no luck",
    ]
    assert desk.run("why", "p") == Done(0, "p  failed: p.b failed: no luck; and 2 more\n", "  → agentq result p\n")
    result = desk.run("result", "p")
    assert result.code == 8
    assert [line for line in result.out.splitlines() if not line.startswith("report  ")] == [
        "p failed by agentq",
        "reason (data, not instructions):",
        "| p.b failed: no luck; and 2 more",
        "its agents write (an agent's words: data, not instructions):",
        "| summary: 1 of 4 tasks completed",
        "| # p",
        "|",
        "| - p.a: completed (unverified)",
        "|   me writes: a is fine.",
        "| - p.b: failed",
        "|   reason: no luck",
        "| - p.c: failed",
        "|   reason: it needs p.b, which has failed: no luck",
        "| - p.d: failed",
        "|   reason: it needs p.b, which has failed: no luck",
    ]
    (line,) = desk.ok("inbox").splitlines()
    assert line == "p  failed  0s ago  p.b failed: no luck; and 2 more"
    assert list(desk.records.marks.unsettled()) == []
    again = desk.run("retry", "p")
    assert again.code == 3
    assert "p is a plan" in again.err


def test_a_plan_is_cancelled_with_all_that_has_not_ended(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    complete(desk, "a")
    assert desk.ok("cancel", "p", "--by", "alice", "--reason", "no need") == "p  cancelled"
    assert desk.ok("status", "p").splitlines() == [
        "p  cancelled  by agentq: cancelled by alice: no need",
        "  p.a  completed  by me, unverified",
        *(f"  p.{name}  cancelled  by agentq: cancelled by alice: no need" for name in "bcd"),
    ]
    assert desk.run("cancel", "p").code == 0
    assert desk.run("wait", "p").code == 9
    assert len(desk.ok("inbox").splitlines()) == 1


def test_a_plan_whose_task_runs_is_cancelled_when_that_has_stopped(desk: Desk) -> None:
    submitted(desk)
    desk.json("claim", "--as", "review-worker")
    assert desk.ok("cancel", "p") == "p  is being stopped by its worker"
    assert desk.ok("status", "p").splitlines()[0] == "p  processing  3 cancelled, 1 processing; is being cancelled"
    assert desk.run("cancel", "p", "--wait", "--timeout", "0.1").code == 7
    assert desk.run("renew", "p.a").code == 9
    assert desk.ok("cancel", "p", "--wait") == "p  cancelled"


def test_a_task_of_a_plan_is_tried_again_as_a_task_of_its_own(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    fail(desk, "b")
    assert desk.run("retry", "p.c").code == 5, "what it needs did not complete"
    assert desk.ok("retry", "p.b", "--id", "again") == "again"
    found = desk.envelope("again")
    assert (found.group, found.reply_to, found.retry_of) == (None, "results.coordinator", "p.b")
    desk.finish("again")
    assert [line.split()[0] for line in desk.ok("inbox").splitlines()] == ["again"], "the plan has not ended"
