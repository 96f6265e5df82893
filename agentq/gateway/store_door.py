"""The store behind the gateway, for workers that reach nothing else: its port over HTTP, under /store.

    GET    /store                    {"url", "place"}: the store behind it
    GET    /store?prefix=P&after=K   {"keys": […], "next"}: keys in order; `next` is the last one when there are more
    GET    /store/KEY                the object in pieces (agentq/stores/gateway_wire.py); with `Range: bytes=N-` and
                                     the digest of the first N bytes what comes behind them
    PUT    /store/KEY                with If-None-Match: * it is created (201) or taken (412), else replaced (200)
    DELETE /store/KEY                204, whether there was one or not

Keys are checked as every store does: names, and nothing that could leave the store. What a worker may do with each is
decided by agentq/gateway/rights.py.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import BinaryIO, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentq.errors import AgentqError, Invalid
from agentq.gateway.place import Gateway
from agentq.gateway.problems import Refused, problem_of, response_of
from agentq.gateway.rights import Content, Rights
from agentq.gateway.sending import Sending
from agentq.gateway.uploads import Upload
from agentq.store import Store, segments
from agentq.stores.gateway_wire import CHUNK, DURABLE, MEDIA_TYPE, READ_SO_FAR, STATE, end, piece, problem
from agentq.tokens import Grant

T = TypeVar("T")
log = logging.getLogger("agentq")

HANDS = 16
"""Calls of the store at once."""
AT_ONCE = 32
"""Requests of one token at once; more wait."""
PATIENCE = 10.0
"""Seconds that one of too many waits, at most."""
STALLED = 60.0
"""Seconds in which something of an upload has to arrive."""
PAPER = 16 << 20
"""Bytes of an object that is created, at most: it is held in memory."""
PAGE = 10_000
"""Keys in one answer."""
SKIPPED = 64 << 20
"""Bytes that are passed over before a word is given that one is at work."""


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """The routes of the store's door."""
    door = StoreDoor(gateway)
    return [
        Route("/store", door.ask, methods=["GET"]),
        Route("/store/{key:path}", door.act, methods=["GET", "PUT", "DELETE"]),
    ]


class StoreDoor:
    """Acts on the gateway's store for whoever may; the store's calls block, and run in threads of their own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="store-door")
        self._queues: dict[str | None, asyncio.Semaphore] = {}

    async def ask(self, request: Request) -> Response:
        """Which store it is, or the keys below a prefix."""
        return await self._answered(request, self._keys if "prefix" in request.query_params else self._which)

    async def act(self, request: Request) -> Response:
        """Read, create, replace or delete one object."""
        acts = {"PUT": self._put, "DELETE": self._delete}
        return await self._answered(request, acts.get(request.method, self._get))

    async def _answered(self, request: Request, act: Callable[[Request, Rights], Awaitable[Response]]) -> Response:
        try:
            grant = _grant(request)
            rights = await self._call(lambda: self._rights(grant))
            async with self._turn(rights.grant):
                return await act(request, rights)
        except AgentqError as error:
            return response_of(error)  # at once: what of a body is still sent then is dropped by the server

    @asynccontextmanager
    async def _turn(self, grant: Grant) -> AsyncIterator[None]:
        queue = self._queues.setdefault(grant.id, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(PATIENCE):
                await queue.acquire()
        except TimeoutError:
            raise Refused(429, "this token asks too much at once", hint="Try again in a moment.") from None
        try:
            yield
        finally:
            queue.release()

    async def _call(self, act: Callable[[], T]) -> T:
        """What a blocking call answers."""
        return await asyncio.get_running_loop().run_in_executor(self._hands, act)

    def _rights(self, grant: Grant) -> Rights:
        return Rights(grant, self._gateway.desk.app, self._gateway.reach)

    @property
    def _store(self) -> Store:
        return self._gateway.desk.app.store

    # ------------------------------------------------------------------ reading

    async def _which(self, request: Request, rights: Rights) -> Response:
        store = await self._call(lambda: self._store)
        return JSONResponse({"url": store.url, "place": store.place}, headers={STATE: "here"})

    async def _keys(self, request: Request, rights: Rights) -> Response:
        prefix, after = request.query_params["prefix"], request.query_params.get("after", "")

        def page() -> list[str]:
            shown = rights.listing(prefix)
            return list(islice((key for key in self._store.keys(prefix) if key > after and shown(key)), PAGE + 1))

        found = await self._call(page)
        more = found[PAGE - 1] if len(found) > PAGE else None
        return JSONResponse({"keys": found[:PAGE], "next": more}, headers={STATE: "list"})

    async def _get(self, request: Request, rights: Rights) -> Response:
        key, skip = _key(request), _skipped(request)

        def begin() -> tuple[BinaryIO, bytes] | None:
            rights.read(key)
            stream = self._store.open(key)
            return (stream, b"" if skip else _first(stream)) if stream else None

        found = await self._call(begin)
        if found is None:
            return JSONResponse(None, 404, {STATE: "none"})
        stream, first = found
        if not skip and len(first) < CHUNK:
            await self._call(stream.close)
            return Response(_small(first), 200, {STATE: "here"}, MEDIA_TYPE)
        pieces = _pieces(stream, first, skip, request.headers.get(READ_SO_FAR, ""))
        return Sending(stream, self._sent(pieces), 206 if skip else 200, {STATE: "here"}, MEDIA_TYPE)

    async def _sent(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces, each made in a thread when the last one has been taken."""
        while (part := await self._call(lambda: next(pieces, None))) is not None:
            yield part

    # ------------------------------------------------------------------ writing

    async def _put(self, request: Request, rights: Rights) -> Response:
        key, create = _key(request), _creates(request)
        await self._call(lambda: rights.write(key, create=create))
        limit = self._gateway.desk.settings.gateway.upload_bytes
        folder = self._gateway.desk.settings.data / "uploads"
        with Upload(min(limit, PAPER), None) if create else Upload(limit, folder) as upload:
            async for chunk in _arriving(request):
                if full := upload.add(chunk):
                    await self._call(full)
            await self._call(upload.finish)
            if not await self._gateway.still(rights.grant):
                raise Refused(401, "the token does not count any more", hint="agentq token list")
            return await self._call(lambda: self._put_down(key, upload, rights, request))

    def _put_down(self, key: str, upload: Upload, rights: Rights, request: Request) -> Response:
        create, told = _creates(request), {"sha256": upload.sha256, "bytes": upload.size}
        if create and self._store.get(key) is not None:
            return JSONResponse(told, 412, {STATE: "taken"})
        rights.write(key, create=create, content=Content(upload.sha256, upload.data))
        if create:
            assert upload.data is not None
            new = self._store.put_new(key, upload.data)
            return JSONResponse(told, 201 if new else 412, {STATE: "created" if new else "taken"})
        if upload.data is None:
            self._store.put_file(key, upload.path)
        else:
            self._store.put(key, upload.data, durable=request.headers.get(DURABLE) != "no")
        return JSONResponse(told, 200, {STATE: "written"})

    async def _delete(self, request: Request, rights: Rights) -> Response:
        key = _key(request)

        def act() -> None:
            rights.delete(key)
            self._store.delete(key)

        await self._call(act)
        return Response(status_code=204, headers={STATE: "gone"})


