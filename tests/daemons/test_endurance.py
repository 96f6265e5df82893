"""Many workers and many tasks: killed at random, restarted one after the other, and drowned in work."""

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from agentq.engines.sqlite_file import open_to_look
from agentq.engines.topology import RUNGS, Names
from agentq.messages import PRIORITIES, Envelope, utc_now
from agentq.papers import Claim
from tests.conformance.engines import RabbitMQUnderTest, SQLiteUnderTest
from tests.daemons.conftest import on_sqlite, running
from tests.daemons.harness import Deployment, Nursery, Process, script, until

CALM = {"lease_seconds": 5, "renew_seconds": 0.25, "sweep_seconds": 2}
"""Limits with which a worker that lives is never taken for dead, however busy the machine is."""
LONG = 150.0
"""Seconds within which all tasks of a test have ended."""


@pytest.fixture(params=["sqlite", "rabbitmq"])
def field(request: pytest.FixtureRequest, tmp_path: Path, nursery: Nursery) -> Iterator[Deployment]:
    """A deployment on each engine whose delays are its own too, so that what is left in them can be counted."""
    if request.param == "sqlite":
        yield from running(on_sqlite(tmp_path, nursery))
        return
    system = RabbitMQUnderTest(request.getfixturevalue("rabbitmq").url, f"field-{secrets.token_hex(4)}")
    settings = {"AGENTQ_BROKER": system.url, "AGENTQ_NAMESPACE": system.namespace}
    yield from running(Deployment(tmp_path, nursery, system, settings))


@pytest.fixture
def left(field: Deployment, request: pytest.FixtureRequest) -> Callable[[], int]:
    """How many messages the agent's queue and all delays have, those included that a worker holds."""
    system = field.system
    if isinstance(system, SQLiteUnderTest):
        return lambda: rows(system.path)
    assert isinstance(system, RabbitMQUnderTest)
    node, names = request.getfixturevalue("rabbitmq"), Names(system.namespace)
    queues = {names.task_queue(field.agent), *map(names.delay, RUNGS)}

    def on_broker() -> int:
        listed = (line.split() for line in node.ctl("list_queues", "name", "messages").splitlines())
        found = {name: messages for name, messages in listed if name in queues}
        assert found.keys() == queues
        return sum(map(int, found.values()))

    return on_broker


