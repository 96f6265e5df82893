"""Evidence of which any part can be sent: once the whole was found right, each block is checked before it is sent."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agentq.artifacts import Artifacts, altered
from agentq.messages import Artifact

BLOCK = 256 * 1024
PIECES = 1000
"""Of so many pieces the digests are remembered, at most."""
REMEMBERED = 1 << 18
"""So many digests are remembered, if not all are of one piece: 8 MiB for 64 GiB of evidence."""


@dataclass(frozen=True, slots=True)
class Known:
    """A piece that was right when all of it was read: its size, and the digests of its blocks, one behind the other."""

    size: int
    digests: bytes


class Blocks:
    """What is known of the pieces that were asked for last. May be used from any thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, artifacts: Artifacts, item: Artifact) -> Known:
        """A piece as it is known, read for that when it is not; raises EvidenceError unless it has its digest then."""
        with self._lock:
            if found := self._known.get(_key(item)):
                self._known.move_to_end(_key(item))
                return found
        found = _read(artifacts, item)
        with self._lock:
            self._known[_key(item)] = found
            while len(self._known) > 1 and self._is_too_much:
                self._known.popitem(last=False)
        return found

    @property
    def _is_too_much(self) -> bool:
        held = sum(len(one.digests) for one in self._known.values())
        return len(self._known) > PIECES or held > 32 * REMEMBERED

    def part(self, stream: BinaryIO, item: Artifact, known: Known, start: int, length: int) -> Iterator[bytes]:
        """So many bytes of a piece that is known, from `start` on; the stream is closed at the end.

        Raises EvidenceError before anything of a block that was altered since; then the piece is not known any more.
        """
        first, end = start // BLOCK * BLOCK, start + length
        with stream:
            _skip(stream, first)
            for at in range(first, end, BLOCK):
                block, place = _block(stream), at // BLOCK * 32
                if hashlib.sha256(block).digest() != known.digests[place : place + 32]:
                    self._forget(item)
                    raise altered(item)
                yield block[max(0, start - at) : end - at]

    def _forget(self, item: Artifact) -> None:
        with self._lock:
            self._known.pop(_key(item), None)


def _key(item: Artifact) -> tuple[str, str]:
    return item.ref, item.sha256


def _read(artifacts: Artifacts, item: Artifact) -> Known:
    whole, digests, size = hashlib.sha256(), bytearray(), 0
    with artifacts.open(item) as stream:
        while block := _block(stream):
            whole.update(block)
            digests += hashlib.sha256(block).digest()
            size += len(block)
    if whole.hexdigest() != item.sha256:
        raise altered(item)
    return Known(size, bytes(digests))


def _block(stream: BinaryIO) -> bytes:
    """The next block, whole unless it is the last one."""
    found = bytearray()
    while len(found) < BLOCK and (chunk := stream.read(BLOCK - len(found))):
        found += chunk
    return bytes(found)


def _skip(stream: BinaryIO, count: int) -> None:
    if stream.seekable():
        stream.seek(count)
        return
    while count and (chunk := stream.read(min(BLOCK, count))):
        count -= len(chunk)
