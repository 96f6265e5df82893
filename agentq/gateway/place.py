"""What all parts of one gateway share."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentq.desk import Desk
from agentq.gateway.books import Books
from agentq.gateway.pulse import Pulse
from agentq.gateway.reach import Reach
from agentq.gateway.scribe import Scribe
from agentq.tokens import ROLES, Grant, Tokens

if TYPE_CHECKING:
    from agentq.gateway.hub import Hub

NOBODY_KNOWS = "nobody can tell just now whose token counts"
"""All that is said to whoever may be a stranger, while an error would say where the store is."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The desk that acts, whose tokens count, what is told to subscribers, what lists are read from,
    and how the parts behind it stand.

    `is_local` says that nobody but this machine is served; `closing` is set once the gateway is to end.
    """

    desk: Desk
    tokens: Tokens
    hub: "Hub"
    is_local: bool = True
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    books: Books = field(init=False)
    scribe: Scribe = field(init=False)
    pulse: Pulse = field(init=False)
    _reach: Reach | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "books", Books(self.desk, self.hub))
        object.__setattr__(self, "scribe", Scribe(self.desk))
        object.__setattr__(self, "pulse", Pulse(self.desk))

    @property
    def reach(self) -> Reach:
        """What is within reach of which workers; to be asked for in a thread, as it opens the store."""
        if self._reach is None:
            object.__setattr__(self, "_reach", Reach(self.desk.app.records))
        assert self._reach
        return self._reach

    async def grant(self, token: str | None) -> Grant | None:
        """What whoever brings that token, or none, may do; None for a token that does not count.

        Without one everything, as long as nobody has a token and nobody but this machine is served. Raises
        StoreUnavailable while nobody can tell.
        """
        return await asyncio.to_thread(self._grant, token)

    def _grant(self, token: str | None) -> Grant | None:
        if token is None and self.is_local and not self.tokens.any():
            return Grant(self.desk.settings.coordinator, frozenset(ROLES))
        return self.tokens.grant(token) if token else None

    async def still(self, grant: Grant) -> bool:
        """Whether a grant holds that was given earlier: nobody has revoked its token."""
        return await asyncio.to_thread(self.tokens.holds, grant)
