"""Who is mentioned in a text: `@agent`, outside of code, quotations and addresses."""

import bisect
import re
from collections.abc import Iterator

from agentq.messages import is_key

_MENTION = re.compile(r"(?<![\w@./+\\-])@([A-Za-z0-9][A-Za-z0-9._-]*+)(?!@)")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_QUOTED = re.compile(r" {0,3}>")
_TICKS = re.compile(r"`+")


def mentions(text: str) -> list[str]:
    """The names that are mentioned, each once, in the order of the text.

    A name ends before dots and hyphens that end it. Fenced code, code spans, lines behind `>`, and what stands behind a
    letter, a dot or a slash (`me@example.org`, `https://host/@me`) mention nobody.
    """
    named = (found[1].rstrip("._-") for part in _prose(text) for found in _MENTION.finditer(_without_spans(part)))
    return [name for name in dict.fromkeys(named) if is_key(name, 64)]


def _prose(text: str) -> Iterator[str]:
    """The parts of a text that are neither fenced nor quoted; code spans do not reach from one into another."""
    part: list[str] = []
    fence = ""
    for line in text.split("\n"):
        opens = _FENCE.match(line)
        if fence:
            fence = "" if _closes(line, fence) else fence
        elif opens or _QUOTED.match(line) or not line.strip():
            yield "\n".join(part)
            part, fence = [], opens[1] if opens else ""
        else:
            part.append(line)
    yield "\n".join(part)


def _closes(line: str, fence: str) -> bool:
    found = line.strip()
    return len(line) - len(line.lstrip(" ")) < 4 and set(found) == {fence[0]} and len(found) >= len(fence)


def _without_spans(part: str) -> str:
    """The text with a space in the place of each code span; ticks that nothing closes are as they are."""
    runs = list(_TICKS.finditer(part))
    alike: dict[int, list[int]] = {}
    for place, run in enumerate(runs):
        alike.setdefault(len(run[0]), []).append(place)
    kept, at, place = [], 0, 0
    while place < len(runs):
        same = alike[len(runs[place][0])]
        after = bisect.bisect(same, place)
        if after < len(same):
            kept += [part[at : runs[place].start()], " "]
            place = same[after]
            at = runs[place].end()
        place += 1
    return "".join((*kept, part[at:]))