def rows(path: Path) -> int:
    with closing(open_to_look(path)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


# ---------------------------------------------------------------------- killed at random


@pytest.mark.timeout(300)
@pytest.mark.promise("none-lost")
@pytest.mark.promise("not-twice")
@pytest.mark.promise("one-result")
def test_eight_workers_race_for_500_tasks_and_are_killed_at_random(field: Deployment, left: Callable[[], int]) -> None:
    """Every tenth task runs long enough for a guard; the others end before their worker's first renewal."""
    field.profile(limits=CALM, retry={"max_attempts": 1000, "delay_seconds": 0})
    tasks = [
        a_task(field, number, "sleep 0.5" if number % 10 == 0 else "sleep 0.02", "report attempt $AGENTQ_ATTEMPT")
        for number in range(500)
    ]
    began = time.monotonic()
    with killing(field, [field.start_worker() for _ in range(8)]) as killed:
        field.submit_all(*tasks)
        all_settled(field)
        seconds = time.monotonic() - began
    until(lambda: left() == 0, "the guards to come home")
    field.rest()
    assert left() == 0
    field.dead_letters(0)
    attempts = sum(check_race(field, task.task_id, killed) for task in tasks)
    print(f"500 tasks in {seconds:.1f} s, {500 / seconds:.0f} tasks/s; {len(killed)} kills, {attempts} attempts")
    assert attempts > 500, "no worker was killed over an attempt: nothing is shown"


@contextmanager
def killing(field: Deployment, crew: list[Process]) -> Iterator[Mapping[int, datetime]]:
    """A worker of the crew is killed and replaced about every 0.3 s; yields when each pid was killed."""
    seed = int(os.environ.get("ENDURANCE_SEED") or secrets.randbits(32))
    print(f"\nENDURANCE_SEED={seed}")
    luck, over = random.Random(seed), threading.Event()
    killed: dict[int, datetime] = {}

    def kill() -> None:
        while not over.wait(luck.uniform(0.2, 0.4)):
            place = luck.randrange(len(crew))
            killed[crew[place].pid] = utc_now()
            crew[place].kill()
            crew[place] = field.start_worker(ready=False)

    with ThreadPoolExecutor(1) as thread:
        killer = thread.submit(kill)
        try:
            yield killed
        finally:
            over.set()
        killer.result()
    for worker in crew:
        worker.says("ready")


def check_race(field: Deployment, task_id: str, killed: Mapping[int, datetime]) -> int:
    """The last attempt won, each earlier one ended after its worker was killed; answers how many there were."""
    papers, starts = field.papers(task_id), field.starts(task_id)
    *lost, won = papers.attempts
    assert papers.manifest is not None
    assert (papers.manifest.status, papers.manifest.attempt, won.end) == ("completed", won.number, None)
    assert field.records.store.get(f"results/{task_id}.md") == f"attempt {won.number}\n".encode()
    assert field.records.store.get(f"inbox/coordinator/{task_id}.json") is not None
    for attempt in lost:
        assert isinstance(attempt.paper, Claim)
        assert attempt.end is not None
        assert attempt.end.at >= killed[attempt.paper.owner.pid], f"{task_id}: {attempt}"
    assert starts == sorted(set(starts)), "an attempt was started twice, or after a later one"
    assert starts[-1] == won.number
    assert not field.notes(task_id, "overlap"), "two agents ran at once"
    return won.number


# ---------------------------------------------------------------------- restarted one after the other


@pytest.mark.timeout(240)
@pytest.mark.promise("drain")
@pytest.mark.promise("none-lost")
def test_a_rolling_restart_under_load_loses_and_repeats_nothing(deployment: Deployment) -> None:
    deployment.profile(limits={**CALM, "drain_seconds": 60})
    tasks = [a_task(deployment, number, "sleep 0.2", "report done") for number in range(60)]
    crew = [deployment.start_worker() for _ in range(3)]
    deployment.submit_all(*tasks)
    began = time.monotonic()
    drained = [restart(deployment, crew, turn % 3) for turn in range(6)]
    assert deployment.keys("open/"), "all was done before the last restart: nothing is shown"
    busy = sum("draining: 1 running" in worker.said() for worker in drained)
    assert busy, "no worker that was restarted had a task"
    all_settled(deployment)
    print(f"\n60 tasks in {time.monotonic() - began:.1f} s; 6 workers restarted, {busy} of them at a task")
    deployment.rest()
    for task in tasks:
        check_once(deployment, task.task_id)


@pytest.mark.promise("drain")
def test_a_rolling_restart_that_cuts_tasks_gives_them_back_uncounted(deployment: Deployment) -> None:
    """Each worker is at a task that does not end within the drain time; one counted attempt would be the last."""
    deployment.profile(limits={**CALM, "drain_seconds": 0.2})
    cut = [
        a_task(deployment, number, "[ $AGENTQ_ATTEMPT = 1 ] && hold never", "report done", max_attempts=1)
        for number in range(3)
    ]
    quick = [a_task(deployment, number, "report done") for number in range(3, 12)]
    crew = [deployment.start_worker() for _ in range(3)]
    deployment.submit_all(*cut, *quick)
    for task in cut:
        deployment.agent_runs(task.task_id)
    for place in range(3):
        restart(deployment, crew, place)
    all_settled(deployment)
    deployment.rest()
    for task in cut:
        papers = deployment.papers(task.task_id)
        assert papers.manifest is not None
        assert (papers.manifest.status, papers.manifest.attempt, papers.counted) == ("completed", 2, 0)
        assert deployment.starts(task.task_id) == [1, 2]
        assert not deployment.notes(task.task_id, "overlap"), "two agents ran at once"
    for task in quick:
        check_once(deployment, task.task_id)


def restart(deployment: Deployment, crew: list[Process], place: int) -> Process:
    """Drain one worker and replace it when it has ended; answers with the one that ended."""
    ended = crew[place]
    ended.send(SIGTERM)
    assert ended.wait() == 0, ended.said()
    crew[place] = deployment.start_worker()
    return ended


# ---------------------------------------------------------------------- drowned in work


@pytest.mark.timeout(240)
@pytest.mark.promise("strict-priority")
@pytest.mark.promise("none-lost")
def test_a_burst_is_taken_in_order_by_four_slots(deployment: Deployment) -> None:
    """What is claimed before its turn was overtaken by no more than the other slots had in hand."""
    deployment.profile(limits={**CALM, "parallel": 4})
    tasks = [a_task(deployment, number, "report done", priority=PRIORITIES[number % 4]) for number in range(300)]
    deployment.submit_all(*tasks)
    began = time.monotonic()
    deployment.start_worker()
    all_settled(deployment)
    print(f"\n300 tasks through 4 slots of one worker, {300 / (time.monotonic() - began):.0f} tasks/s")
    deployment.rest()
    in_order = sorted(tasks, key=lambda task: (-PRIORITIES.index(task.priority), task.task_id))
    claimed = [deployment.papers(task.task_id).attempts[0].paper.at for task in in_order]
    for place, moment in enumerate(claimed):
        late = [in_order[before].task_id for before in range(place) if claimed[before] > moment]
        assert len(late) < 4, f"{in_order[place].task_id} was claimed before {late}"
    for task in tasks:
        check_once(deployment, task.task_id)


# ----------------------------------------------------------------------


def a_task(deployment: Deployment, number: int, *steps: str, **more: Any) -> Envelope:
    """A request for the scripted agent."""
    return Envelope(
        task_id=f"task-{number:03}",
        to=deployment.agent,
        type="work",
        instructions=script(*steps),
        reply_to="results.coordinator",
        **more,
    )


def all_settled(deployment: Deployment) -> None:
    """Wait until nothing is left to do."""
    until(lambda: not deployment.keys("open/"), "all tasks to be settled", LONG)


def check_once(deployment: Deployment, task_id: str) -> None:
    """It was done in its one attempt."""
    papers = deployment.papers(task_id)
    assert papers.manifest is not None
    assert (papers.manifest.status, len(papers.attempts), papers.earlier) == ("completed", 1, ())
    assert deployment.starts(task_id) == [1]
