"""Who works here, as workers say it of themselves: those that are up, and those that went silent and may come back."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agentq.ledger import Ledger, WorkerRow
from agentq.ledger.facts import moment, number, text
from agentq.ledger.finding import HEARTBEAT_SECONDS, SILENT
from agentq.process_table import ProcessIdentity, is_gone

Standing = Literal["up", "draining", "silent", "gone", "down"]
"""`silent` was not heard of for three of its heartbeats, `gone` is a process of this host that is proven dead, and
`down` said itself that it ends. Only what is up or draining works."""
ORDER: tuple[Standing, ...] = ("up", "draining", "silent", "gone", "down")
LARGEST_PID = 2**31 - 1
FORGOTTEN_SECONDS = 3600.0
"""After how long a worker that went without a word is not spoken of any more."""


class Work(NamedTuple):
    """One attempt of a worker; `since` is unix seconds, or None."""

    task_id: str
    attempt: int
    since: float | None
    doing: str


@dataclass(frozen=True, slots=True)
class Member:
    """One worker process: its row, how it stands, and what it works on, or worked on when it was last heard of."""

    row: WorkerRow
    standing: Standing
    work: tuple[Work, ...] = ()

    @property
    def is_at_work(self) -> bool:
        """Whether it is there at all."""
        return self.standing in ("up", "draining")

    @property
    def is_idle(self) -> bool:
        """Whether it would take a task now."""
        return self.standing == "up" and len(self.work) < (self.row.parallel or 1)


class Roster:
    """All workers that the log ever told of, as they stand at a moment: those at work first, by their names."""

    def __init__(self, members: Iterable[Member], at: float) -> None:
        self.members = sorted(members, key=lambda one: (ORDER.index(one.standing), one.row.worker))
        self._at = at

    @classmethod
    def of(cls, ledger: Ledger, at: float | None = None) -> "Roster":
        """The roster at that moment (unix seconds), else now; raises Unavailable."""
        at = time.time() if at is None else at
        taken = _taken(ledger)
        return cls((_member(ledger, row, taken.get(row.worker, ()), at) for row in ledger.workers()), at)

    def __getitem__(self, worker: str) -> Member | None:
        return next((one for one in self.members if one.row.worker == worker), None)

    def at_work(self, agent: str | None = None) -> list[Member]:
        """Those that are there, of one agent or of all."""
        return [one for one in self.members if one.is_at_work and agent in (None, one.row.agent)]

    def present(self) -> Iterator[Member]:
        """Those that are there, and those that should be: not who ended in order, is long dead, or was replaced."""
        return (one for one in self.members if one.is_at_work or self._is_missed(one))

    def _is_missed(self, one: Member) -> bool:
        is_fresh = one.row.heard_at > self._at - FORGOTTEN_SECONDS
        return one.standing != "down" and is_fresh and not (one.standing == "gone" and self._is_replaced(one.row))

    def _is_replaced(self, row: WorkerRow) -> bool:
        later = (one.row for one in self.at_work(row.agent) if one.row.host == row.host)
        return any((other.up_at or other.heard_at) > row.heard_at for other in later)


def _member(ledger: Ledger, row: WorkerRow, taken: Iterable[Work], at: float) -> Member:
    """A worker with what it was on by its last heartbeat, what it took since, and without what has ended since."""
    standing = _standing(row, at)
    work = {one.task_id: one for one in _work(row.running)}
    if standing in ("up", "draining"):
        work = {task_id: one for task_id, one in work.items() if not ledger.query(_ENDED, (task_id, one.attempt))}
    if standing != "down":
        work = {one.task_id: one for one in taken if (one.since or 0.0) >= row.heard_at} | work
    return Member(row, standing, tuple(work.values()))


def _taken(ledger: Ledger) -> dict[str, list[Work]]:
    """The attempts that have not ended, by their workers."""
    found: dict[str, list[Work]] = {}
    for worker, *known in map(tuple, ledger.query(_RUNNING)):
        found.setdefault(worker, []).append(Work(*known))
    return found


def _standing(row: WorkerRow, at: float) -> Standing:
    if row.state == "down":
        return "down"
    if _is_gone(row):
        return "gone"
    if row.heard_at + SILENT * (row.heartbeat_seconds or HEARTBEAT_SECONDS) < at:
        return "silent"
    return "draining" if row.state == "draining" else "up"


def _is_gone(row: WorkerRow) -> bool:
    """Whether this host can prove that the process is dead."""
    known = row.boot and row.started and row.pid and row.pid <= LARGEST_PID
    return bool(known) and is_gone(ProcessIdentity(row.boot or "", row.pid or 0, row.started or "")) is True


_ENDED = "SELECT 1 FROM tasks WHERE task_id = ? AND (outcome IS NOT NULL OR ended >= ?)"
_RUNNING = """SELECT worker, task_id, claimed, claimed_at, ifnull(doing, '') FROM tasks INDEXED BY by_state
  WHERE state = 'processing' AND members = 0 AND worker IS NOT NULL"""


def _work(running: Iterable[Any]) -> Iterator[Work]:
    """What a heartbeat names, as far as it is what it should be."""
    for said in running:
        if isinstance(said, dict) and (task_id := text(said.get("task_id"))):
            attempt, doing = number(said.get("attempt")) or 0, text(said.get("doing")) or ""
            yield Work(task_id, attempt, moment(said.get("since")), doing)
