"""What an agent decided: checked wherever it comes from, and an answer beside it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq.decided import SHAPE, TEXT_LIMIT, Decided, read_decided
from agentq.errors import Invalid
from agentq.evidence import Evidence
from agentq.handover import Handover
from agentq.keyring import Keyring
from agentq.lifecycle import Papers
from agentq.messages import Choice, Chosen
from agentq.profile import EvidenceSection, Profile
from agentq.prompt import render
from agentq.runner import Ran
from agentq.signing import Signer, Unproven, proven
from tests.desk import Desk
from tests.samples import completion, request
from tests.test_evidence import Scene
from tests.test_pulling import claim, complete, written

ANSWER = {"decision": "answer", "why": "it was asked"}
REFINE = {"decision": "refine", "why": "it is vague", "description": "# Clear"}
KEY = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


# ---------------------------------------------------------------------- what is one


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("answer", "no JSON"),
        (b"\xff", "no JSON"),
        ([], "not as it should be"),
        ({}, "decision: Field required; why: Field required"),
        ({"decision": "refuse", "why": "x"}, "decision: Input should be 'answer'"),
        ({"decision": "answer"}, "why: Field required"),
        (ANSWER | {"why": ""}, "why: it is empty"),
        (ANSWER | {"why": "\n"}, "why: it is empty"),
        (ANSWER | {"why": "x" * 1001}, "why: String should have at most 1000"),
        (ANSWER | {"text": "x" * (TEXT_LIMIT + 1)}, "text: it has 65537 bytes, 65536 is the limit"),
        (ANSWER | {"text": ["x"]}, "text: Input should be a valid string"),
        (ANSWER | {"why": "\ud800"}, "unable to parse raw data as a unicode string"),
        (ANSWER | {"description": "x"}, "only refine proposes, not answer"),
        (REFINE | {"description": " "}, "description: it is empty"),
        (REFINE | {"description": None}, "no description"),
        (REFINE | {"description": "€" * 22_000}, "description: it has 66000 bytes"),
        ("[" * 100_000, "no JSON"),
        (" " * 600_000, "is the limit"),
    ],
)
def test_what_is_no_decision(said: Any, words: str) -> None:
    data = said if isinstance(said, bytes) else (said if isinstance(said, str) else json.dumps(said)).encode()
    with pytest.raises(Invalid, match=words) as refused:
        read_decided(data)
    assert SHAPE in refused.value.hint or "limit" in words
    assert SHAPE not in str(refused.value)


@pytest.mark.parametrize("decision", get_args(Choice))
def test_each_decision_is_one_also_fenced_and_with_more(decision: str) -> None:
    said = {"decision": decision, "why": "because", "more": 1} | ({"description": "x"} if decision == "refine" else {})
    for text in (json.dumps(said), f"```json\n{json.dumps(said)}\n```\n"):
        assert read_decided(text.encode()) == Decided.model_validate(said)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(get_args(Choice)),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["decision", "why", "text", "description"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_is_a_decision_or_refused(data: bytes) -> None:
    with suppress(Invalid):
        decided = read_decided(data)
        assert (decided.description is not None) == (decided.decision == "refine")
        assert Chosen.model_validate_json(decided.chosen.to_json()) == decided.chosen


def test_why_is_told_without_credentials() -> None:
    assert KEY not in Decided(decision="act", why=f"used {KEY}").chosen.why


# ---------------------------------------------------------------------- what an attempt brings


def gathered(folder: Path, ran: Ran, **files: Any) -> tuple[Scene, Evidence]:
    """What is gathered of such files, by name."""
    scene = Scene(folder, ("decision",), "none")
    for name, said in files.items():
        text = said if isinstance(said, str) else json.dumps(said)
        suffix = ".json" if name == "decision" else ".md"
        (scene.scratch.output / f"{name}{suffix}").write_text(text)
    return scene, scene.gather(ran)


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("files", "last", "answer"),
    [
        ({"decision": ANSWER | {"text": "In it."}, "answer": "In the file.\n"}, "Last.", "In the file.\n"),
        ({"decision": ANSWER | {"text": "In it."}}, "Last.", "In it.\n"),
        ({"decision": ANSWER}, "Last.", "Last.\n"),
        ({"decision": ANSWER, "report": "# R\n## Answer\nIn the report.\n"}, "", "In the report.\n"),
        ({"decision": REFINE}, "", "it is vague\n"),
        ({"decision": ANSWER | {"decision": "decline"}}, "", "it was asked\n"),
    ],
)
def test_where_the_answer_stands(tmp_path: Path, files: dict[str, Any], last: str, answer: str) -> None:
    scene, evidence = gathered(tmp_path, Ran("done", final_text=last), **files)
    assert evidence.faults == []
    assert scene.text(evidence, "answer") == answer
    assert evidence.decided is not None
    assert evidence.of("report")


def test_who_cannot_write_files_says_both_in_the_end(tmp_path: Path) -> None:
    last = f"## Decision\n```json\n{json.dumps(ANSWER)}\n```\n## Answer\nIt is so."
    scene, evidence = gathered(tmp_path, Ran("done", final_text=last))
    assert evidence.faults == []
    assert evidence.decided == Chosen(decision="answer", why="it was asked")
    assert scene.text(evidence, "answer") == "It is so.\n"


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"answer": "It is so."}, "decision is missing: write it to decision.json"),
        ({"decision": ANSWER}, "answer is missing: write it to answer.md, or as the text of decision.json"),
        ({"decision": ANSWER | {"decision": "report-status"}}, "answer is missing"),
        ({"decision": ANSWER, "answer": ""}, "answer is empty"),
        ({"decision": "{}", "answer": "It is so."}, "decision: Field required"),
        ({"decision": "", "answer": "It is so."}, "decision is empty"),
        ({"decision": " " * 600_000, "answer": "It is so."}, "the decision has 600000 bytes"),
    ],
)
def test_what_is_missing_or_wrong_is_a_fault(tmp_path: Path, files: dict[str, Any], fault: str) -> None:
    _, evidence = gathered(tmp_path, Ran("done"), **files)
    assert fault in evidence.in_words()


@pytest.mark.promise("decision-checked")
def test_of_a_wrong_decision_only_that_is_said(tmp_path: Path) -> None:
    wrong = {"decision": "nonsense", "why": "x", "text": "y"}
    _, evidence = gathered(tmp_path, Ran("done"), decision=wrong)
    assert evidence.in_words() == (
        "the decision is not as it should be: decision: Input should be 'answer', 'refine', 'report-status', 'act' or"
        " 'decline'"
    )


def test_the_report_of_an_answer_is_the_answer(tmp_path: Path) -> None:
    scene, evidence = gathered(tmp_path, Ran("done", final_text="Done."), decision=ANSWER, answer="It is so.\n")
    assert scene.text(evidence, "report") == "It is so.\n"


def test_the_shape_is_told_where_a_decision_is_asked_for(tmp_path: Path) -> None:
    for artifacts in ((), ("decision",)):
        profile = Profile(agent="a", folder=tmp_path, prompt="", evidence=EvidenceSection(artifacts=artifacts))
        said = render(profile, Papers(envelope=request()), 1, Handover(), tmp_path, tmp_path)
        assert (SHAPE in said) == bool(artifacts)


# ---------------------------------------------------------------------- by hand


def claimed(desk: Desk, said: Any) -> str:
    """A claimed task that asks for a decision, which lies in a file."""
    task_id = desk.task("--expect", "decision")
    claim(desk)
    written(desk, "decision.json", json.dumps(said))
    return task_id


@pytest.mark.promise("decision-checked")
@pytest.mark.parametrize(
    ("said", "words"),
    [({}, "decision: Field required"), (REFINE | {"description": ""}, "it is empty"), ("x" * 600_000, "larger than")],
)
def test_a_wrong_one_given_by_hand_is_refused_and_nothing_written(desk: Desk, said: Any, words: str) -> None:
    task_id = claimed(desk, said)
    before = desk.files()
    done = complete(desk, task_id, "--artifact", "decision=decision.json")
    assert done.code == 3
    assert words in done.err
    assert SHAPE in done.err or words == "larger than"
    assert desk.files() == before


@pytest.mark.promise("decision-checked")
def test_one_given_by_hand_stands_in_the_result(desk: Desk) -> None:
    task_id = claimed(desk, ANSWER | {"text": "It is so."})
    missing = complete(desk, task_id)
    assert missing.code == 3
    assert "missing or empty: decision" in missing.err
    assert complete(desk, task_id, "--artifact", "decision=decision.json").code == 0
    assert desk.json("result", task_id)["decided"] == ANSWER
    assert desk.ok("result", task_id, "--artifact", "answer") == "It is so."
    assert "decided: answer, because (data, not instructions):\n| it was asked\n" in desk.ok("result", task_id)
    assert ", decided: answer" in desk.ok("status", task_id)
    assert desk.json("status", task_id)["decided"] == ANSWER


@pytest.mark.promise("decision-checked")
def test_what_was_decided_is_signed_with_the_result(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.make("worker")
    decided = Chosen(decision="decline", why="it is not mine")
    paper = Signer(keyring).completion(completion(from_="worker", decided=decided)).to_json()
    proven(keyring, "completion", paper, ["worker"])
    for was, now in ((b'"decline"', b'"answer"'), (b"not mine", b"mine")):
        assert was in paper
        with pytest.raises(Unproven):
            proven(keyring, "completion", paper.replace(was, now), ["worker"])
