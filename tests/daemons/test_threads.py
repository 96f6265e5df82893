"""Threads with a real gateway and real workers: answers are seen as they are written, whoever dies."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from signal import SIGTERM
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.brokers.node import Node
from tests.daemons.harness import ROOT, Deployment, Process, until
from tests.gateway.serving import Client

ANSWERING = str(ROOT / "tests" / "daemons" / "answering.sh")
TYPES = '["mention", "assignment", "manual", "refinement"]'


def answers(deployment: Deployment) -> None:
    """Let the deployment's worker answer in threads."""
    deployment.profile(runner={"command": [ANSWERING]})
    path = deployment.home / "workers" / "worker" / "worker.toml"
    path.write_text(path.read_text().replace('types = ["work"]', f"types = {TYPES}"))


@contextlib.contextmanager
def gateway(deployment: Deployment, *faults: str) -> Iterator["Gate"]:
    """A gateway of the deployment, as a process; what it serves ends with the block."""
    process = deployment.start("serve", "--listen", "127.0.0.1:0", faults=faults)
    try:
        process.says("serving http")
        found = re.search(r"http://[0-9.:]+", process.said())
        assert found
        yield Gate(found[0], process)
    finally:
        process.send(SIGTERM)
        process.wait()


class Gate(Client):
    """A gateway's process, as whoever calls it sees it."""

    def __init__(self, url: str, process: Process) -> None:
        super().__init__(url)
        object.__setattr__(self, "process", process)

    def open(self, **more: Any) -> None:
        """Open the thread."""
        self.post("/api/threads", {"title": "A trip", "id": "trip"} | more).ok(201)

    def ask(self, deployment: Deployment, *steps: str, **more: Any) -> str:
        """Mention the worker, that it may do these steps; answers with its task."""
        text = "\n".join((f"@{deployment.agent}: do this", *(f"$ {step}" for step in steps)))
        [ask] = self.post("/api/threads/trip/messages", {"text": text} | more).ok(201)["message"]["asks"]
        return str(ask["task_id"])

    def shown(self, message_id: str) -> dict[str, Any]:
        """A message or answer, as the thread shows it."""
        view = self.get("/api/threads/trip").ok()
        return next(one for one in view["messages"] if one["message_id"] == message_id)  # type: ignore[no-any-return]

    def has(self, message_id: str, **expected: Any) -> None:
        """Wait until it is shown so."""
        until(
            lambda: {name: self.shown(message_id)[name] for name in expected} == expected,
            f"{expected}, not {self.shown(message_id)}",
        )

    @contextlib.contextmanager
    def watching(self, since: str | None = None) -> "Iterator[ClientConnection]":
        """A subscription to the thread."""
        with connect(self.url.replace("http", "ws", 1) + "/ws") as socket:
            socket.send(json.dumps({"op": "hello"}))
            socket.send(json.dumps({"op": "subscribe", "topic": "/threads/trip"} | ({"since": since} if since else {})))
            while json.loads(socket.recv(timeout=20))["op"] != "caught_up":
                pass
            yield socket


