"""The S3 store: every object is one of a bucket, below a prefix; AWS, MinIO, Ceph or anything that speaks S3."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from agentq.config import S3Section
from agentq.errors import EvidenceError, Invalid
from agentq.messages import sha256_hex
from agentq.store import Stored, is_segment, segments, unwatched
from agentq.stores.passing import Passing
from agentq.stores.s3_bucket import Bucket
from agentq.stores.s3_download import Download, buffered
from agentq.stores.s3_upload import PART, Upload
from agentq.stores.s3_words import Absent
from agentq.stores.source import open_source, read_source

SHA256, TOKEN = "agentq-sha256", "agentq-token"
LONGEST_KEY = 1024
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*(\.\.|-\.|\.-))[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Store:
    """A store in a bucket, `s3://bucket/prefix`; the bucket must exist, and it is asked when first needed.

    Every object carries its SHA-256, which is checked when it is read; others' objects without one are read as they
    are.
    """

    def __init__(self, url: str, section: S3Section) -> None:
        name, prefix = _parts(url)
        self.url = f"s3://{name}/{prefix}".removesuffix("/")
        self._above = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(name, section)

    @property
    def address(self) -> str:
        """Its URL."""
        return self.url

    @property
    def place(self) -> str:
        """Its URL, and the server's."""
        return f"{self.url} at {self._bucket.endpoint}"

    def get(self, key: str) -> bytes | None:
        """The whole object, None when there is none; raises EvidenceError when it was altered."""
        where = self._where(key)

        def whole(client: Any) -> tuple[bytes, str | None]:
            found = client.get_object(**where)
            with contextlib.closing(found["Body"]) as body:
                return body.read(), found["Metadata"].get(SHA256)

        try:
            data, digest = self._bucket.ask(self._doing("read", key), whole)
        except Absent:
            return None
        if digest not in (None, sha256_hex(data)):
            raise self._altered(key)
        return data

    def open(self, key: str) -> BinaryIO | None:
        """A stream over the object, None when there is none; a read that breaks goes on where it broke.

        Raises EvidenceError at its end when the object was altered, StoreUnavailable when it is replaced meanwhile.
        """
        where, doing = self._where(key), self._doing("read", key)
        try:
            found = self._bucket.ask(doing, lambda client: client.get_object(**where))
        except Absent:
            return None
        return buffered(Download(self._bucket, where, doing, found, found["Metadata"].get(SHA256), self._altered(key)))

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object durably if the key is free; False, changing nothing, when it is taken."""
        where, doing, token = self._where(key), self._doing("create", key), secrets.token_hex(16)
        given = {"Body": data, "Metadata": {SHA256: sha256_hex(data), TOKEN: token}, "IfNoneMatch": "*"}

        def create() -> bool:
            try:
                self._bucket.once(doing, lambda client: client.put_object(**where, **given))
            except Passing:  # taken, or nobody knows: an earlier try may have been ours
                holder = self._holder(key)
                if holder is None:
                    raise
                return holder == token
            return True

        return self._bucket.repeatedly(create)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write the object whole, replacing what is there; always durable."""
        where, metadata = self._where(key), {SHA256: sha256_hex(data)}
        self._bucket.ask(
            self._doing("write", key), lambda client: client.put_object(**where, Body=data, Metadata=metadata)
        )

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        """Copy a local file in, in parts when it is large, replacing what is there once it is whole.

        Memory does not grow with its size. Raises Invalid when it is not a readable regular file, or changes meanwhile.
        """
        where = self._where(key)
        with open_source(path) as source:
            size = os.fstat(source.fileno()).st_size
            if size <= PART:
                return self._put_small(key, read_source(source, path, size), progress)
            upload = Upload(self._bucket, where, self._doing("write", key), source, path, size)
            token = secrets.token_hex(16)
            upload.send({SHA256: upload.sha256, TOKEN: token}, progress, lambda: self._holder(key) == token)
        return Stored(upload.sha256, size)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""
        where = self._where(key)
        try:
            self._bucket.ask(self._doing("delete", key), lambda client: client.delete_object(**where))
        except Absent:
            return

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix (which ends in '/'), in order; what comes and goes meanwhile may show."""
        if not prefix.endswith("/"):
            raise Invalid(f"the prefix {prefix!r} does not end in '/'")
        segments(prefix[:-1])
        return self._keys(prefix)

    def ref(self, key: str) -> str:
        """The ref of a key."""
        segments(key)
        return f"{self.url}/{key}"

    def key(self, ref: str) -> str | None:
        """The key of a ref, None when it is not below this store; raises Invalid when it is, but is no key."""
        if not ref.startswith(f"{self.url}/"):
            return None
        key = ref.removeprefix(f"{self.url}/")
        segments(key)
        return key

    def stale_temporaries(self, older_than_seconds: float) -> list[dict[str, str]]:
        """What writers that died left behind: uploads in parts begun so long ago and never completed."""
        before = time.time() - older_than_seconds
        marks = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        return [
            {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            for page in self._pages("list_multipart_uploads", "", marks)
            for upload in page.get("Uploads", ())
            if upload["Initiated"].timestamp() < before
        ]

    def remove_temporaries(self, older_than_seconds: float) -> int:
        """Remove the stale uploads and answer how many there were; a living writer's younger ones stay."""
        stale = self.stale_temporaries(older_than_seconds)
        for upload in stale:
            abort = _calling("abort_multipart_upload", {"Bucket": self._bucket.name, **upload})
            with contextlib.suppress(Absent):
                self._bucket.ask(self._doing("tidy", ""), abort)
        return len(stale)

    def _put_small(self, key: str, data: bytes, progress: Callable[[int], None]) -> Stored:
        self.put(key, data)
        progress(len(data))
        return Stored(sha256_hex(data), len(data))

    def _holder(self, key: str) -> str | None:
        """The token of whoever put the object, empty when it carries none; None when there is no object."""
        where = self._where(key)
        try:
            found = self._bucket.once(self._doing("read", key), lambda client: client.head_object(**where))
        except Absent:
            return None
        return str(found["Metadata"].get(TOKEN, ""))

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self._pages("list_objects_v2", prefix, {"ContinuationToken": "NextContinuationToken"}):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._above)
                if all(map(is_segment, key.split("/"))):
                    yield key

    def _pages(self, operation: str, prefix: str, marks: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """The answers of a listing that goes on from the marks which the last one gives."""
        asked, more = {"Bucket": self._bucket.name, "Prefix": f"{self._above}{prefix}"}, True
        while more:
            page = self._bucket.ask(self._doing("list", prefix), _calling(operation, asked))
            yield page
            more = page["IsTruncated"]
            asked |= {name: page[found] for name, found in marks.items() if more}

    def _where(self, key: str) -> dict[str, str]:
        segments(key)
        whole = f"{self._above}{key}"
        if len(whole) > LONGEST_KEY:
            raise Invalid(f"the key {key!r} is too long for the store {self.url}")
        return {"Bucket": self._bucket.name, "Key": whole}

    def _doing(self, verb: str, key: str) -> str:
        return f"{verb} {key!r} in the store {self.url}" if key else f"{verb} the store {self.url}"

    def _altered(self, key: str) -> EvidenceError:
        return EvidenceError(
            f"{key!r} in the store {self.url} is not what was put there: its digest is another",
            hint="Do not use it. Restore it from a backup, or an older version of the object.",
        )


def _calling(operation: str, asked: Mapping[str, str]) -> Callable[[Any], Any]:
    asked = dict(asked)
    return lambda client: getattr(client, operation)(**asked)


def _parts(url: str) -> tuple[str, str]:
    """The bucket and the prefix of a store's URL; what is refused is not repeated, for it may hold a secret."""
    name, _, prefix = url.removeprefix("s3://").removesuffix("/").partition("/")
    if not (url.startswith("s3://") and _BUCKET.fullmatch(name)):
        raise Invalid(
            "the store's URL names no bucket",
            hint="Write s3://bucket/prefix; credentials, endpoint and region have their own settings ([s3]).",
        )
    if prefix:
        segments(prefix)
    return name, prefix
