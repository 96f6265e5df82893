"""An object on its way to a gateway or from it: its pieces, and then the digest of all of them, or what went wrong.

Whatever breaks off, or is altered on its way, has no end that fits. A piece is a letter, its length, and its bytes.
"""

import hashlib
import struct
from collections.abc import Generator, Iterator

MEDIA_TYPE = "application/vnd.agentq.object"
STATE = "Agentq-Object"
"""The header of every answer of a store's door, so that no answer of a proxy passes for one: `here`, `none`, `created`,
`taken`, `written`, `gone`, `list`."""
DURABLE = "Agentq-Durable"
READ_SO_FAR = "Agentq-Read-Sha256"
"""The digest of what was read before a read that goes on from there, which proves that it is the same object still."""
CHUNK = 1 << 18
LONGEST_PROBLEM = 1 << 16

_HEAD = struct.Struct(">cI")
_PIECE, _END, _PROBLEM = b"D", b"E", b"X"


class Garbled(ValueError):
    """That is no object in pieces."""


def piece(data: bytes) -> bytes:
    """Some bytes of it; none of them to say that one is at work."""
    return _HEAD.pack(_PIECE, len(data)) + data


def end(sha256: str) -> bytes:
    """That this is all, and its digest in hex."""
    return _HEAD.pack(_END, len(sha256)) + sha256.encode()


def problem(text: bytes) -> bytes:
    """That there will be no end, and why, as a problem in JSON."""
    return _HEAD.pack(_PROBLEM, len(text)) + text


class Pieces:
    """Puts an object together from what arrives; holds nothing of it."""

    def __init__(self) -> None:
        self.sha256: str | None = None
        """What its sender says its digest is, None before its end."""
        self.problem: bytes | None = None
        self._digest = hashlib.sha256()
        self._head, self._kind, self._left, self._rest = b"", b"", 0, b""

    @property
    def read_so_far(self) -> str:
        """The digest of all that came."""
        return self._digest.hexdigest()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.sha256 is not None or self.problem is not None

    @property
    def is_whole(self) -> bool:
        """Whether it has come to its end as it was sent."""
        return self.sha256 == self.read_so_far

    def go_on(self) -> None:
        """Let what comes next be a new answer, that goes on where the last one broke."""
        self._head, self._kind, self._left, self._rest = b"", b"", 0, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes of the object in what has arrived; raises Garbled."""
        while data:
            if self.is_over:
                raise Garbled("something comes after its end")
            if self._kind:
                data = yield from self._go_on_with(data)
            else:
                data = self._begin(data)

    def _begin(self, data: bytes) -> bytes:
        """Take the head of a piece, as far as it is there; answers with what comes behind."""
        missing = _HEAD.size - len(self._head)
        self._head += data[:missing]
        if len(self._head) == _HEAD.size:
            self._kind, self._left = _HEAD.unpack(self._head)
            self._head = b""
            if self._kind not in (_PIECE, _END, _PROBLEM) or (
                self._kind != _PIECE and not 0 < self._left <= LONGEST_PROBLEM
            ):
                raise Garbled("there is no such piece")
            if self._left == 0:
                self._kind = b""
        return data[missing:]

    def _go_on_with(self, data: bytes) -> Generator[bytes, None, bytes]:
        taken, kind = data[: self._left], self._kind
        self._left -= len(taken)
        if self._left == 0:
            self._kind = b""
        if kind == _PIECE:
            self._digest.update(taken)
            yield taken
        else:
            self._rest += taken
            if self._left == 0:
                self._over(kind)
        return data[len(taken) :]

    def _over(self, kind: bytes) -> None:
        if kind == _END:
            self.sha256 = self._rest.decode(errors="replace")
        else:
            self.problem = self._rest
