"""What the papers of a thread tell the log: the event of each, the same whoever tells it again."""

from datetime import datetime
from typing import Any

from agentq.events import Event, ThreadKind
from agentq.messages import shorten
from agentq.threads.papers import Declined, End, Piece, Post, Thread, Version

WORDS, REASON = 120, 1000


def thread_opened(thread: Thread) -> Event:
    """Somebody opened a thread."""
    return _event(thread.thread_id, "thread_opened", "", thread.created_at, thread.by, {"title": thread.title})


def message_posted(post: Post) -> Event:
    """Somebody wrote a message, or began to."""
    asks = [{"agent": ask.agent, "type": ask.type, "task_id": ask.task_id} for ask in post.asks]
    title = shorten(" ".join(post.text[: 4 * WORDS].split()), WORDS)
    said = {"message": post.message_id, "title": title, "kind": post.kind, "state": post.state, "asks": asks}
    return _event(post.thread_id, "message_posted", post.message_id, post.at, post.author, said)


def reply(piece: Piece) -> Event:
    """Somebody who is no task wrote on."""
    said = {"text": piece.text, "offset": piece.offset, "thread": piece.thread_id, "message": piece.message_id}
    name = f"{piece.message_id}/reply/1/{piece.offset}"
    return Event(id=name, kind="reply", at=piece.at, attempt=1, by=piece.by, data=said)


def message_ended(end: End) -> Event:
    """A message that grew is whole, or broke off."""
    asks = [{"agent": ask.agent, "type": ask.type, "task_id": ask.task_id} for ask in end.asks]
    reason = end.reason and shorten(end.reason, REASON)
    said = {"message": end.message_id, "state": end.state, "reason": reason, "offset": len(end.text), "asks": asks}
    return _event(end.thread_id, "message_ended", end.message_id, end.at, end.by, said)


def description_changed(version: Version) -> Event:
    """The description has a new version."""
    said = {"number": version.number, "task": version.from_task}
    return _event(version.thread_id, "description_changed", str(version.number), version.at, version.by, said)


def proposal_declined(declined: Declined) -> Event:
    """Somebody does not want what a task proposed."""
    said = {"task": declined.task_id, "reason": declined.reason and shorten(declined.reason, REASON)}
    return _event(declined.thread_id, "proposal_declined", declined.task_id, declined.at, declined.by, said)


def _event(thread_id: str, kind: ThreadKind, which: str, at: datetime, by: str, said: dict[str, Any]) -> Event:
    data = {"thread": thread_id} | {name: value for name, value in said.items() if value not in (None, [], "")}
    return Event(id=f"{thread_id}/{kind}/{which}".rstrip("/"), kind=kind, at=at, by=by, data=data)
