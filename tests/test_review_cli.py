"""Review loops on the command line: submitted whole or not at all, read, ended, copied and kept as one task."""

import json
from datetime import timedelta

import pytest

from agentq.messages import utc_now
from agentq.records import Records
from agentq.retention import Retention
from agentq.stores.file import FileStore
from tests.desk import IMPLEMENT, Desk, Done

LOOP = (*IMPLEMENT, "--instructions", "Do it.", "--review-by", "review-worker", "--id", "l")
CHANGES = {"verdict": "request-changes", "findings": [{"what": "Too short.", "file": "a.py"}]}
APPROVE = {"verdict": "approve"}


def submitted(desk: Desk, *flags: str) -> Desk:
    assert desk.ok("submit", *LOOP, *flags) == "l"
    return desk


def work(desk: Desk, number: int) -> None:
    """Do the work of a round, as who claims it."""
    assert desk.json("claim", "--as", "implementation-worker")["task"]["task_id"] == f"l.work-{number}"
    (desk.project / "fix.diff").write_text(f"round {number}\n")
    ends = ("--summary", "Did it.", "--artifact", "patch=fix.diff")
    desk.ok("complete", f"l.work-{number}", "--from", "implementation-worker", *ends)


def review(desk: Desk, number: int, verdict: object) -> Done:
    """Review it, as who claims that."""
    desk.run("claim", "--as", "review-worker")
    (desk.project / "verdict.json").write_text(json.dumps(verdict))
    ends = ("--summary", "Looked.", "--artifact", "verdict=verdict.json")
    return desk.run("complete", f"l.review-{number}", "--from", "review-worker", *ends)


@pytest.mark.promise("review-loop")
def test_a_loop_is_submitted_once(any_desk: Desk) -> None:
    desk = submitted(any_desk, "--rounds", "2", "--max-tokens", "500", "--label", "team=red")
    again = desk.run("submit", *LOOP, "--rounds", "2", "--max-tokens", "500", "--label", "team=red")
    assert again == Done(0, "l\n", "l was registered before, with the same content\n")
    assert desk.run("submit", *LOOP).code == 5
    assert desk.ok("status", "l").splitlines() == [
        "l  pending  4 pending",
        "  l.work-1  pending  waits for: implementation-worker, queued",
        "  l.review-1  pending  waits for: dependencies l.work-1",
        "  l.work-2  pending  waits for: dependencies l.work-1, l.review-1",
        "  l.review-2  pending  waits for: dependencies l.work-2, l.review-1",
    ]
    assert desk.ok("tree", "l").splitlines()[0].endswith("review loop of 4")
    assert desk.waiting() == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--review-by", "nobody"), "there is no agent nobody"),
        (("--review-by", "no body"), "--review-by: letters, digits"),
        (("--review-type", "cooking"), "review-worker takes no tasks of type cooking"),
        (("--rounds", "0"), "--rounds: it should be greater"),
        (("--rounds", "11"), "--rounds: it should be less"),
        (("--id", "i" * 125), "--id, with a round's name behind it: String should have at most 128"),
        (("--review-type", "a b"), "--review-type: letters, digits"),
    ],
)
def test_what_cannot_be_reviewed_is_refused_and_nothing_is_written(
    desk: Desk, flags: tuple[str, ...], words: str
) -> None:
    before = desk.files()
    done = desk.run("submit", *LOOP, *flags)
    assert done.code == 3
    assert words in done.err
    assert desk.files() == before


@pytest.mark.parametrize("flags", [("--rounds", "2"), ("--review-type", "review")])
def test_rounds_without_a_reviewer_are_a_mistake(desk: Desk, flags: tuple[str, ...]) -> None:
    done = desk.run("submit", *IMPLEMENT, "--instructions", "Do it.", *flags)
    assert done.code == 3
    assert f"{flags[0]} is about reviews, and nobody reviews" in done.err


