"""`agentq doctor` about running systems: queues that stand still, dead workers, a log that disagrees, clocks apart."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import aiormq
import pytest

from agentq import story
from agentq.doctor import agreement
from agentq.doctor.papers import Census
from agentq.events import Event
from agentq.messages import utc_now
from agentq.papers import new_token
from tests.desk import Desk, Done
from tests.heartbeats import AGENT, heartbeat, running, said, tell
from tests.test_workers import dead as dead

NOW = ("--stuck", "0.01")


@pytest.fixture
def arrived() -> Iterator[None]:
    """Whatever is not in the log by now is missing in it."""
    with mock.patch.object(agreement, "ON_ITS_WAY", timedelta(0)):
        yield


def found(done: Done) -> dict[str, dict[str, Any]]:
    """What doctor found with --json, by kind."""
    return {ailment["kind"]: ailment for ailment in done.json["ailments"]}


def examined(desk: Desk, *flags: str, code: int = 13) -> dict[str, dict[str, Any]]:
    """The same, of a run that ends with that code."""
    done = desk.run("doctor", "--json", *flags)
    assert done.code == code, done
    return found(done)


# ---------------------------------------------------------------------- queues


@pytest.mark.promise("health")
def test_tasks_that_nobody_is_there_to_start(any_desk: Desk) -> None:
    task_id, _ = any_desk.task(), any_desk.task()
    any_desk.task("--delay", "1h")
    any_desk.task("--requires-approval")
    any_desk.task("--after", task_id)
    done = any_desk.run("doctor")
    assert done.code == 0, "not yet for long"
    assert f"2 tasks of {AGENT} could start, the first ({task_id})" in done.out
    assert "no worker of it is up" in done.out
    ailment = examined(any_desk, *NOW)["no-worker"]
    assert (ailment["agent"], ailment["mendable"], ailment["part"]) == (AGENT, False, "queues")
    assert ailment["remedy"] == f"agentq worker run {AGENT}"
    assert ailment["what"].startswith(f"2 tasks of {AGENT} could start, the first ({task_id}) for ")


def test_a_silent_worker_is_nobody(desk: Desk) -> None:
    desk.task()
    tell(desk, heartbeat(ago=100))
    assert "no-worker" in examined(desk, *NOW)


@pytest.mark.promise("health")
def test_a_queue_that_stands_still_before_an_idle_worker(any_desk: Desk) -> None:
    task_id = any_desk.task()
    tell(any_desk, heartbeat(store=any_desk.store.url))
    assert not examined(any_desk, code=0), "it may be about to start it"
    ailment = examined(any_desk, *NOW)["stuck"]
    assert ailment["what"].endswith(f"while {AGENT}@alpha:7 is idle")
    assert ailment["remedy"] == f"agentq why {task_id}"


def test_a_queue_whose_worker_has_another_store(desk: Desk) -> None:
    desk.task()
    tell(desk, said("worker_up", store="file:///elsewhere"))
    assert examined(desk, *NOW)["stuck"]["what"].endswith("is idle (it works for the store file:///elsewhere)")


def test_busy_workers_are_stuck_when_nothing_began_or_ended_since(desk: Desk) -> None:
    old, task_id = desk.task(), desk.task()
    claim = desk.claim(old)
    tell(desk, story.claimed(old, claim.model_copy(update={"at": utc_now() - timedelta(hours=2)})))
    tell(desk, heartbeat(running=[running(old)]))
    assert "all its workers are busy" in examined(desk, *NOW)["stuck"]["what"]
    other = desk.task()
    tell(desk, story.claimed(other, desk.claim(other)))
    assert not examined(desk, *NOW, code=0), "it moves"
    assert desk.json("status", task_id)["waits_for"] == "queued"


def test_a_worker_that_just_ended_something_is_given_time(desk: Desk) -> None:
    desk.task()
    ended = desk.task()
    tell(desk, heartbeat(), *story.finished(desk.finish(ended), desk.envelope(ended)))
    assert not examined(desk, "--stuck", "5", code=0)


# ---------------------------------------------------------------------- leases


@pytest.mark.promise("health")
def test_an_attempt_whose_process_is_gone(any_desk: Desk, dead: dict[str, Any]) -> None:
    task_id = any_desk.task()
    tell(any_desk, story.claimed(task_id, any_desk.claim(task_id, **dead)))
    ailment = examined(any_desk)["lease"]
    assert (ailment["task_id"], ailment["part"], ailment["remedy"]) == (
        task_id,
        "workers",
        f"agentq worker run {AGENT}",
    )
    assert "is gone; no worker is up to take it over" in ailment["what"]
    tell(any_desk, heartbeat())
    ailment = examined(any_desk)["lease"]
    assert ailment["what"].endswith(
        f"{AGENT}@alpha:7 takes it over, at the latest when its lease of 20 s has stood still"
    )
    assert ailment["remedy"] == ""


def test_an_attempt_whose_lease_stands_still(desk: Desk) -> None:
    task_id = desk.task()
    with mock.patch("tests.desk.utc_now", return_value=utc_now() - timedelta(seconds=50)):
        claim = desk.claim(task_id, host="beta", boot="other")
    tell(desk, story.claimed(task_id, claim))
    told = rf"attempt 1: {AGENT}@beta:\d+ has not renewed its lease for 5\d s; no worker is up to take it over"
    assert re.fullmatch(told, examined(desk)["lease"]["what"])


def test_an_attempt_whose_worker_said_that_it_ended(desk: Desk) -> None:
    task_id = desk.task()
    claim = desk.claim(task_id, host="beta", boot="other", pid=9)
    tell(desk, story.claimed(task_id, claim), said("worker_down", host="beta", pid=9, reason="drained"))
    assert f"{AGENT}@beta:9 has ended" in examined(desk)["lease"]["what"]


def test_an_attempt_that_began_since_its_worker_ended_is_another_processs(desk: Desk) -> None:
    task_id = desk.task()
    tell(desk, said("worker_down", ago=60, host="beta", pid=9, reason="drained"))
    tell(desk, story.claimed(task_id, desk.claim(task_id, host="beta", boot="other", pid=9)))
    assert not examined(desk, code=0)


def test_a_worker_whose_heartbeats_are_missing_lives_as_long_as_it_renews(desk: Desk) -> None:
    task_id = desk.task()
    claim = desk.claim(task_id)
    tell(desk, story.claimed(task_id, claim), heartbeat(ago=500, host=claim.owner.host, pid=claim.owner.pid))
    assert not examined(desk, code=0)


# ---------------------------------------------------------------------- papers and log


def end_of_log(desk: Desk, task_id: str) -> Event:
    """The event of an end that no paper tells."""
    return Event(id=f"{task_id}/completed", kind="completed", at=utc_now(), task_id=task_id, agent=AGENT, attempt=1)


@pytest.mark.promise("health")
@pytest.mark.usefixtures("arrived")
def test_papers_that_the_log_does_not_tell(any_desk: Desk) -> None:
    ended, claimed, late = any_desk.task(), any_desk.task(), new_token()
    any_desk.finish(ended)
    any_desk.claim(claimed)
    any_desk.records.register(any_desk.envelope(claimed).model_copy(update={"task_id": late}), published=True)
    any_desk.records.marks.open(late, published=True)
    ailment = examined(any_desk)["unlogged"]
    assert (ailment["part"], ailment["mendable"]) == ("log", True)
    assert "the papers are right: agentq ledger rebuild" in ailment["remedy"]
    assert "over 3 tasks" in ailment["what"]
    assert f"{ended} is completed, and open by the log" in ailment["what"]
    assert f"{claimed} is in attempt 1, and in none by the log" in ailment["what"]
    assert f"{late} is open, and unknown to the log" in ailment["what"]
    assert {row["task_id"]: row["state"] for row in any_desk.json("list")["tasks"]}[ended] == "pending"
    repaired = any_desk.json("doctor", "--repair")
    assert repaired["well"]
    assert "the ledger made anew" in repaired["mended"][-1]
    assert {row["task_id"]: row["state"] for row in any_desk.json("list")["tasks"]} == {
        ended: "completed",
        claimed: "processing",
        late: "pending",
    }


@pytest.mark.usefixtures("arrived")
def test_a_task_that_is_not_published_yet_need_not_be_in_the_log(desk: Desk) -> None:
    request = desk.envelope(desk.task()).model_copy(update={"task_id": "new"})
    desk.records.marks.open("new")
    desk.records.register(request)
    assert set(examined(desk)) == {"unpublished"}


@pytest.mark.usefixtures("arrived")
def test_an_ended_task_that_the_log_never_heard_of(desk: Desk) -> None:
    task_id = desk.task()
    request = desk.envelope(task_id).model_copy(update={"task_id": "unheard"})
    desk.records.register(request, published=True)
    desk.finish("unheard")
    assert "unheard is completed, and unknown to the log" in examined(desk)["unlogged"]["what"]


@pytest.mark.usefixtures("arrived")
def test_what_the_log_tells_and_no_paper_says(any_desk: Desk) -> None:
    task_id = any_desk.task()
    tell(any_desk, end_of_log(any_desk, task_id))
    for flags in ((), ("--repair",)):
        ailment = examined(any_desk, *flags)["contradicted"]
        assert f"{task_id} is not completed as the log has it, but open" in ailment["what"]
        assert "the papers are right" in ailment["remedy"]
        assert not ailment["mendable"]


def test_what_may_be_on_its_way_is_no_disagreement(any_desk: Desk) -> None:
    any_desk.finish(any_desk.task())
    assert not examined(any_desk, code=0)


@pytest.mark.usefixtures("arrived")
def test_tasks_of_another_store_are_none_of_ours(desk: Desk) -> None:
    task_id = desk.task()
    request = desk.envelope(task_id).model_copy(update={"task_id": "theirs"})
    tell(desk, *story.submitted(request))
    done = desk.run("doctor")
    assert done.code == 0
    assert "1 open tasks of the log are not in this store" in done.out


def test_a_log_that_was_lost(desk: Desk) -> None:
    desk.task()
    desk.ok("doctor")
    for path in (desk.home / ".local/share/agentq").glob("queue.db*"):
        path.unlink()
    task_id = desk.task()
    assert examined(desk)["gap"]["part"] == "log"
    assert desk.json("doctor", "--repair")["well"]
    assert len(desk.json("list")["tasks"]) == 2
    assert desk.json("status", task_id)["state"] == "pending"


def test_a_stream_that_nothing_cuts(rabbit_desk: Desk) -> None:
    name = f"{rabbit_desk.environment['AGENTQ_NAMESPACE']}.events"

    async def declare() -> None:
        connection = await aiormq.connect(rabbit_desk.environment["AGENTQ_BROKER"])
        try:
            channel = await connection.channel()
            await channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
        finally:
            await connection.close()

    asyncio.run(declare())
    ailment = examined(rabbit_desk)["unbounded"]
    assert ailment["what"].startswith(f"{name} has no retention")
    assert f"delete the stream {name} and run agentq init" in ailment["remedy"]


# ---------------------------------------------------------------------- clocks


@pytest.mark.promise("health")
def test_clocks_that_are_apart(any_desk: Desk) -> None:
    for n in range(4):
        tell(any_desk, heartbeat(n, ago=40 - 10 * n, host="beta"), heartbeat(n, ago=335 - 10 * n, lease_seconds=15.0))
    ailment = examined(any_desk)["clocks"]
    assert ailment["part"] == "clocks"
    told = r"the clocks of alpha and beta differ by (4\.[89]|5) m; leases tolerate 15 s"
    assert re.fullmatch(told, ailment["what"])
    assert ailment["remedy"] == "run NTP on alpha and beta"
    for n in range(4, 7):  # set right
        tell(any_desk, heartbeat(n, ago=70 - 10 * n, host="beta"), heartbeat(n, ago=65 - 10 * n))
    assert not examined(any_desk, code=0)


def test_clocks_are_not_judged_by_who_was_not_heard_of_for_an_hour(desk: Desk) -> None:
    for n in range(4):
        tell(desk, heartbeat(n, ago=40 - 10 * n, host="beta"), heartbeat(n, ago=7235 - 10 * n))
    assert not examined(desk, code=0)


def test_heartbeats_that_are_read_twice_accuse_nobody(desk: Desk) -> None:
    for n in range(4):
        tell(desk, heartbeat(n, ago=400 - 100 * n, host="beta"), heartbeat(n, ago=395 - 100 * n))
    assert not examined(desk, code=0)
    again = [heartbeat(0, ago=395), heartbeat(1, ago=295)]
    for n, twice in enumerate(again, 4):
        tell(desk, heartbeat(n, ago=20 - n, host="beta"), twice)
    tell(desk, heartbeat(6, host="beta", ago=10))
    assert not examined(desk, code=0)


# ---------------------------------------------------------------------- parts that are away


@pytest.fixture
def apart(desk: Desk) -> Desk:
    """A desk whose queue is outside of its data folder."""
    desk.environment["AGENTQ_BROKER"] = f"sqlite://{desk.folder}/queue.db"
    return desk


def ledger_of(desk: Desk) -> Path:
    return desk.app().ledger_path


def test_a_ledger_that_is_no_ledger_is_made_anew_and_told(apart: Desk) -> None:
    apart.task()
    apart.ok("doctor")
    ledger_of(apart).write_bytes(b"no ledger" * 1000)
    done = apart.run("doctor")
    assert done.code == 0
    assert "the ledger was made anew" in done.out


@pytest.mark.usefixtures("arrived")
def test_a_ledger_that_is_damaged_within(apart: Desk) -> None:
    apart.task()
    apart.ok("doctor")
    path = ledger_of(apart)
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'workers'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    ailment = examined(apart)["ledger"]
    assert "is damaged" in ailment["what"]
    assert ailment["remedy"] == "agentq ledger rebuild"
    assert apart.json("doctor", "--repair")["well"]


def test_a_data_folder_that_is_away_hides_nothing_else(apart: Desk) -> None:
    task_id = apart.task()
    apart.records.marks.unpublish(task_id)
    (apart.folder / "file").touch()
    apart.environment["AGENTQ_DATA"] = f"{apart.folder}/file/data"
    done = apart.run("doctor")
    assert done.code == 6
    assert "engine    ok" in done.out
    assert f"papers    {task_id} is registered, but not known to be in its queue" in done.out
    assert "ledger    " in done.out
    assert "AGENTQ_DATA" in done.out
    assert apart.run("doctor", "--repair").code == 6
    del apart.environment["AGENTQ_DATA"]
    assert apart.run("doctor").code == 0, "the papers were mended"


def test_dead_workers_are_told_without_the_engine(apart: Desk, dead: dict[str, Any]) -> None:
    task_id = apart.task()
    apart.claim(task_id, **dead)
    apart.environment["AGENTQ_BROKER"] = "amqp://127.0.0.1:1/"
    done = apart.run("doctor", "--json")
    assert done.code == 6
    assert found(done)["lease"]["what"].endswith("a worker takes it over, if one is up")
    assert set(found(done)) == {"lease"}, "nothing is said of what the log would tell"


def test_a_look_at_very_many_tasks_ends_in_time(desk: Desk) -> None:
    for _ in range(3):
        desk.task()
    census = Census.of(desk.records, seconds=0)
    assert (len(census.unsettled), census.left_out) == (3, 2)


@pytest.mark.usefixtures("arrived")
def test_very_many_disagreements_are_looked_at_in_part_and_it_says_so(desk: Desk) -> None:
    request = desk.envelope(desk.task())
    for number in range(5):
        desk.records.register(request.model_copy(update={"task_id": f"unheard-{number}"}), published=True)
        desk.records.marks.open(f"unheard-{number}", published=True)
    with mock.patch.object(agreement, "READ", 4):
        done = desk.run("doctor")
    assert "papers and log disagree over 4 tasks: unheard-0 is open" in done.out
    assert "; and 1 more" in done.out
    assert "1 more tasks were not compared with the log" in done.out
