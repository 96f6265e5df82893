"""What waits for its time, or is out of it: TTL, delays, retries, priorities; and workers that pull their work."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from signal import SIGKILL
from typing import Any

import pytest

from agentq.lifecycle import expires_at
from agentq.messages import utc_now
from tests.daemons.harness import Deployment, until

LEASE = 10.0
"""The shortest lease of `agentq claim`, in seconds."""


def pass_by(moment: datetime | None) -> None:
    """Wait until that moment is over."""
    assert moment
    until(lambda: utc_now() > moment, f"{moment} to be over")


def overdue(deployment: Deployment, task: str) -> None:
    """Wait until the task's TTL is over."""
    pass_by(expires_at(deployment.papers(task)))


def is_expired(deployment: Deployment, task: str) -> None:
    """It ended without an attempt."""
    manifest = deployment.check(task, "expired", starts=[], attempt=1)
    assert (manifest.reason or "").startswith("not started within ")


# ---------------------------------------------------------------------- expiry


@pytest.mark.promise("expiry")
@pytest.mark.parametrize("sweep_seconds", [60, 0.1], ids=["by-who-picks-it-up", "by-a-busy-worker"])
def test_a_task_past_its_ttl_is_not_started(deployment: Deployment, sweep_seconds: float) -> None:
    """Behind one that never expires, itself behind the one that runs, which is past its own TTL and goes on."""
    deployment.profile(limits={"sweep_seconds": sweep_seconds})
    deployment.start_worker()
    running = deployment.submit("hold go", "report done", ttl="1")
    deployment.agent_runs(running)
    patient = deployment.submit("report done")
    late = deployment.submit("report never", ttl="0.2", priority="low")
    last = deployment.submit("report done", priority="low", ttl="1h")
    overdue(deployment, late)
    overdue(deployment, running)
    if sweep_seconds < 1:
        is_expired(deployment, late)
    else:
        assert deployment.records.manifest(late) is None
    assert deployment.status(running) == "processing"
    deployment.open_gate("go")
    for task in (running, patient, last):
        deployment.check(task, starts=[1], attempt=1)
    is_expired(deployment, late)
    assert deployment.keys("expiring/") == []
    deployment.rest()


@pytest.mark.promise("expiry")
@pytest.mark.parametrize(
    "look",
    [
        lambda deployment, task: deployment.status(task),
        lambda deployment, task: deployment.cli("wait", task, "--timeout", "10"),
        lambda deployment, task: deployment.cli("result", task),
        lambda deployment, _: deployment.cli("inbox"),
    ],
    ids=["status", "wait", "result", "inbox"],
)
def test_whoever_looks_ends_it_with_no_worker_up(
    deployment: Deployment, look: Callable[[Deployment, str], object]
) -> None:
    task = deployment.submit("report never", ttl="0.1")
    overdue(deployment, task)
    # For the inbox a deadline is noted to the second, rounded up.
    until(lambda: look(deployment, task) and deployment.records.manifest(task))
    manifest = deployment.records.manifest(task)
    assert manifest
    assert manifest.status == "expired"
    assert [one["task_id"] for one in deployment.json("inbox")] == [task]
    assert deployment.cli("wait", task).returncode == 10
    deployment.start_worker()
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)
    is_expired(deployment, task)
    deployment.rest()


@pytest.mark.promise("expiry")
def test_a_worker_that_comes_up_later_does_not_start_it(deployment: Deployment) -> None:
    late = deployment.submit("report never", ttl="0.1")
    after = deployment.submit("report never", after=late)
    overdue(deployment, late)
    deployment.start_worker()
    is_expired(deployment, late)
    deployment.check(after, "failed", starts=[], attempt=1)
    deployment.rest()


@pytest.mark.promise("expiry")
def test_a_ttl_counts_from_when_the_task_could_have_started(deployment: Deployment) -> None:
    """From its delay, its time, its last dependency, its approval: it waits for these longer than its TTL."""
    deployment.profile(limits={"parallel": 5})
    deployment.start_worker()
    at = utc_now() + timedelta(seconds=3)
    first = deployment.submit("hold go", "report done")
    tasks = {
        "delay": deployment.submit("report done", ttl="1", delay="1.5"),
        "at": deployment.submit("report done", ttl="1", at=at.isoformat()),
        "after": deployment.submit("report done", ttl="1", after=first),
        "approval": deployment.submit("report done", ttl="1", requires_approval=True),
    }
    assert expires_at(deployment.papers(tasks["at"])) == at + timedelta(seconds=1)
    for name, gate in (("after", "dependencies"), ("approval", "approval")):
        envelope = deployment.papers(tasks[name]).envelope
        assert envelope.created_at
        pass_by(envelope.created_at + timedelta(seconds=1.1))
        assert deployment.status(tasks[name]) == f"pending {gate}"
    deployment.open_gate("go")
    assert deployment.cli("approve", tasks["approval"], "--by", "alice").returncode == 0
    for task in (first, *tasks.values()):
        deployment.check(task, starts=[1], attempt=1)
    for name, moment in (("delay", deployment.papers(tasks["delay"]).envelope.not_before), ("at", at)):
        assert moment
        assert deployment.papers(tasks[name]).attempts[0].paper.at >= moment
    deployment.rest()


