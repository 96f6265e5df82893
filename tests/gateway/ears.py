"""Clients of `/ws` for tests: they subscribe, hear, and come back behind what they heard."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

PATIENCE = 30.0


class Ear:
    """One connection; heartbeats are heard only by who asks for them."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, op: str, **more: Any) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps({"op": op, **more}))

    async def hear(self, *ops: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next frame, or the next with one of these ops."""
        async with asyncio.timeout(seconds):
            while True:
                frame: dict[str, Any] = json.loads(await self.connection.recv())
                if frame["op"] in ops or (not ops and frame["op"] != "heartbeat"):
                    return frame

    async def subscribe(self, topic: str, since: str = "") -> str:
        """Subscribe, and answer the cursor at which it began, once it did."""
        await self.say("subscribe", topic=topic, since=since)
        return str((await self.hear("subscribed"))["at"])

    async def closing(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """The code and the reason with which the gateway ends it, whatever comes before."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(seconds):
                while True:
                    await self.connection.recv()
        return self.connection.close_code or 0, self.connection.close_reason or ""


@contextlib.asynccontextmanager
async def ear(ws: str, token: str | None = None, *, by_header: bool = False, **how: Any) -> AsyncIterator[Ear]:
    """A client that is welcome."""
    async with unwelcomed(ws, token if by_header else None, **how) as made:
        if not by_header:
            await made.say("hello", token=token)
        await made.hear("welcome")
        yield made


@contextlib.asynccontextmanager
async def unwelcomed(ws: str, token: str | None = None, **how: Any) -> AsyncIterator[Ear]:
    """A client that said nothing yet, but for what its header brings."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    how = {"ping_interval": None, "close_timeout": 1.0, "max_size": None, "proxy": None, "compression": None} | how
    async with connect(f"{ws}/ws", additional_headers=headers, **how) as connection:
        yield Ear(connection)


class Wanderer:
    """A client of one topic that goes from gateway to gateway, and notes what it hears."""

    def __init__(self, topic: str, since: str = "start") -> None:
        self.topic, self.since = topic, since
        self.heard: list[str] = []
        self.gaps = 0

    async def visit(self, ws: str, frames: int, last: str) -> bool:
        """Hear so many frames at a gateway, or up to a last event, which is answered; a lost connection ends it too."""
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            async with ear(ws) as here:
                await here.say("subscribe", topic=self.topic, since=self.since)
                while frames > 0:
                    frames -= 1
                    self.note(await here.hear())
                    if self.heard and self.heard[-1] == last:
                        return True
        return False

    def note(self, frame: dict[str, Any]) -> None:
        """Note a frame."""
        self.gaps += frame["op"] == "gap"
        if frame["op"] == "event":
            self.heard.append(frame["event"]["id"])
            self.since = frame["id"]
