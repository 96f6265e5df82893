"""Putting a large file into a bucket in parts: several at once, in memory that does not grow with its size."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from agentq.errors import AgentqError, Invalid
from agentq.stores.s3_bucket import Bucket
from agentq.stores.s3_words import Absent
from agentq.stores.source import CHUNK, read_source

PART = 8 << 20
PARTS = 10_000
AT_ONCE = 4
SLOWEST = 10 << 20
"""Bytes a second that a server must be able to put parts together with; most say nothing until they have."""


def changed(path: Path) -> Invalid:
    """What is raised for a file that another process writes to."""
    return Invalid(f"the file {path} changed while it was read", hint="Repeat it when nobody writes to the file.")


class Upload:
    """A file read through once for its digests; `send` reads it again and puts nothing but what was digested."""

    def __init__(
        self, bucket: Bucket, where: Mapping[str, str], doing: str, source: BinaryIO, path: Path, size: int
    ) -> None:
        self._bucket, self._where, self._doing, self._size = bucket, where, doing, size
        part = part_size(size)
        whole, self._pieces = hashlib.sha256(), list[Piece]()
        for start in range(0, size, part):
            digest = _digest(source, path, min(part, size - start), whole)
            self._pieces.append(Piece(source.fileno(), path, start, min(part, size - start), digest))
        if read_source(source, path, 1):
            raise changed(path)
        self.sha256 = whole.hexdigest()

    def send(self, metadata: Mapping[str, str], progress: Callable[[int], None], is_ours: Callable[[], bool]) -> None:
        """Put the object, which shows when it is whole; `is_ours` tells after a lost answer whether it was put.

        Raises Invalid for a file that changed meanwhile; then, and after any other error, nothing is left.
        """
        answer = self._ask(lambda client: client.create_multipart_upload(**self._where, Metadata=metadata))
        upload = {**self._where, "UploadId": answer["UploadId"]}
        try:
            self._complete(upload, self._send_all(upload, progress), is_ours)
        except BaseException:
            with contextlib.suppress(AgentqError):
                self._bucket.once(self._doing, lambda client: client.abort_multipart_upload(**upload))
            raise

    def _send_all(self, upload: Mapping[str, str], progress: Callable[[int], None]) -> list[dict[str, Any]]:
        from concurrent.futures import ThreadPoolExecutor

        def send(number: int, piece: Piece) -> dict[str, Any]:
            answer = self._ask(lambda client: client.upload_part(**upload, PartNumber=number, Body=PieceReader(piece)))
            checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
            return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

        sent = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for piece, part in zip(self._pieces, pool.map(send, range(1, PARTS + 1), self._pieces), strict=True):
                sent.append(part)
                progress(piece.size)
        return sent

    def _complete(self, upload: Mapping[str, str], parts: list[dict[str, Any]], is_ours: Callable[[], bool]) -> None:
        whole = {**upload, "MultipartUpload": {"Parts": parts}}
        bucket = self._bucket.slower(self._size / SLOWEST)
        try:
            bucket.ask(self._doing, lambda client: client.complete_multipart_upload(**whole))
        except Absent:
            if not is_ours():
                raise

    def _ask(self, step: Callable[[Any], Any]) -> Any:
        return self._bucket.ask(self._doing, step)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the file, and the SHA-256 that it had when it was first read."""

    descriptor: int
    path: Path
    start: int
    size: int
    sha256: bytes


class PieceReader:
    """A piece as a file that can be read, and read again; raises Invalid unless it is what was first read."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._at, self._digest = 0, hashlib.sha256()

    def __len__(self) -> int:
        return self._piece.size

    def tell(self) -> int:
        """How much was read."""
        return self._at

    def seek(self, offset: int) -> int:
        """Begin again."""
        assert offset == 0, "a piece is read from its beginning only"
        self._at, self._digest = 0, hashlib.sha256()
        return 0

    def read(self, size: int | None = None) -> bytes:
        """The next bytes, at most so many."""
        piece, left = self._piece, self._piece.size - self._at
        wanted = left if size is None or size < 0 else min(size, left)
        chunk = os.pread(piece.descriptor, wanted, piece.start + self._at)
        self._digest.update(chunk)
        self._at += len(chunk)
        if len(chunk) < wanted or (self._at == piece.size and self._digest.digest() != piece.sha256):
            raise changed(piece.path)
        return chunk


def part_size(size: int) -> int:
    """How long the parts of a file are: 8 MiB, and longer where there would be too many, in whole MiB."""
    least = -(-size // PARTS)
    return max(PART, -(-least // CHUNK) * CHUNK)


def _digest(source: BinaryIO, path: Path, size: int, whole: "hashlib._Hash") -> bytes:
    """The digest of the next bytes, which goes into the whole one too."""
    digest = hashlib.sha256()
    while size:
        chunk = read_source(source, path, min(size, CHUNK))
        if not chunk:
            raise changed(path)
        digest.update(chunk)
        whole.update(chunk)
        size -= len(chunk)
    return digest.digest()