def _grant(request: Request) -> Grant:
    """Who asks; raises Refused for whoever is no worker."""
    grant: Grant | None = request.scope.get("grant")
    if grant is None:
        raise Refused(401, "the store is for workers with a token", hint="agentq token new NAME --role worker")
    if not grant.has("worker"):
        raise Refused(403, f"the token of {grant.name} is no worker's", hint="agentq token new NAME --role worker")
    return grant


def _key(request: Request) -> str:
    key = str(request.path_params["key"])
    segments(key)
    return key


def _creates(request: Request) -> bool:
    """Whether a put is to create; raises Invalid for a condition that nobody here knows."""
    condition = request.headers.get("if-none-match")
    if condition not in (None, "*") or "if-match" in request.headers:
        raise Invalid("the only condition of a put is If-None-Match: *")
    return condition is not None


def _skipped(request: Request) -> int:
    """How many bytes were read already; raises Invalid for a range that is not all of the rest."""
    wanted = request.headers.get("range")
    if wanted is None:
        return 0
    start = wanted.removeprefix("bytes=").removesuffix("-")
    if wanted != f"bytes={start}-" or not start.isdecimal() or len(start) > 18:
        raise Invalid("the only range of an object is all behind some place: bytes=N-")
    return int(start)


async def _arriving(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; raises Refused when it stalls or breaks off."""
    body = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALLED):
                chunk = await anext(body, None)
        except (TimeoutError, ClientDisconnect):
            raise Refused(408, "the upload broke off", hint="Repeat it.") from None
        if chunk is None:
            return
        yield chunk


def _first(stream: BinaryIO) -> bytes:
    """What an object begins with; a stream that cannot be read is closed."""
    try:
        return stream.read(CHUNK)
    except BaseException:
        stream.close()
        raise


def _small(data: bytes) -> bytes:
    """A whole object."""
    return piece(data) + end(hashlib.sha256(data).hexdigest())


def _pieces(stream: BinaryIO, first: bytes, skip: int, read_so_far: str) -> Iterator[bytes]:
    """What is to be sent of an object, whose first bytes were read and digested by whoever gets it, and what went wrong
    instead of its end."""
    digest = hashlib.sha256(first)
    try:
        yield from _passed_over(stream, skip, digest, read_so_far)
        if first:
            yield piece(first)
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            yield piece(chunk)
        yield end(digest.hexdigest())
    except Exception as error:  # the answer has begun: it cannot be another one any more
        if not isinstance(error, AgentqError):
            log.exception("a bug, in sending an object of the store")
        yield problem(json.dumps(problem_of(error)).encode())


def _passed_over(stream: BinaryIO, skip: int, digest: "hashlib._Hash", read_so_far: str) -> Iterator[bytes]:
    """Read what is not to be sent again, and say from time to time that one is at work."""
    left = skip
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
        if (skip - left) % SKIPPED < len(chunk):
            yield piece(b"")
    if left or (skip and digest.hexdigest() != read_so_far):
        raise Refused(409, "it was replaced while it was read", hint="Read it again.")
