"""What of an agent's output goes into the log: whole lines where possible, bounded, and without credentials."""

import codecs
import time
from collections.abc import Iterator, Sequence

from agentq.credentials import Find, blanked, finds

PIECE = 8 * 1024
"""Bytes of an event's text: as JSON a control character takes six."""
HOLD = 1.0
"""Seconds that a line is held which is not ended."""
CONTEXT = 1024
"""Bytes before a text that are looked at too: a credential that was printed in two parts is still one."""
_SPACES = b" \t\r"


class Allowance:
    """How much may be told: so many bytes a second, and so many in all."""

    def __init__(self, rate: int, total: int) -> None:
        self._rate, self._now, self._left = rate, float(rate), total
        self._at = time.monotonic()

    def take(self, wanted: int) -> int:
        """What of so many bytes may be told; it is used up by that."""
        at = time.monotonic()
        self._now, self._at = min(self._rate, self._now + self._rate * (at - self._at)), at
        given = min(wanted, int(self._now), self._left)
        self._now -= given
        self._left -= given
        return given


class Output:
    """What was heard of both streams and is to be told, line by line in the order of the lines' ends."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._strands = {1: Strand(), 2: Strand()}
        self._ready: list[Part] = []
        self._offset = 0
        self.heard = 0
        """Bytes."""
        self.left_out = 0
        """Bytes that were left out since the last that will be told."""

    def take(self, stream: int, chunk: bytes) -> None:
        """Keep what may be told, up to the end of a line; the rest of a flood is left out."""
        self.heard += len(chunk)
        strand = self._strands[stream]
        given = self._allowance.take(len(chunk))
        kept = len(chunk) if given == len(chunk) else chunk.rfind(b"\n", 0, given) + 1
        self._add(strand, strand.take(chunk[:kept]))
        if kept < len(chunk):
            strand.miss(len(chunk) - kept)
        self._miss(strand)

    def patience(self) -> float | None:
        """Seconds until a line that is not ended is told as it is; None when there is none."""
        due = [strand.due for strand in self._strands.values() if strand.held]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def let_go(self, *, everything: bool = False) -> None:
        """Tell as they are the lines that were not ended for too long."""
        for strand in self._strands.values():
            self._add(strand, strand.let_go(everything=everything))

    def ready(self) -> "list[Part]":
        """What is to be told now."""
        ready, self._ready = self._ready, []
        return ready

    def _add(self, strand: "Strand", data: bytes) -> None:
        if not data:
            return
        last = self._ready[-1] if self._ready else None
        if last and last.strand is strand and not self.left_out:
            last.data += data
        else:
            self._ready.append(Part(strand, self._offset, data, self.left_out))
            self.left_out = 0
        self._offset += len(data)

    def _miss(self, strand: "Strand") -> None:
        self.left_out += strand.missed
        self._offset += strand.missed
        strand.missed = 0


class Strand:
    """One of an agent's two streams: its lines, and what is held of the one that is not ended."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.missed = 0
        """Bytes that were left out since this was read."""
        self.context = b""
        self._torn = False
        self._added_at = self._begun_at = 0.0

    @property
    def due(self) -> float:
        """When what is held is let go of."""
        return self._begun_at + HOLD

    def take(self, chunk: bytes) -> bytes:
        """Add to the stream; answers with the lines that have ended by it."""
        if self._torn:  # the rest of a line whose beginning was left out might be half a credential
            end = chunk.find(b"\n") + 1 or len(chunk)
            self.missed += end
            self._torn = not chunk[:end].endswith(b"\n")
            chunk = chunk[end:]
        now = time.monotonic()
        self._begun_at = self._begun_at if self.held else now
        self._added_at = now
        self.held += chunk
        return self._cut(self.held.rfind(b"\n") + 1)

    def miss(self, count: int) -> None:
        """So much of the stream is left out, and with it what is held of that line."""
        self.missed += count + len(self.held)
        self.held.clear()
        self._torn = True

    def let_go(self, *, everything: bool) -> bytes:
        """What was held for long enough of a line that is not ended: its words, and all of it when nothing follows."""
        now = time.monotonic()
        if everything or not self.held:
            return self._cut(len(self.held))
        if now < self.due:
            return b""
        self._begun_at = now
        if now < self._added_at + HOLD and len(self.held) < CONTEXT:
            return self._cut(max(self.held.rfind(space) for space in _SPACES) + 1)
        return self._cut(whole_characters(self.held) or len(self.held))

    def _cut(self, end: int) -> bytes:
        data = bytes(self.held[:end])
        del self.held[:end]
        return data


class Part:
    """What one stream printed: `offset` counts the bytes before it, `left_out` those just before that are not told."""

    def __init__(self, strand: Strand, offset: int, data: bytes, left_out: int) -> None:
        self.strand, self.offset, self.data, self.left_out = strand, offset, data, left_out

    def pieces(self) -> "Iterator[Piece]":
        """Its text in events' sizes, without credentials; to be asked in the order of the parts."""
        context = b"" if self.left_out else self.strand.context
        whole, start = context + self.data, len(context)
        self.strand.context = whole[-CONTEXT:]
        found = finds(whole)
        offset, left_out = self.offset, self.left_out
        while start < len(whole):
            end = _end_of_piece(whole, start, found)
            yield Piece(offset, _text(whole, start, end, found), left_out)
            offset, left_out, start = offset + end - start, 0, end


class Piece:
    """What one event tells."""

    def __init__(self, offset: int, text: str, left_out: int) -> None:
        self.offset, self.text, self.left_out = offset, text, left_out


def _end_of_piece(data: bytes, start: int, found: Sequence[Find]) -> int:
    """Where an event's text ends: with a line, else with a character, and in no credential."""
    end = start + PIECE
    if end >= len(data):
        return len(data)
    end = data.rfind(b"\n", start, end) + 1 or start + whole_characters(data[start:end])
    return next((find.end for find in found if find.start < end < find.end), end)


def _text(data: bytes, start: int, end: int, found: Sequence[Find]) -> str:
    inside = (find for find in found if find.end > start and find.start < end)
    moved = [find._replace(start=max(find.start - start, 0), end=min(find.end, end) - start) for find in inside]
    return blanked(data[start:end], moved).decode(errors="replace")


def whole_characters(data: bytes | bytearray) -> int:
    """How many of these bytes are whole characters of UTF-8, or none at all."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])
