"""Those who are connected: cut off as soon as their token does not count any more, or the gateway ends."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from agentq.errors import AgentqError
from agentq.gateway.place import Gateway
from agentq.tokens import Grant

LOG = logging.getLogger("agentq")

LOOK_SECONDS = 0.7
"""How often it is looked whether tokens still count; the tokens' own answer is up to a second old."""
REVOKED = (4401, "the token does not count any more")
ENDING = (1012, "the gateway ends: come back, with the last id as `since`")


class Leave(Exception):
    """The connection is to be closed, with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Guest:
    """One who is connected; `signal` is set when they are to leave."""

    def __init__(self, grant: Grant, signal: asyncio.Event) -> None:
        self.grant, self.signal = grant, signal
        self._leave: tuple[int, str] | None = None

    def show_out(self, code: int, reason: str) -> None:
        """Have them leave."""
        self._leave = (code, reason)
        self.signal.set()

    def check(self) -> None:
        """Raise Leave when they are to leave."""
        if self._leave:
            raise Leave(*self._leave)


class Guests:
    """All who are connected to one part of a gateway, looked at together."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._here: set[Guest] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_known = True

    @contextlib.contextmanager
    def here(self, grant: Grant, signal: asyncio.Event) -> Iterator[Guest]:
        """One who is connected meanwhile."""
        guest = Guest(grant, signal)
        self._here.add(guest)
        self._looking = self._looking or asyncio.create_task(self._look())
        try:
            yield guest
        finally:
            self._here.discard(guest)

    async def _look(self) -> None:
        closing = self._gateway.closing
        try:
            while self._here and not closing.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await closing.wait()
                await self._show_out()
            for guest in self._here:
                guest.show_out(*ENDING)
        finally:
            self._looking = None

    async def _show_out(self) -> None:
        grants = {guest.grant for guest in self._here}
        try:
            gone = await asyncio.to_thread(self._revoked, grants)
        except AgentqError as error:  # who could revoke one cannot reach the store either
            if self._is_known:
                LOG.warning("gateway: nobody knows which tokens count: %s", error)
            self._is_known = False
            return
        if not self._is_known:
            LOG.warning("gateway: it is known again which tokens count")
        self._is_known = True
        for guest in self._here:
            if guest.grant in gone:
                guest.show_out(*REVOKED)

    def _revoked(self, grants: set[Grant]) -> set[Grant]:
        return {grant for grant in grants if not self._gateway.tokens.holds(grant)}


def may_subscribe(grant: Grant, topic: str) -> bool:
    """Whether a topic may be told to them: all to those who may read, to a worker its own agent's tasks."""
    if grant.has("observer", "coordinator", "approver"):
        return True
    return grant.agent is not None and grant.has("worker") and topic == f"/agents/{grant.agent}/tasks"