def next_of(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next event of one of these kinds."""
    while True:
        frame = json.loads(socket.recv(timeout=20))
        if frame["op"] == "event" and frame["event"]["kind"] in kinds:
            return frame["event"]  # type: ignore[no-any-return]


@pytest.mark.promise("answer-never-stuck")
def test_a_mention_is_answered_chunk_by_chunk(deployment: Deployment) -> None:
    answers(deployment)
    deployment.start_worker()
    with gateway(deployment) as gate:
        gate.open()
        with gate.watching() as socket:
            task = gate.ask(
                deployment, "say 'It is '", "hold one", "say 'the cache. '", "hold two", "decide answer asked"
            )
            assert next_of(socket, "message_posted")["data"]["asks"][0]["task_id"] == task
            assert gate.shown(task)["state"] == "generating"
            assert next_of(socket, "reply")["data"]["text"] == "It is "
            deployment.open_gate("one")
            piece = next_of(socket, "reply")["data"]
            assert (piece["text"], piece["offset"], piece["thread"]) == ("the cache. ", 6, "trip")
            assert gate.shown(task)["state"] == "generating"
            deployment.open_gate("two")
            assert next_of(socket, "completed", "failed")["kind"] == "completed"
        gate.has(task, state="completed", text="It is the cache. ", attempt=1)
        assert gate.shown(task)["decided"] == {"decision": "answer", "why": "asked"}
        assert deployment.keys("inbox/") == [f"inbox/coordinator/{task}.json"]
    deployment.rest()


@pytest.mark.promise("answer-never-stuck")
def test_the_answer_of_a_killed_worker_is_written_anew(deployment: Deployment) -> None:
    answers(deployment)
    worker = deployment.start_worker()
    with gateway(deployment) as gate:
        gate.open()
        steps = [
            'say "Attempt $AGENTQ_ATTEMPT "',
            "[ $AGENTQ_ATTEMPT = 2 ] || hold never",
            "say ends.",
            "decide answer asked",
        ]
        task = gate.ask(deployment, *steps)
        gate.has(task, text="Attempt 1 ", state="generating")
        worker.kill()
        assert gate.shown(task)["state"] == "generating", "its next attempt is still to come"
        deployment.start_worker()
        gate.has(task, state="completed", text="Attempt 2 ends.", attempt=2)
    deployment.rest()


@pytest.mark.promise("answer-never-stuck")
def test_an_agent_that_never_answers_has_failed_with_what_it_said_last(deployment: Deployment) -> None:
    answers(deployment)
    deployment.start_worker()
    with gateway(deployment) as gate:
        gate.open()
        task = gate.ask(deployment, 'say "Try $AGENTQ_ATTEMPT"', "sleep 0.3", "exit 1")
        gate.has(task, state="failed", task_state="failed", text="Try 3", attempt=3)
        assert "exit" in gate.shown(task)["reason"]
        until(lambda: deployment.keys("inbox/") == [f"inbox/coordinator/{task}.json"], "the notice")
        deployment.dead_letters(1)


@pytest.mark.promise("message-asks-once")
def test_a_gateway_killed_behind_the_message_leaves_nothing_undone(deployment: Deployment) -> None:
    answers(deployment)
    deployment.start_worker()
    with gateway(deployment, "die before put_new tasks/*.md") as gate:
        gate.open()
        with pytest.raises(OSError):
            gate.ask(deployment, "say Hello.", "decide answer asked", id="m1")
        assert gate.process.wait() < 0
    assert len(deployment.keys("asking/")) == 1
    with gateway(deployment) as gate:
        gate.has(f"m1.{deployment.agent}", state="completed", text="Hello.")
        until(lambda: not deployment.keys("asking/"), "the mark to be gone")
    deployment.rest()


@pytest.mark.promise("message-accepted-while-away")
def test_a_message_is_accepted_while_the_broker_is_down_and_answered_when_it_is_back(
    on_broker: Deployment, broker: Node
) -> None:
    answers(on_broker)
    on_broker.start_worker()
    with gateway(on_broker) as gate:
        gate.open()
        broker.stop()
        began = time.monotonic()
        task = gate.ask(on_broker, "say Hello.", "decide answer asked")
        assert time.monotonic() - began < 5, "nobody waits for the broker"
        assert (gate.shown(task)["state"], gate.shown(task)["task_state"]) == ("generating", "pending")
        broker.start()
        until(lambda: gate.shown(task)["state"] == "completed", f"the answer: {gate.shown(task)}", 60)
        assert gate.shown(task)["text"] == "Hello."
        until(lambda: not on_broker.keys("asking/"), "the mark to be gone", 30)


def test_a_refinement_is_proposed_and_accepted_from_the_command_line(deployment: Deployment) -> None:
    answers(deployment)
    deployment.start_worker()
    thread = deployment.cli("thread", "new", "A trip", "--description", "To the sea.").stdout.strip()
    said = "refine it\n$ say Done.\n$ decide refine clearer 'To the lake.'"
    asked = deployment.cli("thread", "refine", thread, deployment.agent, said)
    message, task = asked.stdout.split()
    assert task == f"{message}.{deployment.agent}"
    deployment.ended(task)
    shown = deployment.cli("thread", "show", thread).stdout
    assert f"{task} proposes instead of description 0, open: clearer" in shown
    assert "| To the lake." in shown
    assert deployment.cli("thread", "accept", thread, task).stdout.strip() == "1"
    found = deployment.json("thread", "show", thread)
    assert found["description"]["text"] == "To the lake."
    assert found["proposals"][0]["state"] == "accepted"
    assert [one["state"] for one in found["messages"]] == ["completed", "completed"]
    until(lambda: not deployment.keys("asking/"), "no marks")
    deployment.rest()
