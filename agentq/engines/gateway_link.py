"""The WebSocket to a gateway: made when needed, given up when nothing is heard on it. Imports websockets."""

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException

from agentq import __version__
from agentq.engines import gateway_wire as wire
from agentq.engines import tls
from agentq.errors import AgentqError, EngineUnavailable, NotPermitted
from agentq.remote import Remote

CLOSE_SECONDS = 3.0
PING_SECONDS = 5.0
UNHEARD = 3
"""So many pings in a row without a word in between: the line is cut."""
FOREIGN = (WebSocketException, OSError, TimeoutError)

_BRING_A_TOKEN = (
    "whoever runs the gateway gives one: `agentq token new`; it goes into AGENTQ_GATEWAY_TOKEN or `token_file`"
)
_CHECK = "check that it runs, and the URL; what waits for it tries again by itself"
REFUSED = {
    4401: _BRING_A_TOKEN,
    4403: "this token is for something else: `agentq token list` where the gateway runs",
}


class Link:
    """The line to one gateway: the living one, or a new one when that is gone."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.where = remote.url
        self.seconds = remote.timeout
        self._line: Line | None = None
        self._opening: asyncio.Task[Line] | None = None
        self._closed = False

    async def line(self) -> "Line":
        """A line that is open; all who need one wait for the same. Raises EngineUnavailable, in bounded time."""
        if self._closed:
            raise self._is_closed()
        if self._line and self._line.is_open:
            return self._line
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        try:
            return await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise self._is_closed() from None
            raise

    async def close(self) -> None:
        """Let the line go; what was held on it is given back when this returns, unless the gateway does not answer."""
        self._closed = True
        if self._opening:
            self._opening.cancel()
        line, self._line = self._line, None
        if line:
            await line.close(self._is_closed())

    def _opened(self, opening: "asyncio.Task[Line]") -> None:
        self._opening = None
        if opening.cancelled() or opening.exception():
            return
        self._line = opening.result()
        if self._closed:
            self._line.cut(self._is_closed())

    def _is_closed(self) -> EngineUnavailable:
        return EngineUnavailable(f"the engine {self.where} is closed")

    async def _open(self) -> "Line":
        socket = None
        try:
            async with asyncio.timeout(self.seconds):
                socket = await connect(
                    self.where,
                    ssl=self._remote.tls,
                    additional_headers=self._remote.headers,
                    user_agent_header=f"agentq/{__version__}",
                    max_size=wire.FRAME_LIMIT,
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=None,
                    close_timeout=CLOSE_SECONDS,
                    logger=_quiet(),
                )
                self._check(json.loads(await socket.recv()))
        except BaseException as error:
            if socket:
                socket.transport.abort()
            if isinstance(error, (*FOREIGN, ValueError)):
                raise translate(error, self.where, self.seconds) from error
            raise
        return Line(socket, self.where, self.seconds)

    def _check(self, welcome: Any) -> None:
        if not isinstance(welcome, dict) or welcome.get("op") != "welcome" or welcome.get("version") != wire.VERSION:
            raise EngineUnavailable(
                f"{self.where} speaks another language than this agentq {__version__}",
                hint="Let both run the same version, and name the gateway's own URL.",
            )


class Line:
    """One connection, and what was asked on it; it ends once, and everything that waits then ends with it."""

    def __init__(self, socket: ClientConnection, where: str, seconds: float) -> None:
        self._socket, self._where, self._seconds = socket, where, seconds
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._heard = True
        self._over: AgentqError | None = None
        self._tasks = [asyncio.create_task(step) for step in (self._read(), self._write(), self._ping())]

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it yet, as far as is known here."""
        return self._over is None

    async def ask(self, do: str, seconds: float | None = None, **what: Any) -> Any:
        """What is answered, within so many seconds, or whenever it comes for None. Cancelled, it is so there too.

        Raises what the gateway raised, or EngineUnavailable.
        """
        if self._over:
            raise _again(self._over)
        self._next_id += 1
        request, answer = self._next_id, asyncio.get_running_loop().create_future()
        self._waiting[request] = answer
        self.say(id=request, do=do, **what)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            self.say(op="cancel", of=request)
            what_happened = f"the gateway at {self._where} did not answer within {seconds or 0:g} s ({do})"
            raise EngineUnavailable(what_happened, hint="look at the load there, then try again") from None
        except asyncio.CancelledError:
            self.say(op="cancel", of=request)
            raise
        finally:
            self._waiting.pop(request, None)
            self._pieces.pop(request, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it came in the moment in which nobody waited any more

    def say(self, **said: Any) -> None:
        """Send a frame, in the order in which they are said; nobody hears it when the line has ended."""
        if not self._over:
            self._outbox.put_nowait(wire.frame(**said))

    async def close(self, why: AgentqError) -> None:
        """End it, after the other end has given back what was held here, in bounded time."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.ask("close")
        except (AgentqError, TimeoutError):
            pass
        finally:
            self._end(why)
        await asyncio.wait([asyncio.ensure_future(self._socket.close()), *self._tasks], timeout=CLOSE_SECONDS)
        self._socket.transport.abort()

    def _end(self, why: AgentqError) -> None:
        if self._over:
            return
        self._over = why
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_again(why))
        for task in self._tasks:
            task.cancel()

    def cut(self, why: AgentqError) -> None:
        """End it at once; what was held is given back as soon as the other end notices."""
        self._end(why)
        self._socket.transport.abort()

    # ------------------------------------------------------------------ what the three tasks do

    async def _read(self) -> None:
        await self._until_it_ends(self._dispatch_all())

    async def _write(self) -> None:
        await self._until_it_ends(self._send_all())

    async def _until_it_ends(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except (*FOREIGN, ValueError, LookupError, TypeError) as error:
            self.cut(translate(error, self._where, self._seconds))

    async def _dispatch_all(self) -> None:
        while True:
            text = await self._socket.recv()
            self._heard = True
            self._dispatch(json.loads(text))

    async def _send_all(self) -> None:
        while True:
            await self._socket.send(await self._outbox.get())

    async def _ping(self) -> None:
        """Asked by count, not by the clock: whoever was stopped for a while reads first what came meanwhile."""
        unheard, pause = 0, min(PING_SECONDS, self._seconds / UNHEARD)
        while unheard < UNHEARD:
            self._heard = False
            self.say(op="ping")
            await asyncio.sleep(pause)
            unheard = 0 if self._heard else unheard + 1
        what = f"nothing is heard of the gateway at {self._where} for {pause * UNHEARD:g} s"
        self.cut(EngineUnavailable(what, hint="check the network between here and there; it is tried again"))

    def _dispatch(self, said: dict[str, Any]) -> None:
        if said.get("op") == "ping":
            self.say(op="pong")
        answer = self._waiting.get(said.get("id", 0))
        if answer is None or answer.done():
            return  # nobody waits for it any more
        if "error" in said:
            answer.set_exception(wire.error_of(said["error"]))
        elif "piece" not in said:
            answer.set_result(said["answer"])
        else:
            pieces = self._pieces.setdefault(said["id"], [])
            pieces.append(said["piece"])
            if not said["more"]:
                answer.set_result(json.loads("".join(pieces)))


def translate(error: Exception, where: str, seconds: float) -> AgentqError:
    """The error of ours for one of the client library's."""
    if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code in REFUSED:
        reason = error.rcvd.reason or "it gave no reason"
        return NotPermitted(f"the gateway at {where} refuses: {reason}", hint=REFUSED[error.rcvd.code])
    if isinstance(error, ConnectionClosed):
        said = error.rcvd.reason if error.rcvd else ""
        return EngineUnavailable(f"the gateway at {where} closed the connection{said and f': {said}'}", hint=_CHECK)
    if isinstance(error, InvalidStatus):
        return _refused(error.response.status_code, where)
    if isinstance(error, TimeoutError):
        return EngineUnavailable(f"the gateway at {where} did not answer within {seconds:g} s", hint=_CHECK)
    for words, what, hint in tls.FAILURES:
        if isinstance(error, OSError) and words in str(error):
            return EngineUnavailable(f"the gateway at {where} {what}", hint=hint.replace("`cert_file`", "`ca_file`"))
    if isinstance(error, (InvalidHandshake, InvalidURI, ValueError, LookupError, TypeError)):
        return EngineUnavailable(f"{where} is no gateway of agentq ({type(error).__name__})", hint="check the URL")
    return EngineUnavailable(f"the gateway at {where} cannot be reached: {error or type(error).__name__}", hint=_CHECK)


def _refused(status: int, where: str) -> AgentqError:
    """A connection that was not made: the gateway itself refuses by a close code, so it was another's answer, or a
    name or a path that is none."""
    if status == 401:
        return NotPermitted(f"{where} lets nobody in with this token (401)", hint=_BRING_A_TOKEN)
    if status in (403, 404, 421):
        hint = "check the URL, and that the gateway goes by that name: `agentq serve --allow-host NAME`"
        return EngineUnavailable(f"{where} is no gateway of agentq, or not by that name ({status})", hint=hint)
    return EngineUnavailable(f"the gateway at {where} is not there just now ({status})", hint=_CHECK)


def _again(error: AgentqError) -> AgentqError:
    """The same error for another who waits: an exception that is raised twice collects what it came through."""
    return type(error)(str(error), hint=error.hint)


def _quiet() -> logging.Logger:
    """What the client library has to say is in the errors raised."""
    logger = logging.getLogger("agentq.websockets")
    logger.propagate, logger.disabled = False, True
    return logger
