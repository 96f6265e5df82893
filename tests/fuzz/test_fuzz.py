"""Every target is fed with anything, bounded and without a search for coverage; `make fuzz` does that."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**30, "", " ", "\x00", "\ud800", "../../x", "a" * 5000, [], {}, [[[]]], {"": None},
    "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z", "NaN", "file:///etc/passwd", "task-1",
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
    start = 1 if seed[:1] < b" " else 0
    try:
        value = json.loads(seed[start:])
    except ValueError:
        return damaged(seed)
    places = list(_places(value))
    if not places:
        return damaged(seed)

    def put(change: tuple[int, Any]) -> bytes:
        copy = json.loads(seed[start:])
        *path, last = places[change[0] % len(places)]
        here = copy
        for step in path:
            here = here[step]
        here[last] = change[1]
        return seed[:start] + json.dumps(copy).encode()

    return st.tuples(st.integers(0, 1000), st.sampled_from(ODD)).map(put)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in steps:
        yield (*path, step)
        yield from _places(item, (*path, step))


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