@pytest.mark.promise("review-loop")
@pytest.mark.promise("review-verdict")
def test_a_loop_reads_as_one_task_from_its_start_to_its_end(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    work(desk, 1)
    wrong = review(desk, 1, {"verdict": "fine"})
    assert wrong.code == 3
    assert "verdict: Input should be 'approve' or 'request-changes'" in wrong.err
    assert review(desk, 1, CHANGES).code == 0
    assert desk.ok("why", "l").startswith(
        "l  processing: 4 of its 6 tasks have not ended, the first is l.work-2 (queued)"
    )
    assert desk.run("result", "l").code == 12
    work(desk, 2)
    assert review(desk, 2, APPROVE).code == 0
    assert desk.run("wait", "l") == Done(0, "l  completed  unverified\n", "")
    assert desk.ok("status", "l").splitlines()[0] == "l  completed  by agentq, unverified"
    assert desk.ok("status", "l").count("not needed: l.review-2 approved") == 2
    found = desk.json("result", "l")
    assert found["summary"] == "approved in round 2: Did it."
    assert desk.run("result", "l", "--artifact", "patch").out == "round 2\n"
    assert json.loads(desk.run("result", "l", "--artifact", "review-verdict").out) == APPROVE
    (line,) = desk.ok("inbox").splitlines()
    assert line == "l  completed  unverified  0s ago  approved in round 2: Did it."
    assert desk.run("why", "l.work-3") == Done(
        0, "l.work-3  cancelled: not needed: l.review-2 approved\n", "  → agentq result l\n"
    )
    assert desk.run("retry", "l.work-3").code == 5
    again = desk.run("retry", "l")
    assert again.code == 3
    assert "l is a review loop" in again.err
    assert desk.run("verify", "l").code == 0
    assert list(desk.records.marks.unsettled()) == []


def test_a_loop_is_cancelled_with_all_that_has_not_ended(any_desk: Desk) -> None:
    desk = submitted(any_desk)
    work(desk, 1)
    assert desk.ok("cancel", "l", "--by", "alice", "--reason", "no need") == "l  cancelled"
    assert desk.ok("status", "l").count("cancelled by alice: no need") == 6
    assert desk.run("wait", "l").code == 9
    assert desk.run("result", "l", "--artifact", "patch").out == "round 1\n"


def test_a_cancel_of_what_was_approved_comes_too_late(desk: Desk) -> None:
    submitted(desk)
    work(desk, 1)
    review(desk, 1, APPROVE)
    done = desk.run("cancel", "l")
    assert done.code == 5
    assert "l was completed" in done.err


def test_what_waits_for_a_loop_waits_for_its_approval(desk: Desk) -> None:
    submitted(desk, "--rounds", "1")
    after = desk.task("--after", "l")
    work(desk, 1)
    assert desk.json("status", after)["waits_for"] == "dependencies"
    review(desk, 1, CHANGES)
    assert desk.json("status", after)["reason"].startswith("it needs l, which has failed: not approved after 1 round")


def test_a_loop_after_something_starts_with_its_first_round(desk: Desk) -> None:
    before = desk.task()
    submitted(desk, "--after", before, "--requires-approval", "--rounds", "2")
    assert desk.json("status", "l.work-1")["needs"] == [before]
    desk.finish(before)
    assert desk.json("status", "l.work-1")["waits_for"] == "approval"
    assert desk.json("status", "l.work-2")["needs"] == ["l.work-1", "l.review-1"]


def test_a_loop_is_copied_with_the_evidence_of_its_rounds(desk: Desk) -> None:
    submitted(desk, "--rounds", "2")
    work(desk, 1)
    review(desk, 1, APPROVE)
    there = (desk.folder / "there").as_uri()
    assert desk.run("store", "copy", "l", "--to", there).code == 0
    assert desk.run("result", "l", "--artifact", "patch", "--store", there).out == "round 1\n"
    assert desk.run("verify", "l", "--store", there).code == 0


def test_the_evidence_of_a_loop_that_nobody_has_read_is_kept(desk: Desk) -> None:
    submitted(desk, "--rounds", "2")
    work(desk, 1)
    review(desk, 1, APPROVE)
    records = Records(FileStore(desk.shared))
    gathered = Retention(records, timedelta(0)).collect()
    assert "l" not in gathered.tasks
    assert "l.work-2" in gathered.tasks
    assert desk.run("result", "l", "--artifact", "patch").out == "round 1\n"
    desk.ok("inbox", "--ack")
    assert {"l", "l.work-1", "l.review-1"} <= set(Retention(records, timedelta(0)).collect().tasks)
    assert f"its evidence was collected on {utc_now():%Y-%m-%d}" in desk.ok("result", "l")


@pytest.mark.promise("signed")
def test_what_is_submitted_and_answered_in_a_loop_is_signed(desk: Desk) -> None:
    for name in ("coordinator", "implementation-worker", "review-worker"):
        desk.ok("keys", "new", name)
    submitted(desk, "--rounds", "2")
    work(desk, 1)
    review(desk, 1, APPROVE)
    for task in ("l.work-1", "l.review-1", "l.work-2", "l"):
        done = desk.run("verify", task)
        assert done.code == 0, done
        assert "signature    ok      coordinator (key" in done.out
    path = desk.shared / "results" / "l.review-1.json"
    path.write_text(path.read_text().replace('"verdict":"approve"', '"verdict":"request-changes"'))
    assert desk.run("verify", "l.review-1").code == 11
