"""An event as a line for a person, and what an agent printed as lines that nobody takes for events."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from agentq.cli.terms import size, span
from agentq.events import OUTPUT, Event
from agentq.harmless import one_line, visible


def line(event: Event, today: datetime) -> str:
    """`HH:MM:SS task-id  what`, the time in UTC, with the date when that is not today's."""
    at = event.at.astimezone(UTC)
    when = f"{at:%H:%M:%S}" if at.date() == today.astimezone(UTC).date() else f"{at:%Y-%m-%d %H:%M:%S}"
    about = event.task_id or event.worker or event.agent or _Data(event.data).text("thread") or "-"
    return f"{when} {one_line(about)}  {what(event)}"


def what(event: Event) -> str:
    """What the event tells, harmless, as one line."""
    words = _WORDS.get(event.kind)
    return one_line(words(event, _Data(event.data)) if words else event.kind)


def lines(event: Event, today: datetime) -> Iterator[str]:
    """All lines of an event; an agent's words each have their task and a bar before them."""
    data = _Data(event.data)
    if event.kind != OUTPUT or "whole" in data or "left_out" in data:
        yield line(event, today)
    if event.kind == OUTPUT and "text" in data:
        *whole, rest = visible(data.text("text")).split("\n")
        yield from (f"{event.task_id}| {each}" for each in [*whole, *filter(None, [rest])])


class _Data:
    """What an event says more, whatever it holds."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def text(self, name: str) -> str:
        found = self._data.get(name)
        return found if isinstance(found, str) else ""

    def number(self, name: str) -> float | None:
        found = self._data.get(name)
        return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    def count(self, name: str) -> int:
        return int(self.number(name) or 0)

    def names(self, name: str) -> str:
        found = self._data.get(name)
        return ", ".join(map(str, found)) if isinstance(found, list) else ""

    def inside(self, name: str) -> "_Data":
        found = self._data.get(name)
        return _Data(found if isinstance(found, dict) else {})

    def after(self, name: str) -> str:
        """`: its text`, or nothing."""
        return f": {text}" if (text := one_line(self.text(name))) else ""

    def __contains__(self, name: str) -> bool:
        return bool(self._data.get(name))


def _submitted(event: Event, data: _Data) -> str:
    count, kind = data.count("tasks"), data.text("type")
    what = f"a {kind.replace('-', ' ')} of {count} tasks" if count else f"{kind} for {event.agent}"
    priority = f", {data.text('priority')}" if data.text("priority") not in ("", "normal") else ""
    needs = f", after {data.names('depends_on')}" if "depends_on" in data else ""
    again = f", again for {data.text('retry_of')}" if "retry_of" in data else ""
    return f"submitted by {event.by}, {what}{priority}{needs}{again}{data.after('title')}"


def _delayed(event: Event, data: _Data) -> str:
    return f"{'tried again' if event.attempt else 'delayed'}, not before {_clock(data.text('until'))}"


def _claimed(event: Event, data: _Data) -> str:
    where = f" on {event.host}" if event.host else ""
    return f"attempt {event.attempt} begun by {event.by}{where}"


def _output(event: Event, data: _Data) -> str:
    left_out = f", the last {size(data.count('left_out'))} are not shown" if "left_out" in data else ""
    if "whole" not in data:
        return f"{size(data.count('left_out'))} of attempt {event.attempt}'s output are not shown"
    where = f": artifacts/{event.task_id}/{event.attempt}/transcript.log"
    return f"attempt {event.attempt} printed {size(data.count('bytes'))}{left_out}; the whole in the store{where}"


def _attempt_ended(event: Event, data: _Data) -> str:
    counts = "" if "counts" in data else ", not counted"
    presumed = ", its end is presumed" if data.text("stopped") == "presumed" else ""
    took = _usage(data.inside("usage"))
    return f"attempt {event.attempt} ended without a result{counts}{presumed}{took}{data.after('reason')}"


def _ended(event: Event, data: _Data) -> str:
    verified = (", verified" if "verified" in data else ", unverified") if event.kind == "completed" else ""
    by = f" by {event.by}" if event.by else ""
    said = data.after("summary" if event.kind == "completed" else "reason")
    decided = f", decided: {word}" if (word := data.inside("decided").text("decision")) else ""
    return f"{event.kind}{by}{verified}{decided}{_usage(data.inside('usage'))}{said}"


def _usage(usage: _Data) -> str:
    """What it took; a cost that nobody told is not told."""
    took, cost = usage.number("seconds"), usage.number("cost_usd")
    return f"{'' if took is None else f', {span(took)}'}{'' if cost is None else f', ${cost:.2f}'}"


def _worker(said: str) -> Callable[[Event, _Data], str]:
    return lambda event, data: f"worker of {event.agent} {said}{data.after('reason')}"


def _by(said: str) -> Callable[[Event, _Data], str]:
    return lambda event, data: f"{said}{f' by {event.by}' if event.by else ''}{data.after('reason')}"


def _clock(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
    except ValueError:
        return text or "a time that is unknown"


_WORDS: dict[str, Callable[[Event, _Data], str]] = {
    "submitted": _submitted,
    "delayed": _delayed,
    "released": _by("released"),
    "approval_requested": _by("approval asked for"),
    "approved": _by("approved"),
    "rejected": _by("rejected"),
    "claimed": _claimed,
    "progress": lambda event, data: f"attempt {event.attempt} says{data.after('text')}",
    "output": _output,
    "reply": lambda event, data: f"attempt {event.attempt} answers{data.after('text')}",
    "attempt_ended": _attempt_ended,
    "cancel_requested": _by("cancel asked for"),
    **dict.fromkeys(("completed", "failed", "cancelled", "expired"), _ended),
    "dead_lettered": _by("given up, a dead letter now"),
    "settled": _by("settled"),
    "worker_up": _worker("is up"),
    "worker_heartbeat": _worker("is alive"),
    "worker_draining": _worker("takes no more tasks"),
    "worker_down": _worker("is down"),
    "thread_opened": lambda event, data: f"opened by {event.by}{data.after('title')}",
    "message_posted": lambda event, data: f"{event.by} wrote{data.after('title')}",
    "message_ended": lambda event, data: f"{event.by}'s message is {data.text('state')}{data.after('reason')}",
    "description_changed": lambda event, data: f"{event.by} made version {data.count('number')} of the description",
    "proposal_declined": lambda event, data: (
        f"{event.by} declined what {data.text('task')} proposed{data.after('reason')}"
    ),
}
