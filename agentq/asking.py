"""A task as somebody asks for it, made into a request: what every way of asking for a single task or loop shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentq.errors import Invalid
from agentq.messages import new_task_id
from agentq.request import DO_CONTEXT, ahead, budget_of, is_url, seconds

if TYPE_CHECKING:
    from agentq.context import Context
    from agentq.messages import Envelope, Review
    from agentq.store import Store

_ASKED = {
    "ttl_seconds": "ttl",
    "timeout_seconds": "timeout",
    "delay_seconds": "delay",
    "budget.max_cost_usd": "max_cost_usd",
    "budget.max_tokens": "max_tokens",
    "depends_on": "after",
    "expected_output.artifacts": "expect",
    "expected_output.format": "format",
    "by": "review_by",
}
"""The fields of an envelope and of a review, as they are asked for."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Words:
    """How whoever asks calls each part, what gives something to do, and where all of it is explained."""

    name: Callable[[str], str]
    give_something: str
    see: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asks for: durations such as `10m`, a time in ISO 8601, a repository by folder or URL."""

    to: str
    type: str
    instructions: str | None = None
    task_id: str | None = None
    priority: str = "normal"
    ttl: str | None = None
    timeout: str | None = None
    max_attempts: int | None = None
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    delay: str | None = None
    at: str | None = None
    after: Sequence[str] = ()
    run_if: str | None = None
    requires_approval: bool = False
    review_by: str | None = None
    rounds: int | None = None
    review_type: str | None = None
    expect: Sequence[str] = ()
    format: str = "markdown"
    labels: Mapping[str, str] = field(default_factory=dict)
    repo: str | None = None
    base: str | None = None
    reply_to: str | None = None
    traceparent: str | None = None


def request_for(
    asked: Asked, context: "Context | None", *, coordinator: str, store: "Store", words: Words
) -> "tuple[Envelope, dict[str, bytes]]":
    """The request, of a review loop its group, and the contexts to be put to `tasks/<id>.md` before; raises Invalid."""
    from agentq.messages import Envelope

    name = words.name
    if asked.run_if is not None and not asked.after:
        raise Invalid(
            f"{name('run_if')} says what becomes of {name('after')}, and there is none",
            hint=f"Give {name('after')} ID, or leave it out.",
        )
    if asked.instructions is None and context is None:
        raise Invalid("there is nothing to do", hint=words.give_something)
    envelope = _valid(Envelope, _fields(asked, context, coordinator, name), words)
    data = context.data if context and not context.ref else None
    if review := _review(asked, words):
        return _loop(envelope, review, asked.review_type or "review", data, store, words)
    return envelope, {} if data is None else {envelope.task_id: data}


def _fields(asked: Asked, context: "Context | None", coordinator: str, name: Callable[[str], str]) -> dict[str, Any]:
    """The envelope's fields by their names on the wire."""

    def duration(part: str) -> float | None:
        text = getattr(asked, part)
        return None if text is None else seconds(name(part), text)

    same = ("to", "type", "priority", "max_attempts", "requires_approval", "traceparent")
    return {part: getattr(asked, part) for part in same} | {
        "task_id": asked.task_id or new_task_id(),
        "from": coordinator,
        "reply_to": f"results.{coordinator}" if asked.reply_to is None else asked.reply_to,
        "instructions": DO_CONTEXT if asked.instructions is None else asked.instructions,
        "expected_output": {"format": asked.format, "artifacts": tuple(asked.expect)},
        "ttl_seconds": duration("ttl"),
        "timeout_seconds": duration("timeout"),
        "budget": budget_of(asked.max_cost_usd, asked.max_tokens),
        "delay_seconds": duration("delay"),
        "not_before": None if asked.at is None else ahead(name("at"), asked.at),
        "depends_on": tuple(dict.fromkeys(asked.after)),
        "run_if": asked.run_if or "completed",
        "labels": _labels(asked, name),
        "context_ref": context.ref if context else None,
        "context_sha256": context.sha256 if context and context.ref else None,
    }


def _labels(asked: Asked, name: Callable[[str], str]) -> dict[str, str]:
    labels = dict(asked.labels)
    if asked.repo is not None:
        labels["repo"] = _place(asked.repo, name("repo"))
    if asked.base is not None:
        labels["base"] = asked.base
    return labels


def _place(repo: str, name: str) -> str:
    if not repo.strip():
        raise Invalid(f"{name} is empty", hint="Name a folder on the worker's machine, or a URL.")
    try:
        return repo if is_url(repo) else str(Path(repo).resolve())
    except (ValueError, OSError, RuntimeError) as error:
        raise Invalid(
            f"{name} is no place: {error}", hint="Name a folder on the worker's machine, or a URL."
        ) from error


def _review(asked: Asked, words: Words) -> "Review | None":
    from agentq.messages import Review

    if asked.review_by is None:
        without = next((part for part in ("rounds", "review_type") if getattr(asked, part) is not None), None)
        if without:
            raise Invalid(
                f"{words.name(without)} is about reviews, and nobody reviews",
                hint=f"Give {words.name('review_by')} AGENT, or leave it out.",
            )
        return None
    return _valid(Review, {"by": asked.review_by} | ({} if asked.rounds is None else {"rounds": asked.rounds}), words)


def _loop(
    request: "Envelope", review: "Review", review_type: str, context: bytes | None, store: "Store", words: Words
) -> "tuple[Envelope, dict[str, bytes]]":
    from agentq.loops import unrolled

    try:
        return unrolled(request, review, review_type, context, store.ref)
    except ValidationError as error:
        named = {
            "task_id": f"{words.name('task_id')}, with a round's name behind it",
            "type": words.name("review_type"),
        }
        raise _wrong(error, words, named) from error


def _valid(model: type[M], values: dict[str, Any], words: Words) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _wrong(error, words) from error


def _wrong(error: ValidationError, words: Words, named: Mapping[str, str] | None = None) -> Invalid:
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(step for step in first["loc"] if isinstance(step, str))
    called = (named or {}).get(path) or words.name(_ASKED.get(path, path))
    what = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return Invalid(f"{called}: {what}", hint=words.see)
