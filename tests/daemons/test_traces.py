"""One trace for each task over real processes: who submits it, the daemon with its attempts, who reads the result."""

import json

import pytest

from tests.collector import Collector
from tests.daemons.harness import Deployment, foreign

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = GIVEN.split("-")[1]
FOR_THE_AGENT = {"let_through": ["OTEL_EXPORTER_OTLP_ENDPOINT", "AGENTQ_BROKER", "AGENTQ_NAMESPACE", "AGENTQ_WORKERS"]}


def traced(deployment: Deployment, collector: Collector, **more: str) -> None:
    """Let all processes that are started from now on send their traces."""
    deployment._settings = {**deployment._settings, **collector.environment, **more}


@pytest.mark.promise("one-trace")
def test_one_trace_from_submit_over_the_queue_to_the_attempt_and_back(
    deployment: Deployment, collector: Collector
) -> None:
    traced(deployment, collector)
    deployment.start_worker()
    task = deployment.submit("report done")
    deployment.ended(task)
    assert deployment.cli("result", task).returncode == 0
    agent = deployment.agent
    send, process = collector.one(f"send {agent}"), collector.one(f"process {agent}")
    back, receive = collector.one("send results.coordinator"), collector.one("receive results.coordinator")
    assert (send.parent, process.parent, back.parent, receive.parent) == ("", send.id, process.id, process.id)
    assert [(span.kind, span.resource["service.name"]) for span in (send, process, back, receive)] == [
        ("PRODUCER", "agentq-coordinator"),
        ("CONSUMER", "agentq-worker"),
        ("CLIENT", "agentq-worker"),
        ("CLIENT", "agentq-coordinator"),
    ]
    for step in (collector.one("run agent"), collector.one("collect")):
        assert step.parent == process.id
        assert process.start <= step.start <= step.end <= process.end
    assert {span.trace for span in collector.spans} == {send.trace}
    assert list(process.events) == ["claimed", "evidence", "commit"]
    assert process.attributes["agentq.outcome"] == "completed"
    assert not any(span.failed for span in collector.spans)
    assert send.is_told_by(deployment.papers(task).envelope.traceparent)
    assert process.is_told_by(deployment.ended(task).traceparent)
    deployment.rest()


@pytest.mark.promise("one-trace")
def test_retries_are_siblings_and_say_why(deployment: Deployment, collector: Collector) -> None:
    traced(deployment, collector)
    deployment.start_worker()
    task = deployment.submit('[ "$AGENTQ_ATTEMPT" = 1 ] && exit 3', "report done")
    deployment.ended(task)
    send = collector.one(f"send {deployment.agent}")
    first, second = collector.several(f"process {deployment.agent}", 2)
    assert first.parent == second.parent == send.id
    assert [span.attributes["agentq.attempt.number"] for span in (first, second)] == [1, 2]
    assert first.failed
    assert first.attributes["error.type"] == first.attributes["agentq.outcome"] == "failed"
    assert "exited with status 3" in first.why
    assert not second.failed
    run = next(span for span in collector.several("run agent", 2) if span.parent == first.id)
    assert run.failed


def test_what_fails_for_good_says_so(deployment: Deployment, collector: Collector) -> None:
    traced(deployment, collector)
    deployment.profile(evidence={"verify": ["sh", "-c", "exit 1"]})
    deployment.start_worker()
    task = deployment.submit("report done", max_attempts="1")
    deployment.ended(task)
    process, verify = collector.one(f"process {deployment.agent}"), collector.one("verify")
    assert process.attributes["error.type"] == "evidence"
    assert "verify command" in process.why
    assert process.events["evidence"] == {"agentq.artifacts": 3, "agentq.faults": 1}
    assert verify.failed
    assert verify.parent == collector.one("collect").id


@pytest.mark.promise("told-masked")
def test_no_credential_of_an_agent_is_told(on_sqlite_alone: Deployment, collector: Collector) -> None:
    deployment = on_sqlite_alone
    traced(deployment, collector)
    deployment.start_worker()
    key = f"ghp_{'a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8'}"
    deployment.ended(deployment.submit(f"echo {key[:8]}''{key[8:]}; exit 65"))
    process = collector.one(f"process {deployment.agent}")
    assert process.attributes["error.type"] == "refused"
    assert "withheld" in process.why
    assert key not in repr(collector.spans)


