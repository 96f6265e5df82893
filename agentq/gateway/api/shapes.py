"""What the API takes and answers, as far as several operations share it."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentq.messages import Name, TaskId

Text = Annotated[str, Field(min_length=1, max_length=4000)]
Duration = Annotated[
    str, Field(min_length=1, max_length=32, description="90, 90s, 10m, 2h, 1d: seconds unless it says otherwise.")
]
Moment = Annotated[
    str, Field(min_length=1, max_length=64, description="How long ago, such as 24h, or a time in ISO 8601.")
]


class Given(BaseModel):
    """What a client sends: what is not known is refused, for it would mean nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Told(BaseModel):
    """What a client is answered; more may come in later versions."""

    model_config = ConfigDict(frozen=True)


class Row(BaseModel):
    """An object with the fields of the command's `--json`, of which these are sure."""

    model_config = ConfigDict(extra="allow", frozen=True)


class TaskRow(Row):
    """A task as `agentq list --json` prints it."""

    task_id: TaskId
    state: str
    waits_for: str | None
    agent: str | None
    type: str | None


class Made(Told):
    """A task that was asked for: `new` unless it was known before, with the same content."""

    task_id: TaskId
    new: bool
    state: str


class Listed(Told):
    """Tasks, newest first; `next` is what `before` goes on with, `as_of` when the log was read."""

    tasks: list[TaskRow]
    next: TaskId | None
    as_of: str | None


class Events(Told):
    """Events in order."""

    events: list[dict[str, Any]]


def _one_word(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it has a NUL in it")
    return text


Plain = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_one_word)]
"""A short text, such as a label."""
Agent = Name
