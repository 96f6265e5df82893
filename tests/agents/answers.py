"""The mention worker with the real tools as its agents: they decide, which is checked, and answer, which is told."""

import json
import threading
from typing import Any

import pytest

from agentq.profile import PROFILE_NAME
from tests.agents import daemons as with_tools
from tests.agents.daemons import SECONDS, Place
from tests.agents.stub import Step
from tests.daemons import conftest as daemons
from tests.daemons.harness import ROOT, until
from tests.daemons.test_answers import DECIDED, is_told, told

deployment, nursery, plain_place = daemons.deployment, daemons.nursery, with_tools.place  # fixtures
MENTION = ROOT / "workers/mention"


@pytest.fixture
def place(plain_place: Place) -> Place:
    """Each tool that CI runs, on each engine, with the built-in profile's prompt and workspace."""
    profile = plain_place.deployment.home / "workers/worker"
    (profile / "prompt.md").write_text((MENTION / "prompt.md").read_text())
    with (profile / PROFILE_NAME).open("a") as file:
        file.write('[workspace]\nkind = "read-only"\n[evidence]\nartifacts = ["decision"]\n')
    return plain_place


def decide(**said: Any) -> Step:
    """The step in which a model writes down what it decided."""
    text = json.dumps(DECIDED | said).replace("'", "'\\''")
    return {"shell": f"printf '%s' '{text}' > $AGENTQ_OUTPUT/decision.json"}


@pytest.mark.promise("decision-checked")
def test_a_model_decides_and_its_last_words_are_the_answer(place: Place) -> None:
    place.worker()
    task = place.submit({"shell": "echo looking"}, decide(), {"say": "It is the cache. Clear it."})
    place.ends(task)
    manifest = place.deployment.records.manifest(task)
    assert manifest is not None
    assert manifest.attempt == 1
    assert manifest.decided is not None
    assert (manifest.decided.decision, manifest.summary) == ("answer", "It is the cache. Clear it.")
    assert place.deployment.evidence(task, 1)["answer.md"] == "It is the cache. Clear it.\n"
    is_told(place.deployment, task, "It is the cache. Clear it.")
    place.deployment.rest()


@pytest.mark.promise("answer-streamed")
def test_what_a_model_says_piece_by_piece_is_told_so(place: Place) -> None:
    place.worker()
    says = [f"printf 'Part {number}.\\n\\n' >> $AGENTQ_OUTPUT/answer.md" for number in (1, 2)]
    if place.tool.kind == "claude":  # the login shells of Codex know no agentq that is in an environment of its own
        says[1] = "agentq say 'Part 2.'"
    task = place.submit(decide(), *({"shell": step} for step in says), {"say": "I have answered."})
    place.ends(task)
    is_told(place.deployment, task, "Part 1.\n\nPart 2.\n\n")
    assert place.deployment.evidence(task, 1)["answer.md"] == "Part 1.\n\nPart 2.\n\n"
    place.deployment.rest()


@pytest.mark.promise("answer-streamed")
def test_the_words_of_claude_code_are_told_while_its_model_speaks(place: Place) -> None:
    if place.tool.kind != "claude":
        return
    parts, spoken = ["It is ", "the cache. ", "Clear it."], iter((1, 2, 3))
    is_heard = threading.Event()
    place.tool.stub.pace = lambda: None if next(spoken) == 1 else _wait(is_heard)
    place.worker()
    task = place.submit(decide(), {"say": parts})
    until(lambda: told(place.deployment, task), "the first words", SECONDS)
    assert told(place.deployment, task) == "It is "
    assert place.deployment.status(task) == "processing"
    is_heard.set()
    place.ends(task)
    is_told(place.deployment, task, "".join(parts))
    place.deployment.rest()


@pytest.mark.promise("decision-checked")
def test_a_model_that_decided_nothing_has_not_answered(place: Place) -> None:
    place.worker()
    task = place.submit({"say": "It is the cache."}, max_attempts="1")
    place.ends(task, "failed")
    manifest = place.deployment.records.manifest(task)
    assert manifest is not None
    assert "decision is missing" in (manifest.reason or "")
    place.deployment.rest()


def _wait(event: threading.Event) -> None:
    assert event.wait(SECONDS)
