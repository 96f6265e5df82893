"""What each tool takes: checked here, and told to a model in as few words as will do."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agentq.errors import Invalid
from agentq.harmless import one_line
from agentq.messages import ROUNDS_LIMIT, Priority, explain, is_key

IDS_LIMIT = 100
WAIT_SECONDS, LONGEST_WAIT = 60, 600
FEWEST_TOKENS, TOKENS, MOST_TOKENS = 50, 1000, 100_000
ROWS, MOST_ROWS = 20, 100


def _listed(value: object) -> object:
    """A list, also where a model gives one text, or a list written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return [value]
    return found if isinstance(found, list) else [value]


def _at_most(limit: int) -> BeforeValidator:
    return BeforeValidator(lambda value: min(value, limit) if isinstance(value, int | float) else value)


Id = Annotated[str, Field(min_length=1, max_length=128)]
Ids = Annotated[list[Id], BeforeValidator(_listed), Field(min_length=1, max_length=IDS_LIMIT)]
SomeIds = Annotated[list[Id], BeforeValidator(_listed), Field(max_length=IDS_LIMIT)]
Names = Annotated[list[str], BeforeValidator(_listed)]


class Arguments(BaseModel):
    """What a tool takes; anything else is refused by name."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Submit(Arguments):
    """`submit`."""

    to: str
    type: str
    instructions: str | None = Field(None, description="One objective. Long text goes into context.")
    id: str | None = Field(None, description="Your own id, so that repeating is safe.")
    context: str | None = Field(None, description="A document for the agent.")
    context_file: str | None = Field(None, description="Or its path.")
    repo: str | None = Field(None, description="Repository folder or URL.")
    base: str | None = Field(None, description="Its revision.")
    expect: Names = Field([], description="Evidence that must come back: patch, test-output…")
    after: SomeIds = Field([], description="Ids of tasks whose results it needs.")
    run_if: Literal["completed", "always"] | None = Field(None, description="What those must come to.")
    priority: Priority = "normal"
    delay: str | None = Field(None, description="Start after, e.g. 10m.")
    ttl: str | None = Field(None, description="Expire unless started within.")
    timeout: str | None = Field(None, description="Longest attempt.")
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    review_by: str | None = Field(None, description="Agent that reviews until it approves.")
    rounds: Annotated[int, Field(ge=1, le=ROUNDS_LIMIT)] | None = None
    labels: dict[str, str] = {}
    requires_approval: bool = Field(False, description="A person must let it start.")


class Plan(Arguments):
    """`plan`."""

    plan: str = Field(description="YAML or JSON.")
    id: str | None = None


class One(Arguments):
    """A tool about one task."""

    id: Id


class Several(Arguments):
    """A tool about some tasks."""

    ids: Ids


class Wait(Arguments):
    """`wait`."""

    ids: Ids
    any: bool = Field(False, description="Until one has ended.")
    seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT), _at_most(LONGEST_WAIT)] = WAIT_SECONDS


class Result(One):
    """`result`."""

    max_tokens: Annotated[int, Field(ge=FEWEST_TOKENS, le=MOST_TOKENS), _at_most(MOST_TOKENS)] = TOKENS


class Inbox(Arguments):
    """`inbox`."""

    acknowledge: SomeIds = Field([], description="Ids to mark as read first.")


class Cancel(One):
    """`cancel`."""

    reason: str | None = None


class List(Arguments):
    """`list`."""

    state: Names = Field([], description="open, ended, pending, processing, completed, failed…")
    agent: str | None = None
    plan: str | None = None
    label: Names = Field([], description="key or key=value.")
    text: str | None = Field(None, description="Words in id, title, summary.")
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS), _at_most(MOST_ROWS)] = ROWS
    before: str | None = Field(None, description="Last id of the page before.")


_UNSAID = ("title", "minLength", "maxLength", "minItems", "maxItems")


def schema_of(model: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, without what a model does not need to be told."""
    whole = model.model_json_schema()
    made = _short(whole)
    made.pop("description", None)
    return {key: made[key] for key in ("type", "properties", "required") if key in made}


def _short(schema: dict[str, Any]) -> dict[str, Any]:
    """Without titles, nulls, lengths and defaults that say nothing."""
    schema = {key: value for key, value in schema.items() if key not in _UNSAID}
    if kinds := schema.pop("anyOf", None):
        (kind,) = (one for one in kinds if one.get("type") != "null")
        schema = {**_short(kind), **schema}
    if schema.get("default", "") in (None, False, [], {}, ""):
        schema.pop("default", None)
    if "properties" in schema:
        schema["properties"] = {name: _short(item) for name, item in schema["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            schema[inner] = _short(schema[inner])
    return schema


def read(model: type[Arguments], tool: str, given: dict[str, Any] | None) -> Any:
    """The arguments of a call; raises Invalid that tells which are wrong and which there are."""
    try:
        return model.model_validate(given or {})
    except ValidationError as error:
        takes = ", ".join(f"{name}{'' if item.is_required() else '?'}" for name, item in model.model_fields.items())
        raise Invalid(explain(error), hint=f"{tool} takes: {takes}. Correct it and call again.") from error


def checked(task_id: str) -> str:
    """The id itself; raises Invalid for what can be none."""
    if not is_key(task_id, 128):
        raise Invalid(
            f"{one_line(task_id)[:128]!r} is no task id",
            hint="Give an id as submit answered it: letters, digits, '.', '_' and '-'.",
        )
    return task_id
