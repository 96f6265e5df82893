"""Blocking steps off the event loop, repeated while the store is unavailable."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from agentq.errors import StoreUnavailable

log = logging.getLogger("agentq")

T = TypeVar("T")


async def patiently(step: Callable[[], T]) -> T:
    """Run a blocking step in a thread and repeat it for as long as it raises StoreUnavailable; the step is safe to
    repeat. Waits up to 5 s between tries."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_exponential_jitter(initial=0.1, max=5.0),
        before_sleep=_say,
    ):
        with attempt:
            return await asyncio.to_thread(step)
    raise AssertionError("unreachable: retried without end")


def _say(state: RetryCallState) -> None:
    if state.attempt_number in (1, 10) or state.attempt_number % 100 == 0:
        error = state.outcome.exception() if state.outcome else None
        log.warning("the store is unavailable, trying again: %s", error)