@pytest.mark.promise("expiry")
def test_a_gated_task_that_nobody_starts_after_its_release_expires(deployment: Deployment) -> None:
    task = deployment.submit("report never", ttl="0.3", requires_approval=True)
    created = deployment.papers(task).envelope.created_at
    assert created
    pass_by(created + timedelta(seconds=0.5))
    assert deployment.status(task) == "pending approval"
    assert deployment.cli("approve", task, "--by", "alice").returncode == 0
    overdue(deployment, task)
    deployment.start_worker()
    is_expired(deployment, task)
    deployment.rest()


@pytest.mark.promise("expiry")
def test_what_was_started_once_is_tried_again_whatever_its_ttl(deployment: Deployment) -> None:
    deployment.profile(retry={"delay_seconds": 1, "longest_seconds": 1, "jitter": 0})
    deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "exit 1", ttl="0.7")
    until(lambda: deployment.records.ended(task, 1))
    overdue(deployment, task)
    assert deployment.status(task) == "pending delayed"
    deployment.check(task, starts=[1, 2], attempt=2)
    deployment.rest()


def test_a_timeout_of_the_task_stops_an_attempt(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "setsid sleep 300 &", "hold never", timeout="0.5"
    )
    deployment.check(task, starts=[1, 2], attempt=2)
    end = deployment.papers(task).attempts[0].end
    assert end
    assert end.counts
    assert "0.5 s" in end.reason
    deployment.rest()


# ---------------------------------------------------------------------- order and delays


@pytest.mark.promise("strict-priority")
def test_an_urgent_task_is_next_for_a_busy_worker(deployment: Deployment) -> None:
    deployment.start_worker()
    first = deployment.submit("hold go", "report done")
    deployment.agent_runs(first)
    names = [f"normal-{n:02}" for n in range(30)]
    deployment.submit_all(*(deployment.request(name, "hold never") for name in names))
    deployment.submit("hold go", "report done", id="urgent", priority="urgent")
    assert "behind 30 others" in deployment.json("why", names[-1])["reason"]
    assert "behind" not in deployment.json("why", "urgent")["reason"]
    deployment.open_gate("go")
    deployment.agent_runs(names[0])
    started = [name for name in (first, "urgent", *names) if deployment.starts(name)]
    assert started == [first, "urgent", names[0]]
    notes = (deployment.desk / "notes").read_text().splitlines()
    assert [line.split()[0] for line in notes] == started


@pytest.mark.promise("delay")
@pytest.mark.promise("none-lost")
@pytest.mark.promise("parked")
def test_delays_go_on_with_no_process_of_ours(deployment: Deployment) -> None:
    """A retry, a delayed task and one that gave itself a time: all workers are killed, the engine brings them."""
    deployment.profile(retry={"delay_seconds": 3, "longest_seconds": 3, "jitter": 0.2}, limits={"sweep_seconds": 60})
    worker = deployment.start_worker()
    again = "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }"
    failed = deployment.submit(again, "exit 1", max_attempts="2")
    parked = deployment.submit(
        again, "echo 3 > $AGENTQ_OUTPUT/not-before", "echo rate limit >&2", "exit 75", max_attempts="1"
    )
    delayed = deployment.submit("report done", delay="3")
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)  # the worker has let go of those before it
    worker.kill()
    for task in (failed, parked, delayed):
        assert deployment.status(task) == "pending delayed"
    end = deployment.papers(parked).attempts[0].end
    assert end
    assert end.retry_at
    assert not end.counts
    told = deployment.cli("status", parked).stdout
    assert f"delayed until {end.retry_at:%Y-%m-%d %H:%M:%SZ}; last: asked not to be tried again" in told
    assert datetime.fromisoformat(deployment.json("status", parked)["until"]) == end.retry_at
    until(lambda: deployment.depth() == 3, "the engine to bring all three")
    deployment.start_worker()
    for task in (failed, parked):
        deployment.check(task, starts=[1, 2], attempt=2)
        first, second = deployment.papers(task).attempts
        assert first.end
        assert first.end.retry_at
        assert first.end.retry_at <= second.paper.at
    deployment.check(delayed, starts=[1], attempt=1)
    deployment.rest()


# ---------------------------------------------------------------------- workers that pull


def claim(deployment: Deployment, *flags: str) -> dict[str, Any] | None:
    """What `agentq claim` prints, None when there is nothing."""
    done = deployment.cli("claim", "--as", deployment.agent, "--json", *flags)
    assert done.returncode in (0, 12), done
    found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
    return found


