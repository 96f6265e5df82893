"""What workers say of themselves, made up for tests."""

from datetime import timedelta
from typing import Any

from agentq.events import Event, WorkerKind, worker_id
from agentq.messages import utc_now
from tests.desk import Desk

AGENT = "implementation-worker"
HOST = "alpha"


def heartbeat(
    n: int = 0, *, ago: float = 0.0, pid: int = 7, agent: str = AGENT, host: str = HOST, **data: Any
) -> Event:
    """A worker's heartbeat, sent so many seconds ago by its host's clock."""
    known = {"version": "0.1.0", "pid": pid, "parallel": 1, "heartbeat_seconds": 10.0, "lease_seconds": 20.0}
    return _event("worker_heartbeat", f"heartbeat/{n}", ago, agent, host, pid, known | data)


def said(
    kind: WorkerKind, *, ago: float = 0.0, pid: int = 7, agent: str = AGENT, host: str = HOST, **data: Any
) -> Event:
    """Another word of a worker."""
    return _event(kind, f"{kind.removeprefix('worker_')}/1", ago, agent, host, pid, data)


def running(task_id: str, attempt: int = 1, doing: str = "agent started", ago: float = 60.0) -> dict[str, Any]:
    """One attempt, as a heartbeat tells it."""
    since = (utc_now() - timedelta(seconds=ago)).isoformat()
    return {"task_id": task_id, "attempt": attempt, "since": since, "doing": doing}


def tell(desk: Desk, *events: Event) -> None:
    """Append to the desk's log."""
    desk.with_engine(lambda engine: engine.append(events))


def _event(kind: WorkerKind, name: str, ago: float, agent: str, host: str, pid: int, data: dict[str, Any]) -> Event:
    worker, at = worker_id(agent, host, pid), utc_now() - timedelta(seconds=ago)
    return Event(id=f"{worker}/{name}", kind=kind, at=at, worker=worker, agent=agent, host=host, data=data)
