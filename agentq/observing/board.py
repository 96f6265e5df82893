"""What the dashboard shows at one moment: plain rows, read from the ledger."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentq.ledger import Filter, Ledger, TaskRow
from agentq.observing.figures import Figures, Now, Window, figures
from agentq.observing.roster import Member, Roster, Standing

LastWords = dict[tuple[str, int | None], str]
"""The last words of attempts: a task and its number."""
MANY = 200
"""How many rows of a kind are read at the most."""
DAY, HOUR, MINUTES = 86400.0, 3600.0, 300.0


@dataclass(frozen=True, slots=True)
class QueueSight:
    """An agent's tasks that are not ended, and how many of its workers take more."""

    agent: str
    now: Now
    workers: int


@dataclass(frozen=True, slots=True)
class RunningSight:
    """A task that runs, how its worker stands if it has one that is known, and its last words: what its agent printed
    last, else what its attempt said that it does."""

    task: TaskRow
    worker: Standing | None
    words: str


@dataclass(frozen=True, slots=True)
class EndedSight:
    """A task that ended; `seconds` from its first start, None when it never was started."""

    task_id: str
    agent: str | None
    outcome: str
    at: float
    seconds: float | None
    cost_usd: float | None
    words: str

    @classmethod
    def of(cls, row: sqlite3.Row) -> "EndedSight":
        """The task in a row of `_RECENT`."""
        return cls(**dict(row))


@dataclass(frozen=True, slots=True)
class Rates:
    """How tasks ended in the last 5 minutes, the last hour and the last day."""

    minutes: Figures
    hour: Figures
    day: Figures

    @classmethod
    def of(cls, ledger: Ledger, now: float) -> "Rates":
        """These figures; they take longer than the rest of a board."""
        return cls(*(figures(ledger, Window(now - seconds, now))[0] for seconds in (MINUTES, HOUR, DAY)))


@dataclass(frozen=True, slots=True)
class Board:
    """All of it, `at` a moment (unix seconds)."""

    at: float
    rates: Rates
    queues: tuple[QueueSight, ...] = ()
    workers: tuple[Member, ...] = ()
    running: tuple[RunningSight, ...] = ()
    recent: tuple[EndedSight, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger, rates: Rates, now: float, last_words: LastWords) -> "Board":
        """The board as the ledger tells it; `last_words` are what the agents printed last."""
        roster = Roster.of(ledger, now)
        running = _eldest(ledger.tasks(Filter(states=("processing", "lease")), limit=MANY))
        return cls(
            now,
            rates,
            tuple(_queues(ledger, now, roster)),
            tuple(sorted(roster.present(), key=lambda worker: worker.is_at_work)),
            tuple(_running(task, roster, last_words) for task in running),
            tuple(EndedSight.of(row) for row in ledger.query(_RECENT)),
        )


_RECENT = f"""SELECT task_id, agent, outcome, finished_at AS at, finished_at - first_claimed_at AS seconds, cost_usd,
    coalesce(iif(outcome = 'completed', summary, reason), '') AS words
    FROM tasks INDEXED BY by_end WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {MANY // 10}"""


def _queues(ledger: Ledger, now: float, roster: Roster) -> Iterator[QueueSight]:
    up = Counter(worker.row.agent or "" for worker in roster.members if worker.standing == "up")
    stands = {part.key: part.now for part in figures(ledger, Window(now, now), by="agent")[1] if part.now}
    for agent in sorted({*stands, *up}):
        yield QueueSight(agent, stands.get(agent, Now()), up[agent])


def _running(task: TaskRow, roster: Roster, last_words: LastWords) -> RunningSight:
    worker = roster[task.worker] if task.worker else None
    return RunningSight(
        task, worker.standing if worker else None, last_words.get((task.task_id, task.attempt)) or task.doing or ""
    )


def _eldest(tasks: Iterable[TaskRow]) -> list[TaskRow]:
    """Those that are tasks, the one first that was started first."""
    return sorted((task for task in tasks if not task.members), key=lambda task: task.claimed_at or 0.0)
