"""Where the papers of threads lie in a store, and how each is created and read."""

from collections.abc import Iterator
from typing import Literal, TypeVar

from pydantic import ValidationError

from agentq.errors import EvidenceError, NotFound
from agentq.messages import Completion, Message, explain
from agentq.records import Records
from agentq.store import names_in
from agentq.threads.memory import Memory
from agentq.threads.papers import Declined, End, Piece, Post, Thread, Version

M = TypeVar("M", bound=Message)

Debt = Literal["asking", "streaming", "accepting"]
"""What is still to be done for a message or a task of a thread: not all that follows it is done, it may still
grow, or what it proposes is to be let through."""


class Shelf:
    """The papers of all threads in one store.

    threads/<thread>.json                          the thread
    talk/<thread>/messages/<message>.json          a message
    talk/<thread>/pieces/<message>/<offset>.json   what was appended to it
    talk/<thread>/ends/<message>.json              how one that grew ended, and its whole text
    talk/<thread>/description/<number>.json        a version of the description
    talk/<thread>/declined/<task>.json             that a proposal is not wanted
    asking|streaming|accepting/<thread>/<name>     what is still to be done: put first, deleted last
    """

    def __init__(self, records: Records, memory: Memory | None = None) -> None:
        self.records = records
        self.memory = memory or Memory()
        self._store = records.store

    # ------------------------------------------------------------------ threads

    def open(self, thread: Thread) -> Thread:
        """Create a thread; answers with the one that holds, another's when it was first."""
        return self._first(f"threads/{thread.thread_id}.json", thread)

    def find(self, thread_id: str) -> Thread | None:
        """The thread, None when there is none."""
        return self._read(f"threads/{thread_id}.json", Thread)

    def thread(self, thread_id: str) -> Thread:
        """The thread; raises NotFound."""
        if thread := self.find(thread_id):
            return thread
        raise NotFound(f"there is no thread {thread_id}", hint="See: agentq thread list")

    def thread_ids(self) -> list[str]:
        """The ids of all threads, in order."""
        return [name.removesuffix(".json") for name in names_in(self._store.keys("threads/"))]

    def names(self, thread_id: str) -> "Names":
        """What papers a thread has."""
        names = Names()
        for key in self._store.keys(f"talk/{thread_id}/"):
            names.add(key)
        return names

    # ------------------------------------------------------------------ messages

    def post(self, post: Post) -> Post:
        """Create a message; answers with the one that holds."""
        return self._first(f"talk/{post.thread_id}/messages/{post.message_id}.json", post)

    def posted(self, thread_id: str, message_id: str) -> Post | None:
        """The message, None when there is none."""
        return self._read(f"talk/{thread_id}/messages/{message_id}.json", Post)

    def put_piece(self, piece: Piece) -> Piece:
        """Append at an offset; answers with what was appended there first."""
        return self._first(_piece(piece.thread_id, piece.message_id, piece.offset), piece)

    def pieces(self, thread_id: str, message_id: str) -> list[Piece]:
        """What was appended so far, in order, the last one perhaps its end."""
        keys = list(self._store.keys(f"talk/{thread_id}/pieces/{message_id}/"))
        found = (self._read(key, Piece) for key in keys)
        return chained(piece for piece in found if piece)

    def growth(self, thread_id: str, message_id: str) -> tuple[int, bool]:
        """How often a message was appended to, and whether it has ended."""
        count = sum(1 for _ in self._store.keys(f"talk/{thread_id}/pieces/{message_id}/"))
        return count, self.ended(thread_id, message_id) is not None

    def remove_pieces(self, thread_id: str, message_id: str) -> None:
        """Remove what the end of the message holds as a whole."""
        for key in list(self._store.keys(f"talk/{thread_id}/pieces/{message_id}/")):
            self._store.delete(key)

    def end(self, end: End) -> End:
        """Create the end of a message that grew; answers with the one that holds."""
        return self._first(f"talk/{end.thread_id}/ends/{end.message_id}.json", end)

    def ended(self, thread_id: str, message_id: str) -> End | None:
        """How a message ended that grew, None while it may grow."""
        return self._read(f"talk/{thread_id}/ends/{message_id}.json", End)

    def manifest(self, task_id: str) -> Completion | None:
        """How a task ended, None while it has not."""
        if isinstance(known := self.memory.find(f"results/{task_id}"), Completion):
            return known
        found = self.records.manifest(task_id)
        if found:
            self.memory.keep(f"results/{task_id}", found, len(found.to_json()))
        return found

    # ------------------------------------------------------------------ the description

    def describe(self, version: Version) -> Version:
        """Create a version of the description; answers with the one that holds."""
        return self._first(f"talk/{version.thread_id}/description/{version.number:08}.json", version)

    def version(self, thread_id: str, number: int) -> Version | None:
        """A version of the description."""
        return self._read(f"talk/{thread_id}/description/{number:08}.json", Version)

    def versions(self, thread_id: str) -> int:
        """The number of the newest version; 0 for the text that the thread began with."""
        names = names_in(self._store.keys(f"talk/{thread_id}/description/"))
        return max((int(name.removesuffix(".json")) for name in names), default=0)

    def decline(self, declined: Declined) -> Declined:
        """Say that a proposal is not wanted; the first word holds."""
        return self._first(f"talk/{declined.thread_id}/declined/{declined.task_id}.json", declined)

    def declined(self, thread_id: str, task_id: str) -> Declined | None:
        """Whether a proposal is not wanted."""
        return self._read(f"talk/{thread_id}/declined/{task_id}.json", Declined)

    # ------------------------------------------------------------------ what is still to be done

    def owe(self, debt: Debt, thread_id: str, name: str) -> None:
        """Note that something is still to be done."""
        self._store.put(f"{debt}/{thread_id}/{name}", b"")

    def owes(self, debt: Debt, thread_id: str, name: str) -> bool:
        """Whether that is still to be done."""
        return self._store.get(f"{debt}/{thread_id}/{name}") is not None

    def paid(self, debt: Debt, thread_id: str, name: str) -> None:
        """Note that it is done."""
        self._store.delete(f"{debt}/{thread_id}/{name}")

    def owed(self, debt: Debt) -> Iterator[tuple[str, str]]:
        """For which threads and messages, or tasks, that is still to be done."""
        for key in self._store.keys(f"{debt}/"):
            _, thread_id, name = key.split("/", 2)
            yield thread_id, name

    # ------------------------------------------------------------------

    def _read(self, key: str, model: type[M]) -> M | None:
        if isinstance(known := self.memory.find(key), model):
            return known
        data = self._store.get(key)
        if data is None:
            return None
        paper = _parsed(key, data, model)
        if model is not Piece:  # those go
            self.memory.keep(key, paper, len(data))
        return paper

    def _first(self, key: str, paper: M) -> M:
        found = self.records.create(key, paper.to_json())
        return paper if found is None else _parsed(key, found, type(paper))


