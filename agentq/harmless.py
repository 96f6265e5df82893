"""Words for whoever reads: others' are made harmless, so that they steer no terminal, no log and no model."""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with control characters and what cannot be seen written out; its lines and tabs stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def visible_json(text: str) -> str:
    """The same for JSON, which stays the same JSON."""
    return _UNSEEN.sub(lambda found: _escaped(found[0]), text)


def one_line(text: str | None) -> str:
    """The text as one visible line, so that it cannot pass for another line of ours."""
    return visible(" ".join((text or "").split()))


def quoted(text: str) -> str:
    """The text with a bar before each line: whatever it says, it is seen to be somebody else's."""
    return "\n".join(f"| {line}".rstrip() for line in visible(text).split("\n"))


def size(count: int) -> str:
    """A number of bytes in a few characters."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
