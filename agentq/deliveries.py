"""Carrying out what was decided over a delivery, and letting go of it; whoever takes deliveries does it so."""

import logging
import secrets
from collections.abc import Awaitable, Callable

from agentq.engine import Delivery, Engine
from agentq.errors import Invalid
from agentq.events import Event
from agentq.journal import Journal
from agentq.messages import Completion, parse_envelope, shorten, utc_now
from agentq.verdict import Drop, Park, Refuse, Settle, Verdict

log = logging.getLogger("agentq")


async def carry_out(
    verdict: Verdict,
    delivery: Delivery,
    engine: Engine,
    journal: Journal,
    settle: Callable[[Completion], Awaitable[object]],
) -> None:
    """Do what was decided, then let go of the delivery; safe to repeat. Raises EngineUnavailable."""
    if isinstance(verdict, Refuse):
        log.warning("dead letter: %s", verdict.reason)
        await delivery.dead_letter(verdict.reason)
        journal.tell(_dead_lettered(delivery.body, verdict.reason))
        return
    if isinstance(verdict, Park):
        log.log(verdict.level, "%s: parked for %g s: %s", verdict.envelope.task_id, verdict.delay, verdict.why)
        await engine.publish(verdict.envelope, delay=verdict.delay, guard=verdict.guard)
    elif isinstance(verdict, Settle):
        await settle(verdict.manifest)
    elif isinstance(verdict, Drop):
        log.debug("dropped a copy: %s", verdict.why)
    await delivery.ack()


def _dead_lettered(body: bytes, reason: str) -> Event:
    """That a message alone was refused: another one than its task's, or no task's at all."""
    try:
        task_id = parse_envelope(body).task_id
    except Invalid:
        task_id = None
    name = f"{task_id or 'message'}/dead_lettered/{secrets.token_hex(8)}"
    data = {"reason": shorten(reason, 1000)}
    return Event(id=name, kind="dead_lettered", at=utc_now(), task_id=task_id, data=data)
