"""Every target is fed with anything, bounded and without a search for coverage; `make fuzz` does that."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**30, "", " ", "\x00", "\ud800", "../../x", "a" * 5000, [], {}, [[[]]], {"": None},
    "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z", "NaN", "file:///etc/passwd", "task-1", 2, 3, "task-2",
)  # fmt: skip


def damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    """A seed with bytes cut out, doubled, replaced or put in."""

    def cut(change: tuple[int, int, bytes]) -> bytes:
        at, length, put = change
        at %= len(seed) + 1
        return seed[:at] + put + seed[at + length :]

    return st.tuples(st.integers(0, 5000), st.integers(0, 50), st.binary(max_size=8)).map(cut)


def bent(seed: bytes) -> st.SearchStrategy[bytes]:
    """JSON with an odd value in one of its places; other seeds are damaged."""
    places = _places(_value(seed))
    if not places:
        return damaged(seed)
    return st.tuples(st.sampled_from(places), st.sampled_from(ODD)).map(lambda change: _put(seed, *change))


def every_bent(seed: bytes) -> Iterator[bytes]:
    """JSON with each odd value in each of its places."""
    return (_put(seed, place, odd) for place in _places(_value(seed)) for odd in ODD)


def _start(seed: bytes) -> int:
    return 1 if seed[:1] < b" " else 0


def _value(seed: bytes) -> Any:
    try:
        return json.loads(seed[_start(seed) :])
    except ValueError:
        return None


def _put(seed: bytes, place: tuple[Any, ...], odd: Any) -> bytes:
    value = here = _value(seed)
    *path, last = place
    for step in path:
        here = here[step]
    here[last] = odd
    return seed[: _start(seed)] + json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, ...]]:
    return list(_paths(value))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in steps:
        yield (*path, step)
        yield from _paths(item, (*path, step))


@pytest.mark.promise("no-crash")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_words_comes_of_anything(name: str) -> None:
    """No exception but an AgentqError, no refusal without a reason, nothing written where it does not belong."""
    inputs = st.sampled_from(seeds(name)).flatmap(lambda seed: bent(seed) | damaged(seed)) | st.binary(max_size=200)
    count = {"paper": 120, "paper-on-disk": 30}.get(name, 250)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def feed(data: bytes) -> None:
        TARGETS[name](data)

    for seed in seeds(name):
        TARGETS[name](seed)
    feed()


@pytest.mark.promise("no-crash")
@pytest.mark.parametrize("number", range(len(seeds("paper"))))
def test_no_odd_value_in_any_place_of_any_paper_breaks_or_holds_up_a_reader(number: int) -> None:
    """What ends here in a time-out holds up every worker that meets the task."""
    for data in every_bent(seeds("paper")[number]):
        TARGETS["paper"](data)
