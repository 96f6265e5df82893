"""What a process tells of its traces, and what it costs when nobody asked: nothing."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from json import loads

import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes import error_attributes, server_attributes, service_attributes

from agentq import tracing
from agentq.messages import Envelope
from tests.brokers.node import Node
from tests.collector import Collector, Told
from tests.desk import IMPLEMENT, Desk
from tests.test_imports import imported

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = GIVEN.split("-")[1:3]
OTEL = {"opentelemetry", "google", "requests"}
WITHOUT_THE_EXTRA = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import sys
sys.meta_path.insert(0, Blocker())
"""
IN_THE_END = """
import atexit, sys, time
atexit.register(lambda: print(time.monotonic() - ended, file=sys.stderr))  # the first to be registered is called last
import agentq.cli
whole = agentq.cli.main
def main():
    global ended
    try:
        whole()
    finally:
        ended = time.monotonic()
agentq.cli.main = main
"""
"""Tells on stderr how long a process took after its command was done."""
OURS = {"agentq.task.type", "agentq.task.priority", "agentq.attempt.number", "agentq.outcome"}


def run(desk: Desk, *arguments: str, before: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `agentq` as a process of its own."""
    code = f"{before}\nimport sys\nsys.argv[0] = 'agentq'\nfrom agentq.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=desk.project,
        env=desk.environment | environment,
        capture_output=True,
        text=True,
    )


def ok(desk: Desk, *arguments: str, **environment: str) -> str:
    """What such a process prints; it must succeed, and say nothing."""
    done = run(desk, *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def submission(*flags: str) -> list[str]:
    return ["submit", *IMPLEMENT, "-i", "Do it.", *flags]


@pytest.fixture
def asking(desk: Desk, collector: Collector) -> Iterator[Desk]:
    """A desk whose commands send their traces to the collector."""
    desk.environment |= collector.environment
    yield desk
    assert not tracing.is_decided(), "it would be told for all tests: run such commands as processes"


# ---------------------------------------------------------------------- when nobody asked


@pytest.mark.promise("traces-cost-nothing")
@pytest.mark.parametrize("asked", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}])
def test_nothing_is_imported_unless_it_is_asked_for(desk: Desk, asked: dict[str, str]) -> None:
    if asked:
        desk.environment |= asked | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert not imported(desk, *submission("--id", "task-1")) & OTEL
    desk.finish("task-1")
    for command in (("result", "task-1"), ("wait", "task-1"), ("inbox", "--ack"), ("claim", "--as", IMPLEMENT[1])):
        assert not imported(desk, *command) & OTEL


@pytest.mark.promise("traces-cost-nothing")
def test_a_command_that_has_no_part_in_a_trace_imports_nothing_even_then(asking: Desk) -> None:
    assert not imported(asking, "status", ok(asking, *submission())) & OTEL


def test_it_is_imported_when_it_is_asked_for(asking: Desk) -> None:
    assert "opentelemetry" in imported(asking, *submission())


def test_without_the_extra_one_line_says_how_to_get_it(asking: Desk) -> None:
    done = run(asking, *submission("--id", "task-1"), before=WITHOUT_THE_EXTRA)
    assert (done.returncode, done.stdout) == (0, "task-1\n")
    (line,) = done.stderr.splitlines()
    assert "pip install 'agentq[otel]'" in line
    assert asking.envelope("task-1").traceparent is None


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, console and none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_and_fails_nothing(
    asking: Desk, variable: str, value: str, words: str
) -> None:
    done = run(asking, *submission("--id", "task-1"), **{variable: value})
    assert (done.returncode, done.stdout) == (0, "task-1\n")
    (line,) = done.stderr.splitlines()
    assert words in line


# ---------------------------------------------------------------------- when the collector is away


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.promise("traces-cost-nothing")
@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "does not answer"])
def test_a_collector_that_is_away_costs_a_second_at_the_most_and_one_line(
    desk: Desk, silent_port: int, silent: bool
) -> None:
    url = f"http://127.0.0.1:{silent_port if silent else 9}"
    done = run(desk, *submission("--id", "task-1"), before=IN_THE_END, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert (done.returncode, done.stdout) == (0, "task-1\n")
    line, seconds = done.stderr.splitlines()
    assert "traces are not sent" in line
    assert float(seconds) < 2, "a second, and some for a machine that is busy"


# ---------------------------------------------------------------------- what is told


@pytest.mark.promise("one-trace")
def test_names_and_attributes_are_those_of_the_conventions(asking: Desk, collector: Collector) -> None:
    task = ok(asking, *submission("--priority", "high"))
    asking.finish(task)
    ok(asking, "result", task)
    send, receive = collector.one("send implementation-worker"), collector.one("receive results.coordinator")
    assert send.attributes == {
        messaging.MESSAGING_SYSTEM: "agentq.sqlite",
        messaging.MESSAGING_OPERATION_NAME: "send",
        messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.SEND.value,
        messaging.MESSAGING_DESTINATION_NAME: "implementation-worker",
        messaging.MESSAGING_MESSAGE_ID: task,
        "agentq.task.type": "implementation",
        "agentq.task.priority": "high",
    }
    assert receive.attributes == {
        messaging.MESSAGING_SYSTEM: "agentq.sqlite",
        messaging.MESSAGING_OPERATION_NAME: "receive",
        messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.RECEIVE.value,
        messaging.MESSAGING_DESTINATION_NAME: "results.coordinator",
        messaging.MESSAGING_MESSAGE_ID: task,
        "agentq.attempt.number": 1,
        "agentq.outcome": "completed",
    }
    assert receive.parent == send.id


def test_on_rabbitmq_they_name_the_server_the_exchange_the_key_and_the_queue(
    rabbit_desk: Desk, rabbitmq: Node, collector: Collector
) -> None:
    desk = rabbit_desk
    desk.ok("init")
    desk.environment |= collector.environment
    task = ok(desk, *submission())
    run(desk, "claim", "--as", "implementation-worker", "--wait", "10")
    space = desk.environment["AGENTQ_NAMESPACE"]
    send, receive = collector.one("send implementation-worker"), collector.one("receive implementation-worker")
    host, port = rabbitmq.url.rpartition("@")[2].rstrip("/").split(":")
    shared = {
        messaging.MESSAGING_SYSTEM: messaging.MessagingSystemValues.RABBITMQ.value,
        messaging.MESSAGING_DESTINATION_TEMPLATE: "implementation-worker",
        messaging.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: "implementation-worker",
        messaging.MESSAGING_MESSAGE_ID: task,
        server_attributes.SERVER_ADDRESS: host,
        server_attributes.SERVER_PORT: int(port.split("/")[0]),
    }
    assert shared.items() <= send.attributes.items()
    assert shared.items() <= receive.attributes.items()
    name = messaging.MESSAGING_DESTINATION_NAME
    assert send.attributes[name] == f"{space}.tasks:implementation-worker"
    assert receive.attributes[name] == f"{space}.tasks:implementation-worker:{space}.tasks.implementation-worker"


def test_every_attribute_is_of_the_conventions_or_our_own(asking: Desk, collector: Collector) -> None:
    task = ok(asking, *submission())
    ok_claim(asking)
    ok(asking, "fail", task, "--from", "implementation-worker", "--reason", "cannot be done")
    run(asking, "result", task)
    collector.one("receive results.coordinator")
    modules = (messaging, server_attributes, error_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    said = {name for span in collector.spans for name in span.attributes}
    assert said - known == OURS


def test_the_service_has_a_name_unless_the_environment_gives_it_another(asking: Desk, collector: Collector) -> None:
    ok(asking, *submission())
    found = collector.one("send implementation-worker").resource
    assert found[service_attributes.SERVICE_NAME] == "agentq-coordinator"
    collector.spans.clear()
    ok(
        asking,
        *submission(),
        OTEL_SERVICE_NAME="mine",
        OTEL_RESOURCE_ATTRIBUTES="team=a",
        OTEL_EXPORTER_OTLP_HEADERS="k=v",
    )
    found = collector.one("send implementation-worker").resource
    assert (found[service_attributes.SERVICE_NAME], found["team"]) == ("mine", "a")
    assert collector.headers[-1]["k"] == "v"


def test_the_console_is_stderr(desk: Desk) -> None:
    done = run(desk, *submission("--id", "task-1"), OTEL_TRACES_EXPORTER="console")
    assert done.stdout == "task-1\n"
    (line,) = done.stderr.splitlines()
    assert loads(line)["name"] == "send implementation-worker"


@pytest.mark.promise("one-trace")
@pytest.mark.parametrize("flag", [True, False], ids=["--traceparent", "TRACEPARENT"])
def test_a_submit_goes_on_with_the_trace_that_it_is_told(asking: Desk, collector: Collector, flag: bool) -> None:
    if flag:
        ok(asking, *submission("--traceparent", GIVEN, "--id", "task-1"))
    else:
        ok(asking, *submission("--id", "task-1"), TRACEPARENT=GIVEN)
    send = collector.one("send implementation-worker")
    assert (send.trace, send.parent) == (TRACE, SPAN)
    assert send.is_told_by(asking.envelope("task-1").traceparent)


@pytest.mark.promise("submit-idempotent")
def test_a_repeated_submit_is_the_same_task_in_its_first_trace(asking: Desk, collector: Collector) -> None:
    ok(asking, *submission("--id", "task-1"))
    first = asking.envelope("task-1")
    done = run(asking, *submission("--id", "task-1"))
    assert done.returncode == 0
    assert asking.envelope("task-1") == first


def test_a_plan_is_one_conversation_of_one_trace(asking: Desk, collector: Collector) -> None:
    plan = asking.project / "plan.yaml"
    task = "{to: implementation-worker, type: implementation, instructions: Do it.%s}"
    plan.write_text(f"tasks:\n  one: {task % ''}\n  two: {task % ', needs: [one]'}\n")
    done = run(asking, "plan", "submit", str(plan), "--id", "release")
    assert done.returncode == 0, done
    send = collector.one("send implementation-worker")
    assert send.attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] == "release"
    assert send.attributes[messaging.MESSAGING_BATCH_MESSAGE_COUNT] == 2
    assert all(send.is_told_by(asking.envelope(name).traceparent) for name in ("release", "release.one", "release.two"))
    again = run(asking, "plan", "submit", str(plan), "--id", "release")
    assert again.returncode == 0, again


@pytest.mark.promise("one-trace")
def test_a_pulled_attempt_is_a_span_from_its_claim_to_its_end(asking: Desk, collector: Collector) -> None:
    task = ok(asking, *submission())
    ok_claim(asking)
    ok(asking, "fail", task, "--from", "implementation-worker", "--reason", "cannot be done")
    send, claim = collector.one("send implementation-worker"), collector.one("receive implementation-worker")
    process = collector.one("process implementation-worker")
    assert claim.parent == process.parent == send.id
    assert (process.kind, claim.kind) == ("CONSUMER", "CLIENT")
    assert claim.resource["service.name"] == "agentq-worker"
    assert send.end <= process.start < claim.end < process.end
    assert process.attributes["error.type"] == "failed"
    assert process.why == "cannot be done"


def test_who_waits_is_told_how_long_and_linked_to_his_own_trace(asking: Desk, collector: Collector) -> None:
    task = ok(asking, *submission())
    asking.environment["TRACEPARENT"] = GIVEN
    waiting = asking.start("wait", task)
    began = time.time_ns()
    asking.finish(task)
    assert waiting.wait(30) == 0
    assert waiting.stdout
    assert waiting.stderr
    waiting.stdout.close()
    waiting.stderr.close()
    receive: Told = collector.one("receive results.coordinator")
    assert receive.links == [TRACE]
    assert receive.trace != TRACE
    assert receive.end > began


def test_the_inbox_is_read_when_it_is_acknowledged(asking: Desk, collector: Collector) -> None:
    task = ok(asking, *submission())
    asking.finish(task)
    ok(asking, "inbox")
    ok(asking, "inbox", "--ack")
    assert collector.one("receive results.coordinator").attributes[messaging.MESSAGING_MESSAGE_ID] == task


def test_a_submit_that_fails_says_so(asking: Desk, collector: Collector) -> None:
    ok(asking, *submission("--id", "task-1"))
    collector.spans.clear()
    assert run(asking, *submission("--id", "task-1", "--priority", "high")).returncode == 5
    send = collector.one("send implementation-worker")
    assert send.failed
    assert send.attributes[error_attributes.ERROR_TYPE] == "Conflict"


def ok_claim(desk: Desk) -> None:
    """Pull the next task."""
    done = run(desk, "claim", "--as", "implementation-worker", "--wait", "10")
    assert done.returncode == 0, done


# ---------------------------------------------------------------------- the context itself


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (GIVEN, GIVEN),
        (f"{GIVEN[:-2]}00", f"{GIVEN[:-2]}00"),
        (f"{GIVEN[:-2]}ff", f"{GIVEN[:-2]}03"),
        (f"cc{GIVEN[2:]}-of-the-future", GIVEN),
        (f"{GIVEN}-more", None),
        (f"ff{GIVEN[2:]}", None),
        (GIVEN.upper(), None),
        (f"{GIVEN}\n", None),
        (f" {GIVEN}", None),
        (GIVEN.replace(TRACE, "0" * 32), None),
        (GIVEN.replace(SPAN, "0" * 16), None),
        ("\x00" * 55, None),
        ("", None),
        (None, None),
    ],
)
def test_a_traceparent_is_well_formed_or_none(said: str | None, meant: str | None) -> None:
    assert tracing.well_formed(said) == meant


def test_the_trace_is_no_part_of_what_is_asked() -> None:
    task = Envelope(task_id="p.a", to="a", type="t", instructions="Do.")
    plan = Envelope(task_id="p", to="a", type="t", instructions="Do.", plan=(task,))
    assert tracing.in_trace(plan, GIVEN).plan[0].traceparent == GIVEN
    for asked in (task, plan):
        assert tracing.in_trace(asked, GIVEN).request_digest() == asked.request_digest()


def test_nobody_is_told_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", GIVEN)
    task = Envelope(task_id="a", to="a", type="t", instructions="Do.", traceparent="nonsense")
    nobody = tracing.Tracing()
    with nobody.send(task) as sent, nobody.process(sent, 1) as span, nobody.step("run agent") as step:
        step.event("claimed", attempt=1)
        span.ended("completed")
    assert sent.traceparent == span.traceparent == os.environ["TRACEPARENT"]
