"""What every way of asking for a task shares: durations, times, and making a request fit an envelope."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from agentq.errors import Invalid
from agentq.messages import ENVELOPE_LIMIT, LONGEST_SECONDS, Envelope, sha256_hex, utc_now

DO_CONTEXT = "Do what the context document asks."
MOVED = "Read the context: the instructions were too long for an envelope and are kept there."
ROOM = 1536
"""Bytes of an envelope that are left for what registering adds."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//|:)|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)")


def seconds(flag: str, text: str) -> float:
    """A flag's duration such as `90`, `90s`, `10m`, `2h`, `1d`, in seconds; raises Invalid."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise Invalid(f"{flag} {text!r} is no duration", hint="Write seconds, or a number with s, m, h, d or w: 10m.")
    value = float(match[1]) * _UNITS[match[2] or "s"]
    if value > LONGEST_SECONDS:
        raise Invalid(f"{flag} {text!r} is too long", hint=f"At most {LONGEST_SECONDS // 86400} days.")
    return value


def is_url(repository: str) -> bool:
    """Whether that names a repository by URL (also `user@host:path`), not a folder here."""
    return bool(_URL.match(repository))


def moment(flag: str, text: str) -> datetime:
    """A flag's time in ISO 8601, the local zone when it names none; raises Invalid."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(
            f"{flag} {text!r} is no time", hint="Write it like 2030-01-31T18:00 or 2030-01-31T18:00:00Z."
        ) from error


def ahead(flag: str, text: str) -> datetime:
    """A flag's time that is still to come, and not too far off; raises Invalid."""
    when, now = moment(flag, text), utc_now()
    if when < now:
        raise Invalid(f"{flag} {text!r} is in the past", hint="Leave it out to start at once.")
    if when > now + timedelta(seconds=LONGEST_SECONDS):
        raise Invalid(f"{flag} {text!r} is too far off", hint=f"At most {LONGEST_SECONDS // 86400} days.")
    return when


def budget_of(max_cost_usd: object, max_tokens: object) -> dict[str, object] | None:
    """The field `budget` of a request, None without any limit."""
    given = {"max_cost_usd": max_cost_usd, "max_tokens": max_tokens}
    return {name: value for name, value in given.items() if value is not None} or None


def past(flag: str, text: str) -> datetime:
    """A flag's time: how long ago, such as `24h`, or a moment in ISO 8601; raises Invalid."""
    if _DURATION.fullmatch(text.strip()):
        return utc_now() - timedelta(seconds=seconds(flag, text))
    try:
        return moment(flag, text)
    except Invalid as error:
        raise Invalid(str(error), hint=f"Write how long ago, such as 24h or 7d. Or a time: {error.hint}") from error


def texts_of(request: Envelope, contexts: Mapping[str, bytes | None]) -> dict[str, str | bytes | None]:
    """Everything that people write into a request, by the name of its place; of a plan all its tasks'."""
    if request.is_group:
        own = {f"label {key}": value for key, value in request.labels.items()}
        of_tasks = (texts_of(task, contexts).items() for task in request.plan)
        told = zip(request.plan, of_tasks, strict=True)
        return own | {f"{task.task_id}: {name}": text for task, texts in told for name, text in texts}
    labels: dict[str, str | bytes | None] = {f"label {key}": value for key, value in request.labels.items()}
    budget = request.budget.model_dump(exclude_none=True) if request.budget else None
    others = {name: json.dumps(value) for name, value in {"budget": budget, **(request.model_extra or {})}.items()}
    return {"instructions": request.instructions, **labels, **others, "context": contexts.get(request.task_id)}


def fit(request: Envelope, context: bytes | None, ref: Callable[[str], str]) -> tuple[Envelope, bytes | None]:
    """The request as it fits an envelope, and the context that is to be put to `tasks/<id>.md`, None for none.

    Instructions that are too long move to the context; raises Invalid when that is not enough.
    """
    if len(request.to_json()) > ENVELOPE_LIMIT - ROOM and request.context_ref is None and context is None:
        context = request.instructions.encode()
        request = request.model_copy(update={"instructions": MOVED})
    if context is not None:
        update = {"context_ref": ref(f"tasks/{request.task_id}.md"), "context_sha256": sha256_hex(context)}
        request = request.model_copy(update=update)
    size = len(request.to_json())
    if size > ENVELOPE_LIMIT - ROOM:
        raise Invalid(
            f"the envelope would have {size} bytes, {ENVELOPE_LIMIT} is the limit",
            hint="Put the long part into a file, and give that as the context.",
        )
    return request, context
