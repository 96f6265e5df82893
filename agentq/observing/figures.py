"""Figures of what the log told: how much waits and runs now, and how what ended in a span of time went.

All of one span is about the tasks that ended in it. Plans and other groups are no tasks here.

- A task *waits* from when it could first start (created, released, its `not_before`: the last of these) to its first
  claim, and *runs* from its first claim to its end, further attempts and the pauses between them included.
- It is *queued* while nothing but a worker is missing: it is neither delayed nor waits for tasks or an approval. Since
  when is the last of: created, released, approved, the end of its delay or of its last attempt.
- A percentile is the smallest of the values that at least so many percent of them do not exceed (nearest rank).
- Clocks of several hosts differ: what would have taken less than no time counts as 0 s, and in `skewed`.
- `failure_rate` is failed / (completed + failed); `retry_rate` the share of those started with more than one attempt
  that counts.
- What a task used is what its result tells of all its attempts; it is in `unknown` where one of them did not tell all.
"""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from sqlite3 import Row
from typing import Any, Literal, NamedTuple

from agentq.ledger import Ledger
from agentq.ledger.finding import WAITS_FOR

By = Literal["agent", "type", "day"]
PERCENTILES = (50, 90, 99)
BOUNDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400)
"""Into which durations histograms sort: up to so many seconds."""
NOBODY = "unknown"
"""The key of what has no agent or type."""

OUTCOMES = ("completed", "failed", "cancelled", "expired")
USED = ("input_tokens", "output_tokens", "cost_usd")

STARTABLE = "max(created_at, ifnull(released_at, created_at), ifnull(not_before, created_at))"
WAIT, RUN = f"(first_claimed_at - {STARTABLE})", "(finished_at - first_claimed_at)"
ATTEMPTS = "(counted + (claimed > ended))"
UNKNOWN = "sum((first_claimed_at IS NOT NULL OR outcome = 'completed') AND ({} IS NULL OR at_least))"
"""How many tasks used something that they did not tell; what never had an agent used nothing."""
_MOMENTS = ("released_at", "approved_at", "until", "ended_at")
OPEN = f"""SELECT agent, type, claimed, coalesce({WAITS_FOR}, 'running') AS stand,
  max(ifnull(created_at, heard_at), {", ".join(f"ifnull({moment}, 0)" for moment in _MOMENTS)}) AS since
  FROM tasks t WHERE state IN ('pending', 'processing') AND members = 0"""
"""The tasks that have not ended: where each stands (a field of `Now`) at `:now`, and since when it could start."""


