"""A time in which a worker takes nothing: its agent's account is used up, and the next task would find it so."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, TypeVar

from agentq.messages import utc_now
from agentq.patience import unless

LONGEST_SLEEP = 60.0
"""Seconds: clocks are set, and machines sleep."""

T = TypeVar("T")


class Pause:
    """Begins by somebody's word and ends by itself."""

    def __init__(self) -> None:
        self._until: datetime | None = None
        self._lasts = asyncio.Event()

    @property
    def until(self) -> datetime | None:
        """When it ends, None when there is none."""
        return self._until if self._lasts.is_set() else None

    def begin(self, until: datetime) -> None:
        """Begin, or last longer."""
        self._until = max(until, self._until or until)
        self._lasts.set()

    async def over(self) -> None:
        """Wait for its end; at once when there is none."""
        while self._until and (left := (self._until - utc_now()).total_seconds()) > 0:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(min(left, LONGEST_SLEEP))
        self._until = None
        self._lasts.clear()

    async def outside(self, step: Coroutine[Any, Any, T]) -> T | None:
        """What a step answers, None when a pause begins first: then the step is cancelled."""
        return await unless(self._lasts, step)
