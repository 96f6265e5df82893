"""Contests for a turn, step by step, by nothing but put, list and delete in the store.

Whoever wants a turn puts a flag of its own and then lists all: who sees another live one takes its own away and tries
later. Of two who meet, the one whose flag came later sees the other's, so never both hold the turn. A flag's name is
never used again: anybody may remove a dead one, and it cannot come back.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from agentq.errors import AgentqError, Conflict
from agentq.messages import Message, sha256_hex, utc_now
from agentq.ownership import this_process
from agentq.papers import Lease, Owner, new_token
from agentq.process_table import ProcessIdentity, is_gone
from agentq.store import Store

LEASE_SECONDS = 20.0
DEAD, DOUBTFUL = 2.0, 1.5
"""After how many leases without a renewal others take a flag for dead, and before that its holder its turn for lost."""
RENEWALS = 4
"""How often a turn is renewed within one lease."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
FOLDER, LEASE = "turns/", ".lease.json"


class TurnTaken(Conflict):
    """Somebody else has the turn, and kept it for longer than one was ready to wait."""


class TurnLost(Conflict):
    """The turn was taken away, or could not be renewed in time: somebody else may have it now."""


class Flag(Message):
    """Somebody has the turn, or is about to see whether it is free. `at` is only for words on a screen."""

    token: str
    owner: Owner
    at: AwareDatetime
    lease_seconds: Annotated[float, Field(gt=0, le=600)]


def steady() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _is_gone(flag: Flag) -> bool:
    owner = flag.owner
    return is_gone(ProcessIdentity(boot=owner.boot, pid=owner.pid, started=owner.started)) is True


@dataclass(slots=True)
class _Seen:
    """Another one's flag, as this process knows it."""

    flag: Flag | None
    counter: int
    since: float


@dataclass(slots=True)
class Ground:
    """Where contests take place: the store, and what this process saw of others there."""

    store: Store
    lease_seconds: float = LEASE_SECONDS
    clock: Callable[[], float] = steady
    is_gone: Callable[[Flag], bool] = _is_gone
    seen: dict[str, dict[str, _Seen]] = field(default_factory=dict)


