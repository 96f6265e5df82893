"""How WebSockets are served: uvicorn's own way, but for clients that take nothing, or send much as nobody."""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from agentq.gateway.socket import FRAME_LIMIT

LINGER_SECONDS = 30.0
"""How long a connection that is closed is kept for its client to read why."""
BRIEFLY = 1.0
"""The same for one of whom nobody knows who it is."""
FIRST_BYTES = 32 * 1024
"""Bytes of a message that are read at all before a client was told anything: before it is known who it is."""
LONGEST = {"/ws": 4 * FRAME_LIMIT}
"""The same afterwards, where it is less than elsewhere: what a text of so many characters may have in UTF-8."""


class Wire(WebSocketsSansIOProtocol):
    """A connection that is closed also while its client takes nothing, and is gone some time later in any case.

    The first message to a client says that it is let in; until then little of what it sends is held.
    """

    _gone: asyncio.TimerHandle | None = None
    _is_let_in = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn.max_message_size = FIRST_BYTES

    async def send(self, message: Any) -> None:
        """Send a message of the application; a close waits for nothing that was sent before."""
        if message["type"] == "websocket.send" and not self._is_let_in:
            self._is_let_in = True
            self.conn.max_message_size = LONGEST.get(self.scope["path"], self.config.ws_max_size)
        if message["type"] == "websocket.close":
            self.writable.set()
            self._linger()
        await super().send(message)

    def keepalive_timeout(self) -> None:
        """The client is not there any more."""
        self._linger()
        super().keepalive_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._gone:
            self._gone.cancel()
        super().connection_lost(exc)

    def _linger(self) -> None:
        seconds = LINGER_SECONDS if self._is_let_in else BRIEFLY
        self._gone = self._gone or self.loop.call_later(seconds, self.transport.abort)