@dataclass(frozen=True, slots=True)
class Now:
    """How many tasks stand where at this moment, and for how long the oldest of the queued ones has (seconds).

    `lease` counts attempts of workers that have gone silent.
    """

    queued: int = 0
    oldest_seconds: float | None = None
    delayed: int = 0
    dependencies: int = 0
    approval: int = 0
    lease: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of `count` durations, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Used:
    """What was used: the sum and the mean of what is `known`, None for nothing; `unknown` tasks did not tell all."""

    sum: float | None = None
    mean: float | None = None
    known: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of all tasks, or of those of one agent, type or day (UTC, of the end), which `key` names.

    Rates are None where there is nothing to divide by. `now` is None for a day.
    """

    key: str = ""
    now: Now | None = None
    ended: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    started: int = 0
    retried: int = 0
    dead_letters: int = 0
    skewed: int = 0
    hours: float = 0.0
    wait_seconds: Spread | None = None
    run_seconds: Spread | None = None
    input_tokens: Used = field(default_factory=Used)
    output_tokens: Used = field(default_factory=Used)
    cost_usd: Used = field(default_factory=Used)

    @property
    def per_hour(self) -> float | None:
        """How many ended in an hour."""
        return _ratio(self.ended, self.hours)

    @property
    def failure_rate(self) -> float | None:
        """The share of failures among what completed or failed."""
        return _ratio(self.failed, self.completed + self.failed)

    @property
    def retry_rate(self) -> float | None:
        """The share of those started that took more than one counted attempt."""
        return _ratio(self.retried, self.started)

    @property
    def is_empty(self) -> bool:
        """Whether nothing ended or was dead-lettered."""
        return not (self.ended or self.dead_letters)

    def plain(self) -> dict[str, Any]:
        """As `agentq stats --json` prints it."""
        rates = {name: getattr(self, name) for name in ("per_hour", "failure_rate", "retry_rate")}
        return asdict(self) | rates


class Window(NamedTuple):
    """What is asked: ended since then and until now (unix seconds), of one agent or of all."""

    since: float
    now: float
    agent: str | None = None

    @property
    def hours(self) -> float:
        """How long it is."""
        return max(0.0, self.now - self.since) / 3600

    def hours_of(self, day: str) -> float:
        """How much of a day (UTC) is in it."""
        start = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        return max(0.0, min(start + 86400, self.now) - max(start, self.since)) / 3600


def figures(ledger: Ledger, window: Window, by: By | None = None) -> tuple[Figures, list[Figures]]:
    """The figures of all that is asked, and of each agent, type or day in it, by its key; one reading of the ledger.

    Raises Unavailable when the ledger cannot be read.
    """
    with ledger.one_moment():
        whole = _Reading(ledger, window, None).figures()
        parts = _Reading(ledger, window, by).figures() if by else []
    return whole[0] if whole else Figures(now=Now(), hours=window.hours), parts


class _Reading:
    """The statements of one window, each of which reads no more of the ledger than an index leaves."""

    def __init__(self, ledger: Ledger, window: Window, by: By | None) -> None:
        self._ledger, self._window, self._by = ledger, window, by
        self._mine = "" if window.agent is None else " AND agent = :agent"
        self._ended = f"FROM tasks INDEXED BY by_end WHERE finished_at >= :since AND members = 0{self._mine}"
        self._key = self._key_at("finished_at")

    def figures(self) -> list[Figures]:
        """All of them, by their keys."""
        ended, letters, now = self._of_ended(), self._dead_letters(), {} if self._by == "day" else self._now()
        wait, run = self._spread(WAIT), self._spread(RUN)
        return [
            Figures(
                key=key,
                now=None if self._by == "day" else now.get(key, Now()),
                dead_letters=letters.get(key, 0),
                hours=self._window.hours_of(key) if self._by == "day" else self._window.hours,
                wait_seconds=wait.get(key),
                run_seconds=run.get(key),
                **ended.get(key, {}),
            )
            for key in sorted({*ended, *letters, *now})
        ]

    def _of_ended(self) -> dict[str, dict[str, Any]]:
        """What is counted and added up of the tasks that ended."""
        outcomes = ", ".join(f"sum(outcome = '{o}') AS {o}" for o in OUTCOMES)
        used = ", ".join(f"sum({u}), avg({u}), count({u}), {UNKNOWN.format(u)}" for u in USED)
        rows = self._query(
            f"SELECT {self._key} AS key, {used}, count(*) AS ended, {outcomes}, count(first_claimed_at) AS started,"
            f" sum({ATTEMPTS} > 1) AS retried, sum(ifnull({WAIT} < 0, 0) + ifnull({RUN} < 0, 0)) AS skewed"
            f" {self._ended} GROUP BY key"
        )
        return {row["key"]: _counted(dict(row), tuple(row)) for row in rows}

    def _spread(self, seconds: str) -> dict[str, Spread]:
        """The percentiles of a duration."""
        ranks = ", ".join(f"max(iif(n = (c * {p} + 99) / 100, v, NULL))" for p in PERCENTILES)
        values = f"SELECT {self._key} AS key, max({seconds}, 0.0) AS v {self._ended}"
        ranked = "row_number() OVER (PARTITION BY key ORDER BY v) AS n, count(*) OVER (PARTITION BY key) AS c"
        rows = self._query(
            f"SELECT key, c, {ranks}, max(v) FROM (SELECT key, v, {ranked} FROM ({values}) WHERE v IS NOT NULL)"
            " GROUP BY key"
        )
        return {key: Spread(*values) for key, *values in map(tuple, rows)}

    def _dead_letters(self) -> dict[str, int]:
        """How many tasks were given up, and messages refused."""
        rows = self._query(
            f"SELECT key, count(*) FROM (SELECT {self._key_at('dead_lettered_at')} AS key FROM tasks"
            f" WHERE dead_lettered_at >= :since{self._mine} UNION ALL SELECT {self._key_at('at', kind='NULL')}"
            f" FROM refused WHERE at >= :since{self._mine}) GROUP BY key"
        )
        return dict(map(tuple, rows))

    def _now(self) -> dict[str, Now]:
        """Where those stand that have not ended."""
        rows = self._query(
            f"SELECT {self._key_at('')} AS key, stand, count(*) AS n, min(since) AS since FROM ({OPEN}{self._mine})"
            " GROUP BY key, stand"
        )
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            found.setdefault(row["key"], {})[row["stand"]] = row["n"]
            if row["stand"] == "queued":
                found[row["key"]]["oldest_seconds"] = max(0.0, self._window.now - row["since"])
        return {key: Now(**known) for key, known in found.items()}

    def _key_at(self, moment: str, kind: str = "type") -> str:
        keys = {
            None: "''",
            "agent": f"coalesce(agent, '{NOBODY}')",
            "type": f"coalesce({kind}, '{NOBODY}')",
            "day": f"date({moment}, 'unixepoch')",
        }
        return keys[self._by]

    def _query(self, sql: str) -> list[Row]:
        return self._ledger.query(sql, self._window._asdict())


def _counted(row: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of Figures in a row, which has four values for each thing used behind its key."""
    fields = {name: Used(*values[1 + 4 * i : 5 + 4 * i]) for i, name in enumerate(USED)}
    return fields | {name: row[name] for name in ("ended", *OUTCOMES, "started", "retried", "skewed")}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
