"""Steps that are repeated until they are done: blocking ones while the store is away, and cancelling."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from agentq.errors import AgentqError, StoreUnavailable, Unavailable

log = logging.getLogger("agentq")

CANCEL_SECONDS = 1.0

T = TypeVar("T")


async def patiently(step: Callable[[], T]) -> T:
    """Run a blocking step in a thread and repeat it for as long as it raises StoreUnavailable; the step is safe to
    repeat."""
    return await repeated(lambda: asyncio.to_thread(step), StoreUnavailable, "store")


async def repeated(step: Callable[[], Awaitable[T]], until_not: type[Unavailable], what: str) -> T:
    """Repeat a step for as long as it raises that error, and say so; waits up to 5 s between tries."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(until_not),
        wait=wait_exponential(multiplier=0.05, max=5.0) + wait_random(0, 0.2),
        before_sleep=functools.partial(_say, what),
    ):
        with attempt:
            return await step()
    raise AssertionError("unreachable: repeated without end")


async def cancelled(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks until they have ended; what they raise is dropped.

    Again every second: a client library may make another error of a cancellation, and a loop go on after that.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless(event: asyncio.Event, step: Coroutine[Any, Any, T]) -> T | None:
    """What a step answers, None when the event came first: then the step is cancelled."""
    stepping, waiting = asyncio.create_task(step), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({stepping, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(stepping, waiting)
    return None if stepping.cancelled() else stepping.result()


def _say(what: str, state: RetryCallState) -> None:
    if state.attempt_number in (1, 10) or state.attempt_number % 100 == 0:
        error = state.outcome.exception() if state.outcome else None
        hint = f" ({error.hint})" if isinstance(error, AgentqError) and error.hint else ""
        log.warning("the %s is unavailable, trying again: %s%s", what, error, hint)
