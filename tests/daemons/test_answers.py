"""Answers of real workers: told while they are written, whoever dies; and decisions, which are checked."""

import asyncio
import json
import statistics
import time
from signal import SIGKILL
from typing import Any

import pytest

from agentq.decided import SHAPE
from agentq.engine import Engine
from agentq.events import Event
from tests.daemons.harness import Deployment, until
from tests.daemons.test_telling import of, read

DECIDED = {"decision": "answer", "why": "it was asked"}
KEY = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


def decide(**said: Any) -> str:
    """The step that writes a decision."""
    return f"printf '%s' {json.dumps(json.dumps(DECIDED | said))} > $AGENTQ_OUTPUT/decision.json"


def say(text: str) -> str:
    """The step that adds to the answer, as any program can."""
    return f"printf '%s' '{text}' >> $AGENTQ_OUTPUT/answer.md"


def replies(deployment: Deployment, task_id: str, attempt: int = 1) -> list[Event]:
    """What the log has of an attempt's answer; the offsets leave no gap."""
    found = [event for event in of(read(deployment, "output"), task_id, "reply") if event.attempt == attempt]
    offset = 0
    for event in found:
        assert event.id == f"{task_id}/reply/{attempt}/{offset}"
        assert event.data["offset"] == offset
        offset += len(event.data["text"])
    return found


def told(deployment: Deployment, task_id: str, attempt: int = 1) -> str:
    """The text of an attempt's answer so far."""
    return "".join(event.data["text"] for event in replies(deployment, task_id, attempt))


def is_told(deployment: Deployment, task_id: str, text: str, attempt: int = 1) -> None:
    """Wait until the log has exactly that."""
    until(lambda: told(deployment, task_id, attempt) == text, f"{text!r}, not {told(deployment, task_id, attempt)!r}")


@pytest.mark.promise("answer-streamed")
def test_an_answer_is_told_while_it_is_written(deployment: Deployment) -> None:
    deployment.start_worker()
    steps = [say("It is "), "hold one", say("the caché. "), "hold two", "agentq say 'Clear it.'", decide()]
    task = deployment.submit(*steps, expect="decision", label=["thread=th-1", "message=m-1"])
    is_told(deployment, task, "It is ")
    deployment.open_gate("one")
    is_told(deployment, task, "It is the caché. ")
    assert deployment.status(task) == "processing"
    deployment.open_gate("two")
    manifest = deployment.check(task, starts=[1], attempt=1)
    is_told(deployment, task, "It is the caché. Clear it.\n\n")
    assert deployment.evidence(task, 1)["answer.md"] == "It is the caché. Clear it.\n\n"
    for event in replies(deployment, task):
        assert (event.data["thread"], event.data["message"], event.agent) == ("th-1", "m-1", deployment.agent)
    assert manifest.decided is not None
    assert (manifest.decided.decision, manifest.decided.why) == ("answer", "it was asked")
    assert manifest.summary == "It is the caché. Clear it."
    assert "decided: answer, because" in deployment.cli("result", task).stdout
    assert ", decided: answer" in deployment.cli("status", task).stdout
    deployment.rest()


@pytest.mark.promise("answer-streamed")
def test_what_nobody_asked_to_be_answered_is_told_too(deployment: Deployment) -> None:
    deployment.profile(limits={"look_seconds": 0.05})
    deployment.start_worker()
    task = deployment.submit("agentq say 'Begun.'", "hold go", "agentq say 'Done.'", "report done")
    is_told(deployment, task, "Begun.\n\n")
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    is_told(deployment, task, "Begun.\n\nDone.\n\n")
    deployment.rest()


@pytest.mark.promise("answer-streamed")
def test_the_answer_of_a_killed_worker_is_begun_anew_by_the_next_attempt(deployment: Deployment) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(
        say("Attempt $AGENTQ_ATTEMPT ").replace("'", '"'),
        "[ $AGENTQ_ATTEMPT = 1 ] && hold never",
        say("ends.\\n").replace("%s", "%b"),
        decide(),
        expect="decision",
    )
    is_told(deployment, task, "Attempt 1 ")
    worker.kill()
    assert worker.code == -SIGKILL
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    is_told(deployment, task, "Attempt 2 ends.\n", attempt=2)
    assert told(deployment, task) == "Attempt 1 "
    deployment.rest()


@pytest.mark.promise("answer-safe")
def test_no_credential_of_an_answer_is_in_the_log(deployment: Deployment) -> None:
    deployment.start_worker()
    steps = [say(f"Use {KEY[:20]}"), "sleep 0.2", say(f"{KEY[20:]} now. "), decide()]
    task = deployment.submit(*steps, expect="decision", allow_secrets=True)
    deployment.check(task, starts=[1], attempt=1)
    is_told(deployment, task, "Use [a GitHub token withheld] now. ")
    deployment.rest()


@pytest.mark.promise("answer-safe")
def test_what_is_no_file_stops_no_worker(deployment: Deployment) -> None:
    (deployment.home / "secret").write_text("not for you\n")
    deployment.start_worker()
    for trap in (f"ln -s {deployment.home}/secret", "mkfifo"):
        task = deployment.submit(f"{trap} $AGENTQ_OUTPUT/answer.md", decide(text="All is well."), expect="decision")
        manifest = deployment.check(task, starts=[1], attempt=1)
        assert manifest.summary == "All is well."
        assert told(deployment, task) == ""
    deployment.rest()


