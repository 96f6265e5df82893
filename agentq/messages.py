"""What travels: the envelope of a task and the completion that answers it."""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from agentq.errors import Invalid

VERSION = 1
ENVELOPE_LIMIT = 64 * 1024
LONGEST_SECONDS = 366 * 24 * 3600
SUMMARY_LIMIT = 1000
REASON_LIMIT = 4000
NEEDS_LIMIT = 1000
ROUNDS_LIMIT = 10

Priority = Literal["low", "normal", "high", "urgent"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
Outcome = Literal["completed", "failed", "cancelled", "expired"]
Stopped = Literal["proven", "presumed"]
Decision = Literal["approve", "request-changes"]
Choice = Literal["answer", "refine", "report-status", "act", "decline"]

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_A_TASK = re.compile(r"(?:^|/)(?:artifacts/([^/]+)/.+|(?:tasks|results)/([^/]+)\.(?:md|json))$")


def is_key(text: str, longest: int) -> bool:
    """Whether a text can stand in keys of the store and names of queues."""
    return len(text) <= longest and _KEY.fullmatch(text) is not None


def task_in(ref: str) -> str | None:
    """The id of the task whose paper or evidence a ref or a key names, None when it is no task's."""
    found = _OF_A_TASK.search(ref)
    task_id = (found[1] or found[2]) if found else None
    return task_id if task_id and is_key(task_id, 128) else None


def _a_key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise ValueError("letters, digits, '.', '_' and '-' only, starting with a letter or digit")
    return text


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None  # no task fails for its trace


TaskId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_a_key)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_a_key)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS)]


