"""The store behind a gateway, over HTTPS: for workers that reach nothing but the gateway's URL."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, unquote

from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.messages import sha256_hex
from agentq.remote import Remote
from agentq.store import Stored, is_segment, segments, unwatched
from agentq.stores.gateway_line import ADDRESS, Answer, Line, error_of
from agentq.stores.gateway_wire import CHUNK, DURABLE, MEDIA_TYPE, READ_SO_FAR, Garbled, Pieces, end, piece
from agentq.stores.passing import Passing
from agentq.stores.source import open_source, read_source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

OTHER = "the gateway is another one than before, or stands before another store"


class GatewayStore:
    """A store as a gateway lets one reach it, `https://gateway/store`; it is asked when first needed.

    Refs are those of the store behind it, so they mean the same to everybody. What the token may not do raises
    StoreUnavailable with the gateway's words.
    """

    def __init__(self, remote: Remote) -> None:
        self._line = Line(remote)

    @cached_property
    def url(self) -> str:
        """The URL of the store behind the gateway, asked once; raises StoreUnavailable while it is away."""
        doing = f"ask which store is behind {self.place}"

        def ask() -> object:
            with self._line.ask(doing, "GET") as answer:
                return answer.json()

        told = self._line.repeatedly(ask)
        url = told.get("url") if isinstance(told, dict) else None
        if not isinstance(url, str) or "://" not in url:
            raise StoreUnavailable(f"cannot {doing}: the answer names none", hint=ADDRESS)
        return url

    @property
    def address(self) -> str:
        """The gateway's URL."""
        return self._line.remote.url

    @property
    def place(self) -> str:
        """The gateway's URL."""
        return self.address

    def get(self, key: str) -> bytes | None:
        """The whole object, None when there is none."""
        path, doing = self._path(key), self._doing("read", key)

        def whole() -> bytes | None:
            with self._line.ask(doing, "GET", path) as answer:
                return None if _absent(answer) else _all_of(answer, doing)

        return self._line.repeatedly(whole)

    def open(self, key: str) -> BinaryIO | None:
        """A stream over the object, None when there is none; a read that breaks goes on where it broke.

        Raises StoreUnavailable when the object is replaced meanwhile, or came otherwise than it was sent.
        """
        path, doing = self._path(key), self._doing("read", key)
        answer = self._line.repeatedly(lambda: self._line.ask(doing, "GET", path))
        if _absent(answer):
            answer.close()
            return None
        return io.BufferedReader(Download(self._line, path, doing, answer), CHUNK)

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object durably if the key is free; False, changing nothing, when it is taken.

        After a lost answer the object is ours if its bytes are.
        """
        path, doing, in_doubt = self._path(key), self._doing("create", key), False

        def create() -> bool:
            nonlocal in_doubt
            try:
                state = self._put(doing, path, _framed(data), {"If-None-Match": "*"})
            except Passing:
                in_doubt = True
                raise
            return state == "created" or (in_doubt and self._is(key, data, doing))

        return self._line.repeatedly(create)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write the object whole, replacing what is there; without `durable` a power cut may undo or empty it."""
        path, doing, headers = self._path(key), self._doing("write", key), {} if durable else {DURABLE: "no"}
        self._line.repeatedly(lambda: self._put(doing, path, _framed(data), headers))

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        """Copy a local file in, streaming and durable, replacing what is there once it is whole.

        Memory does not grow with its size. Raises Invalid when it is not a readable regular file, or changes meanwhile.
        """
        where, doing = self._path(key), self._doing("write", key)
        with open_source(path) as source:
            upload = Upload(source, path, progress)
            self._line.repeatedly(lambda: self._put(doing, where, upload.frames(), {}))
            return upload.stored

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""
        path, doing = self._path(key), self._doing("delete", key)
        self._line.repeatedly(lambda: self._line.ask(doing, "DELETE", path)).close()

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix (which ends in '/'), in order; what comes and goes meanwhile may show."""
        if not prefix.endswith("/"):
            raise Invalid(f"the prefix {prefix!r} does not end in '/'")
        segments(prefix[:-1])
        return self._keys(prefix)

    def remove_temporaries(self, older_than_seconds: float) -> int:
        """Nothing is removed: what others left half-written lies with whoever reaches the store itself."""
        return 0

    def ref(self, key: str) -> str:
        """The ref of a key, as it is in the store behind the gateway."""
        segments(key)
        return f"{self.url}/{key}"

    def key(self, ref: str) -> str | None:
        """The key of a ref, None when it is not below this store; raises Invalid when it is, but is no key."""
        top = f"{_plain(self.url)}/"
        if not _plain(ref).startswith(top):
            return None
        key = _plain(ref).removeprefix(top)
        segments(key)
        return key

    # ------------------------------------------------------------------

    def _put(self, doing: str, path: str, body: bytes | Iterable[bytes], headers: dict[str, str]) -> str:
        """What became of the object; the answer is read to its end, so that the connection can be used again."""
        headers = {"Content-Type": MEDIA_TYPE, **headers}
        with self._line.ask(doing, "PUT", path, headers=headers, body=body) as answer:
            answer.read()
            return answer.state

    def _is(self, key: str, data: bytes, doing: str) -> bool:
        """Whether the object is that; raises Passing when it is gone again."""
        found = self.get(key)
        if found is None:
            raise Passing(f"cannot {doing}: it was taken and is gone", hint="Repeat it.")
        return found == data

    def _keys(self, prefix: str) -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            page, after = self._page(prefix, after)
            yield from page

    def _page(self, prefix: str, after: str) -> tuple[list[str], str | None]:
        """Some keys behind that one, and the last of them if there are more."""
        doing = self._doing("list", prefix)
        path = f"?prefix={quote(prefix)}&after={quote(after)}"

        def page() -> tuple[list[str], str | None]:
            with self._line.ask(doing, "GET", path) as answer:
                told = answer.json()
            keys, more = (told.get("keys"), told.get("next")) if isinstance(told, dict) else (None, None)
            if not isinstance(keys, list) or (more is not None and more not in keys[-1:]):
                raise StoreUnavailable(f"cannot {doing}: the answer is no listing", hint=ADDRESS)
            return [key for key in keys if _is_below(key, prefix)], more

        return self._line.repeatedly(page)

    def _path(self, key: str) -> str:
        return "/" + "/".join(segments(key))

    def _doing(self, verb: str, key: str) -> str:
        return f"{verb} {key!r} in the store at {self.place}"


class Download(io.RawIOBase):
    """The stream over an answer with an object; what is left of one that broke is asked for with the digest of what
    came."""

    def __init__(self, line: Line, path: str, doing: str, answer: Answer) -> None:
        self._line, self._path, self._doing = line, path, doing
        self._answer: Answer | None = answer
        self._pieces, self._at, self._ready = Pieces(), 0, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes; none at the end."""
        view = memoryview(buffer)
        while not self._ready and not self._pieces.is_over:
            self._ready = self._line.repeatedly(self._more)
        chunk, self._ready = self._ready[: len(view)], self._ready[len(view) :]
        view[: len(chunk)] = chunk
        return len(chunk)

    def readall(self) -> bytes:
        """All that is left."""
        return b"".join(iter(lambda: self.read(CHUNK) or b"", b""))

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed and self._answer:
            self._answer.close()
        super().close()

    def _more(self) -> bytes:
        if self._answer is None:
            self._answer = self._rest()
        try:
            return self._take(self._answer)
        except Passing:
            self._answer.close()
            self._answer = None
            raise

    def _take(self, answer: Answer) -> bytes:
        """What comes next, perhaps nothing yet; raises Passing when the answer breaks off."""
        arrived = answer.read(CHUNK)
        if not arrived:
            raise Passing(f"cannot {self._doing}: the answer broke off", hint=ADDRESS)
        found = _fed(self._pieces, arrived, self._doing)
        self._at += len(found)
        if self._pieces.is_over:
            with contextlib.suppress(StoreUnavailable):
                answer.read()  # nothing, after which the connection can be used again
        return found

    def _rest(self) -> Answer:
        self._pieces.go_on()
        behind = {"Range": f"bytes={self._at}-", READ_SO_FAR: self._pieces.read_so_far} if self._at else {}
        answer = self._line.ask(self._doing, "GET", self._path, headers=behind)
        if answer.state != "here" or (self._at and answer.status != 206):
            answer.close()
            raise StoreUnavailable(
                f"cannot {self._doing}: it was replaced or deleted while it was read", hint="Read it again."
            )
        return answer


