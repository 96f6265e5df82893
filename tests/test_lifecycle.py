"""The states of a task, from its papers alone."""

from typing import Any

import pytest

from agentq.lifecycle import Papers, backoff, derive, due, earlier_reasons, is_expired, is_silent
from agentq.papers import Attempt
from tests.samples import NOW, after, claim, completion, end, lease, ran, request, seal


def papers(*attempts: Attempt, manifest: Any = None, **changes: Any) -> Papers:
    return Papers(envelope=request(created_at=NOW, **changes), attempts=attempts, manifest=manifest)


@pytest.mark.promise("status-right")
@pytest.mark.parametrize(
    ("given", "state", "waits_for"),
    [
        (papers(), "pending", "queued"),
        (papers(not_before=after(60)), "pending", "delayed"),
        (papers(not_before=after(-60)), "pending", "queued"),
        (papers(ran(lease=lease(1))), "processing", None),
        (papers(ran(lease=lease(1, at=after(-60))), ttl_seconds=1), "processing", None),
        (papers(ran(end=end())), "pending", "queued"),
        (papers(ran(end=end(retry_at=after(10)))), "pending", "delayed"),
        (papers(ran(end=end(retry_at=after(-1)))), "pending", "queued"),
        (papers(ran(end=end()), ran(2)), "processing", None),
        (papers(Attempt(paper=seal())), "pending", None),
        (papers(Attempt(paper=seal()), manifest=completion("cancelled")), "cancelled", None),
        (papers(ran(), manifest=completion()), "completed", None),
        (papers(ran(end=end()), ran(2), manifest=completion("failed")), "failed", None),
        (papers(Attempt(paper=seal(1, "expired")), manifest=completion("expired")), "expired", None),
    ],
)
def test_the_state_follows_from_the_papers(given: Papers, state: str, waits_for: str | None) -> None:
    status = derive(given, NOW)
    assert (status.state, status.waits_for) == (state, waits_for)


def test_a_silent_owner_is_waited_for_and_a_dead_one_too() -> None:
    running = papers(ran(lease=lease(3)))
    assert derive(running, after(29)).state == "processing"
    for status in (derive(running, after(31)), derive(running, NOW, gone=True)):
        assert (status.state, status.waits_for, status.attempt) == ("pending", "lease", 1)


def test_only_the_manifest_ends_a_task() -> None:
    # An owner that was thought dead may commit between a seal and its manifest: what status said must stand.
    sealed = papers(ran(end=end()), Attempt(paper=seal(2, "failed")))
    assert derive(sealed, NOW).reason == "is being ended as failed"
    assert derive(sealed.model_copy(update={"manifest": completion()}), NOW).state == "completed"


def test_a_ttl_that_ran_out_ends_a_task_only_when_it_is_sealed() -> None:
    waiting = papers(ttl_seconds=10)
    assert not is_expired(waiting, after(9))
    assert is_expired(waiting, after(10))
    assert derive(waiting, after(10)).state == "pending"
    assert "TTL" in (derive(waiting, after(10)).reason or "")


@pytest.mark.parametrize("given", [papers(ran(), ttl_seconds=1), papers(ran(end=end(counts=False)), ttl_seconds=1)])
def test_a_task_that_was_started_never_expires(given: Papers) -> None:
    assert not is_expired(given, after(3600))


def test_a_retry_waits_for_its_own_moment() -> None:
    assert due(papers(not_before=after(5))) == after(5)
    assert due(papers(ran(end=end(retry_at=after(7))), not_before=after(5))) == after(7)
    assert due(papers()) is None


def test_drained_attempts_and_seals_do_not_count() -> None:
    given = papers(ran(end=end(counts=False)), ran(2, end=end(2)), Attempt(paper=seal(3)))
    assert (given.counted, given.next_number, given.running) == (1, 4, None)
    assert earlier_reasons(given.attempts) == ["attempt 1: it broke", "attempt 2: it broke"]


def test_the_manifest_leaves_nothing_running() -> None:
    assert papers(ran(), manifest=completion()).running is None
    assert papers(ran()).running == claim()


def test_silence_is_told_from_the_last_renewal() -> None:
    assert not is_silent(ran(), after(29))
    assert is_silent(ran(), after(31))
    assert not is_silent(ran(lease=lease(9, at=after(20))), after(31))
    assert not is_silent(Attempt(paper=seal()), after(1e6))


def test_the_backoff_grows_and_is_bounded() -> None:
    assert [backoff(10, 3, 600, counted) for counted in (0, 1, 2, 3, 4, 5, 1000)] == [10, 10, 30, 90, 270, 600, 600]
    assert [backoff(10, 3, 600, 2, jitter, chance) for jitter, chance in ((0.5, 1.0), (0.5, 0.0), (0, 1))] == [
        15,
        30,
        30,
    ]
