"""Bringing the ledger up to the log."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from agentq.engine import Engine, Page
from agentq.ledger.book import Ledger

BATCH = 10_000
"""Events that are brought in at once: a task whose whole story is among them is written once."""


async def catch_up(ledger: Ledger, engine: Engine, progress: Callable[[int], object] = lambda _: None) -> bool:
    """Read what the log holds beyond the ledger, and bring it in; what was brought in stays when it is broken off.

    `progress` is called with how many events have come so far. Answers whether a part of the log was gone. Raises
    EngineUnavailable.
    """
    met_gap, count, waiting = False, 0, Page((), "")
    async with contextlib.aclosing(engine.read("events", after=ledger.position)) as pages:
        async for page in pages:
            count += len(page.events)
            met_gap = met_gap or page.gap
            waiting = replace(page, events=waiting.events + page.events, gap=waiting.gap or page.gap)
            if len(waiting.events) >= BATCH or page.caught_up:
                ledger.apply(waiting)
                waiting = Page((), "")
                progress(count)
            if page.caught_up:
                break
    return met_gap
