"""Threads under every order of steps, crashes and lost answers. INTERLEAVINGS=20000 looks further."""

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.threads.papers import End, Post
from agentq.threads.streams import text_of
from agentq.threads.threads import Threads
from tests.simulation import Turn
from tests.threads.world import OTHER, Broken, Editor, Gathering, Grower, Keeper, Poster, Role, ThreadsWorld

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "100"))

pytestmark = [pytest.mark.timeout(0)] if "INTERLEAVINGS" in os.environ else []

FAULTS = ("crash-before", "crash-after", "lost-answer", "refused", "late")
turns = st.builds(
    Turn,
    who=st.integers(0, 9),
    steps=st.integers(0, 4) | st.integers(1, 20),
    fault=st.none() | st.sampled_from(FAULTS),
    writes=st.booleans(),
)
posters = st.builds(
    Poster,
    text=st.sampled_from(("@writer and @checker, look", "@writer!", "nobody")),
    thread=st.sampled_from(("thr", OTHER)),
)
growers = st.builds(
    Grower,
    pieces=st.lists(st.sampled_from(("one ", "two ", "a longer piece ", "@writer ")), max_size=3).map(tuple),
    ends=st.sampled_from(("completed", "failed", None)),
)
editors = st.builds(Editor, st.sampled_from(("accept", "accept", "decline", "describe")))
keepers = st.builds(Keeper, rounds=st.integers(1, 3), silence=st.booleans())
roles = st.lists(posters | growers | editors | keepers, min_size=2, max_size=4).map(tuple)
GATHERING: dict[str, st.SearchStrategy[Any]] = {
    "roles": roles,
    "turns": st.lists(turns, max_size=40).map(tuple),
    "rule": st.sampled_from(("ask", "accept")),
    "newcomers": st.integers(0, 7),
}
searched = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.promise("message-asks-once")
@pytest.mark.promise("growing-messages")
@searched
@given(st.builds(Gathering, **GATHERING))
def test_what_was_acknowledged_holds_and_nothing_is_left_undone(gathering: Gathering) -> None:
    ThreadsWorld(gathering).play()


# ---------------------------------------------------------------------- what the search would find


class Unmarked(Threads):
    """Posts a message before anything says what is to follow it."""

    def _create(self, post: Post) -> tuple[Post, bool]:
        held = self.shelf.post(post)
        self.shelf.owe("asking" if post.state == "completed" else "streaming", post.thread_id, post.message_id)
        return held, held is post


class Hasty(Threads):
    """Takes for done what is not in its queue."""

    def settle(self, thread_id: str, message_id: str) -> bool:
        self.shelf.paid("asking", thread_id, message_id)
        return True

    def _follow_up(self, thread_id: str, message_id: str) -> None:
        super()._follow_up(thread_id, message_id)
        self.settle(thread_id, message_id)


class Unsealed(Threads):
    """Ends a message with what it has read of it, and keeps no place for that."""

    def _end(self, post: Post, state: Any, reason: str | None, by: str) -> End:
        pieces = self.shelf.pieces(post.thread_id, post.message_id)
        text = text_of([piece for piece in pieces if not piece.end])
        end = End(
            thread_id=post.thread_id,
            message_id=post.message_id,
            state=state,
            text=text,
            reason=reason,
            by=by,
            at=post.at,
        )
        self.shelf.owe("asking", post.thread_id, post.message_id)
        held = self.shelf.end(end)
        self.shelf.paid("streaming", post.thread_id, post.message_id)
        self._follow_up(post.thread_id, post.message_id)
        return held


@pytest.mark.parametrize("threads", [Unmarked, Hasty, Unsealed])
def test_the_search_finds_what_is_wrong(threads: type[Threads]) -> None:
    chance = Random(3)
    assert any(_breaks(_any_gathering(chance), threads) for _ in range(2000))


def _breaks(gathering: Gathering, threads: type[Threads]) -> bool:
    try:
        ThreadsWorld(gathering, threads).play()
    except Broken:
        return True
    return False


def _any_gathering(chance: Random) -> Gathering:
    """One with a crash somewhere, or none."""
    makers: list[Callable[[], Role]] = [
        Poster,
        lambda: Grower(pieces=("one ", "two "), ends=chance.choice(("completed", None))),
        lambda: Keeper(rounds=2, silence=chance.random() < 0.5),
    ]
    turns = tuple(
        Turn(
            chance.randrange(10),
            chance.randrange(12),
            chance.choice((None, None, *FAULTS)),
            writes=chance.random() < 0.5,
        )
        for _ in range(chance.randrange(1, 12))
    )
    return Gathering(tuple(chance.choice(makers)() for _ in range(chance.randrange(2, 4))), turns)
