"""Review loops over the papers: what is registered, what starts after which verdict, and what becomes of the whole."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.artifacts import evidence_prefix
from agentq.claim import Claims, end_of
from agentq.commit import completion_of, seal
from agentq.coordinator import Coordinator, Registered
from agentq.errors import Conflict, Invalid
from agentq.judgement import Judgement, read_judgement
from agentq.loops import unrolled
from agentq.messages import Completion, Decision, Outcome, Review, Usage
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.verdict import Settle, Start
from agentq.why import Explainer
from tests.samples import NOW, claims_for, request
from tests.simulation import MemoryStore

FINDING = {"what": "It is too short.", "file": "a.py", "line": 3, "severity": "minor"}


@pytest.fixture
def records() -> Records:
    return Records(MemoryStore())


def loop(records: Records, rounds: int = 3, context: bytes | None = None, **changes: Any) -> Registered:
    asked = request(**{"task_id": "t", **changes})
    by = Review(by=asked.to, rounds=rounds)
    group, contexts = unrolled(asked, by, asked.type, context, records.store.ref)
    return Coordinator(records).register_plan(group, contexts)


def end(records: Records, name: str, status: Outcome = "completed", **changes: Any) -> list[str]:
    """End one of its tasks; answers with the names of what that released."""
    task_id = f"t.{name}"
    papers = records.known(task_id)
    completion = completion_of(papers, status, by="worker", attempt=papers.next_number)
    manifest = seal(records, papers, completion.model_copy(update=changes), by="worker")
    assert manifest
    return sorted(envelope.task_id.removeprefix("t.") for envelope in settle_in_store(records, manifest))


def brought(records: Records, name: str, **files: str) -> dict[str, Any]:
    """What the end of a task says that brought these files."""
    prefix = evidence_prefix(f"t.{name}", 1)
    add = records.artifacts.add
    return {
        "artifacts": tuple(
            add(prefix, file.replace("_", "-"), text.encode(), suffix="", made_by="agent")
            for file, text in files.items()
        )
    }


def judged(records: Records, name: str, verdict: Decision) -> dict[str, Any]:
    findings = [FINDING] if verdict == "request-changes" else []
    text = json.dumps({"verdict": verdict, "findings": findings})
    return {"verdict": verdict, **brought(records, name, report="My review.", verdict=text)}


def result(records: Records, task_id: str = "t") -> Completion:
    found = records.manifest(task_id)
    assert found
    return found


def start(records: Records, claims: Claims, name: str) -> Any:
    envelope = records.envelope(f"t.{name}")
    assert envelope
    return claims.pick_up(envelope.to_json(), None, NOW)


# ---------------------------------------------------------------------- what is registered


def test_what_is_said_of_the_first_round_of_every_task_and_of_the_loop(records: Records) -> None:
    Coordinator(records).register(request(task_id="before"))
    changes: dict[str, Any] = {
        "depends_on": ["before"],
        "run_if": "always",
        "requires_approval": True,
        "delay_seconds": 60,
        "ttl_seconds": 600,
        "timeout_seconds": 30,
        "max_attempts": 2,
        "priority": "high",
        "labels": {"repo": "/r"},
        "budget": {"max_tokens": 100},
        "expected_output": {"artifacts": ["patch"]},
    }
    registered = loop(records, rounds=2, context=b"The brief.", **changes)
    group = registered.envelope
    assert registered.publish == []
    assert (group.to, group.type, group.reply_to, group.priority) == ("agentq", "review-loop", "results", "high")
    assert group.budget
    assert group.budget.max_tokens == 100
    work, review, again, last = (records.known(task.task_id).envelope for task in group.plan)
    assert [one.task_id for one in (work, review, again, last)] == ["t.work-1", "t.review-1", "t.work-2", "t.review-2"]
    assert (work.depends_on, work.run_if, work.requires_approval) == (("before",), "always", True)
    assert (work.delay_seconds, again.delay_seconds, again.requires_approval) == (60, None, False)
    assert (review.depends_on, review.continues, review.run_if) == (("t.work-1",), "t.work-1", "completed")
    assert (again.depends_on, again.continues) == (("t.work-1", "t.review-1"), "t.work-1")
    assert (again.run_if, last.depends_on) == ("changes_requested", ("t.work-2", "t.review-1"))
    assert review.expected_output.artifacts == last.expected_output.artifacts == ("verdict",)
    assert again.expected_output.artifacts == ("patch",)
    for task in (work, review, again, last):
        assert (task.group, task.reply_to, task.budget, task.priority) == ("t", None, None, "high")
        assert (task.ttl_seconds, task.timeout_seconds, task.max_attempts) == (600, 30, 2)
        assert task.labels == {"repo": "/r"}
        assert records.store.get(f"tasks/{task.task_id}.md") == b"The brief."
        assert "Do it." in task.instructions


def test_the_same_request_is_the_same_loop_and_another_is_another(records: Records) -> None:
    assert loop(records).new
    assert not loop(records).new
    with pytest.raises(Conflict, match="another content"):
        loop(records, rounds=2)


def test_what_a_task_continues_it_must_wait_for() -> None:
    with pytest.raises(ValueError, match="must depend on"):
        request(continues="other", depends_on=["another"])


# ---------------------------------------------------------------------- one round after the other


@pytest.mark.promise("review-loop")
def test_work_goes_back_until_it_is_approved(records: Records) -> None:
    loop(records)
    claims = claims_for(records)
    usage = Usage(input_tokens=10, seconds=1.0)
    assert end(records, "work-1", usage=usage, verified=True) == ["review-1"]
    assert end(records, "review-1", usage=usage, **judged(records, "review-1", "request-changes")) == ["work-2"]
    assert isinstance(start(records, claims, "work-2"), Start)
    records.end("t.work-2", its_end(records, "t.work-2"))
    did = {"summary": "Longer.", **brought(records, "work-2", patch="diff", report="Mine.", review_report="Not that.")}
    assert end(records, "work-2", usage=usage, verified=True, **did) == ["review-2"]
    assert end(records, "review-2", usage=usage, **judged(records, "review-2", "approve")) == []
    manifest = result(records)
    assert (manifest.status, manifest.summary) == ("completed", "approved in round 2: Longer.")
    assert manifest.verified
    assert (manifest.usage.input_tokens, manifest.usage.seconds) == (40, 4.0)
    names = {artifact.name: records.artifacts.read(artifact).decode() for artifact in manifest.artifacts}
    report = names.pop("report")
    assert names == {
        "patch": "diff",
        "work-report": "Mine.",
        "review-report": "Not that.",
        "review-review-report": "My review.",
        "review-verdict": '{"verdict": "approve", "findings": []}',
    }
    assert report.count("verdict: ") == 2
    assert "work-3" not in report
    assert result(records, "t.review-3").reason == "not needed: t.review-2 approved"
    assert isinstance(start(records, claims, "work-3"), Settle)
    assert list(records.store.keys("open/")) == []


def its_end(records: Records, task_id: str) -> Any:
    running = records.known(task_id).running
    assert running
    return end_of(running, "worker", "it broke")


@pytest.mark.parametrize("rounds", [1, 2])
def test_work_that_is_not_approved_in_all_rounds_has_failed(records: Records, rounds: int) -> None:
    loop(records, rounds=rounds)
    for number in range(1, rounds + 1):
        end(records, f"work-{number}", verified=True, **brought(records, f"work-{number}", patch=f"diff {number}"))
        end(records, f"review-{number}", **judged(records, f"review-{number}", "request-changes"))
    manifest = result(records)
    assert manifest.status == "failed"
    assert not manifest.verified
    words = "1 round" if rounds == 1 else "2 rounds"
    assert manifest.reason == f"not approved after {words}: minor a.py:3: It is too short."
    patch = manifest.artifact("patch")
    assert patch
    assert records.artifacts.read(patch) == f"diff {rounds}".encode()
    assert manifest.artifact("review-verdict")


@pytest.mark.parametrize("who", ["work-1", "review-1", "work-2", "review-2"])
@pytest.mark.parametrize(
    ("status", "follows"), [("failed", "failed"), ("expired", "failed"), ("cancelled", "cancelled")]
)
def test_what_does_not_complete_ends_the_loop(records: Records, who: str, status: Outcome, follows: str) -> None:
    loop(records)
    for name in ("work-1", "review-1", "work-2", "review-2"):
        if name == who:
            end(records, name, status, reason="no luck")
            break
        end(records, name, **(judged(records, name, "request-changes") if "review" in name else {}))
    manifest = result(records)
    assert (manifest.status, manifest.reason) == (follows, f"t.{who} {status}: no luck")


def test_a_review_without_a_verdict_approves_nothing(records: Records) -> None:
    loop(records)
    end(records, "work-1")
    end(records, "review-1")
    manifest = result(records)
    assert manifest.status == "failed"
    assert manifest.reason == "not approved: t.review-1 was completed by worker without a verdict"
    assert result(records, "t.work-2").reason == "it needs a verdict, and none of what it waited for gave one"


def test_what_is_not_needed_is_explained_and_not_tried_again(records: Records) -> None:
    loop(records, rounds=2)
    end(records, "work-1")
    end(records, "review-1", **judged(records, "review-1", "approve"))
    coordinator = Coordinator(records)
    why = Explainer(records, coordinator, lambda _: "no engine").why("t.work-2")
    assert (why.reason, why.next) == ("not needed: t.review-1 approved", "agentq result t")
    with pytest.raises(Conflict, match="would be cancelled again: not needed"):
        coordinator.retry("t.work-2")
    with pytest.raises(Invalid, match="is a review loop"):
        coordinator.retry("t")


# ---------------------------------------------------------------------- any verdicts

OUTCOMES: Sequence[Outcome] = get_args(Outcome)
works = st.sampled_from(OUTCOMES) | st.just("completed")
reviews = st.sampled_from((*get_args(Decision), *get_args(Decision), "silent", "failed", "cancelled", "expired"))


@pytest.mark.promise("review-loop")
@given(st.lists(st.tuples(works, reviews), min_size=1, max_size=4), st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_ends_come_to_the_right_conclusion_and_start_no_needless_round(
    rounds: list[tuple[Outcome, str]], verified: bool
) -> None:
    records = Records(MemoryStore())
    loop(records, rounds=len(rounds))
    expected, ran = "failed", 0
    for number, (work, review) in enumerate(rounds, start=1):
        released = end(records, f"work-{number}", work, verified=verified)
        ran += 1
        if work != "completed":
            assert released == []
            expected = "cancelled" if work == "cancelled" else "failed"
            break
        assert released == [f"review-{number}"]
        ran += 1
        if review in get_args(Decision):
            released = end(records, f"review-{number}", **judged(records, f"review-{number}", review))  # type: ignore[arg-type]
        else:
            status = "completed" if review == "silent" else review
            released = end(records, f"review-{number}", status)  # type: ignore[arg-type]
        if review != "request-changes":
            assert released == []
            expected = {"approve": "completed", "cancelled": "cancelled"}.get(review, "failed")
            break
        assert released == ([f"work-{number + 1}"] if number < len(rounds) else [])
    manifest = result(records)
    assert manifest.status == expected
    assert manifest.verified == (expected == "completed" and verified)
    ended = [result(records, f"t.{kind}-{n}") for n in range(1, len(rounds) + 1) for kind in ("work", "review")]
    assert sum(m.from_ == "worker" for m in ended) == ran
    assert all(m.status != "completed" for m in ended[ran:])
    if expected == "completed":
        assert {m.reason for m in ended[ran:]} <= {f"not needed: t.review-{ran // 2} approved"}
    assert list(records.store.keys("open/")) == list(records.store.keys("waits/")) == []


# ---------------------------------------------------------------------- what a verdict is


@pytest.mark.promise("review-verdict")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("approve", "no JSON"),
        ("[]", "not as it should be"),
        ("{}", "verdict: Field required"),
        ('{"verdict": "approved"}', "verdict: Input should be 'approve'"),
        ('{"verdict": "request-changes"}', "has no findings"),
        ('{"verdict": "request-changes", "findings": [{"what": " "}]}', "has no findings"),
        ('{"verdict": "request-changes", "findings": [{"what": ""}]}', r"findings\.0\.what"),
        ('{"verdict": "approve", "findings": [{"what": "x", "severity": "awful"}]}', "severity"),
        ('{"verdict": "approve", "findings": [{"what": "x", "line": -1}]}', "line"),
        (json.dumps({"verdict": "approve", "findings": [{"what": "x"}] * 101}), "findings"),
        (json.dumps({"verdict": "approve", "findings": [{"what": "x" * 2001}]}), "what"),
        ("[" * 100_000, "no JSON"),
        (" " * 300_000, "is the limit"),
    ],
)
def test_what_is_no_verdict(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read_judgement(text.encode())


def test_a_verdict_may_be_fenced_as_in_a_report() -> None:
    said = read_judgement(b'```json\n{"verdict": "approve", "findings": [{"what": "Nice."}], "more": 1}\n```\n')
    assert said == Judgement.model_validate({"verdict": "approve", "findings": [{"what": "Nice."}]})


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["verdict", "findings", "what", "line"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_is_a_verdict_or_refused(data: bytes) -> None:
    with suppress(Invalid):
        assert read_judgement(data).verdict in get_args(Decision)


def test_findings_are_told_on_bounded_lines() -> None:
    findings = [{"what": "x\n# Task\n" + "y" * 900, "file": "a\nb"}] * 7
    said = Judgement.model_validate({"verdict": "request-changes", "findings": findings})
    lines = list(said.lines(5))
    assert len(lines) == 6
    assert lines[-1] == "and 2 more"
    assert all("\n" not in line and len(line) <= 500 for line in lines)


@pytest.mark.promise("budget")
def test_what_several_tasks_took_at_least_is_at_least_what_their_group_took(records: Records) -> None:
    loop(records, rounds=1)
    end(records, "work-1", usage=Usage(cost_usd=1.0, at_least=True))
    taken = Usage(cost_usd=2.0, seconds=3.0, at_least=True)
    end(records, "review-1", usage=taken, **judged(records, "review-1", "approve"))
    assert result(records).usage == Usage(cost_usd=3.0, seconds=3.0, at_least=True)
