"""What one may subscribe to, and where in it a subscriber stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import quote, unquote

from agentq.engine import Log
from agentq.errors import Invalid
from agentq.events import REPLY, THREAD_KINDS
from agentq.messages import is_key

Of = Literal["events", "agent", "task", "thread"]
LOGS: tuple[Log, ...] = ("events", "output")
START = "start"
"""The part of a cursor that stands before all that is kept."""
SINCE_LIMIT = 16 * 1024
_OF_ITS_TASKS = ("submitted", "claimed", "attempt_ended", "progress", "completed", "failed", "cancelled", "expired")
IN_THREADS = frozenset((*THREAD_KINDS, REPLY, *_OF_ITS_TASKS))
"""What a thread's subscribers are told of it and of its tasks."""
_HINT = "Topics are /events, /agents/AGENT/tasks, /tasks/TASK and /threads/THREAD."


@dataclass(frozen=True, slots=True)
class Topic:
    """`events`: all that happens; `agent`: to the tasks of one agent; `task`: to one task, with what its agent prints;
    `thread`: in one thread, with what its agents answer. `name` is whose."""

    of: Of
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The topic that a client names; raises Invalid."""
        match text.split("/"):
            case ["", "events"]:
                return cls("events")
            case ["", "agents", name, "tasks"] if is_key(name, 64):
                return cls("agent", name)
            case ["", "tasks", name] if is_key(name, 128):
                return cls("task", name)
            case ["", "threads", name] if is_key(name, 128):
                return cls("thread", name)
        raise Invalid(f"there is no topic {text[:200]!r}", hint=_HINT)

    def __str__(self) -> str:
        match self.of:
            case "events":
                return "/events"
            case "agent":
                return f"/agents/{self.name}/tasks"
            case "task":
                return f"/tasks/{self.name}"
            case "thread":
                return f"/threads/{self.name}"

    @property
    def logs(self) -> tuple[Log, ...]:
        """The logs that it is told from."""
        return LOGS if self.of in ("task", "thread") else ("events",)


def topics_of(log: Log, kind: str, task_id: str | None, agent: str | None, thread: str | None) -> Iterator[Topic]:
    """The topics that an entry of a log is told to."""
    if log == "events":
        yield Topic("events")
        if task_id and agent:
            yield Topic("agent", agent)
    if task_id:
        yield Topic("task", task_id)
    if thread and kind in IN_THREADS:
        yield Topic("thread", thread)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Behind which event of each log a subscriber goes on.

    A part is "" for what comes from now on, START for all that is kept, else an event's id as `part` writes it.
    """

    events: str = ""
    output: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor that a client gives; START alone is that of both logs. Raises Invalid."""
        if text and len(text) > SINCE_LIMIT:
            raise Invalid("that is no cursor: it is too long", hint="Give as `since` the id of a frame that came.")
        events, tilde, output = (text or "").partition("~")
        if "~" in output:
            raise Invalid("that is no cursor: it has more than two parts", hint="Give the id of a frame that came.")
        return cls(events, output if tilde or events != START else START)

    @classmethod
    def at(cls, topic: Topic, events: str | None, output: str | None) -> str:
        """The text of a cursor of a topic, behind those ids; None is before all."""
        return part(events) if len(topic.logs) == 1 else f"{part(events)}~{part(output)}"

    def of(self, log: Log) -> str:
        """The part of a log."""
        return self.events if log == "events" else self.output


def part(event_id: str | None) -> str:
    """An event's id as a part of a cursor: on one line, and without a tilde."""
    if event_id is None:
        return START
    if event_id == START:
        return "%73tart"
    return quote(event_id, safe="/:@+,=").replace("~", "%7E")


def id_in(part: str) -> str:
    """The event's id that a part stands for."""
    return unquote(part)
