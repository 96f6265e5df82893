"""`/ws`: any number of topics over one WebSocket, in JSON frames; see docs/gateway.md."""

import asyncio
import json
import logging
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentq.errors import AgentqError, Invalid, Unavailable
from agentq.gateway.frames import state_frame
from agentq.gateway.guests import Guest, Guests, Leave, may_subscribe
from agentq.gateway.place import NOBODY_KNOWS, Gateway
from agentq.gateway.problems import Refused, problem_of, response_of
from agentq.gateway.subscription import Subscription
from agentq.gateway.topics import Topic
from agentq.messages import explain, utc_now
from agentq.tokens import ROLES, Grant

log = logging.getLogger("agentq")

HELLO_SECONDS = 10.0
"""How long a client may take to say who it is."""
BEAT_SECONDS = 15.0
WRITE_SECONDS = 10.0
"""How long a client may take nothing, while there is something to take."""
FRAME_LIMIT = 32 * 1024
"""The longest frame that a client may send, in characters."""
SUBSCRIPTIONS = 64
UNKNOWN = (4401, "no token that counts")
NO_HELLO = (4408, 'nobody said who they are: send {"op": "hello", "token": …} first')
NOT_A_HELLO = 'the first frame is no {"op": "hello", "token": …}'
TOO_LARGE = (4413, f"a frame may have {FRAME_LIMIT} characters")
TOO_MANY = (4429, f"a connection may have {SUBSCRIPTIONS} subscriptions")
TOO_SLOW = (4499, "too slow: come back, with the last id as `since`")


