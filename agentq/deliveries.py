"""Carrying out what was decided over a delivery, and letting go of it; whoever takes deliveries does it so."""

import logging
from collections.abc import Awaitable, Callable

from agentq.engine import Delivery, Engine
from agentq.messages import Completion
from agentq.verdict import Drop, Park, Refuse, Settle, Verdict

log = logging.getLogger("agentq")


async def carry_out(
    verdict: Verdict, delivery: Delivery, engine: Engine, settle: Callable[[Completion], Awaitable[None]]
) -> None:
    """Do what was decided, then let go of the delivery; safe to repeat. Raises EngineUnavailable."""
    if isinstance(verdict, Refuse):
        log.warning("dead letter: %s", verdict.reason)
        await delivery.dead_letter(verdict.reason)
        return
    if isinstance(verdict, Park):
        log.log(verdict.level, "%s: parked for %g s: %s", verdict.envelope.task_id, verdict.delay, verdict.why)
        await engine.publish(verdict.envelope, delay=verdict.delay, guard=verdict.guard)
    elif isinstance(verdict, Settle):
        await settle(verdict.manifest)
    elif isinstance(verdict, Drop):
        log.debug("dropped a copy: %s", verdict.why)
    await delivery.ack()