class Names:
    """The names of a thread's papers by their kind, each in order."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.ends: set[str] = set()
        self.growing: set[str] = set()
        self.declined: set[str] = set()
        self.versions: list[int] = []

    def add(self, key: str) -> None:
        """Take in a key; what is none of ours is passed over."""
        _, _, kind, *rest = key.split("/")
        name = rest[0].removesuffix(".json") if rest else ""
        if kind == "messages":
            self.messages.append(name)
        elif kind == "ends":
            self.ends.add(name)
        elif kind == "pieces":
            self.growing.add(name)
        elif kind == "declined":
            self.declined.add(name)
        elif kind == "description" and name.isdigit():
            self.versions.append(int(name))


def chained(pieces: "Iterator[Piece]") -> list[Piece]:
    """The pieces that follow each other from the beginning; what was put elsewhere by somebody too late is left out."""
    kept: list[Piece] = []
    offset = 0
    for piece in pieces:
        if piece.offset == offset and not (kept and kept[-1].end):
            kept.append(piece)
            offset += len(piece.text)
    return kept


def _piece(thread_id: str, message_id: str, offset: int) -> str:
    return f"talk/{thread_id}/pieces/{message_id}/{offset:08}.json"


def _parsed(key: str, data: bytes, model: type[M]) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceError(
            f"the paper {key} is damaged: {explain(error)}", hint="Restore it from a backup of the store."
        ) from error
