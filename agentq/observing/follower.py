"""Reading a log as far as it goes, or for ever over lost connections: each event once."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from agentq.engine import Engine, Log, Page
from agentq.errors import EngineUnavailable
from agentq.events import Event

REMEMBERED = 50_000
"""How many event ids are remembered, so that what comes again is dropped."""
LONGEST_WAIT = 5.0

OnTrouble = Callable[[EngineUnavailable | None], None]
"""Told once what is wrong when the log cannot be read, and once None when it can again."""


def say_nothing(trouble: EngineUnavailable | None) -> None:
    """Keep it to oneself."""


async def catch_up(
    engine: Engine,
    log: Log = "events",
    *,
    after: str | None = None,
    since: datetime | None = None,
    tasks: Collection[str] = (),
) -> AsyncGenerator[Page, None]:
    """Pages up to the one that has caught up; raises EngineUnavailable, and the last page's position stays good."""
    seen = Seen()
    async with aclosing(engine.read(log, after=after, since=since, tasks=tasks)) as pages:
        async for page in pages:
            yield seen.without_known(page)


async def follow(
    engine: Engine,
    log: Log = "events",
    *,
    after: str | None = None,
    since: datetime | None = None,
    tasks: Collection[str] = (),
    on_trouble: OnTrouble = say_nothing,
) -> AsyncGenerator[Page, None]:
    """Pages without end; while the engine is away it waits, up to 5 s between tries, and goes on where it was."""

    def read(position: str | None) -> AsyncGenerator[Page, None]:
        return engine.read(log, after=position, since=since, tasks=tasks, follow=True)

    following = Following(read, after, on_trouble)
    try:
        while True:
            yield await following.next()
    finally:
        await following.close()


class Seen:
    """The ids of the events that came lately."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def without_known(self, page: Page) -> Page:
        """The page without events that came before."""
        return replace(page, events=tuple(event for event in page.events if self._is_new(event)))

    def _is_new(self, event: Event) -> bool:
        if event.id in self._ids:
            return False
        self._ids[event.id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return True


class Following:
    """A reading that is begun again behind its last position whenever the engine was away."""

    def __init__(
        self, read: Callable[[str | None], AsyncGenerator[Page, None]], after: str | None, on_trouble: OnTrouble
    ) -> None:
        self._read = read
        self._position = after
        self._on_trouble = on_trouble
        self._seen = Seen()
        self._pages: AsyncGenerator[Page, None] | None = None

    async def next(self) -> Page:
        """The next page, however long that takes."""
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

        def tell(state: RetryCallState) -> None:
            trouble = state.outcome and state.outcome.exception()
            if state.attempt_number == 1 and isinstance(trouble, EngineUnavailable):
                self._on_trouble(trouble)

        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(EngineUnavailable),
            wait=wait_exponential(multiplier=0.05, max=LONGEST_WAIT - 0.2) + wait_random(0, 0.2),
            before_sleep=tell,
        ):
            with attempt:
                page = await self._next()
                if attempt.retry_state.attempt_number > 1:
                    self._on_trouble(None)
                return page
        raise AssertionError("unreachable: repeated without end")

    async def _next(self) -> Page:
        if self._pages is None:
            self._pages = self._read(self._position)
        try:
            page = await anext(self._pages)
        except EngineUnavailable:
            await self.close()
            raise
        self._position = page.position or self._position
        return self._seen.without_known(page)

    async def close(self) -> None:
        """Let go of the reading."""
        pages, self._pages = self._pages, None
        if pages:
            await pages.aclose()
