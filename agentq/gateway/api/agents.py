"""Who works here: agents as the page shows them, and workers as `agentq workers` lists them."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from agentq.gateway.api.shapes import Row, Told
from agentq.gateway.api.tasks import as_of
from agentq.gateway.operations import Call, Operation
from agentq.ledger import Ledger
from agentq.observing.figures import Now, Window, figures
from agentq.observing.plain import iso, plain_worker
from agentq.observing.roster import Member, Roster


class Working(Told):
    """An attempt that runs; `since` in ISO 8601, `doing` its agent's own words."""

    task_id: str
    attempt: int
    since: str | None
    doing: str
    worker: str
    host: str | None


class AgentSeen(Told):
    """An agent: how many of its workers are up, how many of those would take a task now, and what waits for it."""

    agent: str
    types: list[str]
    up: int
    idle: int
    working: list[Working]
    queued: int
    oldest_seconds: float | None


class Agents(Told):
    """All agents that have a profile, are named in the settings, have a worker, or have tasks that are open."""

    agents: list[AgentSeen]
    as_of: str | None


class Worker(Row):
    """A worker process as `agentq workers --json` prints it."""

    worker: str
    agent: str | None
    state: str


class Workers(Told):
    """Those that are up, and those that should be."""

    workers: list[Worker]
    as_of: str | None


async def _agents(call: Call) -> dict[str, Any]:
    known = await call.gateway.desk.call(
        lambda app: {
            name: list(app.agents.profiles[name].types) if name in app.agents.profiles else []
            for name in app.agents.names
        }
    )
    return await call.gateway.books.read(lambda ledger: _seen(ledger, known))


def _seen(ledger: Ledger, known: Mapping[str, list[str]]) -> dict[str, Any]:
    now = time.time()
    at_work = Roster.of(ledger, now).at_work()
    stands = {part.key: part.now for part in figures(ledger, Window(now, now), by="agent")[1] if part.now}
    names = sorted({*known, *stands, *(one.row.agent for one in at_work if one.row.agent)})
    return {
        "agents": [_agent(name, known.get(name, []), at_work, stands.get(name, Now())) for name in names],
        "as_of": as_of(ledger),
    }


def _agent(name: str, types: list[str], at_work: list[Member], now: Now) -> dict[str, Any]:
    mine = [one for one in at_work if one.row.agent == name]
    return {
        "agent": name,
        "types": types,
        "up": len(mine),
        "idle": sum(one.is_idle for one in mine),
        "working": list(_working(mine)),
        "queued": now.queued,
        "oldest_seconds": now.oldest_seconds,
    }


def _working(members: list[Member]) -> Iterator[dict[str, Any]]:
    for one in members:
        for work in one.work:
            yield {
                **work._asdict(),
                "since": iso(work.since),
                "worker": one.row.worker,
                "host": one.row.host,
            }


async def _workers(call: Call) -> dict[str, Any]:
    return await call.gateway.books.read(
        lambda ledger: {
            "workers": [plain_worker(one) for one in Roster.of(ledger).present()],
            "as_of": as_of(ledger),
        }
    )


OPERATIONS = (
    Operation(
        "GET", "/api/agents", "Agents, what they work on, and what waits for them", _agents, answer=Agents, tag="agents"
    ),
    Operation(
        "GET", "/api/workers", "Workers that are up, and those that went silent", _workers, answer=Workers, tag="agents"
    ),
)