class Said(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: Literal["hello", "subscribe", "unsubscribe", "ping"]
    token: str | None = None
    topic: str | None = None
    since: str | None = None


def said_in(text: str) -> Said:
    """What a frame says; raises Invalid for one that says nothing."""
    try:
        return Said.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(f"that frame says nothing: {explain(error)}", hint="See docs/gateway.md.") from error


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The route of the socket."""
    guests = Guests(gateway)

    async def serve(socket: WebSocket) -> None:
        await Connection(gateway, guests, socket).run()

    return [WebSocketRoute("/ws", serve), Route("/ws", _no_socket)]


async def _no_socket(_: Request) -> Response:
    hint = "Open a WebSocket, or ask for a stream: GET /sse?topic=/events"
    return response_of(Refused(426, "this is a WebSocket", hint=hint, headers={"Upgrade": "websocket"}))


class Connection:
    """One client: a task reads what it asks for, another writes what it is told; neither waits for other clients."""

    def __init__(self, gateway: Gateway, guests: Guests, socket: WebSocket) -> None:
        self._gateway, self._hub, self._guests, self._socket = gateway, gateway.hub, guests, socket
        self._signal = asyncio.Event()
        self._subscriptions: dict[str, Subscription] = {}
        self._trouble: str | None = None

    async def run(self) -> None:
        """Serve it until it goes or is to leave."""
        await self._socket.accept()
        try:
            grant = await self._welcomed()
            with self._guests.here(grant, self._signal) as guest, self._hub.listening(self._signal):
                await self._serve(guest)
        except WebSocketDisconnect:
            pass
        except Leave as leave:
            await self._close(leave)
        except Unavailable as error:
            await self._close(Leave(1012, str(error)))
        except Exception:
            log.exception("the gateway broke over a subscriber")
            await self._close(Leave(1011, "the gateway broke"))
        finally:
            for subscription in self._subscriptions.values():
                subscription.close()

    async def _close(self, leave: Leave) -> None:
        # uvicorn lets nothing out behind a client that takes nothing, unless it is told to: see wire.py
        try:
            async with asyncio.timeout(1.0):
                await self._socket.close(leave.code, leave.reason[:100])
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            pass

    # ------------------------------------------------------------------ who it is

    async def _welcomed(self) -> Grant:
        """What whoever connects may do; raises Leave for who may nothing."""
        token = self._socket.scope.get("token") or await self._introduced()
        try:
            grant = await self._gateway.grant(token)
        except Unavailable as error:
            log.warning("/ws lets nobody in: %s", error)
            raise Leave(1012, NOBODY_KNOWS) from error
        if grant is None:
            raise Leave(*UNKNOWN)
        roles = [role for role in ROLES if role in grant.roles]
        beat = int(BEAT_SECONDS)
        await self._send(json.dumps({"op": "welcome", "name": grant.name, "roles": roles, "heartbeat_seconds": beat}))
        return grant

    async def _introduced(self) -> str | None:
        """The token that whoever connects says first, None for none."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                said = await self._hear()
        except TimeoutError:
            raise Leave(*NO_HELLO) from None
        except Invalid as error:
            raise Leave(NO_HELLO[0], f"{NOT_A_HELLO}: {error}") from error
        if said.op != "hello":
            raise Leave(NO_HELLO[0], NOT_A_HELLO)
        return said.token

    # ------------------------------------------------------------------ what it asks for

    async def _hear(self) -> Said:
        """The client's next frame; raises Invalid for one that says nothing."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
        text = message.get("text")
        if len(text or message.get("bytes") or "") > FRAME_LIMIT:
            raise Leave(*TOO_LARGE)
        return said_in(text or "")

    async def _listen(self, guest: Guest) -> None:
        while True:
            topic = None
            try:
                said = await self._hear()
                topic = said.topic
                await self._do(said, guest.grant)
            except (Invalid, Refused) as error:
                await self._complain(error, topic)

    async def _do(self, said: Said, grant: Grant) -> None:
        match said.op:
            case "subscribe":
                self._subscribe(said, grant)
            case "unsubscribe":
                self._unsubscribe(said.topic or "")
            case "ping":
                await self._beat()
            case "hello":
                pass  # known already, by a header

    def _subscribe(self, said: Said, grant: Grant) -> None:
        topic = str(Topic.parse(said.topic or ""))
        if not may_subscribe(grant, topic):
            raise Refused(403, f"{grant.name} may not subscribe to {topic}", hint="Ask for a token that may.")
        self._unsubscribe(topic)
        if len(self._subscriptions) >= SUBSCRIPTIONS:
            raise Leave(*TOO_MANY)
        self._subscriptions[topic] = self._hub.subscribe(topic, said.since, self._signal)

    def _unsubscribe(self, topic: str) -> None:
        if subscription := self._subscriptions.pop(topic, None):
            subscription.close()

    async def _complain(self, error: AgentqError, topic: str | None) -> None:
        named = {"topic": topic[:200]} if topic else {}
        await self._send(json.dumps({"op": "problem", **named, "problem": problem_of(error)}))

    # ------------------------------------------------------------------ what it is told

    async def _serve(self, guest: Guest) -> None:
        listening = asyncio.create_task(self._listen(guest))
        listening.add_done_callback(lambda _: self._signal.set())
        try:
            await self._tell(guest, listening)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _tell(self, guest: Guest, listening: "asyncio.Task[None]") -> None:
        self._wind_up()
        try:
            while True:
                self._signal.clear()
                if listening.done():
                    return listening.result()
                guest.check()
                await self._tell_state()
                if self._is_beat_due:
                    self._wind_up()
                    await self._beat()
                if not await self._hand_over():
                    await self._signal.wait()
        finally:
            self._timer.cancel()

    def _wind_up(self) -> None:
        """Have the next heartbeat come in its time."""
        self._is_beat_due = False
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._be_due)

    def _be_due(self) -> None:
        self._is_beat_due = True
        self._signal.set()

    async def _hand_over(self) -> bool:
        """Send what there is, a handful of each topic; answers whether there was something."""
        had_some = False
        for subscription in tuple(self._subscriptions.values()):
            for frame in await subscription.take():
                had_some = True
                if self._subscriptions.get(subscription.name) is subscription:  # else it was given up meanwhile
                    await self._send(frame.text)
        return had_some

    async def _tell_state(self) -> None:
        trouble = self._hub.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            await self._send(state_frame(trouble))

    async def _beat(self) -> None:
        await self._send(json.dumps({"op": "heartbeat", "at": utc_now().isoformat()}))

    async def _send(self, text: str) -> None:
        """Send a frame; raises Leave when the client takes none for too long."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._socket.send_text(text)
        except TimeoutError:
            raise Leave(*TOO_SLOW) from None