class Upload:
    """A file on its way to a gateway, as often as it has to be sent."""

    def __init__(self, source: BinaryIO, path: Path, progress: Callable[[int], None]) -> None:
        self._source, self._path, self._progress = source, path, progress
        self._size = os.fstat(source.fileno()).st_size
        self._told = 0
        self.stored = Stored("", 0)

    def frames(self) -> Iterator[bytes]:
        """All of it from the beginning; raises Invalid when it changes meanwhile."""
        self._source.seek(0)
        digest, size = hashlib.sha256(), 0
        while size <= self._size and (chunk := read_source(self._source, self._path, CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            yield piece(chunk)
            self._tell(size)
        if size != self._size:
            raise Invalid(
                f"the file {self._path} changed while it was read", hint="Repeat it when nobody writes to the file."
            )
        self.stored = Stored(digest.hexdigest(), size)
        yield end(self.stored.sha256)

    def _tell(self, size: int) -> None:
        """Say how much was moved, and nothing twice of what is sent again."""
        if size > self._told:
            self._progress(size - self._told)
            self._told = size


def _framed(data: bytes) -> bytes:
    """A whole object."""
    return piece(data) + end(sha256_hex(data))


def _absent(answer: Answer) -> bool:
    if answer.state == "none":
        answer.read()
    return answer.state == "none"


def _all_of(answer: Answer, doing: str) -> bytes:
    """The whole object; raises Passing unless it came as it was sent."""
    pieces = Pieces()
    data = _fed(pieces, answer.read(), doing)
    if not pieces.is_over:
        raise Passing(f"cannot {doing}: the answer broke off", hint=ADDRESS)
    return data


def _fed(pieces: Pieces, arrived: bytes, doing: str) -> bytes:
    """What of the object has arrived; raises what is told instead of its end, StoreUnavailable for one that does not
    fit."""
    try:
        found = b"".join(pieces.feed(arrived))
    except Garbled as error:
        raise StoreUnavailable(f"cannot {doing}: the answer is not a gateway's: {error}", hint=ADDRESS) from error
    if pieces.problem is not None:
        raise _told(pieces.problem, doing)
    if pieces.sha256 is not None and not pieces.is_whole:
        raise StoreUnavailable(f"cannot {doing}: it was altered on its way", hint="Read it again.")
    return found


def _told(problem: bytes, doing: str) -> AgentqError:
    error = error_of(500, problem, doing)
    return StoreUnavailable(str(error), hint=error.hint) if isinstance(error, Passing) else error


def _is_below(key: object, prefix: str) -> bool:
    return isinstance(key, str) and key.startswith(prefix) and all(map(is_segment, key.split("/")))


def _plain(url: str) -> str:
    """A ref as it is compared: those of folders may be written in several ways."""
    if not url.startswith("file://"):
        return url
    return f"file://{unquote(url.removeprefix('file://').removeprefix('localhost'))}"
