"""Who is let in: requests to this host, from no foreign page, with a token that counts, no more than it can bear."""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentq.door import in_url, is_loopback
from agentq.errors import AgentqError, Unavailable
from agentq.gateway.place import NOBODY_KNOWS, Gateway
from agentq.gateway.problems import Refused, response_of, token_needed
from agentq.tokens import Grant

log = logging.getLogger("agentq")

AT_ONCE = 512
"""Requests that are answered at the same time."""
SHARE = 64
"""So many of them may be one token's, or of all together who bring none where there are tokens."""
UNCOUNTED = ("/sse", "/api/health")
"""Streams, which have limits of their own, and what is to be answered in any case."""
NOBODY = ""
FORWARDED = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via")
)
"""What proxies add: whoever asks may be on any machine."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


@dataclass(frozen=True, slots=True)
class Names:
    """The names that this gateway goes by, with a port where only that one is meant: `gateway.example.com`."""

    hosts: frozenset[str]

    @classmethod
    def of(cls, host: str, more: Collection[str]) -> "Names":
        """Those of a gateway that listens at a host, and those that clients may use besides."""
        own = () if is_loopback(host) else (in_url(host).lower(),)
        return cls(frozenset((*LOOPBACK, *own, *(name.lower() for name in more))))

    @property
    def are_local(self) -> bool:
        """Whether all of them are this machine's alone."""
        return all(is_loopback(_name_of(name).strip("[]")) for name in self.hosts)

    def know(self, host: str) -> bool:
        """Whether a `Host` is one of them."""
        host = host.lower()
        return host in self.hosts or _name_of(host) in self.hosts

    def let_in(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may ask, which wrote to that host: one of this gateway itself."""
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or parts.path or parts.query or "@" in parts.netloc:
            return False
        usual = {"http": 80, "https": 443}[parts.scheme]
        name = in_url(parts.hostname or "")
        written = {parts.netloc.lower(), *((name, f"{name}:{usual}") if port in (None, usual) else ())}
        public = self.hosts - set(LOOPBACK)
        return host.lower() in written or bool(written & public)


class Guard:
    """The application behind it sees only who may come in: `scope["grant"]` says as whom, None for nobody known.

    A WebSocket is told by `scope["token"]` what its header brought: what to answer it is for its own protocol.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway, names: Names) -> None:
        self._app, self._gateway, self._names, self._free = app, gateway, names, AT_ONCE
        self._taken: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer what is wrong with it."""
        if scope["type"] == "http":
            await self._request(scope, receive, _guarded(send))
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["path"] not in UNCOUNTED
        try:
            self._check(scope)
            grant = scope["grant"] = await self._grant(scope)
            if counts:
                self._check_room(grant)
        except AgentqError as error:
            return await response_of(error)(scope, receive, send)
        whose = grant.id if grant else NOBODY
        self._free -= counts
        self._taken[whose] += counts
        try:
            await self._answer(scope, receive, send)
        finally:
            self._free += counts
            self._taken[whose] -= counts
            if not self._taken[whose]:
                del self._taken[whose]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            if has_begun or not self._gateway.closing.is_set():
                raise
            await response_of(_ENDING)(scope, receive, send)

    def _check_room(self, grant: Grant | None) -> None:
        """Raise Refused when too much is asked at once, by all or by whoever asks."""
        if self._free <= 0:
            raise Refused(503, "too many requests at once", hint="Try again in a moment.", headers=_SOON)
        if grant is None and self._taken[NOBODY] >= SHARE:
            raise Refused(429, "too many ask at once without a token", hint="Bring one.", headers=_SOON)
        if grant and not grant.is_everything and self._taken[grant.id] >= SHARE:
            raise Refused(429, "this token asks too much at once", hint="Try again in a moment.", headers=_SOON)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            scope["token"] = token = bearer(scope)
            if token is None and _is_forwarded(scope) and await self._known(None):
                raise _nobody_has_a_token()
        except AgentqError as error:
            log.info("a WebSocket was refused: %s", error)
            await receive()
            return await response_of(error)(scope, receive, send)
        await self._app(scope, receive, send)

    async def _grant(self, scope: Scope) -> Grant | None:
        token = bearer(scope)
        try:
            grant = await self._known(token)
        except Refused:
            if _is_open(scope["path"]):
                return None
            raise
        if token is not None and grant is None:
            raise Refused(401, "the token does not count: unknown, revoked or expired", hint="agentq token list")
        if token is None and grant and _is_forwarded(scope):
            if not _is_open(scope["path"]):
                raise _nobody_has_a_token()
            return None
        if grant is None and not _is_open(scope["path"]):
            raise token_needed()
        return grant

    async def _known(self, token: str | None) -> Grant | None:
        """What a token, or none, grants; raises Refused while nobody can tell."""
        try:
            return await self._gateway.grant(token)
        except Unavailable as error:  # which says where the store is
            raise Refused(503, NOBODY_KNOWS, hint="Try again in a moment.") from error

    def _check(self, scope: Scope) -> None:
        """Raise Refused for another host, whatever name was made to lead here, and for a foreign page."""
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        if len(hosts) != 1 or not self._names.know(hosts[0]):
            raise Refused(
                421, "this gateway does not go by that name", hint="Start it with --allow-host NAME if it is to."
            )
        if len(origins) > 1 or (origins and not self._names.let_in(origins[0], hosts[0])):
            raise Refused(403, "a page of another origin may not ask here", hint="Use the gateway's own page.")


def _is_open(path: str) -> bool:
    """Whether a path is for everybody, also while nobody can tell whose token counts."""
    return path in ("/", "/openapi.json", "/api/health") or path.startswith("/page/")


def _is_forwarded(scope: Scope) -> bool:
    """Whether a proxy says that it stands in between."""
    return any(name in FORWARDED for name, _ in scope["headers"])


def _nobody_has_a_token() -> Refused:
    return Refused(
        401,
        "this came through a proxy, and nobody has a token: without one only this machine is served",
        hint="Make one where the gateway runs: agentq token new NAME --role coordinator",
    )


_SOON = {"Retry-After": "1"}
_ENDING = Refused(
    503,
    "the gateway ended before this was answered: it may have been done, or not",
    hint="Look what became of it once the gateway is back, or ask the same again with the same id.",
    headers={**_SOON, "Connection": "close"},
)


def bearer(scope: Scope) -> str | None:
    """The token that a request brings, None without one; raises Refused for what is no such header."""
    given = _headers(scope, b"authorization")
    if not given:
        return None
    kind, _, token = given[0].partition(" ")
    if len(given) > 1 or kind.lower() != "bearer" or not token.strip():
        raise Refused(401, "that is no token", hint="Bring one: Authorization: Bearer TOKEN")
    return token.strip()


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _name_of(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name.endswith("]")) else host


def _guarded(send: Send) -> Send:
    """Send answers with what keeps browsers from doing anything with them but showing them."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            there = {name.lower() for name, _ in headers}
            message["headers"] = headers + [(name, value) for name, value in _ALWAYS.items() if name not in there]
        await send(message)

    return guarded