def utc_now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def new_task_id() -> str:
    """A fresh id that sorts by time of submission: `task-<UTC stamp>-<random>`."""
    return f"task-{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def sha256_hex(data: bytes) -> str:
    """The SHA-256 digest of data, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def shorten(text: str, limit: int) -> str:
    """The text, cut to at most `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


class Message(BaseModel):
    """A JSON object whose unknown fields are kept and passed on."""

    model_config = ConfigDict(
        extra="allow", populate_by_name=True, frozen=True, defer_build=True, hide_input_in_errors=True
    )

    def to_json(self) -> bytes:
        """The wire form, UTF-8; raises Invalid for what has none (half a character, a thousand nested lists)."""
        try:
            return self.model_dump_json(by_alias=True).encode()
        except ValueError as error:
            raise Invalid("it has half a character in it, or is nested too deeply, to be written as JSON") from error


class Signature(Message):
    """Who signed a message: the key's name and id, and the Ed25519 signature (RFC 8032) in base64."""

    by: Name
    key: str
    algorithm: Literal["Ed25519"] = "Ed25519"
    value: str


class ExpectedOutput(Message):
    """What a result must bring: the report's format and the names of the artifacts."""

    format: Annotated[str, Field(min_length=1, max_length=64)] = "markdown"
    artifacts: tuple[Name, ...] = ()


class Budget(Message):
    """What all attempts of a task, or all tasks of a plan, may take together; None is without a limit."""

    max_cost_usd: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**53)] | None = None


class Review(Message):
    """That a group is a review loop: who reviews, and how often at most."""

    by: Name
    rounds: Annotated[int, Field(ge=1, le=ROUNDS_LIMIT)] = 3


class Envelope(Message):
    """A task as it travels; the first ten fields are all that a foreign producer must send."""

    task_id: TaskId
    from_: Name = Field(default="coordinator", alias="from")
    to: Name
    type: Name
    priority: Priority = "normal"
    ttl_seconds: Seconds | None = None
    reply_to: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    context_ref: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    instructions: str
    expected_output: ExpectedOutput = ExpectedOutput()

    version: int = VERSION
    created_at: AwareDatetime | None = None
    store: str | None = None
    context_sha256: str | None = None
    request_sha256: str | None = None
    timeout_seconds: Seconds | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    not_before: AwareDatetime | None = None
    delay_seconds: Seconds | None = None
    depends_on: Annotated[tuple[TaskId, ...], Field(max_length=NEEDS_LIMIT)] = ()
    run_if: Literal["completed", "always", "changes_requested"] = "completed"
    continues: TaskId | None = None
    requires_approval: bool = False
    group: TaskId | None = None
    retry_of: TaskId | None = None
    budget: Budget | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    traceparent: Annotated[str | None, BeforeValidator(_text_or_none)] = None
    signature: dict[str, Any] | str | None = None
    review: Review | None = None
    plan: tuple["Envelope", ...] = ()

    @field_validator("continues")
    @classmethod
    def _is_needed(cls, task_id: str | None, info: ValidationInfo) -> str | None:
        if task_id is not None and task_id not in info.data.get("depends_on", ()):
            raise ValueError("what a task continues it must depend on")
        return task_id

    @field_validator("instructions")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("instructions are empty")
        return text

    @field_validator("version")
    @classmethod
    def _is_understood(cls, version: int) -> int:
        if version > VERSION:
            raise ValueError(f"version {version} is newer than this agentq understands ({VERSION})")
        return version

    @property
    def is_foreign(self) -> bool:
        """True for a message that no agentq registered: it carries no request digest."""
        return self.request_sha256 is None

    @property
    def is_group(self) -> bool:
        """True for a task that is made of tasks: it is registered and never delivered."""
        return bool(self.plan)

    @property
    def has_gates(self) -> bool:
        """True for a task that waits for more than its time, so that registering it does not publish it."""
        return bool(self.depends_on) or self.requires_approval

    @property
    def waits_on(self) -> tuple[str, ...]:
        """The tasks whose ends this one waits for: what it needs, and of a group its own tasks."""
        return (*self.depends_on, *(task.task_id for task in self.plan))

    @property
    def borrows(self) -> tuple[str, ...]:
        """The other tasks whose evidence it builds on without waiting for them itself: those that hold its context,
        and of a group what its tasks need of others."""
        inside = {self.task_id, *(task.task_id for task in self.plan)}
        owners = (task_in(task.context_ref or "") for task in (self, *self.plan))
        needed = (need for task in self.plan for need in task.depends_on)
        return tuple(dict.fromkeys(one for one in (*owners, *needed) if one and one not in inside))

    def request_digest(self) -> str:
        """SHA-256 over what was asked, without what registering adds (times, store, trace, signature)."""
        added = {"created_at", "store", "request_sha256", "traceparent", "signature"}
        if self.delay_seconds is not None:
            added.add("not_before")
        asked = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=added)
        for task in asked.get("plan", ()):
            task.pop("signature", None)
            task.pop("traceparent", None)
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return sha256_hex(text.encode())

    def registered(self, store: str, created_at: datetime) -> "Envelope":
        """This request as it is registered in a store at that moment."""
        update: dict[str, Any] = {
            "created_at": created_at,
            "store": store,
            "request_sha256": self.request_digest(),
        }
        if self.delay_seconds is not None:
            update["not_before"] = created_at + timedelta(seconds=self.delay_seconds)
        return self.model_copy(update=update)


class Artifact(Message):
    """A piece of evidence: where it lies, its digest, and who made it (`daemon`, `agent` or `hand`)."""

    name: str
    ref: str
    sha256: str
    bytes: int
    media_type: str = "application/octet-stream"
    made_by: str = "agent"


class Usage(Message):
    """What attempts took; unknown stays None, and `at_least` says that it may have been more."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    at_least: bool | None = None

    @property
    def tokens(self) -> int | None:
        """All tokens, read and written."""
        known = [count for count in (self.input_tokens, self.output_tokens) if count is not None]
        return sum(known) if known else None


def total(usages: Sequence[Usage]) -> Usage:
    """What was taken together; `at_least` that where one of them does not tell what another one does."""
    sums: dict[str, Any] = {}
    unsure = any(usage.at_least for usage in usages)
    for name in ("input_tokens", "output_tokens", "cost_usd", "seconds"):
        known = [value for usage in usages if (value := getattr(usage, name)) is not None]
        sums[name] = round(sum(known), 6) if known else None
        unsure = unsure or 0 < len(known) < len(usages)
    return Usage(**sums, at_least=unsure or None)


class Chosen(Message):
    """What an agent that was asked for an answer decided to do, and why, in its words."""

    decision: Choice
    why: str


class Completion(Message):
    """How a task ended: the manifest in the store and the notice to the coordinator are both this.

    `usage` is what all attempts of the task took.
    `given_up` says that agentq failed it (attempts used up, or nothing may run it), so that it is dead-lettered.
    `envelope_sha256` is the digest of the registered envelope that it answers, `signature` covers all but itself;
    `traceparent` is the W3C trace context of the attempt that it comes from, else of the task.
    `verdict` is what a review came to, and `decided` what an agent decided to do, when one was asked for.
    Of a cancelled attempt `stopped` says whether its process tree is proven gone, `stop_seconds` how long that took.
    """

    task_id: TaskId
    from_: Name = Field(alias="from")
    to: str
    status: Outcome
    result_ref: str | None = None
    summary: str = ""
    version: int = VERSION
    attempt: int
    result_sha256: str | None = None
    finished_at: AwareDatetime
    reason: str | None = None
    verified: bool = False
    verdict: Decision | None = None
    decided: Chosen | None = None
    given_up: bool = False
    stopped: Stopped | None = None
    stop_seconds: float | None = None
    artifacts: tuple[Artifact, ...] = ()
    usage: Usage = Usage()
    envelope_sha256: str | None = None
    traceparent: str | None = None
    signature: Signature | None = None

    def artifact(self, name: str) -> Artifact | None:
        """The artifact of that name, None when there is none."""
        return next((a for a in self.artifacts if a.name == name), None)


class Doubted(Completion):
    """A completion that the coordinator cannot take for proven, and why; it says `verified: false`."""

    unverified_because: str


def parse_envelope(body: bytes) -> Envelope:
    """The envelope in a message's body; raises Invalid with a reason that a person understands."""
    if len(body) > ENVELOPE_LIMIT:
        raise Invalid(f"the message has {len(body)} bytes, an envelope may have {ENVELOPE_LIMIT}")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the message is not UTF-8 (byte {error.start})") from error
    value = _json(text)
    if not isinstance(value, dict):
        raise Invalid(f"the message is JSON, but not an object: {type(value).__name__}")
    try:
        envelope = Envelope.model_validate(value)
    except ValidationError as error:
        raise Invalid(f"the message is no valid envelope: {explain(error)}") from error
    envelope.to_json()  # it will be passed on
    return envelope


def _json(text: str) -> object:
    """The JSON value in a text; what could not be written back as it came (NaN, half a character) is refused."""
    try:
        value: object = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise Invalid("the message has half a character (a lone surrogate) in it") from error
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the message is not JSON: {error}") from error
    return value


def explain(error: ValidationError) -> str:
    """A validation error as one line: `field: what is wrong`, separated by semicolons; values are not repeated."""
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        field = ".".join(str(step) for step in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {text}" if field else text)
    return "; ".join(parts)
