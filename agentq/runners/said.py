"""What a program said in JSON: whoever asks for what is not there, or is something else, gets an empty answer."""

import json
import math
from collections.abc import Iterator
from typing import Any

MOST = 1 << 53
"""What is counted is below this; no tool counts more tokens."""


class Said:
    """A JSON value of somebody else's. Nothing that it holds can make reading it fail."""

    __slots__ = ("_value",)

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def __getitem__(self, key: str) -> "Said":
        """What an object has under a key."""
        return Said(self._value.get(key) if isinstance(self._value, dict) else None)

    def __iter__(self) -> Iterator["Said"]:
        """What a list, or an object under whatever keys, holds."""
        value = list(self._value.values()) if isinstance(self._value, dict) else self._value
        return map(Said, value if isinstance(value, list) else ())

    def __bool__(self) -> bool:
        """Whether it is something: neither missing nor empty, zero or false."""
        return bool(self._value)

    def __str__(self) -> str:
        """It as JSON."""
        return json.dumps(self._value)

    @property
    def text(self) -> str:
        """A text, without half characters."""
        value = self._value if isinstance(self._value, str) else ""
        return value.encode(errors="replace").decode()

    @property
    def number(self) -> float | None:
        """A number that is none below zero and not endless."""
        value = self._value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MOST:
            return None
        return float(value) if math.isfinite(value) else None

    @property
    def count(self) -> int | None:
        """A whole number."""
        return None if self.number is None else int(self.number)


def total(*counts: int | None) -> int | None:
    """The sum of what is known, None when nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def parsed(line: bytes) -> Said | None:
    """The JSON object on a line, None when there is none."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return Said(value) if isinstance(value, dict) else None


class Lines:
    """Puts chunks of bytes together to lines; what is longer than `longest` bytes is left out up to its end."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._begun = bytearray()
        self._too_long = False

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that this chunk completes."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._keep(end)
            if not self._too_long:
                yield bytes(self._begun)
            self._begun.clear()
            self._too_long = False
        self._keep(rest)

    def rest(self) -> bytes:
        """The last line, which has no end."""
        return b"" if self._too_long else bytes(self._begun)

    def _keep(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._begun) + len(part) > self._longest
        if self._too_long:
            self._begun.clear()
        else:
            self._begun += part
