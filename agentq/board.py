"""What the dashboard shows at one moment: plain rows, read from the ledger."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentq.figures import Figures, Now, Window, figures
from agentq.ledger import Filter, Ledger, TaskRow, WorkerRow

MANY = 200
"""How many rows of a kind are read at the most."""
DAY, HOUR, MINUTES = 86400.0, 3600.0, 300.0
FORGOTTEN = HOUR
"""After how many seconds without a word a worker is shown no more."""


@dataclass(frozen=True, slots=True)
class QueueSight:
    """An agent's tasks that are not ended, and how many of its workers take more."""

    agent: str
    now: Now
    workers: int


@dataclass(frozen=True, slots=True)
class WorkerSight:
    """A worker that is not down, and the tasks that it runs, the eldest first; of a silent one nothing is known."""

    worker: WorkerRow
    tasks: tuple[TaskRow, ...]


@dataclass(frozen=True, slots=True)
class RunningSight:
    """A task that runs, and its last words: what its agent printed last, else what its attempt said that it does."""

    task: TaskRow
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
    workers: tuple[WorkerSight, ...] = ()
    running: tuple[RunningSight, ...] = ()
    recent: tuple[EndedSight, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger, rates: Rates, now: float, last_words: Mapping[str, str]) -> "Board":
        """The board as the ledger tells it; `last_words` are what the agents of tasks printed last."""
        workers = [w for w in ledger.workers() if w.state != "down" and w.heard_at >= now - FORGOTTEN]
        running = _eldest(ledger.tasks(Filter(states=("processing", "lease")), limit=MANY))
        return cls(
            now,
            rates,
            tuple(_queues(ledger, now, workers)),
            tuple(_workers(workers, running)),
            tuple(RunningSight(task, last_words.get(task.task_id) or task.doing or "") for task in running),
            tuple(EndedSight.of(row) for row in ledger.query(_RECENT)),
        )


_RECENT = f"""SELECT task_id, agent, outcome, finished_at AS at, finished_at - first_claimed_at AS seconds, cost_usd,
    coalesce(iif(outcome = 'completed', summary, reason), '') AS words
    FROM tasks INDEXED BY by_end WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {MANY // 10}"""


def _queues(ledger: Ledger, now: float, workers: Iterable[WorkerRow]) -> Iterator[QueueSight]:
    up = Counter(worker.agent or "" for worker in workers if worker.state == "up" and not worker.silent)
    stands = {part.key: part.now for part in figures(ledger, Window(now, now), by="agent")[1] if part.now}
    for agent in sorted({*stands, *up}):
        yield QueueSight(agent, stands.get(agent, Now()), up[agent])


def _workers(workers: Iterable[WorkerRow], running: Sequence[TaskRow]) -> Iterator[WorkerSight]:
    """The silent ones first: somebody has to look at them."""
    for worker in sorted(workers, key=lambda worker: (not worker.silent, worker.agent or "", worker.worker)):
        tasks = () if worker.silent else (task for task in running if task.worker == worker.worker)
        yield WorkerSight(worker, tuple(tasks))


def _eldest(tasks: Iterable[TaskRow]) -> list[TaskRow]:
    """Those that are tasks, the one first that was started first."""
    return sorted((task for task in tasks if not task.members), key=lambda task: task.claimed_at or 0.0)