@pytest.mark.promise("answer-safe")
def test_a_flood_is_bounded_in_the_log_and_whole_in_the_store(deployment: Deployment) -> None:
    deployment.profile(limits={"live_bytes": 20_000})
    deployment.start_worker()
    task = deployment.submit("seq 1 100000 > $AGENTQ_OUTPUT/answer.md", decide(), expect="decision")
    deployment.check(task, starts=[1], attempt=1)
    whole = "".join(f"{number}\n" for number in range(1, 100_001))
    until(lambda: len(told(deployment, task)) == 20_000, "what may be told")
    assert whole.startswith(told(deployment, task))
    assert deployment.evidence(task, 1)["answer.md"] == whole
    deployment.rest()


@pytest.mark.promise("answer-streamed")
def test_an_answer_that_is_rewritten_grows_no_more_and_the_last_text_counts(deployment: Deployment) -> None:
    deployment.start_worker()
    path = "$AGENTQ_OUTPUT/answer.md"
    steps = [say("It is the cache. "), "hold go", f"printf 'No, the disk. And so on. ' > {path}", decide()]
    task = deployment.submit(*steps, expect="decision")
    is_told(deployment, task, "It is the cache. ")
    deployment.open_gate("go")
    assert deployment.check(task, starts=[1], attempt=1).summary == "No, the disk. And so on."
    assert told(deployment, task) == "It is the cache. "
    deployment.rest()


# ---------------------------------------------------------------------- decisions


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("true", "decision is missing: write it to decision.json"),
        ("echo '{' > $AGENTQ_OUTPUT/decision.json", "no JSON"),
        (decide(decision="accept"), "decision: Input should be"),
        (decide(why=" "), "why: it is empty"),
        (decide(decision="refine"), "no description"),
        (decide(description="x", text="y"), "which only refine proposes"),
        (decide(), "answer is missing: write it to answer.md"),
    ],
)
def test_without_a_decision_the_attempt_fails_and_the_next_one_is_told(
    on_sqlite_alone: Deployment, first: str, reason: str
) -> None:
    deployment = on_sqlite_alone
    deployment.start_worker()
    wrong = f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {first}; exit; }}"
    task = deployment.submit(wrong, decide(text="It is so."), expect="decision")
    assert deployment.check(task, starts=[1, 2], attempt=2).decided is not None
    assert SHAPE in deployment.prompt(task, 1)
    assert reason in deployment.prompt(task, 2)
    assert "the agent said it was done, but" in deployment.prompt(task, 2)


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"text": "It is so."}, "It is so."),
        ({"decision": "report-status", "text": "Half of it."}, "Half of it."),
        ({"decision": "act"}, "it was asked"),
        ({"decision": "decline", "why": f"I will not use {KEY}"}, f"I will not use {KEY}"),
        ({"decision": "refine", "description": "A whole new text.", "text": "I propose this."}, "I propose this."),
    ],
)
def test_what_was_decided_stands_in_the_result(deployment: Deployment, said: dict[str, str], answer: str) -> None:
    deployment.start_worker()
    task = deployment.submit(decide(**said), expect="decision", allow_secrets=True)
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert manifest.decided is not None
    assert manifest.decided.decision == said.get("decision", "answer")
    assert KEY not in manifest.decided.why
    assert deployment.evidence(task, 1)["answer.md"] == f"{answer}\n"
    (completed,) = of(until_told(deployment, task), task, "completed")
    assert completed.data["decided"]["decision"] == manifest.decided.decision
    deployment.rest()


def until_told(deployment: Deployment, task_id: str) -> list[Event]:
    """The log, once it tells of the task's end."""
    until(lambda: of(read(deployment), task_id, "completed"), "the task's end in the log")
    return read(deployment)


@pytest.mark.promise("decision-checked")
def test_nothing_is_decided_where_nobody_asked(on_sqlite_alone: Deployment) -> None:
    on_sqlite_alone.start_worker()
    task = on_sqlite_alone.submit(decide(), "report done")
    assert on_sqlite_alone.check(task, starts=[1], attempt=1).decided is None


@pytest.mark.promise("answer-streamed")
def test_a_piece_is_in_the_log_soon_after_it_was_written(deployment: Deployment) -> None:
    deployment.start_worker()
    count, seen = 20, dict[str, float]()
    step = "for n in $(seq 20); do printf '%s ' $(date +%s.%N) >> $AGENTQ_OUTPUT/answer.md; sleep 0.2; done"
    task = deployment.submit(step, decide(), expect="decision")

    async def act(engine: Engine) -> None:
        pages = engine.read("output", follow=True)
        async with asyncio.timeout(30):
            async for page in pages:
                for event in of(page.events, task, "reply"):
                    for word in event.data["text"].split():
                        seen.setdefault(word, time.time() - float(word))
                if len(seen) == count:
                    return await pages.aclose()

    deployment.with_engine(act)
    print(f"p50 {statistics.median(seen.values()):.3f} s, max {max(seen.values()):.3f} s")
    assert statistics.median(seen.values()) < 0.5
