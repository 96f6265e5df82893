"""The store port: where the papers of every task and the evidence live."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol


class Stored(NamedTuple):
    """What was written: SHA-256 in hex and the size in bytes."""

    sha256: str
    bytes: int


class Store(Protocol):
    """Objects under keys such as `tasks/task-1.json`.

    Every method raises StoreUnavailable when the store cannot be reached, refuses or is full; a put that
    raised it may have happened. A key that would leave the store raises Invalid.
    """

    url: str
    """Names the store in envelopes and begins every ref: `file:///shared`, `s3://bucket/prefix`."""

    def get(self, key: str) -> bytes | None:
        """The whole object, None when there is none."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object durably if the key is free; False, changing nothing, when it is taken."""

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write the object whole, replacing what is there; readers see the old or the new, never a mixture."""

    def put_file(self, key: str, path: Path) -> Stored:
        """Copy a local file in, streaming and durable, replacing what is there."""

    def open(self, key: str) -> BinaryIO | None:
        """A stream over the object, None when there is none; the caller closes it."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix (which ends in '/'), in order, as they stood at some moment."""

    def ref(self, key: str) -> str:
        """The ref of a key: what envelopes and completions carry."""

    def key(self, ref: str) -> str | None:
        """The key of a ref, None when the ref is not this store's."""
