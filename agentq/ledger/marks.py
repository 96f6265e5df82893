"""By which words a task is found: a mark for each thing that a filter may name, and a place in the list."""

import functools
import hashlib
import json
from typing import TYPE_CHECKING

from agentq.ledger.facts import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = 10
"""Bits of a place that tell those apart that were created in the same microsecond."""
_LAST = 2**62


def place(seconds: float) -> int:
    """The first place in the list of a task that was created then: later ones have higher places."""
    return min(max(int(seconds * 1_000_000), 0) << PLACES, _LAST)


@functools.lru_cache(maxsize=10_000)
def mark(kind: str, value: str) -> str:
    """The word that stands for one value of a kind, such as an agent: four ideographs, which no text has in that order.

    So short that few of its beginnings get lists of their own.
    """
    digest = hashlib.blake2b(f"{kind}\0{value}".encode(errors="replace"), digest_size=8).digest()
    return "".join(chr(0x4E00 + int.from_bytes(digest[i : i + 2]) % 0x5000) for i in range(0, 8, 2))


def words_of(row: Row) -> str:
    """What a task is found by: all that it can be filtered by, and the texts that people search in."""
    marks = (mark(kind, value) for kind, value in _values(row) if value)
    return " ".join((*marks, *(row[name] for name in ("task_id", "title", "summary", "reason") if row[name])))


def _values(row: Row) -> "Iterator[tuple[str, str | None]]":
    yield from (("state", row["state"]), ("agent", row["agent"]), ("type", row["type"]), ("sender", row["sender"]))
    yield "group", row["grp"]
    if row["members"]:
        yield "kind", "plan"
    yield from (("gate", gate) for gate in gates_of(row))
    for key, value in json.loads(row["labels"] or "{}").items():
        yield "label", key
        yield "label", f"{key}={value}"
    for needed in json.loads(row["depends_on"] or "[]"):
        yield "needs", needed


def gates_of(row: Row) -> "Iterator[str]":
    """What a pending task may wait for besides its queue; what it does wait for, time and other tasks decide."""
    if row["state"] != "pending" or row["members"]:
        return
    if row["depends_on"] and row["released_at"] is None:
        yield "dependencies"
    if row["until"] is not None:
        yield "delayed"
    if row["requires_approval"] and row["approved_at"] is None:
        yield "approval"
