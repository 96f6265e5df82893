"""What the log says of real tasks and workers: each step once, as the papers have it, whoever dies or is away."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterable
from datetime import datetime
from signal import SIGTERM
from typing import Any

import pytest

from agentq.engine import Engine, Log
from agentq.events import Event
from agentq.lifecycle import expires_at
from agentq.messages import utc_now
from agentq.story import story
from tests.brokers.node import Node
from tests.daemons.harness import Deployment, Process, until

HEARTBEAT = {"heartbeat_seconds": 0.1, "look_seconds": 0.05}
WITHOUT_PAPERS = ("progress", "output")


def read(deployment: Deployment, log: Log = "events") -> list[Event]:
    """Everything in the log, each event once; who tells one again tells the same.

    Other deployments share the log, and some of their tasks have the same names.
    """

    async def act(engine: Engine) -> list[Event]:
        return [event async for page in engine.read(log) for event in page.events]

    once: dict[str, Event] = {}
    for event in deployment.with_engine(act):
        first = once.setdefault(event.id, event)
        assert _told(first) == _told(event) or not deployment.records.is_registered(event.task_id or "")
    return list(once.values())


def of(events: Iterable[Event], task_id: str, *kinds: str) -> list[Event]:
    """Those of a task, of some kinds."""
    return [event for event in events if event.task_id == task_id and (not kinds or event.kind in kinds)]


def kinds(events: Iterable[Event]) -> list[str]:
    """Their kinds, without what attempts say on their way."""
    return [event.kind for event in events if event.kind != "progress"]


def of_worker(deployment: Deployment, worker: Process) -> list[Event]:
    """What a worker's process told of itself."""
    events = (event for event in read(deployment) if event.worker and event.task_id is None)
    return [event for event in events if (event.worker or "").endswith(f":{worker.pid}")]


def _told(event: Event) -> dict[str, Any]:
    """What is the same whoever tells it; when a task was settled has no paper."""
    return event.model_dump(exclude={"at"} if event.kind == "settled" else set())


def agrees(deployment: Deployment, task_id: str, *lost: str) -> list[Event]:
    """The log tells of a task that has ended what its papers tell, but for what was lost; answers with its events."""
    expected = {event.id: _told(event) for event in story(deployment.papers(task_id), is_open=False)}

    def found() -> dict[str, dict[str, Any]]:
        return {event.id: _told(event) for event in of(read(deployment), task_id) if event.kind not in WITHOUT_PAPERS}

    until(lambda: set(found()) >= set(expected) - set(lost), f"{sorted(expected)} in the log")
    said = found()
    assert {name: event for name, event in said.items() if name not in lost} == {
        name: event for name, event in expected.items() if name not in lost
    }
    return of(read(deployment), task_id)


def printed(deployment: Deployment, task_id: str, attempt: int = 1) -> str:
    """What the log has of an attempt's output, once the whole of it was told."""

    def parts() -> list[Event]:
        return [event for event in of(read(deployment, "output"), task_id) if event.attempt == attempt]

    until(lambda: any(event.data.get("whole") for event in parts()), "the last word on the output")
    *texts, whole = sorted(parts(), key=lambda event: (bool(event.data.get("whole")), event.data.get("offset", 0)))
    offset = 0
    for event in (event for event in texts if "withheld" not in event.data["text"]):
        assert event.data.get("offset", 0) >= offset + event.data.get("left_out", 0)
        offset = event.data.get("offset", 0) + len(event.data["text"].encode())
    assert whole.data.get("bytes", 0) >= offset + whole.data.get("left_out", 0)
    return "".join(event.data["text"] for event in texts)


# ---------------------------------------------------------------------- tasks


@pytest.mark.promise("told")
def test_the_whole_walk_of_a_task_is_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("echo out", "echo err >&2", "report done")
    deployment.check(task, starts=[1], attempt=1)
    events = agrees(deployment, task)
    assert sorted(kinds(events)) == ["claimed", "completed", "settled", "submitted"]
    said = [event.data["text"] for event in of(events, task, "progress")]
    assert said == ["agent started", "collecting evidence"]
    assert sorted(printed(deployment, task).splitlines()) == ["err", "out"]
    (claim,) = of(events, task, "claimed")
    (up,) = (event for event in of_worker(deployment, deployment.workers[0]) if event.kind == "worker_up")
    assert claim.worker == up.worker
    deployment.rest()


@pytest.mark.promise("told")
def test_a_retry_is_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "echo broke >&2", "exit 3")
    deployment.check(task, starts=[1, 2], attempt=2)
    events = agrees(deployment, task)
    wanted = ["attempt_ended", "claimed", "claimed", "completed", "delayed", "settled", "submitted"]
    assert sorted(kinds(events)) == wanted
    assert printed(deployment, task) == "broke\n"
    assert printed(deployment, task, attempt=2) == ""
    deployment.rest()


@pytest.mark.promise("told")
def test_a_cancelled_task_is_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("hold never")
    deployment.agent_runs(task)
    assert deployment.cli("cancel", task, "--reason", "not needed").returncode == 0
    deployment.check(task, "cancelled", starts=[1], attempt=1)
    events = agrees(deployment, task)
    assert sorted(kinds(events)) == ["cancel_requested", "cancelled", "claimed", "settled", "submitted"]
    deployment.rest()


