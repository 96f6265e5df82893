"""What travels: envelopes of any producer, and what is refused before anyone acts on it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from agentq.errors import Invalid
from agentq.messages import ENVELOPE_LIMIT, Completion, Envelope, explain, new_task_id, parse_envelope

FOREIGN = {
    "task_id": "task-123",
    "from": "coordinator",
    "to": "implementation-worker",
    "type": "implementation",
    "priority": "normal",
    "ttl_seconds": 3600,
    "reply_to": "results.coordinator",
    "context_ref": "file:///shared/tasks/task-123.md",
    "instructions": "Implement one scoped change and run tests.",
    "expected_output": {"format": "markdown", "artifacts": ["summary", "patch", "test-output", "risks"]},
}
LEAST = {"task_id": "task-1", "to": "worker", "type": "work", "instructions": "Do it."}

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def body(**changes: Any) -> bytes:
    return json.dumps({**LEAST, **changes}).encode()


def parse(**changes: Any) -> Envelope:
    return parse_envelope(body(**changes))


@pytest.mark.promise("foreign")
def test_the_missions_ten_fields_are_enough() -> None:
    envelope = parse_envelope(json.dumps(FOREIGN).encode())
    assert envelope.is_foreign
    sent = json.loads(envelope.to_json())
    assert {key: sent[key] for key in FOREIGN} == FOREIGN


def test_unknown_fields_are_kept_at_every_level() -> None:
    envelope = parse(mood="calm", nested={"a": [1, None]}, expected_output={"format": "text", "pages": 3})
    passed_on = json.loads(parse_envelope(envelope.to_json()).to_json())
    assert passed_on["mood"] == "calm"
    assert passed_on["nested"] == {"a": [1, None]}
    assert passed_on["expected_output"]["pages"] == 3


def test_the_completion_keeps_unknown_fields_too() -> None:
    completion = Completion.model_validate(
        {"task_id": "t", "from": "w", "to": "c", "status": "completed", "attempt": 1, "mood": "calm"}
        | {"finished_at": "2026-11-22T10:00:00Z"}
    )
    assert json.loads(completion.to_json())["mood"] == "calm"


@pytest.mark.promise("garbage")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not an object: list"),
        (b"null", "not an object"),
        (b"[" * 100_000, f"an envelope may have {ENVELOPE_LIMIT}"),
        (b"[" * 60_000, "not JSON"),
        (b"1" * 5_000, "not JSON"),
        (body(x=float("nan")), "not JSON"),
        (body().replace(b'"Do it."', b'"Do it.", "x": 1e999'), "not JSON"),
        (body(instructions="\ud800"), "half a character"),
        (body(x={"\udfff": 1}), "half a character"),
        (body().replace(b'"Do it."', b'"Do it.", "x": ' + b"[" * 500 + b"]" * 500), "nested too deeply"),
        (b"{}", "task_id: Field required"),
        (body(version=2), "version 2 is newer than this agentq understands"),
        (body(instructions=" \n"), "instructions are empty"),
        (body(priority="asap"), "priority: Input should be"),
        (body(ttl_seconds=0), "ttl_seconds"),
        (body(ttl_seconds=1e12), "ttl_seconds"),
        (body(max_attempts=0), "max_attempts"),
        (body(created_at="2026-11-22T10:00:00"), "timezone"),
    ],
)
def test_what_is_no_envelope_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse_envelope(data)


@pytest.mark.parametrize(
    "task_id", ["", ".", "..", "../x", "a/b", "/a", ".a", "-a", "a b", "ä", "a\n", "a" * 129, "a\0"]
)
def test_an_id_that_cannot_be_a_key_is_refused(task_id: str) -> None:
    for field in ({"task_id": task_id}, {"group": task_id}, {"retry_of": task_id}, {"depends_on": [task_id]}):
        with pytest.raises(Invalid, match="no valid envelope"):
            parse(**field)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a" * 65])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    for field in ({"to": name}, {"from": name}, {"type": name}, {"expected_output": {"artifacts": [name]}}):
        with pytest.raises(Invalid, match="no valid envelope"):
            parse(**field)


def test_an_envelope_has_at_most_64_kib() -> None:
    room = ENVELOPE_LIMIT - len(body(instructions=""))
    assert parse(instructions="x" * room).instructions == "x" * room
    with pytest.raises(Invalid, match=f"{ENVELOPE_LIMIT + 1} bytes"):
        parse(instructions="x" * (room + 1))


def explanation_of(change: dict[str, Any]) -> str | None:
    try:
        Envelope.model_validate({**LEAST, **change})
    except ValidationError as error:
        return explain(error)
    return None


@pytest.mark.promise("words-not-tracebacks")
def test_an_explanation_never_repeats_a_value() -> None:
    secret = "hunter2"
    changes: list[dict[str, Any]] = [
        {name: value}
        for name in Envelope.model_fields
        for value in (secret, [secret], {"a": [secret]}, [{"a": secret}])
        if name not in ("from_", "instructions")
    ]
    explanations = [text for change in changes if (text := explanation_of(change))]
    assert len(explanations) > 50
    assert [text for text in explanations if secret in text] == []


def test_an_explanation_names_every_fault_on_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Envelope.model_validate({**LEAST, "to": "a b", "expected_output": {"artifacts": ["x/y"]}, "labels": {"k": 1}})
    text = explain(caught.value)
    assert "\n" not in text
    assert [part.split(":")[0] for part in text.split("; ")] == ["to", "expected_output.artifacts.0", "labels.k"]


@pytest.mark.promise("submit-idempotent")
def test_the_request_digest_is_over_what_was_asked() -> None:
    asked = parse_envelope(json.dumps(FOREIGN).encode())
    registered = asked.model_copy(
        update={
            "created_at": datetime.now(UTC),
            "store": "file:///x",
            "request_sha256": "0" * 64,
            "traceparent": "00-1",
        }
    )
    again = parse_envelope(registered.to_json())
    assert asked.request_digest() == registered.request_digest() == again.request_digest()
    for change in ({"instructions": "Other."}, {"to": "x"}, {"priority": "high"}, {"labels": {"a": "b"}}, {"extra": 1}):
        assert asked.model_copy(update=change).request_digest() != asked.request_digest()


def test_the_request_digest_stays_the_same_for_ever() -> None:
    # It is in every store: another digest for the same request would refuse all waiting tasks.
    digest = parse_envelope(json.dumps(FOREIGN).encode()).request_digest()
    assert digest == "3c8c1bd19fd274c8c0dd0789d45ccc091b1b31f2c2f33ff9a382db142a465276"


def test_a_default_that_is_spelled_out_is_the_same_request() -> None:
    spelled = parse(**{"from": "coordinator", "priority": "normal", "expected_output": {"format": "markdown"}})
    assert spelled.request_digest() == parse().request_digest()


def test_a_delay_is_what_was_asked_and_the_time_that_follows_from_it_is_not() -> None:
    first, again = (parse(delay_seconds=60).registered("file:///s", moment) for moment in (NOW, NOW + timedelta(1)))
    assert (first.not_before, again.not_before) == (NOW + timedelta(seconds=60), NOW + timedelta(1, seconds=60))
    assert first.request_digest() == again.request_digest() == first.request_sha256
    assert parse(delay_seconds=61).request_digest() != first.request_sha256
    first, second = (parse(not_before=f"2030-01-0{day}T00:00:00Z") for day in (1, 2))
    assert first.request_digest() != second.request_digest()


def test_new_ids_differ_and_are_keys() -> None:
    ids = {new_task_id() for _ in range(100)}
    assert len(ids) == 100
    for task_id in ids:
        parse(task_id=task_id)
