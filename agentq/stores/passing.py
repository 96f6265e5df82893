"""Failures that may pass by themselves, and trying again while they do."""

from collections.abc import Callable
from typing import TypeVar

from agentq.errors import StoreUnavailable

LONGEST_WAIT = 3.0
"""Seconds between two tries, at most."""
T = TypeVar("T")


class Passing(StoreUnavailable):
    """It may pass by itself: the same request is worth another try."""


def repeatedly(act: Callable[[], T], seconds: float) -> T:
    """What `act` answers; while it raises Passing it is called again, for so many seconds."""
    try:
        return act()
    except Passing:
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

        again = Retrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_delay(seconds),
            wait=wait_random_exponential(multiplier=0.1, max=min(LONGEST_WAIT, seconds)),
            reraise=True,
        )
        return again(act)
