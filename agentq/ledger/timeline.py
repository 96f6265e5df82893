"""A task's time: what of it was waiting, and what each attempt took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentq.events import TASK_KINDS, Event
from agentq.ledger.facts import OUTCOMES

_KINDS = [str(kind) for kind in TASK_KINDS if kind != "delayed"]
_KINDS.insert(_KINDS.index("attempt_ended") + 1, "delayed")
RANKS = {kind: rank for rank, kind in enumerate(_KINDS)}
"""The order in which steps are told that were taken at the same moment."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt: when it began, when and how it ended; None while it runs, or when nothing is known of its end."""

    attempt: int
    by: str | None
    began: datetime
    ended: datetime | None
    outcome: str | None

    def seconds(self, now: datetime) -> float:
        """How long it took, so far; never less than nothing, whatever the clocks say."""
        return max(0.0, ((self.ended or now) - self.began).total_seconds())


@dataclass(frozen=True, slots=True)
class Timeline:
    """The events of a task in order, and what its time went into; `over` is when it ended, None before."""

    events: tuple[Event, ...]
    runs: tuple[Run, ...]
    began: datetime | None
    over: datetime | None

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Timeline":
        """The timeline that the events of one task tell."""
        told = sorted(events, key=lambda event: (event.at, RANKS.get(event.kind, len(RANKS))))
        ends = {e.attempt: (e.at, e.kind) for e in told if e.kind in (*OUTCOMES, "attempt_ended")}
        claims = sorted((e for e in told if e.kind == "claimed" and e.attempt), key=lambda e: e.attempt or 0)
        latest = claims[-1].attempt if claims else None
        over = next((e.at for e in told if e.kind in OUTCOMES), None)
        runs = tuple(_run(claim, ends, over if claim.attempt == latest else None) for claim in claims)
        return cls(tuple(told), runs, next((e.at for e in told if e.kind == "submitted"), None), over)

    def ran(self, now: datetime) -> float:
        """Seconds that attempts took, so far."""
        return sum(run.seconds(now) for run in self.runs)

    def whole(self, now: datetime) -> float | None:
        """Seconds from its submission to its end, so far; None when its submission is not known."""
        return None if self.began is None else max(0.0, ((self.over or now) - self.began).total_seconds())

    def waited(self, now: datetime) -> float | None:
        """Seconds in which no attempt ran, so far."""
        whole = self.whole(now)
        return None if whole is None else max(0.0, whole - self.ran(now))


def _run(claim: Event, ends: dict[int | None, tuple[datetime, str]], over: datetime | None) -> Run:
    at, kind = ends.get(claim.attempt, (over, None))
    return Run(claim.attempt or 0, claim.by, claim.at, at, kind)
