"""`/sse`: one topic as server-sent events, for clients that have no WebSocket."""

import asyncio
import contextlib
import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from agentq.errors import AgentqError, Invalid, Unavailable
from agentq.gateway.frames import Frame, state_frame
from agentq.gateway.guests import Guest, Guests, Leave, may_subscribe
from agentq.gateway.hub import Hub
from agentq.gateway.place import Gateway
from agentq.gateway.problems import Refused, response_of
from agentq.gateway.subscription import Subscription
from agentq.gateway.topics import Topic
from agentq.tokens import Grant

BEAT_SECONDS = 15.0
WRITE_SECONDS = 10.0
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The route of the stream."""
    guests = Guests(gateway)

    async def serve(request: Request) -> Response:
        try:
            grant, topic, since = _asked(request)
            if request.method == "HEAD":
                return Response(headers=HEADERS)
            signal = asyncio.Event()
            return Stream(guests.here(grant, signal), gateway.hub, gateway.hub.subscribe(topic, since, signal), signal)
        except AgentqError as error:
            return response_of(error)

    return [Route("/sse", serve, methods=["GET"])]


def _asked(request: Request) -> tuple[Grant, str, str | None]:
    """Who asks for which topic from where; raises Refused and Invalid."""
    grant: Grant | None = request.scope.get("grant")
    if grant is None:
        raise Refused(401, "no token that counts", hint="Bring one: Authorization: Bearer TOKEN")
    topics = request.query_params.getlist("topic")
    if len(topics) != 1:
        raise Invalid("a stream has one topic", hint="GET /sse?topic=/tasks/TASK; over /ws there may be many.")
    topic = str(Topic.parse(topics[0]))
    if not may_subscribe(grant, topic):
        raise Refused(403, f"{grant.name} may not subscribe to {topic}", hint="Ask for a token that may.")
    return grant, topic, request.headers.get("last-event-id") or request.query_params.get("since")


class Stream(Response):
    """The frames of a subscription as they come, and how the engine stands, until the client goes, is too slow or is to
    leave."""

    def __init__(
        self,
        guest: contextlib.AbstractContextManager[Guest],
        hub: Hub,
        subscription: Subscription,
        signal: asyncio.Event,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._here, self._hub, self._subscription, self._signal = guest, hub, subscription, signal
        self._trouble: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self._send = send
        listening = asyncio.create_task(_gone(receive))
        listening.add_done_callback(lambda _: self._signal.set())
        try:
            with (
                self._here as guest,
                contextlib.closing(self._subscription) as subscription,
                self._hub.listening(self._signal),
            ):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._write(b"retry: 1000\n\n")
                while not listening.done():
                    self._signal.clear()
                    guest.check()
                    await self._tell_state()
                    if not await self._hand_over(subscription):
                        await self._rest()
        except (Leave, Unavailable) as why:
            with contextlib.suppress(TimeoutError):
                await self._write(_event("end", json.dumps({"op": "end", "detail": str(why)})), more=False)
        except TimeoutError:
            pass  # too slow: it comes back with the last id
        finally:
            listening.cancel()

    async def _tell_state(self) -> None:
        trouble = self._hub.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            await self._write(_event("state", state_frame(trouble)))

    async def _hand_over(self, subscription: Subscription) -> bool:
        frames = await subscription.take()
        for frame in frames:
            await self._write(_written(frame))
        return bool(frames)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(BEAT_SECONDS):
                await self._signal.wait()
        except TimeoutError:
            await self._write(b": heartbeat\n\n")

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _written(frame: Frame) -> bytes:
    """A frame as a server-sent event: an event of the log has its own kind."""
    kind, data = (frame.entry.kind, frame.entry.body) if frame.entry else (frame.op, frame.text)
    place = f"id: {frame.cursor}\n" if frame.cursor is not None else ""
    return place.encode() + _event(kind, data)


def _event(kind: str, data: str) -> bytes:
    return f"event: {_line(kind)}\ndata: {_line(data)}\n\n".encode()


def _line(text: str) -> str:
    """A text without line breaks: JSON has none anyway."""
    return text.replace("\r", " ").replace("\n", " ")