@pytest.mark.promise("told")
def test_an_expired_task_is_in_the_log(deployment: Deployment) -> None:
    task = deployment.submit("report done", ttl="0.1")
    expires = expires_at(deployment.papers(task))
    until(lambda: expires and utc_now() > expires, "its time to be over")
    deployment.start_worker()
    deployment.check(task, "expired", starts=[], attempt=1)
    assert sorted(kinds(agrees(deployment, task))) == ["expired", "settled", "submitted"]
    deployment.rest()


@pytest.mark.promise("told")
def test_a_task_that_was_given_up_is_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("exit 3", max_attempts="1")
    deployment.check(task, "failed", starts=[1], attempt=2)
    assert "dead_lettered" in kinds(agrees(deployment, task))


@pytest.mark.promise("told")
def test_refused_messages_are_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    deployment.publish_raw(b"no envelope", json.dumps({"task_id": "task-half", "to": deployment.agent}).encode())
    letters = {letter.reason for letter in deployment.dead_letters(2)}
    until(lambda: letters <= {event.data.get("reason") for event in read(deployment)}, "their reasons in the log")


@pytest.mark.promise("told")
def test_what_a_killed_worker_did_not_tell_is_told_by_the_next(deployment: Deployment) -> None:
    """Killed when the task's end is decided and nothing of it is told."""
    deployment.start_worker("die after put_new results/*.json", ready=True)
    task = deployment.submit("report done")
    assert deployment.workers[0].wait() == -9
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    assert {"submitted", "completed", "settled"} <= set(kinds(agrees(deployment, task, f"{task}/claimed/1")))
    deployment.rest()


# ---------------------------------------------------------------------- workers


@pytest.mark.promise("presence")
def test_a_worker_says_that_it_is_up_works_drains_and_is_down(deployment: Deployment) -> None:
    deployment.profile(limits=HEARTBEAT)
    worker = deployment.start_worker()
    task = deployment.submit("agentq note 'halfway there'", "hold go", "report done")
    deployment.agent_runs(task)

    def doing() -> Any:
        beats = [event for event in of_worker(deployment, worker) if event.kind == "worker_heartbeat"]
        return next(
            (run for beat in beats for run in beat.data.get("running", ()) if run["doing"] == "halfway there"), 0
        )

    run = until(doing, "what its agent says in its heartbeat")
    assert (run["task_id"], run["attempt"]) == (task, 1)
    assert datetime.fromisoformat(run["since"]).tzinfo
    worker.send(SIGTERM)
    until(lambda: [e for e in of_worker(deployment, worker) if e.data.get("draining")], "a heartbeat while it drains")
    deployment.open_gate("go")
    assert worker.wait() == 0
    events = of_worker(deployment, worker)
    once = [event for event in events if event.kind != "worker_heartbeat"]
    assert [event.kind for event in once] == ["worker_up", "worker_draining", "worker_down"]
    up, _, down = once
    assert down.data == {"reason": "drained"}
    assert up.data["pid"] == worker.pid
    assert (up.data["heartbeat_seconds"], up.data["parallel"], up.agent) == (0.1, 1, deployment.agent)
    assert "halfway there" in [event.data.get("text") for event in of(read(deployment), task, "progress")]
    deployment.check(task, starts=[1], attempt=1)
    assert not [name for name in deployment.evidence(task, 1) if "doing" in name], "a note is no evidence"


