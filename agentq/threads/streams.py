"""Messages that grow: appended to at an offset, ended once; by whoever writes them, who is no task."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal

from agentq.credentials import blanked, finds
from agentq.errors import Conflict, Invalid
from agentq.journal import Journal
from agentq.messages import utc_now
from agentq.threads import telling
from agentq.threads.papers import PIECE_LIMIT, TEXT_LIMIT, Ask, End, NotAsked, Piece, Post
from agentq.threads.shelf import Shelf

Asking = Callable[[str], tuple[tuple[Ask, ...], tuple[NotAsked, ...]]]
"""Who is asked by a whole text."""


class OffsetTaken(Conflict):
    """The message goes on at another offset than was said: somebody else appended, or it is a repeat that differs."""

    def __init__(self, message_id: str, offset: int) -> None:
        super().__init__(
            f"{message_id} goes on at {offset}", hint="Read the message, and append behind what stands there."
        )
        self.offset = offset


class Streams:
    """The growing messages of one store.

    What is appended is a paper named by its offset, and so is the end: of two who write at one offset, through whatever
    gateways, one is first. The pieces that follow each other from 0 are the message; once it has ended they are one
    paper, and are removed.
    """

    def __init__(self, shelf: Shelf, journal: Journal) -> None:
        self._shelf = shelf
        self._journal = journal

    def append(self, post: Post, offset: int, text: str, *, allow_secrets: bool = False) -> int:
        """Append at the end of the message, which is the answer; a repeat of what stands there is none, also once the
        message has ended.

        Raises OffsetTaken, Conflict for a message that has ended, Invalid for a text that is too long or empty.
        """
        if not 0 < len(text) <= PIECE_LIMIT:
            raise Invalid(f"a piece has 1 to {PIECE_LIMIT} characters, this one {len(text)}", hint="Send it in parts.")
        try:
            pieces = self._growing(post)
        except Conflict:
            if self.text(post)[offset : offset + len(text)] == text:
                return offset + len(text)
            raise
        if offset + len(text) > TEXT_LIMIT:
            raise Invalid(f"a message has at most {TEXT_LIMIT} characters", hint="End it, and begin another one.")
        found = next((piece for piece in pieces if piece.offset == offset), None)
        if found is None and offset != end_of(pieces):
            raise OffsetTaken(post.message_id, end_of(pieces))
        piece = Piece(
            thread_id=post.thread_id,
            message_id=post.message_id,
            offset=offset,
            text=text,
            allow_secrets=allow_secrets,
            by=post.author,
            at=utc_now(),
        )
        return self._put(post, found, piece)

    def _put(self, post: Post, found: Piece | None, piece: Piece) -> int:
        held = found or self._shelf.put_piece(piece)
        if held.end or held.text != piece.text:
            raise OffsetTaken(post.message_id, end_of(self._growing(post)))
        if self._shelf.ended(post.thread_id, post.message_id):  # ended meanwhile: that end may not have it
            self._growing(post)
        self._journal.tell(telling.reply(held))
        return piece.offset + len(piece.text)

    def _growing(self, post: Post) -> list[Piece]:
        """What there is of a message that grows; raises Conflict when it does not."""
        pieces = self._shelf.pieces(post.thread_id, post.message_id)
        if post.state == "completed" or (pieces and pieces[-1].end) or self._ended(post):
            raise Conflict(f"{post.message_id} has ended", hint="Post another message.")
        return pieces

    def _ended(self, post: Post) -> bool:
        ended = self._shelf.ended(post.thread_id, post.message_id)
        if ended:  # what came behind it is nobody's
            self._shelf.remove_pieces(post.thread_id, post.message_id)
        return ended is not None

    def text(self, post: Post) -> str:
        """The text so far."""
        pieces = self._shelf.pieces(post.thread_id, post.message_id)
        if ended := self._shelf.ended(post.thread_id, post.message_id):
            return ended.text
        return text_of(pieces)

    def end(
        self, post: Post, state: Literal["completed", "failed"], reason: str | None, *, by: str, asking: Asking
    ) -> End:
        """End the message with what there is of it; answers with the end that holds, another's when it was first.

        Finishes what somebody else began and left. Raises Conflict for a message that never grew.
        """
        if post.state == "completed":
            raise Conflict(f"{post.message_id} is complete", hint="Only a message that is generating can be ended.")
        while True:
            pieces = self._shelf.pieces(post.thread_id, post.message_id)
            ended = self._shelf.ended(post.thread_id, post.message_id)
            if ended or (pieces and pieces[-1].end):
                return self._finish(ended or self._shelf.end(_end(pieces)))
            asks, not_asked = asking(text_of(pieces)) if state == "completed" else ((), ())
            self._shelf.owe("asking", post.thread_id, post.message_id)
            self._shelf.put_piece(
                Piece(
                    thread_id=post.thread_id,
                    message_id=post.message_id,
                    offset=end_of(pieces),
                    by=by,
                    at=utc_now(),
                    end=state,
                    reason=reason,
                    asks=asks,
                    not_asked=not_asked,
                )
            )

    def _finish(self, ended: End) -> End:
        self._journal.tell(telling.message_ended(ended))
        self._shelf.remove_pieces(ended.thread_id, ended.message_id)
        self._shelf.paid("streaming", ended.thread_id, ended.message_id)
        return ended


def text_of(pieces: Sequence[Piece]) -> str:
    """The text that pieces make."""
    return "".join(piece.text for piece in pieces)


def end_of(pieces: Sequence[Piece]) -> int:
    """Where the next one goes."""
    return sum(len(piece.text) for piece in pieces)


def _without_credentials(pieces: Sequence[Piece]) -> str:
    """The text that pieces make, with a word in the place of each credential, also of one that none of them has whole;
    what touches a piece whose author says that it is none is left."""
    parts = [piece.text.encode() for piece in pieces]
    ends = accumulate(map(len, parts))
    free = [(end - len(part), end) for part, end, piece in zip(parts, ends, pieces, strict=True) if piece.allow_secrets]
    data = b"".join(parts)
    found = (one for one in finds(data) if not any(one.start < end and start < one.end for start, end in free))
    return blanked(data, list(found)).decode()


def _end(pieces: Sequence[Piece]) -> End:
    seal = pieces[-1]
    assert seal.end
    return End(
        thread_id=seal.thread_id,
        message_id=seal.message_id,
        state=seal.end,
        text=_without_credentials(pieces),
        reason=seal.reason,
        by=seal.by,
        at=seal.at,
        asks=seal.asks,
        not_asked=seal.not_asked,
    )
