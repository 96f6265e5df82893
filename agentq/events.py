"""What the log holds: one event for each step of a task, a worker or a thread, told by whoever took it.

The log never decides.
"""

from typing import Any, Literal, get_args

from pydantic import AwareDatetime, Field

from agentq.errors import Invalid
from agentq.messages import Message, Name, TaskId

TaskKind = Literal[
    "submitted",
    "released",
    "delayed",
    "approval_requested",
    "approved",
    "rejected",
    "claimed",
    "progress",
    "output",
    "reply",
    "attempt_ended",
    "cancel_requested",
    "completed",
    "failed",
    "cancelled",
    "expired",
    "dead_lettered",
    "settled",
]
WorkerKind = Literal["worker_up", "worker_heartbeat", "worker_draining", "worker_down"]
ThreadKind = Literal["thread_opened", "message_posted", "message_ended", "description_changed", "proposal_declined"]
Kind = TaskKind | WorkerKind | ThreadKind
TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
WORKER_KINDS: tuple[WorkerKind, ...] = get_args(WorkerKind)
THREAD_KINDS: tuple[ThreadKind, ...] = get_args(ThreadKind)
OUTPUT: Kind = "output"
REPLY: Kind = "reply"
SPOKEN: tuple[Kind, ...] = (OUTPUT, REPLY)
"""What agents print and what they answer, as it comes: kept in a log of its own, for a shorter time."""
EVENT_LIMIT = 64 * 1024


class Event(Message):
    """One step. `id` is the same whoever tells it again; `at` is the teller's clock, good for words on a screen.

    `kind` is one of `Kind`; another agentq may know more of them. `agent` is the task's agent or the worker's, `worker`
    the daemon's process, `by` who did it. `data` is what the kind says more, see docs/observing.md.
    """

    id: str = Field(min_length=1, max_length=512)
    kind: str = Field(min_length=1, max_length=64)
    at: AwareDatetime
    task_id: TaskId | None = None
    agent: Name | None = None
    attempt: int | None = None
    by: str | None = None
    worker: str | None = None
    host: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    def to_json(self) -> bytes:
        """The wire form: UTF-8 JSON without what is not set; raises Invalid for what is longer than EVENT_LIMIT."""
        body = self.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        if len(body) > EVENT_LIMIT:
            raise Invalid(f"the event {self.id} has {len(body)} bytes, {EVENT_LIMIT} is the limit")
        return body


def worker_id(agent: str, host: str, pid: int) -> str:
    """What names one daemon process in the log."""
    return f"{agent}@{host}:{pid}"
