"""Who may do what at the gateway: tokens with roles, of which only digests are kept, as papers in the store."""

import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from agentq.errors import Invalid, NotFound, StoreUnavailable
from agentq.messages import Message, Name, explain, sha256_hex, utc_now
from agentq.store import Store, names_in

log = logging.getLogger("agentq")

Role = Literal["observer", "coordinator", "approver", "worker"]
"""`observer` reads; `coordinator` reads, asks for work, ends it and writes in threads; `approver` reads, approves and
rejects; `worker` takes the tasks of one agent and nothing else."""
ROLES: tuple[Role, ...] = get_args(Role)

PREFIX = "access/tokens/"
FRESH_SECONDS = 1.0
"""After so long the store is asked again, however many ask meanwhile."""
LATE_SECONDS, WAIT_SECONDS = 2.0, 1.0
"""Whoever knows nothing newer waits so long for the one who asks the store, rather than to let a revoked token in."""
UNKNOWN_SECONDS = 0.2
"""So often at most the store is asked once more for a token that is not known: it may have been made just now."""
STALE_SECONDS = 30.0
"""For so long what was known stands when the store does not answer."""
_TEXT = re.compile(r"aqt_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODYS = "0" * 64


@dataclass(frozen=True, slots=True)
class Grant:
    """Who asks, and what they may do: `name` is what papers say of them, `agent` whose tasks a worker takes, `id` the
    token's, None for who needs none because only this machine is served."""

    name: str
    roles: frozenset[Role]
    agent: str | None = None
    id: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is refused to them: nobody has a token here, and they are on this machine."""
        return self.id is None

    def has(self, *roles: Role) -> bool:
        """Whether they have one of these roles."""
        return self.is_everything or not self.roles.isdisjoint(roles)


class Token(Message):
    """The paper of a token, `access/tokens/<id>.json`: `sha256` is the digest of its secret, which is kept nowhere."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Name
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    agent: Name | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    by: Name

    @model_validator(mode="after")
    def _is_somebodys(self) -> Self:
        if ("worker" in self.roles) != (self.agent is not None):
            raise ValueError("a token has an agent if, and only if, it has the role worker")
        return self

    @property
    def has_expired(self) -> bool:
        """Whether it counts no more."""
        return self.expires_at is not None and self.expires_at <= utc_now()

    @property
    def grant(self) -> Grant:
        """What it grants to whoever brings it."""
        return Grant(self.name, frozenset(self.roles), self.agent, self.id)


class Tokens:
    """The tokens of one store. All methods block, and may be called from any thread.

    What is asked often (`grant`, `any`, `holds`) is answered from what was read within the last second, in one listing
    for all that ask, and up to five times a second more while unknown tokens are brought; raises StoreUnavailable once
    the store has not answered for 30 s, and at once for a token that is not known while it is away.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Token] | None = None
        self._damaged: dict[str, str] = {}
        self._had_one = False
        self._read_at = self._tried_at = self._sought_at = float("-inf")
        self._trouble: StoreUnavailable | None = None

    def new(
        self,
        name: str,
        roles: Iterable[Role],
        agent: str | None = None,
        expires: datetime | None = None,
        *,
        by: str = "coordinator",
    ) -> tuple[str, Token]:
        """Make a token: its text, which nobody can tell again, and its paper; raises Invalid for what is none."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        chosen = tuple(role for role in ROLES if role in {*roles})
        told = {"name": name, "roles": chosen, "agent": agent, "expires_at": expires, "by": by}
        try:
            token = Token.model_validate(
                {**told, "id": token_id, "sha256": sha256_hex(secret.encode()), "created_at": utc_now()}
            )
        except ValidationError as error:
            raise Invalid(f"that is no token: {explain(error)}", hint="Look at: agentq token new --help") from error
        if token.has_expired:
            raise Invalid("the token would have expired already", hint="Name a time to come.")
        if not self._store.put_new(_key(token_id), token.to_json()):
            return self.new(name, chosen, agent, expires, by=by)
        self._forget()
        return f"aqt_{token_id}_{secret}", token

    def list(self) -> tuple[Token, ...]:
        """All tokens as they stand now, oldest first; those that are damaged are told in the log."""
        with self._lock:
            known = self._look()
        return tuple(sorted(known.values(), key=lambda token: (token.created_at, token.id)))

    def revoke(self, what: str) -> tuple[str, ...]:
        """Remove the token with that id, or all of that name, and answer with their ids; raises NotFound.

        A gateway that runs notices within two seconds, also for those that are connected.
        """
        named = [token.id for token in self.list() if what in (token.id, token.name)]
        found = tuple(named or (token_id for token_id in self._damaged if token_id == what))
        if not found:
            raise NotFound(f"there is no token {what}", hint="agentq token list")
        for token_id in found:
            self._store.delete(_key(token_id))
        self._forget()
        return found

    def grant(self, text: str | None) -> Grant | None:
        """What a token's text grants, None for one that is unknown, revoked or expired."""
        known, parts = self._current(), _TEXT.fullmatch(text or "")
        if parts and parts[1] not in known:
            known = self._sought()
        token = known.get(parts[1]) if parts else None
        digest = sha256_hex(parts[2].encode() if parts else b"")
        is_it = hmac.compare_digest(digest, token.sha256 if token else _NOBODYS)
        return token.grant if token and is_it and not token.has_expired else None

    def any(self) -> bool:
        """Whether everybody must bring a token: there is one, however damaged or old, or there was since this was made.

        So revoking the last one opens no gateway that runs.
        """
        self._current()
        return self._had_one

    def holds(self, grant: Grant) -> bool:
        """Whether a grant still is what its token grants; one that needed no token holds while nobody has one."""
        if grant.is_everything:
            return not self.any()
        token = self._current().get(grant.id or "")
        return token is not None and token.grant == grant and not token.has_expired

    # ------------------------------------------------------------------

    def _current(self) -> dict[str, Token]:
        """What was read lately; one thread reads again, and the others wait for it when what they know is old."""
        now = self._clock()
        if now - self._tried_at >= FRESH_SECONDS and self._lock.acquire(timeout=self._patience(now)):
            try:
                if now - self._tried_at >= FRESH_SECONDS:  # else another thread was first
                    self._refresh()
            finally:
                self._lock.release()
        return self._standing()

    def _sought(self) -> dict[str, Token]:
        """What is read now, or was read by another thread since this one came; raises StoreUnavailable if it cannot
        be."""
        came = self._clock()
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise StoreUnavailable("the store does not say in time which tokens count", hint="Try again later.")
        try:
            if self._read_at < came and self._clock() - self._sought_at >= UNKNOWN_SECONDS:
                self._sought_at = self._clock()
                self._refresh()
        finally:
            self._lock.release()
        if self._trouble:
            raise self._trouble
        return self._standing()

    def _patience(self, now: float) -> float:
        """For how many seconds another thread that reads is waited for; -1 for as long as it takes."""
        if self._known is None or now - self._read_at > STALE_SECONDS:
            return -1
        return WAIT_SECONDS if now - self._read_at > LATE_SECONDS else 0

    def _standing(self) -> dict[str, Token]:
        if self._known is None or self._clock() - self._read_at > STALE_SECONDS:
            raise self._trouble or StoreUnavailable("nobody knows which tokens count", hint="Try again later.")
        return self._known

    def _refresh(self) -> None:
        try:
            self._look()
        except StoreUnavailable as error:
            self._trouble = error
        self._tried_at = self._clock()

    def _look(self) -> dict[str, Token]:
        """Read what is new; a paper that was read is not read again, for none is ever changed."""
        before, known, damaged, at = self._known or {}, dict[str, Token](), dict[str, str](), self._clock()
        for token_id in [name.removesuffix(".json") for name in names_in(self._store.keys(PREFIX))]:
            token = before.get(token_id) or self._read(token_id, damaged)
            if token:
                known[token_id] = token
        for token_id in damaged.keys() - self._damaged.keys():
            log.warning("the token %s counts for nothing: its paper is damaged: %s", token_id, damaged[token_id])
        self._had_one = self._had_one or bool(known or damaged)
        self._known, self._damaged, self._read_at, self._trouble = known, damaged, at, None
        return known

    def _read(self, token_id: str, damaged: dict[str, str]) -> Token | None:
        data = self._store.get(_key(token_id))
        if data is None:  # revoked since it was listed
            return None
        try:
            token = Token.model_validate_json(data)
        except ValidationError as error:
            damaged[token_id] = explain(error)
            return None
        if token.id != token_id:
            damaged[token_id] = "it is another token's"
            return None
        return token

    def _forget(self) -> None:
        """Let the next question be asked of the store."""
        self._tried_at = float("-inf")


def _key(token_id: str) -> str:
    return f"{PREFIX}{token_id}.json"