@pytest.mark.promise("pulled")
@pytest.mark.promise("not-twice")
def test_daemons_and_people_share_one_queue(deployment: Deployment) -> None:
    """Three claims and two workers at once: every task is taken by one of them."""
    tasks = [f"task-{n}" for n in range(8)]
    deployment.submit_all(*(deployment.request(task, "report done") for task in tasks))
    people = [deployment.start("claim", "--as", deployment.agent, "--json", "--wait", "5") for _ in range(3)]
    for _ in range(2):
        deployment.start_worker(ready=False)
    assert {person.wait() for person in people} <= {0, 12}
    pulled = [json.loads(person.stdout.read_text())["task"]["task_id"] for person in people if person.code == 0]
    assert len(set(pulled)) == len(pulled)
    report = deployment.home / "mine.md"
    report.write_text("mine")
    for task in pulled:
        assert deployment.status(task) == "processing"
        assert deployment.cli("renew", task).returncode == 0
        done = deployment.cli("complete", task, "--from", deployment.agent, "--result-file", str(report))
        assert done.returncode == 0, done
    for task in tasks:
        manifest = deployment.check(task, starts=[] if task in pulled else [1], attempt=1)
        assert manifest.verified is (task not in pulled)
        assert len(deployment.papers(task).attempts) == 1
    assert claim(deployment) is None
    deployment.rest()


@pytest.mark.promise("pulled")
def test_what_is_given_back_goes_to_a_daemon_and_does_not_count(deployment: Deployment) -> None:
    """With what the task needed; and one that was cancelled meanwhile is not gone on with."""
    deployment.profile(limits={"sweep_seconds": 60})
    first = deployment.submit("report done")
    assert claim(deployment, "--wait", "5")
    finished = deployment.cli("complete", first, "--from", deployment.agent, "--summary", "the answer")
    assert finished.returncode == 0, finished
    task = deployment.submit("report done", after=first, max_attempts="1")
    found = claim(deployment, "--wait", "5")
    assert found
    assert (found["task"]["task_id"], found["needs"][0]["manifest"]["summary"]) == (task, "the answer")
    assert deployment.status(task) == "processing"
    assert deployment.cli("release", task, "--reason", "not mine").returncode == 0
    deployment.start_worker()
    deployment.check(task, starts=[2], attempt=2)
    assert "- attempt 1:\n  > not mine" in deployment.prompt(task, 2)
    deployment.workers[0].kill()
    other = deployment.submit("report never")
    assert claim(deployment, "--wait", "5")
    assert deployment.cli("cancel", other, "--by", "alice").returncode == 0
    assert deployment.status(other) == "processing"
    assert deployment.cli("renew", other).returncode == 9
    deployment.check(other, "cancelled", starts=[], attempt=1)
    deployment.rest()


@pytest.mark.promise("pulled")
@pytest.mark.promise("none-lost")
def test_an_abandoned_claim_comes_back_by_the_engines_timer(deployment: Deployment) -> None:
    """Forgotten by its holder, or killed at one of its steps; what is renewed stays with whom it is."""
    deployment.profile(limits={"sweep_seconds": 60, "lease_seconds": 0.2, "renew_seconds": 0.1})
    tasks = [f"task-{n}" for n in range(8)]
    deployment.submit_all(*(deployment.request(task, "report done") for task in tasks))
    renewed, forgotten, *abandoned, never = tasks
    pull = ("claim", "--as", deployment.agent, "--wait", "5", "--lease", f"{LEASE:g}")
    for _ in (renewed, forgotten):
        assert deployment.cli(*pull).returncode == 0
    for fault in (
        "die after put_new attempts/*",
        "die after 2 publish guard",  # the first one guards what the claim before it left
        "die before 2 ack",
        "die after 2 ack",
        "die before put_new attempts/*",
    ):
        assert deployment.cli(*pull, faults=(fault,)).returncode == -SIGKILL
    assert [len(deployment.papers(task).attempts) for task in tasks] == [1] * 6 + [0] * 2
    assert deployment.cli("renew", renewed).returncode == 0
    deployment.start_worker()
    for task in (*abandoned[4:], never):
        deployment.check(task, starts=[1], attempt=1)
    for task in (forgotten, *abandoned[:4]):
        assert deployment.starts(task) == []
    for task in (forgotten, *abandoned[:4]):
        until(lambda task=task: deployment.starts(task), f"{task} to be taken over", 3 * LEASE)  # type: ignore[misc]
        deployment.check(task, starts=[2], attempt=2)
        first, second = deployment.papers(task).attempts
        assert second.paper.at - first.paper.at >= timedelta(seconds=LEASE)
        assert first.end
        assert (first.end.reason, first.end.counts) == (f"its worker was silent for over {LEASE:g} s", True)
    late = deployment.cli("complete", forgotten, "--from", deployment.agent, "--summary", "Late.")
    assert late.returncode == 5
    assert deployment.status(renewed) == "processing"
    done = deployment.cli("complete", renewed, "--from", deployment.agent, "--summary", "In time.")
    assert done.returncode == 0, done
    assert deployment.check(renewed, starts=[], attempt=1).summary == "In time."
    deployment.rest()
