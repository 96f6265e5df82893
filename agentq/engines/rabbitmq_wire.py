"""What agentq's messages look like on the wire: properties, headers, dead letters. No I/O."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pamqp.decode
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.common import FieldTable

from agentq.engine import DeadLetter, Guard
from agentq.engines.topology import GUARD_PRIORITY, PRIORITY
from agentq.messages import Completion, Envelope, sha256_hex, utc_now

Headers = Mapping[str, Any]

ATTEMPT, COUNTER, GUARD = "agentq-guard-attempt", "agentq-guard-counter", "agentq-guard-id"
DUE, LEFT = "agentq-due", "agentq-left"
DEAD_ID, DEAD_REASON, DEAD_AT = "agentq-dead-id", "agentq-dead-reason", "agentq-dead-at"
UNREADABLE = "x-unreadable"
"""The one header of a message whose headers cannot be read."""

# Fields of a dead letter of their own, and what the broker counts when someone looks.
NOT_SHOWN = (DEAD_ID, DEAD_REASON, DEAD_AT, "x-delivery-count", "x-acquired-count")

# What a copy keeps. Not the expiration, which would end the copy too, nor the user id, which must be the sender's.
KEPT = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "message_id",
    "timestamp",
    "message_type",
    "app_id",
    "priority",
)
HEADER_LIMIT = 2000
BROKER_REASONS = {
    "delivery_limit": "the broker gave it up: delivered too often without being settled",
    "expired": "its AMQP expiration passed while it waited",
    "rejected": "a consumer rejected it",
    "maxlen": "its queue was full",
}


def envelope_properties(envelope: Envelope, guard: Guard | None = None) -> Basic.Properties:
    """The properties of a task's message; a guard stands above every priority."""
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=envelope.task_id,
        timestamp=utc_now(),
        priority=GUARD_PRIORITY if guard else PRIORITY[envelope.priority],
        headers={ATTEMPT: guard.attempt, COUNTER: guard.counter, GUARD: guard.id} if guard else {},
    )


def completion_properties(completion: Completion) -> Basic.Properties:
    """The properties of a notice."""
    return Basic.Properties(
        content_type="application/json", delivery_mode=2, message_id=completion.task_id, timestamp=utc_now()
    )


def guard_of(headers: Headers) -> Guard | None:
    """The guard that the headers name, None for anything else."""
    attempt, counter, name = headers.get(ATTEMPT), headers.get(COUNTER), headers.get(GUARD)
    if isinstance(attempt, int) and isinstance(counter, int) and isinstance(name, str):
        return Guard(attempt, counter, name)
    return None


def was_delayed(headers: Headers, delays: str) -> bool:
    """Whether a message came out of a queue of that prefix: the broker notes it, and no sender can hide it.

    One whose headers cannot be read may have.
    """
    deaths = headers.get("x-death")
    queues = [death.get("queue") for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []
    return UNREADABLE in headers or any(isinstance(queue, str) and queue.startswith(delays) for queue in queues)


def delayed(properties: Basic.Properties, delay: float, left: float) -> Basic.Properties:
    """A copy for the next hop of a delay, which says when it is due and what will be left after the hop."""
    timing = {DUE: round((time.time() + delay) * 1000), LEFT: round(left * 1000)} if left > 0 else {}
    kept = {key: value for key, value in _own(properties).items() if key not in (DUE, LEFT)}
    return _copied(properties, kept | timing)


def seconds_left(headers: Headers) -> float:
    """How long a message must still wait; never longer than announced, whatever the clocks of the hosts say."""
    due, left = headers.get(DUE), headers.get(LEFT)
    if not isinstance(due, int) or not isinstance(left, int):
        return 0.0
    return max(0.0, min(due / 1000 - time.time(), left / 1000))


def buried(properties: Basic.Properties, reason: str) -> Basic.Properties:
    """A copy for the dead letters: why and when, with the original headers as texts."""
    kept = {key: _text(value) for key, value in _own(properties).items()}
    dead = {DEAD_ID: secrets.token_hex(8), DEAD_REASON: _text(reason), DEAD_AT: utc_now().isoformat()}
    return _copied(properties, kept | dead)


def dead_letter(message: DeliveredMessage, queue_prefix: str) -> DeadLetter:
    """A message of the dead letters queue, put there by us or by the broker."""
    headers = headers_of(message.header.properties)
    death = _first_death(headers)
    at = _moment(headers.get(DEAD_AT)) or _moment(death.get("time")) or _moment(message.header.properties.timestamp)
    return DeadLetter(
        id=str(headers.get(DEAD_ID) or _digest(message, at)),
        agent=(message.routing_key or "").removeprefix(queue_prefix),
        reason=str(headers.get(DEAD_REASON) or _broker_reason(death)),
        at=at,
        body=message.body,
        task_id=_task_id(message.body),
        headers={key: _text(value) for key, value in headers.items() if key not in NOT_SHOWN},
    )


def headers_of(properties: Basic.Properties) -> FieldTable:
    """The headers, none as an empty table."""
    return properties.headers if isinstance(properties.headers, dict) else {}


def be_lenient() -> None:
    """Read properties that are no valid text or time as None, and unreadable headers as one that says so.

    The client library drops the connection for them, so one such message in a queue would stop every worker for good.
    """
    for kind, size in _SIZES.items():
        decoder = pamqp.decode.METHODS[kind]
        if not isinstance(decoder, _Lenient):
            instead: FieldTable | None = {UNREADABLE: True} if kind == "table" else None
            pamqp.decode.METHODS[kind] = _Lenient(decoder, size, instead)


class _Lenient:
    """A decoder that skips what it cannot read."""

    def __init__(
        self, decoder: Callable[[bytes], tuple[int, Any]], size: Callable[[bytes], int], instead: FieldTable | None
    ) -> None:
        self._decoder = decoder
        self._size = size
        self._instead = instead

    def __call__(self, data: bytes) -> tuple[int, Any]:
        try:
            return self._decoder(data)
        except (ValueError, OverflowError, OSError):
            return self._size(data), self._instead


_SIZES: Mapping[str, Callable[[bytes], int]] = {
    "shortstr": lambda data: 1 + int.from_bytes(data[:1]),
    "timestamp": lambda data: 8,
    "table": lambda data: 4 + int.from_bytes(data[:4]),
}


def _own(properties: Basic.Properties) -> dict[str, Any]:
    """The sender's headers, not the broker's; what could not be encoded again becomes a text."""
    headers = headers_of(properties).items()
    return {key: v if isinstance(v, str | int) else _text(v) for key, v in headers if not key.startswith("x-")}


def _copied(properties: Basic.Properties, headers: Headers) -> Basic.Properties:
    kept = {name: getattr(properties, name) for name in KEPT}
    return Basic.Properties(delivery_mode=2, headers=dict(headers), **kept)


def _text(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text[:HEADER_LIMIT]


def _moment(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) and value.tzinfo else None


def _first_death(headers: Headers) -> Mapping[str, Any]:
    deaths = headers.get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _broker_reason(death: Mapping[str, Any]) -> str:
    reason = str(death.get("reason", "unknown"))
    return f"{BROKER_REASONS.get(reason, 'put here by someone else')} ({reason})"


def _digest(message: DeliveredMessage, at: datetime | None) -> str:
    """The id of what the broker put here itself: the same at every look."""
    named = f"{message.header.properties.message_id}|{at}|".encode()
    return sha256_hex(named + message.body)[:16]


def _task_id(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    task_id = value.get("task_id") if isinstance(value, dict) else None
    return task_id if isinstance(task_id, str) else None
