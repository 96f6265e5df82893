"""The papers of a thread. Each is created once, by one hand, and never changed."""

import re
import secrets
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from agentq.messages import Message, Name, TaskId, utc_now

TEXT_LIMIT = 64 * 1024
"""Characters of a message's and of a description's text, at most."""
PIECE_LIMIT = 8000
"""Characters that are appended at once, at most: an event has room for them, however they are written."""
TITLE_LIMIT = 200
ASKS_LIMIT = 20
"""How many agents one message asks, at most."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

ANOTHERS = "{} is a task of somebody else: post the message under another id"
"""Why an agent is not asked whose task would have an id that is taken."""

Rule = Literal["ask", "accept"]
"""What becomes of an agent's proposal for the description: a person is asked, or it holds."""
State = Literal["generating", "completed", "failed"]
Kind = Literal["person", "agent"]
AskType = Literal["mention", "assignment", "manual", "refinement"]


def is_id(text: str) -> bool:
    """Whether a thread or a message can be called so: with an agent's name behind it, it is a task's id."""
    return _ID.fullmatch(text) is not None


Id = Annotated[str, Field(pattern=f"^{_ID.pattern}$")]


def new_id(prefix: Literal["thr", "m"]) -> str:
    """A fresh id that sorts by time."""
    return f"{prefix}-{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


class Thread(Message):
    """That there is a thread: its title, its first description, and the rule for proposals."""

    thread_id: Id
    title: Annotated[str, Field(min_length=1, max_length=TITLE_LIMIT)]
    by: Name
    created_at: AwareDatetime
    description: Annotated[str, Field(max_length=TEXT_LIMIT)] = ""
    refinements: Rule = "ask"


class Ask(Message):
    """An agent that is asked, and its task."""

    agent: Name
    type: AskType
    task_id: TaskId
    requires_approval: bool = False


class NotAsked(Message):
    """An agent that was mentioned and cannot be asked, and why."""

    agent: str
    why: str


class Post(Message):
    """A message: creating it is what asks. `description` is the number of the description that it was written under."""

    thread_id: Id
    message_id: Id
    author: Name
    kind: Kind = "person"
    at: AwareDatetime
    text: Annotated[str, Field(max_length=TEXT_LIMIT)]
    state: Literal["completed", "generating"] = "completed"
    asks: tuple[Ask, ...] = ()
    not_asked: tuple[NotAsked, ...] = ()
    description: int = 0


class Piece(Message):
    """What was appended to a message at an offset; with an `end` it is the last one, and has no text.

    With `allow_secrets` its author said that what looks like a credential in it is none.
    """

    thread_id: Id
    message_id: Id
    offset: Annotated[int, Field(ge=0)]
    text: Annotated[str, Field(max_length=PIECE_LIMIT)] = ""
    allow_secrets: bool = False
    by: Name
    at: AwareDatetime
    end: Literal["completed", "failed"] | None = None
    reason: str | None = None
    asks: tuple[Ask, ...] = ()
    not_asked: tuple[NotAsked, ...] = ()


class End(Message):
    """How a streamed message ended, and all of its text."""

    thread_id: Id
    message_id: Id
    state: Literal["completed", "failed"]
    text: str
    reason: str | None = None
    by: Name
    at: AwareDatetime
    asks: tuple[Ask, ...] = ()
    not_asked: tuple[NotAsked, ...] = ()


class Version(Message):
    """A version of the description; the number says which one it follows."""

    thread_id: Id
    number: Annotated[int, Field(ge=1)]
    text: Annotated[str, Field(max_length=TEXT_LIMIT)]
    by: Name
    at: AwareDatetime
    from_task: TaskId | None = None


class Declined(Message):
    """That somebody declined what a task proposed."""

    thread_id: Id
    task_id: TaskId
    by: Name
    at: AwareDatetime
    reason: str | None = None