@pytest.mark.promise("one-trace")
def test_an_agent_and_what_it_submits_join_the_trace(deployment: Deployment, collector: Collector) -> None:
    traced(deployment, collector)
    deployment.profile(environment={**FOR_THE_AGENT, "set": {"DESK": str(deployment.desk)}})
    deployment.start_worker()
    nested = f"agentq submit --to {deployment.agent} --type work --id nested -i '$ report nested'"
    task = deployment.submit("echo $TRACEPARENT > $AGENTQ_OUTPUT/trace.txt", nested, "report done", id="outer")
    deployment.ended(task)
    deployment.ended("nested")
    outer, inner = collector.several(f"process {deployment.agent}", 2)
    _, sent = collector.several(f"send {deployment.agent}", 2)
    assert outer.is_told_by(deployment.evidence(task, 1)["trace.txt"])
    assert (sent.parent, inner.parent) == (outer.id, sent.id)
    assert {span.trace for span in collector.spans} == {outer.trace}


@pytest.mark.promise("one-trace")
def test_without_opentelemetry_the_context_is_passed_on_all_the_same(deployment: Deployment) -> None:
    deployment._settings = {**deployment._settings, "TRACEPARENT": GIVEN}
    deployment.start_worker()
    task = deployment.submit("echo $TRACEPARENT > $AGENTQ_OUTPUT/trace.txt", "report done")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["trace.txt"].strip() == GIVEN
    assert deployment.papers(task).envelope.traceparent == manifest.traceparent == GIVEN


@pytest.mark.promise("one-trace")
@pytest.mark.parametrize("traceparent", ["nonsense", "00-1", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", 5, {"a": []}])
def test_a_malformed_context_of_a_foreign_message_is_no_failure(
    on_sqlite_alone: Deployment, collector: Collector, traceparent: object
) -> None:
    deployment = on_sqlite_alone
    traced(deployment, collector)
    deployment.start_worker()
    step = "echo ${TRACEPARENT-none} > $AGENTQ_OUTPUT/trace.txt\n$ report done"
    message = foreign(deployment.agent, instructions=f"$ {step}", traceparent=traceparent)
    deployment.publish_raw(json.dumps(message).encode())
    deployment.ended(message["task_id"])
    process = collector.one(f"process {deployment.agent}")
    assert process.parent == ""
    assert process.is_told_by(deployment.evidence(message["task_id"], 1)["trace.txt"])


def test_what_is_not_sampled_is_passed_on_and_not_told(on_sqlite_alone: Deployment, collector: Collector) -> None:
    deployment = on_sqlite_alone
    traced(deployment, collector, TRACEPARENT=f"{GIVEN[:-1]}0")
    deployment.start_worker()
    quiet = deployment.submit("echo $TRACEPARENT > $AGENTQ_OUTPUT/trace.txt", "report done")
    deployment.ended(quiet)
    told = deployment.submit("report done", traceparent=GIVEN)
    deployment.ended(told)
    process = collector.one(f"process {deployment.agent}")
    assert (process.trace, process.attributes["messaging.message.id"]) == (TRACE, told)
    seen = deployment.evidence(quiet, 1)["trace.txt"].strip()
    assert seen.startswith(f"00-{TRACE}-")
    assert seen.endswith("-00")


@pytest.mark.promise("traces-cost-nothing")
def test_a_worker_whose_collector_is_away_works_says_so_once_and_ends(on_sqlite_alone: Deployment) -> None:
    deployment = on_sqlite_alone
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    deployment._settings = {**deployment._settings, **away, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    worker = deployment.start_worker()
    for _ in range(2):
        deployment.check(deployment.submit("report done"), starts=[1], attempt=1)
    deployment.rest()
    assert worker.said().count("traces are not sent") == 1
    assert "Traceback" not in worker.said()
