"""A store as a worker sees it through a gateway, with a token of its agent; what is refused reads as it does there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeVar, cast

from agentq.app import App
from agentq.errors import StoreUnavailable
from agentq.gateway.problems import Refused
from agentq.gateway.reach import Reach
from agentq.gateway.rights import Content, Rights
from agentq.messages import sha256_hex
from agentq.records import Records
from agentq.store import Store, Stored, unwatched
from agentq.tokens import Grant

T = TypeVar("T")


def rights_of(agent: str, records: Records, reach: Reach) -> Rights:
    """What a worker of an agent may do, by what these records tell."""
    app = cast("App", SimpleNamespace(records=records, store=records.store))
    return Rights(Grant("w", frozenset({"worker"}), agent, "1"), app, reach)


class Bounded:
    """A store within rights: each act is looked at first, and what is to be written once more with its content.

    `seam` decides when a look takes place, for somebody else may act between it and what it allows.
    """

    def __init__(
        self, behind: Store, rights: Rights, *, seam: Callable[[Callable[[], Any]], Any] = lambda look: look()
    ) -> None:
        self.rights = rights
        self._behind = behind
        self._seam = seam

    url = property(lambda self: self._behind.url)
    address = property(lambda self: self._behind.address)
    place = property(lambda self: self._behind.place)

    def get(self, key: str) -> bytes | None:
        self._may(lambda: self.rights.read(key))
        return self._behind.get(key)

    def open(self, key: str) -> BinaryIO | None:
        self._may(lambda: self.rights.read(key))
        return self._behind.open(key)

    def put_new(self, key: str, data: bytes) -> bool:
        self._may(lambda: self.rights.write(key, create=True))
        if self._behind.get(key) is not None:
            return False
        self._may(lambda: self.rights.write(key, create=True, content=_content(data)))
        return self._behind.put_new(key, data)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        self._may(lambda: self.rights.write(key, create=False))
        self._may(lambda: self.rights.write(key, create=False, content=_content(data)))
        self._behind.put(key, data, durable=durable)

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        data = path.read_bytes()
        self.put(key, data)
        return Stored(sha256_hex(data), len(data))

    def delete(self, key: str) -> None:
        self._may(lambda: self.rights.delete(key))
        self._behind.delete(key)

    def keys(self, prefix: str) -> Iterator[str]:
        shown = self._may(lambda: self.rights.listing(prefix))
        return (key for key in self._behind.keys(prefix) if shown(key))

    def ref(self, key: str) -> str:
        return self._behind.ref(key)

    def key(self, ref: str) -> str | None:
        return self._behind.key(ref)

    def remove_temporaries(self, older_than_seconds: float) -> int:
        return 0

    def _may(self, look: Callable[[], T]) -> T:
        def told() -> T:
            try:
                return look()
            except Refused as error:
                raise StoreUnavailable(str(error)) from error

        return self._seam(told)


def _content(data: bytes) -> Content:
    return Content(sha256_hex(data), data)
