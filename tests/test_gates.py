"""Gates and groups over the papers: who waits for whom, who is let go, and what ends with what."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from agentq.claim import Claims
from agentq.commit import completion_of, seal
from agentq.coordinator import Coordinator, Registered
from agentq.errors import Conflict, Invalid, NotFound
from agentq.hands import Hand, Hands
from agentq.messages import Completion, Envelope, Outcome
from agentq.papers import Demand
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.verdict import Drop, Settle, Start
from tests.samples import NOW, claims_for, request
from tests.simulation import MemoryStore

DONE = Hand(by="me", status="completed", summary="Did it myself.")


@pytest.fixture
def records() -> Records:
    return Records(MemoryStore())


@pytest.fixture
def coordinator(records: Records) -> Coordinator:
    return Coordinator(records)


@pytest.fixture
def hands(records: Records) -> Hands:
    return Hands(records)


@pytest.fixture
def claims(records: Records) -> Claims:
    return claims_for(records)


Submit = Callable[..., Registered]


@pytest.fixture
def submit(coordinator: Coordinator) -> Submit:
    return lambda task_id, *needs, **changes: coordinator.register(
        request(task_id=task_id, depends_on=needs, **changes)
    )


def end(records: Records, task_id: str, status: Outcome = "completed", reason: str | None = None) -> list[str]:
    """End a task by a seal and settle it; answers with the ids of what that released."""
    papers = records.known(task_id)
    completion = completion_of(papers, status, by="worker", attempt=papers.next_number, reason=reason)
    manifest = seal(records, papers, completion, by="worker")
    assert manifest
    return ids(settle_in_store(records, manifest))


def ids(envelopes: Any) -> list[str]:
    return sorted(envelope.task_id for envelope in envelopes)


def manifest(records: Records, task_id: str) -> Completion:
    found = records.manifest(task_id)
    assert found
    return found


def start(claims: Claims, records: Records, task_id: str) -> Any:
    envelope = records.envelope(task_id)
    assert envelope
    return claims.pick_up(envelope.to_json(), None, NOW)


# ---------------------------------------------------------------------- dependencies


@pytest.mark.promise("gates")
def test_a_task_starts_when_all_it_needs_have_completed(
    records: Records, coordinator: Coordinator, submit: Submit, claims: Claims
) -> None:
    submit("a")
    submit("b")
    assert submit("c", "a", "b").publish == []
    assert isinstance(start(claims, records, "c"), Drop)
    assert (coordinator.status("c").waits_for, coordinator.status("c").needs) == ("dependencies", ("a", "b"))
    assert end(records, "b") == []
    assert coordinator.status("c").needs == ("a",)
    assert end(records, "a") == ["c"]
    assert list(records.marks.unpublished()) == ["c"]
    assert isinstance(start(claims, records, "c"), Start)
    assert list(records.store.keys("waits/")) == []


def test_what_has_ended_already_is_not_waited_for(records: Records, submit: Submit, claims: Claims) -> None:
    submit("a")
    end(records, "a")
    assert ids(submit("b", "a").publish) == ["b"]
    assert isinstance(start(claims, records, "b"), Start)


@pytest.mark.parametrize(
    ("status", "follows"), [("failed", "failed"), ("expired", "failed"), ("cancelled", "cancelled")]
)
def test_what_needs_a_task_that_did_not_complete_ends_with_it(
    records: Records, submit: Submit, status: Outcome, follows: Outcome
) -> None:
    submit("a")
    submit("b", "a")
    submit("c", "b")
    assert end(records, "a", status, "no such luck") == []
    assert [manifest(records, i).status for i in "bc"] == [follows, follows]
    assert "it needs a" in (manifest(records, "b").reason or "")
    assert manifest(records, "c").reason == manifest(records, "b").reason
    assert "no such luck" in (manifest(records, "c").reason or "")
    assert list(records.marks.unsettled()) == []
    assert set(records.store.keys("inbox/")) == {f"inbox/coordinator/{i}.json" for i in "abc"}


def test_run_if_always_runs_whatever_became_of_it(records: Records, submit: Submit, claims: Claims) -> None:
    submit("a")
    submit("b", "a", run_if="always")
    assert end(records, "a", "failed") == ["b"]
    assert isinstance(start(claims, records, "b"), Start)


def test_a_long_chain_ends_at_once(records: Records, submit: Submit) -> None:
    names = [f"task-{number}" for number in range(50)]
    submit(names[0])
    for before, name in pairwise(names):
        submit(name, before)
    end(records, names[0], "failed")
    assert manifest(records, names[-1]).status == "failed"
    assert list(records.marks.unsettled()) == []


def test_who_only_reads_does_not_release(records: Records, coordinator: Coordinator, submit: Submit) -> None:
    # It would keep who settles the dependency, and has an engine at hand, from publishing the dependent at once.
    submit("a")
    submit("b", "a")
    papers = records.known("a")
    done = completion_of(papers, "completed", by="worker", attempt=1)
    assert seal(records, papers, done, by="worker")
    assert coordinator.status("b").waits_for == "queued"
    assert coordinator.wait(["b"], 0) == []
    assert ids(settle_in_store(records, manifest(records, "a"))) == ["b"]


def test_a_dependency_completed_by_hand_counts(records: Records, hands: Hands, submit: Submit) -> None:
    submit("a")
    submit("b", "a")
    hands.end_by_hand("a", DONE)
    assert ids(hands.released) == ["b"]


def test_an_unknown_dependency_and_oneself_are_refused_and_nothing_is_written(records: Records, submit: Submit) -> None:
    with pytest.raises(NotFound, match="b, which a is to wait for"):
        submit("a", "b")
    with pytest.raises(Invalid, match="a → a"):
        submit("a", "a")
    assert records.store.objects == {}  # type: ignore[attr-defined]


def test_a_foreign_circle_is_refused(records: Records, claims: Claims) -> None:
    first = claims.pick_up(request(task_id="a", depends_on=["b"]).to_json(), None, NOW)
    assert isinstance(first, Drop)
    second = claims.pick_up(request(task_id="b", depends_on=["a"]).to_json(), None, NOW)
    assert "b → a → b" in second.reason  # type: ignore[union-attr]
    assert records.envelope("b") is None


def test_a_ttl_counts_from_the_last_gate(records: Records, coordinator: Coordinator, submit: Submit) -> None:
    submit("a")
    submit("b", "a", ttl_seconds=0.001)
    assert coordinator.status("b").waits_for == "dependencies"
    assert list(coordinator.inbox("coordinator")) == []
    end(records, "a")
    unread = [m.task_id for m in coordinator.inbox("coordinator")]
    while "b" not in unread:  # to the second
        unread = [m.task_id for m in coordinator.inbox("coordinator")]
    assert manifest(records, "b").status == "expired"
    assert list(records.store.keys("expiring/")) == []


# ---------------------------------------------------------------------- approval


@pytest.mark.promise("approval")
def test_an_approval_is_the_last_gate_and_bound_to_what_was_seen(
    records: Records, coordinator: Coordinator, hands: Hands, submit: Submit, claims: Claims
) -> None:
    submit("a")
    submit("b", "a", requires_approval=True)
    with pytest.raises(Conflict, match="still waits for a"):
        hands.approve("b", "me")
    assert end(records, "a") == []
    status = coordinator.status("b")
    assert (status.waits_for, len(status.digest or "")) == ("approval", 64)
    assert isinstance(start(claims, records, "b"), Drop)
    with pytest.raises(Conflict, match="not what you saw"):
        hands.approve("b", "me", digest="0" * 12)
    approval = hands.approve("b", "me", digest=(status.digest or "")[:12])
    assert (approval.by, approval.digest) == ("me", status.digest)
    assert ids(hands.released) == ["b"]
    assert hands.approve("b", "you") == approval
    assert isinstance(start(claims, records, "b"), Start)


def test_what_was_altered_after_its_approval_needs_a_new_one(
    records: Records, coordinator: Coordinator, hands: Hands, claims: Claims
) -> None:
    ref = records.store.ref("notes/a.md")
    records.store.put("notes/a.md", b"Delete the old files.")
    coordinator.register(request(task_id="a", context_ref=ref, requires_approval=True))
    hands.approve("a", "me")
    records.store.put("notes/a.md", b"Delete all files.")
    assert isinstance(start(claims, records, "a"), Drop)
    assert coordinator.status("a").waits_for == "approval"
    hands.released.clear()
    hands.approve("a", "you")
    assert ids(hands.released) == ["a"]
    assert isinstance(start(claims, records, "a"), Start)


def test_a_profile_that_takes_a_type_for_irreversible_demands_an_approval(
    records: Records, coordinator: Coordinator, hands: Hands, submit: Submit
) -> None:
    submit("a", type="deploy")
    careful = claims_for(records, irreversible=("deploy",))
    assert isinstance(start(careful, records, "a"), Drop)
    assert coordinator.status("a").waits_for == "approval"
    # Nor does a worker start it whose profile is not so careful.
    assert isinstance(start(claims_for(records), records, "a"), Drop)
    hands.approve("a", "me")
    assert isinstance(start(careful, records, "a"), Start)


def test_a_rejected_task_is_cancelled_with_the_reason(records: Records, hands: Hands, submit: Submit) -> None:
    submit("a", requires_approval=True)
    submit("b", "a")
    assert hands.reject("a", "me", "too risky").reason == "rejected by me: too risky"
    assert [manifest(records, i).status for i in "ab"] == ["cancelled", "cancelled"]
    for act in (lambda: hands.approve("a", "me"), lambda: hands.reject("a", "me", "again")):
        with pytest.raises(Conflict, match="has ended"):
            act()


def test_what_is_overdue_is_ended_instead_of_approved(records: Records, hands: Hands, submit: Submit) -> None:
    from tests.simulation import CANCEL

    submit("a", requires_approval=True)
    records.ask_cancel("a", CANCEL)
    with pytest.raises(Conflict, match="a has ended: cancelled"):
        hands.approve("a", "me")


def test_a_retry_that_would_fail_again_is_refused(records: Records, coordinator: Coordinator, submit: Submit) -> None:
    submit("a")
    submit("b", "a")
    end(records, "a", "failed")
    with pytest.raises(Conflict, match="b needs a, which did not complete"):
        coordinator.retry("b")
    coordinator.register_plan(plan(task("a")), {})
    end(records, "p.a", "failed")
    with pytest.raises(Invalid, match="p is a plan"):
        coordinator.retry("p")
    again = coordinator.retry("p.a")
    assert (again.group, again.reply_to) == (None, "results.coordinator")


def test_approving_or_rejecting_what_needs_none_is_refused(records: Records, hands: Hands, submit: Submit) -> None:
    submit("a")
    for act in (lambda: hands.approve("a", "me"), lambda: hands.reject("a", "me", "no")):
        with pytest.raises(Invalid, match="needs no approval"):
            act()
    assert list(records.store.keys("controls/")) == []


def test_a_forged_message_opens_no_gate(records: Records, submit: Submit, claims: Claims) -> None:
    registered = submit("a", requires_approval=True).envelope
    forged = registered.model_copy(update={"requires_approval": False})
    assert "content is not that task's" in claims.pick_up(forged.to_json(), None, NOW).reason  # type: ignore[union-attr]
    assert isinstance(claims.pick_up(registered.to_json(), None, NOW), Drop)


# ---------------------------------------------------------------------- cancel


@pytest.mark.promise("cancel")
def test_a_cancel_is_final_at_once_for_what_does_not_run(
    records: Records, hands: Hands, submit: Submit, claims: Claims
) -> None:
    submit("a")
    submit("b", "a")
    found = hands.cancel("a", "me", "no need")
    assert found
    assert (found.status, found.reason) == ("cancelled", "cancelled by me: no need")
    assert manifest(records, "b").status == "cancelled"
    assert hands.cancel("a", "you") == found
    assert isinstance(start(claims, records, "a"), Settle)
    assert list(records.marks.unsettled()) == []


def test_a_cancel_that_comes_too_late_says_so(records: Records, hands: Hands, submit: Submit) -> None:
    submit("a")
    end(records, "a")
    with pytest.raises(Conflict, match="too late: a was completed"):
        hands.cancel("a", "me")


def test_a_running_task_is_asked_to_stop(records: Records, hands: Hands, submit: Submit, claims: Claims) -> None:
    submit("a")
    assert isinstance(start(claims, records, "a"), Start)
    assert hands.cancel("a", "me") is None
    assert records.cancel("a")
    dead = Hands(records, is_gone=lambda _: True).cancel("a", "me")
    assert dead
    assert (dead.status, dead.stopped) == ("cancelled", "presumed")


def test_a_cancel_that_died_before_it_sealed_is_finished_by_who_looks(
    records: Records, coordinator: Coordinator, submit: Submit
) -> None:
    from tests.simulation import CANCEL

    submit("a")
    records.ask_cancel("a", CANCEL)
    assert coordinator.status("a").state == "cancelled"


# ---------------------------------------------------------------------- groups


def plan(*tasks: Envelope, **changes: Any) -> Envelope:
    return request(task_id="p", to="agentq", type="plan", instructions="The tasks.", plan=tasks, **changes)


def task(name: str, *needs: str, **changes: Any) -> Envelope:
    given = {"task_id": f"p.{name}", "group": "p", "reply_to": None, "depends_on": [f"p.{need}" for need in needs]}
    return request(**{**given, **changes})


FAN = (task("a"), task("b"), task("c", "a", "b"))


@pytest.mark.promise("plan")
def test_a_plan_is_one_task_made_of_tasks(records: Records, coordinator: Coordinator) -> None:
    registered = coordinator.register_plan(plan(*FAN), {})
    assert (registered.new, ids(registered.publish)) == (True, ["p.a", "p.b"])
    assert coordinator.status("p").state == "pending"
    end(records, "p.a")
    assert (coordinator.status("p").state, coordinator.status("p").tasks) == (
        "processing",
        {"completed": 1, "pending": 2},
    )
    assert end(records, "p.b") == ["p.c"]
    assert end(records, "p.c") == []
    found = manifest(records, "p")
    assert (found.status, found.summary) == ("completed", "3 of 3 tasks completed")
    coordinator.check(found)
    assert [m.task_id for m in coordinator.inbox("coordinator")] == ["p"]
    assert list(records.marks.unsettled()) == []


def test_a_plan_submitted_again_is_the_same_plan_and_another_is_refused(
    records: Records, coordinator: Coordinator
) -> None:
    first = coordinator.register_plan(plan(*FAN), {})
    again = coordinator.register_plan(plan(*FAN), {})
    assert (again.new, again.envelope, ids(again.publish)) == (False, first.envelope, ["p.a", "p.b"])
    before = dict(records.store.objects)  # type: ignore[attr-defined]
    with pytest.raises(Conflict):
        coordinator.register_plan(plan(*FAN[:2]), {})
    assert records.store.objects == before  # type: ignore[attr-defined]


def test_a_plan_that_was_only_committed_is_finished_by_whoever_finds_it(
    records: Records, coordinator: Coordinator
) -> None:
    request = plan(*FAN)
    records.register(request.registered(records.store.url, NOW))
    assert list(records.marks.unpublished()) == ["p"]
    assert coordinator.status("p").tasks == {"pending": 3}
    assert ids(coordinator.register_plan(request, {}).publish) == ["p.a", "p.b"]
    assert {e.task_id for i in ("p.a", "p.b", "p.c") if (e := records.envelope(i))} == {"p.a", "p.b", "p.c"}


@pytest.mark.parametrize(("status", "expected"), [("failed", "failed"), ("cancelled", "cancelled")])
def test_a_plan_ends_as_its_tasks_did(
    records: Records, coordinator: Coordinator, status: Outcome, expected: Outcome
) -> None:
    coordinator.register_plan(plan(*FAN), {})
    end(records, "p.a", status, "broke")
    assert records.manifest("p") is None
    end(records, "p.b")
    found = manifest(records, "p")
    assert (found.status, found.summary) == (expected, "1 of 3 tasks completed")
    assert (found.reason or "").startswith(f"p.a {status}: broke")


def test_cancelling_a_plan_cancels_its_tasks(
    records: Records, coordinator: Coordinator, hands: Hands, claims: Claims
) -> None:
    coordinator.register_plan(plan(*FAN), {})
    end(records, "p.b")
    started = start(claims, records, "p.a")
    assert isinstance(started, Start)
    assert hands.cancel("p", "me", "no need") is None
    assert manifest(records, "p.c").status == "cancelled"
    assert records.cancel("p.a")
    dead = Hands(records, is_gone=lambda _: True)
    found = dead.cancel("p", "me")
    assert found
    assert (found.status, manifest(records, "p.b").status) == ("cancelled", "completed")


def test_what_is_remembered_of_a_plan_is_what_stands_there(records: Records, coordinator: Coordinator) -> None:
    coordinator.register_plan(plan(*FAN), {})
    assert records.envelope("p") is records.envelope("p")
    altered = records.store.objects["tasks/p.json"].replace(b"The tasks.", b"Others.")  # type: ignore[attr-defined]
    records.store.objects["tasks/p.json"] = altered  # type: ignore[attr-defined]
    assert [e.instructions for e in (records.envelope("p"), records.envelope("p")) if e] == ["Others."] * 2


def test_a_plan_is_neither_delivered_nor_ended_by_hand(
    records: Records, coordinator: Coordinator, hands: Hands, claims: Claims
) -> None:
    coordinator.register_plan(plan(*FAN), {})
    assert "is a plan" in start(claims, records, "p").reason
    with pytest.raises(Conflict, match="is a plan"):
        hands.end_by_hand("p", DONE)


def test_a_task_that_has_a_plans_id_already_refuses_the_plan(records: Records, coordinator: Coordinator) -> None:
    coordinator.register(request(task_id="p.b"))
    with pytest.raises(Conflict, match=r"p\.b is a task already"):
        coordinator.register_plan(plan(*FAN), {})
    assert records.envelope("p") is None


def test_a_task_may_wait_for_a_plan(records: Records, coordinator: Coordinator, submit: Submit) -> None:
    coordinator.register_plan(plan(task("a")), {})
    submit("after", "p")
    assert end(records, "p.a") == ["after"]


def test_an_approval_demanded_later_does_not_let_the_ttl_run_on(
    records: Records, coordinator: Coordinator, submit: Submit
) -> None:
    submit("a", ttl_seconds=3600)
    records.demand_approval("a", Demand(token="t", by="w", at=NOW, reason="irreversible"))
    assert coordinator.status("a").waits_for == "approval"
