"""`/engine`: the engine for workers that have only the gateway's URL. One connection is one engine of its own.

The frames are those of engines/gateway_wire.py. Closing a connection, whoever does it and for whatever reason, is what
gives back what was held on it: a client of which nothing is heard for 20 s is taken for dead, and one whose token is
revoked is cut off within two seconds. Close codes: 4401 no token that counts, 4400 no frame of this protocol, 1009 a
frame that is too long, 1012 the gateway ends.
"""

import asyncio
import json
import logging
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from agentq.adapters import open_engine
from agentq.engines import gateway_wire as wire
from agentq.errors import Invalid, StoreUnavailable
from agentq.gateway.engine_rights import Rights
from agentq.gateway.engine_session import Session
from agentq.gateway.guests import LOOK_SECONDS
from agentq.gateway.place import NOBODY_KNOWS, Gateway
from agentq.patience import cancelled
from agentq.tokens import Grant

log = logging.getLogger("agentq")

PATH = "/engine"
UNHEARD = 4
"""In so many parts the silence is counted after which a client is dead: whoever counts may have been stopped itself."""


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Where clients are let in, with an engine each."""

    async def serve(socket: WebSocket) -> None:
        await socket.accept()
        try:
            grant = await gateway.grant(socket.scope.get("token"))
        except StoreUnavailable as error:
            log.warning("the engine's door lets nobody in: %s", error)
            return await _close(socket, 1013, NOBODY_KNOWS)
        if grant is None:
            return await _close(socket, 4401, "no token that counts: unknown, revoked or expired, or there is none")
        await _Connection(gateway, grant, socket, wire.SILENCE).run()

    return [WebSocketRoute(PATH, serve)]


class _Connection:
    """A client that was let in."""

    def __init__(self, gateway: Gateway, grant: Grant, socket: WebSocket, silence: float) -> None:
        self._gateway, self._grant, self._socket, self._silence = gateway, grant, socket, silence
        settings = gateway.desk.settings
        self._session = Session(lambda: open_engine(settings), Rights(gateway, grant), self._send)
        self._heard = True

    async def run(self) -> None:
        """Until one of what may end it has come to its end."""
        steps = (self._hear(), self._listen_for_silence(), self._look_at_the_token(), self._gateway.closing.wait())
        tasks = [asyncio.ensure_future(step) for step in steps]
        code, why = 1011, "the gateway broke"
        try:
            await self._send(wire.frame(op="welcome", version=wire.VERSION, name=self._grant.name))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = next(task for task in tasks if task in done)
            code, why = 1012, "the gateway ends, or is started again"
            if isinstance(said := ended.result(), tuple):
                code, why = said
        except Exception:
            log.exception("the gateway broke over a connection to the engine")
        finally:
            await cancelled(*tasks)
            await self._session.close()
            await _close(self._socket, code, why)

    async def _hear(self) -> tuple[int, str]:
        while True:
            try:
                text = await self._socket.receive_text()
            except WebSocketDisconnect:
                return 1000, ""
            except KeyError:
                return 4400, "frames are texts"
            self._heard = True
            if len(text) > wire.FRAME_LIMIT:
                return 1009, f"a frame has over {wire.FRAME_LIMIT} bytes"
            try:
                await self._take(text)
            except (ValueError, RecursionError):
                return 4400, "that is no frame of this protocol"

    async def _take(self, text: str) -> None:
        """Do what a frame says; raises ValueError for what is none."""
        said: Any = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("no object")
        try:
            await self._session.hear(said)
        except Invalid as error:
            if not isinstance(request := said.get("id"), int):
                raise ValueError("no id") from error
            await self._send(wire.refusal(request, error))

    async def _listen_for_silence(self) -> tuple[int, str]:
        unheard = 0
        while unheard < UNHEARD:
            self._heard = False
            await asyncio.sleep(self._silence / UNHEARD)
            unheard = 0 if self._heard else unheard + 1
        return 1001, f"nothing was heard for {self._silence:g} s"

    async def _look_at_the_token(self) -> tuple[int, str]:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if not await self._gateway.still(self._grant):
                    return 4401, "the token was revoked, or has expired"
            except StoreUnavailable as error:  # it may have been revoked meanwhile
                log.warning("the engine's door lets nobody stay: %s", error)
                return 1013, NOBODY_KNOWS

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_text(text)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:  # whoever asked has gone
            log.debug("an answer reaches nobody: %s", error)


async def _close(socket: WebSocket, code: int, why: str) -> None:
    """Say why, if there is anybody to hear it."""
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        try:
            async with asyncio.timeout(1.0):
                await socket.close(code, why[:120])
        except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError) as error:
            log.debug("a close reaches nobody: %s", error)
