"""A thread as whoever reads it sees it: derived from papers, and from what is told of answers as they are written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agentq.events import Event
from agentq.messages import Chosen, Completion, Message
from agentq.threads.papers import (
    ANOTHERS,
    Ask,
    Declined,
    End,
    Kind,
    NotAsked,
    Piece,
    Post,
    Rule,
    State,
    Thread,
    Version,
)

GAP = "\n[…]\n"
"""What stands for text that the log no longer has."""


class Shown(Message):
    """A message or an answer. `offset` is how many characters there are so far, whatever of them `text` still has;
    `interrupted` says that an attempt at the answer came to nothing, and none has followed yet."""

    message_id: str
    thread_id: str
    kind: Kind
    author: str
    at: datetime
    text: str
    state: State
    reason: str | None = None
    asks: tuple[Ask, ...] = ()
    not_asked: tuple[NotAsked, ...] = ()
    task_id: str | None = None
    answers: str | None = None
    attempt: int = 1
    offset: int = 0
    task_state: str | None = None
    interrupted: bool = False
    decided: Chosen | None = None
    finished_at: datetime | None = None


class Described(Message):
    """The description that holds."""

    number: int
    text: str
    by: str
    at: datetime
    from_task: str | None = None


class Proposed(Message):
    """A description that a task proposes in the place of the one with the number `base`, and what became of that."""

    task_id: str
    agent: str
    base: int
    text: str
    why: str
    state: str


class View(Message):
    """A thread, whole. `cursor` is behind what its topic told before it was read."""

    thread_id: str
    title: str
    by: str
    created_at: datetime
    refinements: Rule
    description: Described
    messages: tuple[Shown, ...]
    proposals: tuple[Proposed, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What the papers say of the task that answers: nothing yet while it is not registered.

    `is_anothers` says that its id belongs to a task of somebody else, so that it will never be.
    """

    state: str | None = None
    attempt: int = 0
    manifest: Completion | None = None
    text: str | None = None
    proposes: str | None = None
    fault: str | None = None
    is_anothers: bool = False


@dataclass(frozen=True, slots=True)
class Papers:
    """Everything that decides how a thread is shown."""

    thread: Thread
    posts: Sequence[Post] = ()
    pieces: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    ends: Mapping[str, End] = field(default_factory=dict)
    versions: Mapping[int, Version] = field(default_factory=dict)
    current: int = 0
    declined: Mapping[str, Declined] = field(default_factory=dict)
    answers: Mapping[str, Answered] = field(default_factory=dict)

    def asks(self, post: Post) -> tuple[Ask, ...]:
        """Whom a message asks, the one that grew once it has ended."""
        end = self.ends.get(post.message_id)
        return (*post.asks, *(end.asks if end else ()))


def view(papers: Papers, replies: Mapping[str, Iterable[Event]] | None = None, cursor: str | None = None) -> View:
    """The thread as it is shown; `replies` are what is told of answers that are not finished, by their tasks."""
    thread = papers.thread
    return View(
        thread_id=thread.thread_id,
        title=thread.title,
        by=thread.by,
        created_at=thread.created_at,
        refinements=thread.refinements,
        description=_description(papers),
        messages=tuple(_messages(papers, replies or {})),
        proposals=tuple(_proposals(papers)),
        cursor=cursor,
    )


def _description(papers: Papers) -> Described:
    if version := papers.versions.get(papers.current):
        return Described(
            number=version.number, text=version.text, by=version.by, at=version.at, from_task=version.from_task
        )
    thread = papers.thread
    return Described(number=0, text=thread.description, by=thread.by, at=thread.created_at)


def shown(post: Post, end: End | None = None) -> Shown:
    """A message by itself, without its answers."""
    return _message(post, end, ())


def _messages(papers: Papers, replies: Mapping[str, Iterable[Event]]) -> Iterator[Shown]:
    for post in sorted(papers.posts, key=lambda post: (post.at, post.message_id)):
        yield _message(post, papers.ends.get(post.message_id), papers.pieces.get(post.message_id, ()))
        for ask in papers.asks(post):
            answer = papers.answers.get(ask.task_id, Answered())
            yield _answer(post, ask, answer, replies.get(ask.task_id, ()))


