"""`agentq workers`: who is up and works on what, and who went silent."""

import re
import subprocess
import sys

import pytest

from agentq.process_table import process_identity, process_of
from tests.desk import Desk
from tests.heartbeats import AGENT, heartbeat, running, said, tell

ALPHA = f"{AGENT}@alpha:7"


def standing(desk: Desk, *flags: str) -> dict[str, str]:
    """The workers that are listed, and how each stands."""
    return {one["worker"]: one["state"] for one in desk.json("workers", *flags)["workers"]}


def test_who_is_up_and_works_on_what(any_desk: Desk) -> None:
    tell(any_desk, said("worker_up", ago=7200), heartbeat(ago=3, running=[running("task-1", 2)], parallel=2))
    printed = re.sub(r"heard \d+s", "heard Ns", any_desk.ok("workers"))
    assert printed == f"{ALPHA}  up  1/2  heard Ns ago  up 2h00m  v0.1.0\n  on task-1, attempt 2, for 1m: agent started"
    (one,) = any_desk.json("workers")["workers"]
    assert (one["worker"], one["agent"], one["host"], one["pid"], one["state"]) == (ALPHA, AGENT, "alpha", 7, "up")
    ((task_id, attempt, doing),) = [(run["task_id"], run["attempt"], run["doing"]) for run in one["running"]]
    assert (task_id, attempt, doing) == ("task-1", 2, "agent started")
    assert one["was_running"] == []


def test_nobody_is_up(desk: Desk) -> None:
    for flags in ((), ("--agent", "review-worker")):
        done = desk.run("workers", *flags)
        assert (done.code, done.out) == (0, "")
        assert "is up" in done.err
        assert f"→ agentq worker run {flags[1] if flags else AGENT}" in done.err
    assert desk.json("workers")["workers"] == []


@pytest.mark.promise("no-ghosts")
def test_a_silent_one_works_on_nothing_and_says_what_it_worked_on(desk: Desk) -> None:
    tell(desk, heartbeat(ago=310, running=[running("task-1", 2)]))
    done = desk.run("workers")
    assert done.out == f"{ALPHA}  silent  -  last heard 5m ago  v0.1.0\n  was on task-1, attempt 2\n"
    assert "no worker is up" in done.err
    (one,) = desk.json("workers")["workers"]
    assert one["running"] == []
    assert one["was_running"][0]["task_id"] == "task-1"


@pytest.mark.parametrize(("seconds", "ago", "stands"), [(10, 25, "up"), (10, 31, "silent"), (60, 170, "up")])
def test_silent_is_who_misses_three_of_its_own_heartbeats(desk: Desk, seconds: int, ago: int, stands: str) -> None:
    tell(desk, heartbeat(ago=ago, heartbeat_seconds=float(seconds)))
    assert standing(desk) == {ALPHA: stands}


@pytest.mark.promise("no-ghosts")
def test_a_silent_one_ages_out(desk: Desk) -> None:
    tell(desk, heartbeat(ago=3599, pid=1), heartbeat(ago=3601, pid=2))
    assert standing(desk) == {f"{AGENT}@alpha:1": "silent"}
    assert standing(desk, "--all") == {f"{AGENT}@alpha:1": "silent", f"{AGENT}@alpha:2": "silent"}


def test_who_ended_in_order_is_not_missed(desk: Desk) -> None:
    tell(desk, heartbeat(ago=60), said("worker_down", ago=1, reason="drained"))
    assert standing(desk) == {}
    assert "drained" in desk.ok("workers", "--all")
    tell(desk, said("worker_up", ago=0, pid=7))
    assert standing(desk) == {ALPHA: "up"}, "another one with that pid"


def test_a_draining_one_is_there_and_takes_nothing(desk: Desk) -> None:
    tell(desk, heartbeat(ago=1, draining=True, running=[running("task-1")]))
    assert standing(desk) == {ALPHA: "draining"}
    assert "on task-1" in desk.ok("workers")


