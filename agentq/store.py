"""The store port: where the papers of every task and the evidence live."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from agentq.errors import Invalid

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


class Stored(NamedTuple):
    """What was written: SHA-256 in hex and the size in bytes."""

    sha256: str
    bytes: int


def unwatched(moved: int) -> None:
    """What `put_file` tells its progress to when nobody looks."""


class Store(Protocol):
    """Objects under keys such as `tasks/task-1.json`.

    Every method raises StoreUnavailable when the store cannot be reached, refuses or is full; a put that
    raised it may have happened. A key that would leave the store raises Invalid.
    """

    @property
    def url(self) -> str:
        """Names the store in envelopes and begins every ref: `file:///shared`, `s3://bucket/prefix`."""

    @property
    def address(self) -> str:
        """What opens it from here: its URL, or that of the gateway that it lies behind."""

    @property
    def place(self) -> str:
        """The store as a person looks for it: its URL, and the server behind that where there is one."""

    def get(self, key: str) -> bytes | None:
        """The whole object, None when there is none."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object durably if the key is free; False, changing nothing, when it is taken."""

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write the object whole, replacing what is there; readers see the old or the new, never a mixture."""

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        """Copy a local file in, streaming and durable, replacing what is there; `progress` gets the bytes moved since
        its last call. Raises Invalid when it is not a readable regular file, or is seen to change meanwhile."""

    def open(self, key: str) -> BinaryIO | None:
        """A stream over the object, None when there is none; the caller closes it."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix (which ends in '/'), in order, as they stood at some moment."""

    def remove_temporaries(self, older_than_seconds: float) -> int:
        """Remove what writers that died so long ago left half-written, and answer how many pieces there were."""

    def ref(self, key: str) -> str:
        """The ref of a key: what envelopes and completions carry."""

    def key(self, ref: str) -> str | None:
        """The key of a ref, None when the ref is not this store's."""


def names_in(keys: Iterator[str]) -> Iterator[str]:
    """The last segments of keys, as listed."""
    return (key.rsplit("/", 1)[1] for key in keys)


def segments(key: str) -> list[str]:
    """The names that a key or a prefix is made of; raises Invalid when one of them is none."""
    found = key.split("/")
    if not all(is_segment(segment) for segment in found):
        raise Invalid(
            f"{key!r} is no key",
            hint="names of letters, digits, '.', '_' and '-', none beginning with '.', with '/' between them",
        )
    return found


def is_segment(name: str) -> bool:
    """Whether a key may go through that name."""
    return _SEGMENT.fullmatch(name) is not None