class Contest:
    """One try for a turn, in blocking steps: raise a flag, renew it, let go. Raises StoreUnavailable."""

    def __init__(self, ground: Ground, key: str) -> None:
        self.key = key
        self._ground, self._store, self._clock = ground, ground.store, ground.clock
        self._lease_seconds = ground.lease_seconds
        self._folder = f"{FOLDER}{sha256_hex(key.encode())[:32]}/"
        self._token = ""
        self._counter = 0
        self._proven = 0.0
        self._is_over = False

    # ------------------------------------------------------------------ taking it

    def take(self, patience: float, wait: Callable[[float], bool]) -> None:
        """Take the turn; raises TurnTaken after so many seconds, or when `wait` says that nobody wants it any more."""
        deadline, pause = self._clock() + patience, FIRST_PAUSE
        other = (self._folder in self._ground.seen and self.look()) or self.attempt()
        while not self.is_held:
            left = deadline - self._clock()
            if left <= 0 or wait(min(left, pause * random.uniform(0.5, 1.5))):
                raise self._taken(other)
            pause = min(LONGEST_PAUSE, pause * 1.5)
            other = self.look() or self.attempt()

    def attempt(self) -> Flag | None:
        """Raise a flag and see who else is there: the turn is held afterwards, or the flag is gone again."""
        began, token = self._clock(), new_token()
        try:
            self._store.put_new(self._flag_of(token), self._flag(token).to_json())
            other = self._other(token)
            if other is None and self._clock() - began < DOUBTFUL * self._lease_seconds:
                self._token, self._counter, self._proven = token, 0, began
        finally:
            if not self._token:
                with contextlib.suppress(AgentqError):  # a flag that stays is dead soon
                    self._store.delete(self._flag_of(token))
        return other

    def look(self) -> Flag | None:
        """Somebody else's live flag, if there is one; dead ones are removed."""
        return self._other(None)

    def _other(self, mine: str | None) -> Flag | None:
        """The first live flag of others; one without words for a flag of one's own that is not there any more."""
        keys = list(self._store.keys(self._folder))
        tokens = {_token_in(key) for key in keys if not key.endswith(LEASE)}
        leases = {_token_in(key) for key in keys if key.endswith(LEASE)}
        self._tidy(leases - tokens)
        seen = self._ground.seen.setdefault(self._folder, {})
        for token in [token for token in list(seen) if token not in tokens]:
            seen.pop(token, None)
        others = [flag for token in sorted(tokens - {mine}) if (flag := self._alive(token, seen))]
        if not others:
            self._ground.seen.pop(self._folder, None)
        return others[0] if others else None if mine is None or mine in tokens else self._flag(mine)

    def _alive(self, token: str, seen: dict[str, _Seen]) -> Flag | None:
        """The flag of that token when it counts; a dead one is removed."""
        known = seen.get(token)
        flag = known.flag if known else None
        if flag is None:
            data = self._store.get(self._flag_of(token))
            if data is None:
                return None  # it is gone since, and does not come back
            flag = _read(data) or self._flag(token)
        before, counter = self._clock(), self._counter_of(token)
        if known is None or known.counter != counter:
            known = seen[token] = _Seen(flag, counter, since=self._clock())
        stands_still = before - known.since > DEAD * flag.lease_seconds
        if not stands_still and not self._ground.is_gone(flag):
            return flag
        self._remove(token)
        seen.pop(token, None)
        return None

    def _counter_of(self, token: str) -> int:
        data = self._store.get(f"{self._folder}{token}{LEASE}")
        with contextlib.suppress(ValidationError):
            return Lease.model_validate_json(data).counter if data else 0
        return -1

    def _tidy(self, tokens: set[str]) -> None:
        """Remove renewals of flags that are gone: a flag is there before its first renewal."""
        for token in tokens:
            if self._store.get(self._flag_of(token)) is None:
                self._store.delete(f"{self._folder}{token}{LEASE}")

    # ------------------------------------------------------------------ having it

    @property
    def is_held(self) -> bool:
        """Whether the turn is this one's, for all that it can know: nobody else takes it before that ends."""
        if self._token and self._clock() - self._proven >= DOUBTFUL * self._lease_seconds:
            self._is_over = True
        return bool(self._token) and not self._is_over

    @property
    def seconds_left(self) -> float:
        """How long the turn is held without another renewal."""
        return self._proven + DOUBTFUL * self._lease_seconds - self._clock() if self.is_held else 0.0

    @property
    def renew_seconds(self) -> float:
        """How often it should be renewed."""
        return self._lease_seconds / RENEWALS

    def renew(self) -> bool:
        """Renew the turn; False when it is lost."""
        flag, began = self._flag_of(self._token), self._clock()
        if not self.is_held or self._store.get(flag) is None:
            self._is_over = True
            return False
        self._counter += 1
        lease = Lease(token=self._token, counter=self._counter, at=utc_now())
        self._store.put(f"{self._folder}{self._token}{LEASE}", lease.to_json(), durable=False)
        if self._store.get(flag) is None:
            self._is_over = True
        elif self.is_held:
            self._proven = began
        return self.is_held

    def let_go(self) -> None:
        """Give the turn back; what was lost, too. May be repeated."""
        self._is_over = True
        if self._token:
            self._remove(self._token, has_lease=self._counter > 0)

    def lost(self) -> TurnLost:
        """What to say of a turn that was lost."""
        return TurnLost(
            f"the turn of {self.key} was lost: this process, or the store, stood still for too long",
            hint="What was done so far stands. Start over: look again at what is there, then go on.",
        )

    def _taken(self, other: Flag | None) -> TurnTaken:
        if other is None or other.owner == this_process():
            who = "this process"
        else:
            who = f"process {other.owner.pid} on {other.owner.host}"
        since = f" since {other.at:%Y-%m-%d %H:%M:%S} UTC" if other else ""
        dead = DEAD * (other.lease_seconds if other else self._lease_seconds)
        return TurnTaken(
            f"the turn of {self.key} is taken by {who}{since}",
            hint=f"Try again later: it is given back at its end, or free {dead:g} s after its holder died.",
        )

    # ------------------------------------------------------------------ papers

    def _flag(self, token: str) -> Flag:
        return Flag(token=token, owner=this_process(), at=utc_now(), lease_seconds=self._lease_seconds)

    def _flag_of(self, token: str) -> str:
        return f"{self._folder}{token}.json"

    def _remove(self, token: str, *, has_lease: bool = True) -> None:
        self._store.delete(self._flag_of(token))
        if has_lease:
            self._store.delete(f"{self._folder}{token}{LEASE}")


def stale(store: Store, before: datetime) -> Iterator[str]:
    """What contests left behind that ended before that moment, by their own clocks: for whoever tidies up a store."""
    for key in store.keys(FOLDER):
        folder, token = key.rsplit("/", 1)[0], _token_in(key)
        if not key.endswith(LEASE):
            flag, lease = store.get(key) or b"", store.get(f"{folder}/{token}{LEASE}") or b""
            words = [at for at in (_at(flag, Flag), _at(lease, Lease)) if at]
            if flag and max(words, default=before) <= before:
                yield key
        elif store.get(f"{folder}/{token}.json") is None:
            yield key


def _at(data: bytes, kind: type[Flag] | type[Lease]) -> datetime | None:
    with contextlib.suppress(ValidationError):
        return kind.model_validate_json(data).at
    return None


def _token_in(key: str) -> str:
    return key.rsplit("/", 1)[1].partition(".")[0]


def _read(data: bytes) -> Flag | None:
    with contextlib.suppress(ValidationError):
        return Flag.model_validate_json(data)
    return None
