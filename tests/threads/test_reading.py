"""A thread as it is shown, from papers and events alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq.events import Event
from agentq.messages import Chosen, Completion
from agentq.threads.papers import Ask, Declined, End, Piece, Post, Thread, Version
from agentq.threads.reading import GAP, Answered, Papers, Shown, View, so_far, view

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
THREAD = Thread(thread_id="t", title="A trip", by="ann", created_at=AT, description="To the sea.")
ASK = Ask(agent="writer", type="mention", task_id="m.writer")
ASKING = Post(thread_id="t", message_id="m", author="ann", at=AT, text="@writer", asks=(ASK,))
GROWING = Post(thread_id="t", message_id="g", author="bob", at=AT, text="", state="generating")


def manifest(status: Any = "completed", **more: Any) -> Completion:
    return Completion(
        task_id="m.writer",
        from_="writer",
        to="ann",
        status=status,
        attempt=2,
        finished_at=AT,
        **({"reason": None} | more),
    )


def reply(offset: int, text: str, attempt: int = 1) -> Event:
    said = {"offset": offset, "text": text}
    return Event(
        id=f"m.writer/reply/{attempt}/{offset}", kind="reply", at=AT, task_id="m.writer", attempt=attempt, data=said
    )


def answer(answered: Answered | None, *replies: Event) -> Shown:
    """The answer, as the thread shows it."""
    papers = Papers(THREAD, posts=[ASKING], answers={"m.writer": answered} if answered else {})
    _, shown = view(papers, {"m.writer": replies}).messages
    assert (shown.message_id, shown.task_id, shown.answers, shown.kind) == ("m.writer", "m.writer", "m", "agent")
    return shown


def test_an_answer_is_there_as_soon_as_it_is_asked_for() -> None:
    shown = answer(None)
    assert (shown.state, shown.text, shown.offset, shown.task_state) == ("generating", "", 0, None)


def test_it_grows_by_what_is_told() -> None:
    running = Answered(state="processing", attempt=1)
    shown = answer(running, reply(0, "Hel"), reply(3, "lo"))
    assert (shown.state, shown.text, shown.offset, shown.attempt) == ("generating", "Hello", 5, 1)


def test_an_attempt_that_has_begun_makes_what_was_written_before_void() -> None:
    shown = answer(Answered(state="processing", attempt=2), reply(0, "Hel"))
    assert (shown.attempt, shown.text, shown.offset) == (2, "", 0)
    shown = answer(Answered(state="pending"), reply(0, "Hel"), reply(0, "Go", 2))
    assert (shown.attempt, shown.text) == (2, "Go")


def test_an_attempt_that_came_to_nothing_is_told_until_another_begins() -> None:
    assert not answer(Answered(state="pending")).interrupted
    assert answer(Answered(state="pending", attempt=1), reply(0, "Hel")).interrupted
    assert not answer(Answered(state="processing", attempt=2), reply(0, "Hel")).interrupted


@pytest.mark.promise("answer-never-stuck")
@pytest.mark.parametrize(
    ("status", "state"),
    [("completed", "completed"), ("failed", "failed"), ("cancelled", "failed"), ("expired", "failed")],
)
def test_whatever_ends_its_task_ends_it(status: str, state: str) -> None:
    ended = Answered(state=status, attempt=2, manifest=manifest(status, reason="so"), text="Whole.")
    shown = answer(ended, reply(0, "Half", 2))
    assert (shown.state, shown.task_state, shown.finished_at) == (state, status, AT)
    assert shown.text == ("Whole." if state == "completed" else "Half")
    assert shown.reason == (None if state == "completed" else "so")


@pytest.mark.promise("answer-never-stuck")
def test_one_whose_id_is_anothers_has_failed() -> None:
    assert answer(Answered(is_anothers=True)).state == "failed"


@pytest.mark.promise("answer-never-stuck")
def test_one_whose_papers_are_damaged_has_failed() -> None:
    shown = answer(Answered(fault="the paper is damaged"))
    assert (shown.state, shown.reason) == ("failed", "the paper is damaged")


def test_it_says_what_was_decided_and_why() -> None:
    decided = Chosen(decision="decline", why="not mine")
    assert answer(Answered(manifest=manifest(decided=decided), text="No.")).decided == decided


def test_a_message_that_grows_is_shown_as_far_as_it_is_and_whole_in_the_end() -> None:
    pieces = [Piece(thread_id="t", message_id="g", offset=0, text="Hel", by="bob", at=AT)]
    (shown,) = view(Papers(THREAD, posts=[GROWING], pieces={"g": pieces})).messages
    assert (shown.state, shown.text, shown.offset) == ("generating", "Hel", 3)
    end = End(thread_id="t", message_id="g", state="failed", text="Hello", reason="silent", by="agentq", at=AT)
    (shown,) = view(Papers(THREAD, posts=[GROWING], ends={"g": end})).messages
    assert (shown.state, shown.text, shown.reason, shown.offset) == ("failed", "Hello", "silent", 5)


def test_answers_stand_behind_the_message_that_asked() -> None:
    later = ASKING.model_copy(update={"message_id": "n", "at": AT + timedelta(seconds=1), "asks": ()})
    found = view(Papers(THREAD, posts=[later, ASKING]))
    assert [one.message_id for one in found.messages] == ["m", "m.writer", "n"]


def proposal(**papers: Any) -> View:
    decided = Chosen(decision="refine", why="clearer")
    ended = Answered(manifest=manifest(decided=decided), text="Done.", proposes="To the lake.")
    return view(Papers(THREAD, posts=[ASKING], answers={"m.writer": ended}, **papers))


def version(number: int, **more: Any) -> Version:
    return Version(thread_id="t", number=number, text="To the lake.", by="bob", at=AT, **more)


def test_what_becomes_of_a_proposal() -> None:
    def state(**papers: Any) -> str:
        (one,) = proposal(**papers).proposals
        assert (one.base, one.text, one.why, one.agent) == (0, "To the lake.", "clearer", "writer")
        return one.state

    declined = {"m.writer": Declined(thread_id="t", task_id="m.writer", by="bob", at=AT)}
    accepted = {1: version(1, from_task="m.writer")}
    assert state() == "open"
    assert state(declined=declined) == "declined"
    assert state(versions=accepted, current=1) == "accepted"
    assert state(versions=accepted, current=1, declined=declined) == "accepted"
    assert state(versions={1: version(1)}, current=1) == "stale"


def test_a_proposal_is_no_description_until_it_is_accepted() -> None:
    assert proposal().description.text == "To the sea."
    found = proposal(versions={1: version(1, from_task="m.writer")}, current=1)
    assert (found.description.number, found.description.text) == (1, "To the lake.")


@given(st.lists(st.text(min_size=1, max_size=5), max_size=8), st.randoms(use_true_random=False))
def test_pieces_make_the_text_in_whatever_order_and_however_often_they_come(pieces: list[str], chance: Any) -> None:
    text, events = "", []
    for piece in pieces:
        events.append(reply(len(text), piece))
        text += piece
    told = events + [event for event in events if chance.random() < 0.5]
    chance.shuffle(told)
    assert so_far(told, 0) == (1, text, len(text))


def test_a_word_stands_for_what_the_log_has_no_more() -> None:
    assert so_far([reply(5, "world")], 0) == (1, f"{GAP}world", 10)


@given(st.lists(st.builds(reply, st.integers(-3, 20), st.text(max_size=5), st.integers(0, 3)), max_size=10))
def test_whatever_others_told_has_an_answer(events: list[Event]) -> None:
    odd = [event.model_copy(update={"data": {"offset": "x", "text": 3}}) for event in events[:2]]
    so_far([*events, *odd], 1)