def _message(post: Post, end: End | None, pieces: Sequence[Piece]) -> Shown:
    message = Shown(
        message_id=post.message_id,
        thread_id=post.thread_id,
        kind=post.kind,
        author=post.author,
        at=post.at,
        text=post.text,
        state=post.state,
        asks=(*post.asks, *(end.asks if end else ())),
        not_asked=post.not_asked,
        offset=len(post.text),
        finished_at=post.at if post.state == "completed" else None,
    )
    return message if post.state == "completed" else message.model_copy(update=_grown(end, pieces))


def _grown(end: End | None, pieces: Sequence[Piece]) -> dict[str, object]:
    if end:
        return {
            "text": end.text,
            "offset": len(end.text),
            "state": end.state,
            "reason": end.reason,
            "not_asked": end.not_asked,
            "finished_at": end.at,
        }
    text = "".join(piece.text for piece in pieces)
    return {"text": text, "offset": len(text)}


def _answer(post: Post, ask: Ask, answer: Answered, replies: Iterable[Event]) -> Shown:
    message = Shown(
        message_id=ask.task_id,
        thread_id=post.thread_id,
        kind="agent",
        author=ask.agent,
        at=post.at,
        text="",
        state="generating",
        task_id=ask.task_id,
        answers=post.message_id,
        task_state=answer.state,
    )
    if answer.is_anothers:
        return message.model_copy(update={"state": "failed", "reason": ANOTHERS.format(ask.task_id)})
    if answer.fault and answer.manifest is None:
        return message.model_copy(update={"state": "failed", "reason": answer.fault})
    if answer.manifest:
        return message.model_copy(update=_finished(answer, answer.manifest, replies))
    attempt, text, offset = so_far(replies, answer.attempt)
    interrupted = answer.state == "pending" and answer.attempt > 0
    return message.model_copy(update={"attempt": attempt, "text": text, "offset": offset, "interrupted": interrupted})


def _finished(answer: Answered, manifest: Completion, replies: Iterable[Event]) -> dict[str, object]:
    update: dict[str, object] = {
        "state": "completed" if manifest.status == "completed" else "failed",
        "task_state": manifest.status,
        "reason": answer.fault or (None if manifest.status == "completed" else manifest.reason or manifest.status),
        "attempt": max(1, manifest.attempt),
        "decided": manifest.decided,
        "finished_at": manifest.finished_at,
    }
    if manifest.status == "completed":
        text = answer.text if answer.text is not None else manifest.summary
        return update | {"text": text, "offset": len(text)}
    attempt, text, offset = so_far(replies, 0)
    return update | {"text": text, "offset": offset} | ({"attempt": attempt} if text else {})


def so_far(replies: Iterable[Event], attempt: int) -> tuple[int, str, int]:
    """The newest attempt that is known of an answer, what it has written so far, and how many characters that are.

    An attempt that has begun and written nothing yet is newer than what the one before wrote. Pieces that come twice
    count once, and a word stands for those that are missing.
    """
    told = [(event.attempt or 1, _number(event.data.get("offset")), _text(event.data.get("text"))) for event in replies]
    newest = max((number for number, _, _ in told), default=1)
    newest = max(newest, attempt)
    text, end = "", 0
    for offset, piece in sorted((offset, piece) for number, offset, piece in told if number == newest):
        if offset > end:
            text, end = text + GAP, offset
        text += piece[end - offset :]
        end = max(end, offset + len(piece))
    return newest, text, end


def _number(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _proposals(papers: Papers) -> Iterator[Proposed]:
    for post in sorted(papers.posts, key=lambda post: (post.at, post.message_id)):
        for ask in papers.asks(post):
            answer = papers.answers.get(ask.task_id)
            if answer and answer.proposes is not None and answer.manifest and answer.manifest.decided:
                yield Proposed(
                    task_id=ask.task_id,
                    agent=ask.agent,
                    base=post.description,
                    text=answer.proposes,
                    why=answer.manifest.decided.why,
                    state=_became(papers, ask.task_id, post.description),
                )


def _became(papers: Papers, task_id: str, base: int) -> str:
    following = papers.versions.get(base + 1)
    if following and following.from_task == task_id:
        return "accepted"
    if task_id in papers.declined:
        return "declined"
    return "open" if base == papers.current else "stale"