@pytest.mark.promise("presence")
def test_a_stopped_worker_says_why_and_its_task_is_released(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    task = deployment.submit("hold never")
    deployment.agent_runs(task)
    worker.send(SIGTERM)
    worker.says("draining")
    worker.send(SIGTERM)
    assert worker.wait() == 0
    down = next(event for event in of_worker(deployment, worker) if event.kind == "worker_down")
    assert down.data == {"reason": "stopped"}
    (end,) = of(read(deployment), task, "attempt_ended")
    assert "counts" not in end.data


@pytest.mark.promise("presence")
def test_a_killed_worker_falls_silent_and_its_task_is_taken_over(deployment: Deployment) -> None:
    deployment.profile(limits=HEARTBEAT)
    worker = deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold never")
    deployment.agent_runs(task)
    until(
        lambda: any(event.data.get("running") for event in of_worker(deployment, worker)), "a heartbeat with its task"
    )
    until(lambda: of(read(deployment), task, "claimed"), "its claim in the log")
    worker.kill()
    before = of_worker(deployment, worker)
    second = deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    until(lambda: len(of_worker(deployment, second)) > 5, "heartbeats of the second one")
    assert of_worker(deployment, worker) == before
    assert "worker_down" not in {event.kind for event in before}
    events = agrees(deployment, task)
    assert [event.attempt for event in of(events, task, "claimed")] == [1, 2]
    deployment.rest()


# ---------------------------------------------------------------------- output


@pytest.mark.promise("told-bounded")
def test_a_flood_is_cut_in_the_log_and_whole_in_the_transcript(deployment: Deployment) -> None:
    deployment.profile(limits={"live_bytes": 100_000})
    deployment.start_worker()
    task = deployment.submit("seq 1 300000", "report done")
    deployment.check(task, starts=[1], attempt=1)
    whole = "".join(f"{number}\n" for number in range(1, 300_001))
    assert deployment.evidence(task, 1)["transcript.log"] == whole
    text = printed(deployment, task)
    assert 0 < len(text) <= 100_000
    assert whole.startswith(text[:1000])
    deployment.rest()


@pytest.mark.promise("told-masked")
def test_a_credential_in_the_output_is_not_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    key = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    task = deployment.submit(
        f"printf 'cloning with {key[:20]}'", "sleep 0.2", f"printf '{key[20:]} now\\n'", "report done"
    )
    deployment.check(task, starts=[1], attempt=1)
    assert printed(deployment, task) == "cloning with [a GitHub token withheld] now\n"
    assert key in deployment.evidence(task, 1)["transcript.log"]
    deployment.rest()


@pytest.mark.promise("told-soon")
def test_a_line_is_in_the_log_soon_after_it_was_printed(deployment: Deployment) -> None:
    deployment.start_worker()
    lines = 20
    task = deployment.submit(f"for n in $(seq {lines}); do date +%s.%N; sleep 0.2; done", "report done")
    seen: list[float] = []

    async def act(engine: Engine) -> None:
        pages = engine.read("output", follow=True)
        async with asyncio.timeout(30):
            async for page in pages:
                for event in (event for event in page.events if event.task_id == task):
                    seen.extend(time.time() - float(line) for line in event.data.get("text", "").split())
                    if event.data.get("whole"):
                        await pages.aclose()
                        return

    deployment.with_engine(act)
    print(f"p50 {statistics.median(seen):.3f} s, max {max(seen):.3f} s")
    assert len(seen) == lines
    assert statistics.median(seen) < 0.5


@pytest.mark.promise("told")
def test_what_is_printed_while_the_broker_is_away_is_told_when_it_is_back(on_broker: Deployment, broker: Node) -> None:
    """And the task is not held up."""
    on_broker.profile(limits=HEARTBEAT)
    worker = on_broker.start_worker()
    task = on_broker.submit("echo before", "note printing", "hold go", "seq 1 2000", "note printed", "report done")
    on_broker.noted(task, "printing")
    until(lambda: of(read(on_broker, "output"), task), "the first line")
    broker.stop()
    on_broker.open_gate("go")
    on_broker.noted(task, "printed")
    on_broker.check(task, starts=[1], attempt=1)
    broker.start()
    assert printed(on_broker, task) == "before\n" + "".join(f"{number}\n" for number in range(1, 2001))
    agrees(on_broker, task)
    began = time.time()
    until(
        lambda: [e for e in of_worker(on_broker, worker) if e.kind == "worker_heartbeat" and e.at.timestamp() > began],
        "heartbeats again",
    )
    on_broker.rest()


# ---------------------------------------------------------------------- log lines


@pytest.mark.promise("log-lines")
def test_every_line_that_a_worker_logs_as_json_is_a_record(deployment: Deployment) -> None:
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    worker = deployment.start(
        "worker", "run", deployment.agent, "--log-format", "json", faults=("break before get results/*",)
    )
    deployment.workers.append(worker)
    worker.says(f"{deployment.agent}: ready")
    task = deployment.submit("report done", traceparent=parent)
    deployment.check(task, starts=[1], attempt=1)
    deployment.publish_raw(b"\x00\x1b]0;evil\x07\nnot a record")
    deployment.dead_letters(1)
    deployment.rest()
    records = [json.loads(line) for line in worker.said().splitlines()]
    for record in records:
        assert {"time", "level", "message", "logger", "worker", "agent"} <= set(record)
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
        assert record["worker"].endswith(f":{worker.pid}")
    said = {record["message"]: record for record in records}
    started = said[f"{task}: attempt 1 started"]
    assert (started["task"], started["attempt"], started["trace_id"]) == (task, 1, "ab" * 16)
    (broke,) = (record for record in records if "exc" in record)
    assert broke["exc"].startswith("Traceback")
    assert "RuntimeError: a bug at get results/" in broke["exc"]
    assert records[-1]["message"] == f"{deployment.agent}: ended"
    assert not any(ord(character) < 32 for line in worker.said().splitlines() for character in line)


@pytest.mark.promise("log-lines")
def test_what_ends_a_worker_is_a_record_too(on_sqlite_alone: Deployment) -> None:
    done = on_sqlite_alone.cli("worker", "run", "nobody", "--log-format", "json")
    (record,) = (json.loads(line) for line in done.stderr.splitlines())
    assert done.returncode == 4
    assert (record["level"], record["agent"]) == ("error", "nobody")
    assert "there is no worker profile for nobody" in record["message"]


def test_another_log_format_is_refused(on_sqlite_alone: Deployment) -> None:
    done = on_sqlite_alone.cli("worker", "run", on_sqlite_alone.agent, "--log-format", "xml")
    assert done.returncode == 3
    assert "text, json" in done.stderr
