"""Reading a large object from a bucket: as a stream that goes on where it broke, and checks what it read."""

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentq.errors import EvidenceError, StoreUnavailable
from agentq.stores.s3_bucket import Bucket
from agentq.stores.s3_words import Absent, Unclear

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20


class Download(io.RawIOBase):
    """The stream over an answer to `get_object`; `altered` is raised at its end when the digest is another."""

    def __init__(
        self,
        bucket: Bucket,
        where: Mapping[str, str],
        doing: str,
        answer: Mapping[str, Any],
        sha256: str | None,
        altered: EvidenceError,
    ) -> None:
        self._bucket, self._where, self._doing = bucket, where, doing
        self._body, self._size, self._etag = answer["Body"], int(answer["ContentLength"]), answer["ETag"]
        self._sha256, self._altered = sha256, altered
        self._at, self._digest = 0, hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes; none at the end."""
        view = memoryview(buffer)
        chunk = self._bucket.repeatedly(lambda: self._read(len(view)))
        view[: len(chunk)] = chunk
        self._digest.update(chunk)
        self._at += len(chunk)
        if self._at == self._size and self._sha256 not in (None, self._digest.hexdigest()):
            raise self._altered
        return len(chunk)

    def readall(self) -> bytes:
        """All that is left."""
        return b"".join(iter(lambda: self.read(CHUNK) or b"", b""))

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed and self._body:
            self._body.close()
        super().close()

    def _read(self, size: int) -> bytes:
        if self._at == self._size:
            return b""
        if self._body is None:
            self._body = self._rest()
        body = self._body
        try:
            chunk: bytes = self._bucket.once(self._doing, lambda _: body.read(size))
        except StoreUnavailable:
            self._body = None
            body.close()
            raise
        return chunk

    def _rest(self) -> Any:
        """The body of what was not read yet, of the same object."""
        part = {"Range": f"bytes={self._at}-", "IfMatch": self._etag}
        try:
            answer = self._bucket.once(self._doing, lambda client: client.get_object(**self._where, **part))
        except (Absent, Unclear) as error:
            raise StoreUnavailable(
                f"cannot {self._doing}: it was replaced or deleted while it was read", hint="Read it again."
            ) from error
        if answer["ContentLength"] != self._size - self._at:
            answer["Body"].close()
            raise StoreUnavailable(
                f"cannot {self._doing}: the server cannot read from the middle", hint="Read it again."
            )
        return answer["Body"]


def buffered(stream: Download) -> io.BufferedReader:
    """The stream with a buffer, so that every read is as long as it was asked for."""
    return io.BufferedReader(stream, CHUNK)
