"""Totals over all that ever ended, for counters that must not go down: read from the ledger again and again, in a time
that does not grow with it."""

import math
from collections import Counter
from typing import NamedTuple

from agentq.ledger import Ledger
from agentq.observing.figures import ATTEMPTS, BOUNDS, NOBODY, RUN, UNKNOWN, WAIT

SETTLED_SECONDS = 3600.0
"""What ended so long ago is kept as a sum."""

Totals = dict[tuple[str, str], Counter[str]]
"""For each agent and outcome what it adds up to, by the names of `_SUMS`; `wait_60` counts what waited up to 60 s."""

_SUMS = {
    "ended": "count(*)",
    "attempts": "sum(claimed)",
    "retried": f"sum({ATTEMPTS} > 1)",
    "dead_lettered": "count(dead_lettered_at)",
    "input_tokens": "total(input_tokens)",
    "output_tokens": "total(output_tokens)",
    "tokens_unknown": UNKNOWN.format("input_tokens + output_tokens"),
    "cost": "total(cost_usd)",
    "cost_unknown": UNKNOWN.format("cost_usd"),
    **{
        name: sql
        for which, seconds in (("wait", WAIT), ("run", RUN))
        for name, sql in (
            (f"{which}_sum", f"total(max({seconds}, 0.0))"),
            (f"{which}_count", f"count({seconds})"),
            *((f"{which}_{bound}", f"sum(ifnull({seconds} <= {bound}, 0))") for bound in BOUNDS),
        )
    },
}
_TOTALS = f"""SELECT ifnull(agent, '{NOBODY}'), outcome, {", ".join(_SUMS.values())}
  FROM tasks INDEXED BY by_end WHERE finished_at >= ? AND finished_at < ? AND members = 0 GROUP BY 1, 2"""
_COUNT = "SELECT count(*) FROM tasks INDEXED BY by_end WHERE finished_at < ?"


class _Sealed(NamedTuple):
    """What ended before a moment: how many rows that were, groups too, and their totals."""

    before: float = -math.inf
    rows: int = 0
    totals: Totals = {}  # noqa: RUF012 (never changed)


class Tally:
    """The totals of one ledger, for one process: none of them ever goes down, also when the ledger is made anew."""

    def __init__(self) -> None:
        self._sealed = _Sealed()
        self._told: Totals = {}

    def read(self, ledger: Ledger, now: float) -> Totals:
        """The totals at that moment (unix seconds); raises Unavailable."""
        if _rows(ledger, self._sealed.before) != self._sealed.rows:
            self._sealed = _Sealed()  # something old was told late, or the ledger is another one
        if now - self._sealed.before > 2 * SETTLED_SECONDS:
            self._seal(ledger, now - SETTLED_SECONDS)
        found = _sum(self._sealed.totals, _read(ledger, self._sealed.before, math.inf))
        for key, totals in found.items():
            self._told[key] = self._told.get(key, Counter()) | totals  # the higher one of each
        return self._told

    def _seal(self, ledger: Ledger, before: float) -> None:
        more = _read(ledger, self._sealed.before, before)
        self._sealed = _Sealed(before, _rows(ledger, before), _sum(self._sealed.totals, more))


def _rows(ledger: Ledger, before: float) -> int:
    return int(ledger.query(_COUNT, (before,))[0][0])


def _read(ledger: Ledger, start: float, end: float) -> Totals:
    return {
        (agent, outcome): Counter(dict(zip(_SUMS, sums, strict=True)))
        for agent, outcome, *sums in map(tuple, ledger.query(_TOTALS, (start, end)))
    }


def _sum(one: Totals, other: Totals) -> Totals:
    return {key: one.get(key, Counter()) + other.get(key, Counter()) for key in {**one, **other}}