@pytest.fixture
def dead() -> dict[str, object]:
    """What a process said of itself that is dead now."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = process_of(process.pid)
        assert found
    return {"pid": process.pid, "boot": process_identity().boot, "started": found.started}


@pytest.mark.promise("no-ghosts")
def test_a_process_that_is_gone_from_this_host_works_on_nothing_at_once(desk: Desk, dead: dict[str, object]) -> None:
    name = f"{AGENT}@alpha:{dead['pid']}"
    tell(desk, heartbeat(ago=2, running=[running("task-1")], **dead))  # type: ignore[arg-type]
    assert standing(desk) == {name: "gone"}
    assert "was on task-1" in desk.ok("workers")
    tell(desk, said("worker_up", ago=1, pid=1))
    assert standing(desk) == {f"{AGENT}@alpha:1": "up"}, "the other one took its place"
    assert set(standing(desk, "--all")) == {f"{AGENT}@alpha:1", name}


def test_one_that_was_up_all_the_time_took_nobodys_place(desk: Desk, dead: dict[str, object]) -> None:
    tell(desk, said("worker_up", ago=3600, pid=1), heartbeat(ago=1, pid=1), heartbeat(ago=2, **dead))  # type: ignore[arg-type]
    assert standing(desk) == {f"{AGENT}@alpha:1": "up", f"{AGENT}@alpha:{dead['pid']}": "gone"}


def test_one_that_may_come_back_is_listed_beside_the_one_that_was_started_since(desk: Desk) -> None:
    tell(desk, heartbeat(ago=100), said("worker_up", ago=10, pid=8))
    assert standing(desk) == {f"{AGENT}@alpha:8": "up", ALPHA: "silent"}


def test_a_process_that_has_a_dead_ones_pid_is_another(desk: Desk) -> None:
    me = process_identity()
    tell(desk, heartbeat(ago=2, pid=me.pid, boot=me.boot, started="1"))
    assert list(standing(desk).values()) == ["gone"]
    tell(desk, heartbeat(1, ago=1, pid=me.pid, boot=me.boot, started=me.started))
    assert list(standing(desk).values()) == ["up"]


def test_of_one_agent(desk: Desk) -> None:
    tell(desk, heartbeat(), heartbeat(agent="review-worker"))
    assert standing(desk, "--agent", "review-worker") == {"review-worker@alpha:7": "up"}
    assert desk.run("workers", "--agent", "nobody").err.startswith("no worker of nobody is up")


def test_what_ended_since_the_last_heartbeat_is_not_worked_on_and_what_was_taken_since_is(desk: Desk) -> None:
    from agentq import story
    from agentq.messages import utc_now

    ended, taken = desk.task(), desk.task()
    tell(desk, heartbeat(ago=5, running=[running(ended), running("unknown", 3)]))
    desk.claim(ended)
    tell(desk, *story.finished(desk.finish(desk.task()).model_copy(update={"task_id": ended}), desk.envelope(ended)))
    claim = desk.claim(taken)
    owner = claim.owner.model_copy(update={"host": "alpha", "pid": 7})
    tell(desk, story.claimed(taken, claim.model_copy(update={"owner": owner, "at": utc_now()})))
    (one,) = desk.json("workers")["workers"]
    assert {(run["task_id"], run["attempt"]) for run in one["running"]} == {("unknown", 3), (taken, 1)}


def test_a_silent_one_was_also_on_what_it_took_after_its_last_heartbeat(desk: Desk) -> None:
    from agentq import story

    task_id = desk.task()
    tell(desk, heartbeat(ago=50, running=[running("before")]))
    claim = desk.claim(task_id)
    owner = claim.owner.model_copy(update={"host": "alpha", "pid": 7})
    tell(desk, story.claimed(task_id, claim.model_copy(update={"owner": owner})))
    (one,) = desk.json("workers")["workers"]
    assert one["running"] == []
    assert {(run["task_id"], run["attempt"]) for run in one["was_running"]} == {("before", 1), (task_id, 1)}


@pytest.mark.promise("untrusted-words")
def test_whatever_a_worker_says_is_harmless(desk: Desk) -> None:
    lie = "\x1b[2Jx\nimplementation-worker@fake:1  up"
    wrong = [7, None, {}, {"task_id": 3}, {"task_id": lie, "attempt": "x", "since": "never", "doing": [lie]}]
    tell(desk, heartbeat(running=wrong, version=lie, parallel="many", boot=7, heartbeat_seconds="x"))
    tell(desk, heartbeat(pid=8, running="all", draining=lie))
    tell(desk, heartbeat(pid=2**40, boot=process_identity().boot, started="1"))
    done = desk.run("workers")
    assert done.code == 0, done
    assert "\x1b" not in done.out
    assert [line for line in done.out.splitlines() if line.startswith("implementation-worker@fake")] == []
    assert "\x1b" not in desk.ok("workers", "--json")
