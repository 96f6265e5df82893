"""How the gateway stands, whom it takes somebody for, and what Prometheus collects."""

import asyncio
from typing import Literal

from starlette.responses import Response

from agentq import __version__
from agentq.gateway.api.shapes import Told
from agentq.gateway.operations import ANYBODY, Call, Operation
from agentq.tokens import Role

METRICS = "text/plain"


class Part(Told):
    """Whether a part works, and why not: in full for who brings a token."""

    ok: bool
    why: str | None


class Log(Told):
    """Whether all that the log holds was read."""

    caught_up: bool
    why: str | None


class Health(Told):
    """`ok`, or `degraded` while a part is away: then the papers are still read, and tasks are refused with 503."""

    status: Literal["ok", "degraded"]
    version: str
    engine: Part
    store: Part
    log: Log


class Me(Told):
    """Whom the gateway takes whoever asks for: `everything` says that nobody needs a token here."""

    name: str
    roles: list[Role]
    agent: str | None
    everything: bool


async def _health(call: Call) -> Health:
    engine, store = await asyncio.gather(call.gateway.pulse.engine(), call.gateway.pulse.store())
    trouble = call.gateway.hub.trouble
    is_read = call.gateway.hub.caught_up and trouble is None
    may_know = bool(call.grant.roles)
    return Health(
        status="ok" if engine is None and store is None else "degraded",
        version=__version__,
        engine=Part(ok=engine is None, why=engine if may_know or engine is None else "it does not answer"),
        store=Part(ok=store is None, why=store if may_know or store is None else "it does not answer"),
        log=Log(caught_up=is_read, why=None if is_read else (trouble if may_know and trouble else "it is being read")),
    )


async def _me(call: Call) -> Me:
    grant = call.grant
    roles = sorted(grant.roles)
    return Me(name=grant.name, roles=roles, agent=grant.agent, everything=grant.is_everything)


async def _metrics(call: Call) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST

    return Response(await asyncio.to_thread(call.gateway.pulse.metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})


OPERATIONS = (
    Operation("GET", "/api/health", "How the gateway stands", _health, None, answer=Health, tag="gateway"),
    Operation("GET", "/api/me", "Whom the gateway takes you for", _me, ANYBODY, answer=Me, tag="gateway"),
    Operation("GET", "/metrics", "Metrics for Prometheus", _metrics, answer=METRICS, tag="gateway"),
)
