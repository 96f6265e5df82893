"""What may be asked of the engine through the door: one model for each request, so that nothing else gets in."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentq.engines.log import readable
from agentq.errors import Invalid
from agentq.events import Event
from agentq.messages import Completion, Envelope, Name, explain, parse_envelope

Id = Annotated[int, Field(ge=1, lt=2**53)]
LONGEST_DELAY = 366 * 24 * 3600.0


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id


class Simple(_Request):
    """What needs no more words."""

    do: Literal["dead_letters", "count_dead_letters", "close"]


class OfAgent(_Request):
    """What is asked of one agent's queue."""

    do: Literal["ready", "receive", "depth", "listeners"]
    agent: Name


class OfAnother(_Request):
    """What is asked of what an earlier request began: a delivery, or a reading."""

    do: Literal["ack", "next"]
    of: Id


class Declare(_Request):
    """`Engine.declare`."""

    do: Literal["declare"]
    agents: tuple[Name, ...]
    coordinators: tuple[Name, ...]


class HealthOf(_Request):
    """`Engine.health`."""

    do: Literal["health"]
    agents: tuple[Name, ...]


class Publish(_Request):
    """`Engine.publish`."""

    do: Literal["publish"]
    envelope: str
    delay: Annotated[float, Field(ge=0, le=LONGEST_DELAY, allow_inf_nan=False)] = 0.0
    guard: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)], Annotated[str, Field(max_length=128)]] | None


class Bury(_Request):
    """`Delivery.dead_letter`."""

    do: Literal["bury"]
    of: Id
    reason: str


class GiveUp(_Request):
    """`Engine.dead_letter`."""

    do: Literal["dead_letter"]
    envelope: str
    reason: str


class Notify(_Request):
    """`Engine.notify`."""

    do: Literal["notify"]
    completion: str
    reply_to: Annotated[str, Field(max_length=512)]


class Remove(_Request):
    """`Engine.remove_dead_letters`."""

    do: Literal["remove_dead_letters"]
    ids: Annotated[tuple[str, ...], Field(max_length=10_000)]


class Append(_Request):
    """`Engine.append`."""

    do: Literal["append"]
    events: Annotated[tuple[str, ...], Field(max_length=10_000)]


class Read(_Request):
    """`Engine.read`."""

    do: Literal["read"]
    log: Literal["events", "output"] = "events"
    after: Annotated[str, Field(max_length=512)] | None = None
    since: AwareDatetime | None = None
    tasks: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    follow: bool = False


Request = Annotated[
    Simple | OfAgent | OfAnother | Declare | HealthOf | Publish | Bury | GiveUp | Notify | Remove | Append | Read,
    Field(discriminator="do"),
]
_REQUEST: TypeAdapter[Any] = TypeAdapter(Request)


def request_of(said: dict[str, Any]) -> Any:
    """The request that a frame makes; raises Invalid."""
    try:
        return _REQUEST.validate_python(said)
    except ValidationError as error:
        raise Invalid(f"that is no request to an engine: {explain(error)}") from None


def envelope_of(text: str) -> Envelope:
    """The envelope in a request; raises Invalid."""
    return parse_envelope(text.encode(errors="surrogatepass"))


def completion_of(text: str) -> Completion:
    """The completion in a request; raises Invalid."""
    try:
        return Completion.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(f"that is no completion: {explain(error)}") from None


def events_of(texts: tuple[str, ...]) -> list[Event]:
    """The events in a request, without what is none."""
    return [event for text in texts if (event := readable(text))]
