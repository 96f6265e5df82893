"""What the engine's port looks like in frames, on both ends of a gateway's WebSocket. No I/O.

A frame is one JSON object in one text message of at most FRAME_LIMIT bytes. The client asks `{"id": 7, "do": "depth",
…}`, with ids of its own that it uses once, and is answered `{"id": 7, "answer": …}` or `{"id": 7, "error": {"kind",
"what", "hint"}}`, in any order. A longer answer comes as pieces of its own JSON text: `{"id": 7, "piece": "…", "more":
true}`. Nothing answers `{"op": "cancel", "of": 7}` (what 7 had just handed out is given back) and `{"op": "end", "of":
7}` (lets go of a reading). Either end may send `{"op": "ping"}`, to which the other says `{"op": "pong"}`. The server
begins with `{"op": "welcome", "version": 1, …}`.
"""

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from agentq import errors
from agentq.engine import DeadLetter, Declared, Guard, Health, Page
from agentq.errors import AgentqError, EngineUnavailable, Unavailable
from agentq.events import Event

VERSION = 1
FRAME_LIMIT = 1024 * 1024
"""Bytes of a frame; a server in between must let as many pass."""
PIECE = 128 * 1024
"""Characters of a piece of an answer: in JSON, and in UTF-8, it still is a frame."""
SILENCE = 20.0
"""Seconds after which a client of which nothing is heard is taken for dead, and what it holds is given back."""

_KINDS: dict[str, type[AgentqError]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AgentqError)
}


def frame(**said: Any) -> str:
    """A frame that says that."""
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def answer(request: int, value: Any) -> Iterator[str]:
    """The frames of an answer, which are made as they are needed."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text) <= PIECE:
        yield f'{{"id":{request},"answer":{text}}}'
        return
    for start in range(0, len(text), PIECE):
        yield frame(id=request, piece=text[start : start + PIECE], more=start + PIECE < len(text))


def refusal(request: int, error: Exception) -> str:
    """The frame of an answer that is an error; one of the store's is one of the engine's to whoever asked that."""
    kind = type(error) if isinstance(error, AgentqError) else EngineUnavailable
    if issubclass(kind, Unavailable) and not issubclass(kind, EngineUnavailable):
        kind = EngineUnavailable
    said = {"kind": kind.__name__, "what": str(error)[:4000], "hint": getattr(error, "hint", "")[:4000]}
    return frame(id=request, error=said)


def error_of(said: Any) -> AgentqError:
    """The error that a frame tells; what nobody knows here is an engine that cannot be used."""
    told = said if isinstance(said, dict) else {}
    kind = _KINDS.get(str(told.get("kind")), EngineUnavailable)
    return kind(str(told.get("what") or "the gateway gave no reason"), hint=str(told.get("hint") or ""))


def of_bytes(data: bytes) -> dict[str, str]:
    """Any bytes: as text where they are some."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def to_bytes(said: dict[str, str]) -> bytes:
    """The bytes again."""
    return said["text"].encode() if "text" in said else base64.b64decode(said["base64"])


def of_guard(guard: Guard | None) -> list[int | str] | None:
    """A guard, if there is one."""
    return [guard.attempt, guard.counter, guard.id] if guard else None


def to_guard(said: Any) -> Guard | None:
    """The guard again."""
    return Guard(int(said[0]), int(said[1]), str(said[2])) if said else None


def of_moment(at: datetime | None) -> str | None:
    """A moment, if there is one."""
    return at.isoformat() if at else None


def to_moment(said: str | None) -> datetime | None:
    """The moment again."""
    return datetime.fromisoformat(said) if said else None


def of_letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter."""
    return {
        "id": letter.id,
        "agent": letter.agent,
        "reason": letter.reason,
        "at": of_moment(letter.at),
        "body": of_bytes(letter.body),
        "task_id": letter.task_id,
        "headers": letter.headers,
    }


def to_letter(said: dict[str, Any]) -> DeadLetter:
    """The dead letter again."""
    return DeadLetter(**{**said, "at": to_moment(said["at"]), "body": to_bytes(said["body"])})


def of_page(page: Page) -> dict[str, Any]:
    """A page of a log."""
    return {
        "events": [event.model_dump_json(by_alias=True, exclude_defaults=True) for event in page.events],
        "position": page.position,
        "caught_up": page.caught_up,
        "gap": page.gap,
    }


def to_page(said: dict[str, Any]) -> Page:
    """The page again."""
    events = tuple(Event.model_validate_json(text) for text in said["events"])
    return Page(events, said["position"], bool(said["caught_up"]), bool(said["gap"]))


def to_declared(said: dict[str, Any]) -> Declared:
    """What was declared."""
    return Declared(**{name: tuple(things) for name, things in said.items()})


def to_health(said: dict[str, Any]) -> Health:
    """How the engine is."""
    lists = {name: tuple(said[name]) for name in ("missing", "notes", "unbounded")}
    return Health(name=said["name"], version=said["version"], **lists)
