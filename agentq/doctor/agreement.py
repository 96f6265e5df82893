"""Whether the log tells what the papers say. Where they differ, the papers are right."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from agentq.doctor.findings import Ailment
from agentq.doctor.papers import Census, Said
from agentq.errors import EvidenceError
from agentq.ledger import Ledger
from agentq.messages import utc_now
from agentq.records import Records

ON_ITS_WAY = timedelta(seconds=10)
"""What was written so short a time ago may still be on its way into the log."""
REGISTERED, OPEN, ENDED = 10_000, 10_000, 50
"""How many are looked at: of the tasks in the store whether the log knows them, of those that are open by the log, and
of those that ended last."""
READ, NAMED = 200, 3
"""How many tasks' papers are read because the log seems to differ, and how many of them are named."""

_TOLD = "SELECT task_id, outcome, max(claimed, ended) AS attempt FROM tasks WHERE state IS NOT NULL AND"
_OPEN = f"SELECT task_id FROM tasks WHERE state IN ('pending', 'processing') LIMIT {OPEN}"
_NEWEST = f"""SELECT task_id FROM tasks INDEXED BY by_end WHERE finished_at IS NOT NULL
  ORDER BY finished_at DESC LIMIT {ENDED}"""


@dataclass(slots=True)
class Differences:
    """The tasks that the log tells less of than their papers, those of which it tells what no paper says, and how many
    open ones it has that this store does not know; `left_out` were too many to be compared."""

    unlogged: dict[str, str] = field(default_factory=dict)
    contradicted: dict[str, str] = field(default_factory=dict)
    elsewhere: int = 0
    left_out: int = 0

    def ailments(self) -> Iterator[Ailment]:
        """The same as one line for each kind."""
        if self.unlogged:
            remedy = "the papers are right: agentq ledger rebuild"
            yield Ailment(None, "unlogged", self._over(self.unlogged), part="log", remedy=remedy)
        if self.contradicted:
            remedy = "the papers are right; was an older copy of the store brought back? Then results may be lost"
            what = self._over(self.contradicted)
            yield Ailment(None, "contradicted", what, mendable=False, part="log", remedy=remedy)

    def notes(self) -> Iterator[str]:
        """What is worth knowing besides."""
        if self.elsewhere:
            yield f"{self.elsewhere} open tasks of the log are not in this store"
        if self.left_out:
            yield f"{self.left_out} more tasks were not compared with the log"

    def _over(self, tasks: dict[str, str]) -> str:
        """How many they are, and how it is with some of them."""
        some = [f"{task_id} is {how}" for task_id, how in list(tasks.items())[:NAMED]]
        more = f"; and {len(tasks) - NAMED} more" if len(tasks) > NAMED else ""
        return f"papers and log disagree over {len(tasks)} tasks: {'; '.join(some)}{more}"


@dataclass(frozen=True, slots=True)
class Suspects:
    """The tasks over which papers and log may differ, and how many more there are."""

    task_ids: list[str]
    left_out: int

    @classmethod
    def of(cls, records: Records, ledger: Ledger, census: Census) -> "Suspects":
        """Judged by what was read already, and by which tasks there are; raises Unavailable."""
        told = _told(ledger, census.said)
        by_papers = [i for i, said in census.said.items() if said.outcome is None and _differ(said, told.get(i))]
        by_log = [row["task_id"] for row in ledger.query(_OPEN) if row["task_id"] not in census.unsettled]
        registered = list(itertools.islice(records.registered_ids(), REGISTERED))
        known = _told(ledger, registered)
        unknown = [i for i in registered if i not in known and i not in census.unsettled]
        newest = [row["task_id"] for row in ledger.query(_NEWEST)]
        lists = (by_papers, by_log, unknown)
        picked = dict.fromkeys(itertools.chain.from_iterable((*(one[:READ] for one in lists), newest)))
        return cls(list(picked), sum(max(0, len(one) - READ) for one in lists))


def differences(records: Records, ledger: Ledger, suspects: Suspects) -> Differences:
    """Over which of these tasks papers and log do differ, by what is read now. Raises Unavailable."""
    found = Differences(left_out=suspects.left_out)
    told, now = _told(ledger, suspects.task_ids), utc_now()
    for task_id in suspects.task_ids:
        said = _said(records, task_id)
        if said is None:
            found.elsewhere += task_id in told and told[task_id].outcome is None
        elif now - said.at > ON_ITS_WAY and (how := _differ(said, told.get(task_id))):
            kind = found.contradicted if how.startswith("not ") else found.unlogged
            kind[task_id] = how
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    outcome: str | None
    attempt: int


def _told(ledger: Ledger, task_ids: Iterable[str]) -> dict[str, _Told]:
    """What the log tells of tasks, as far as it tells anything."""
    found, left = dict[str, _Told](), iter(task_ids)
    while some := list(itertools.islice(left, 500)):
        rows = ledger.query(f"{_TOLD} task_id IN ({', '.join('?' * len(some))})", some)
        found |= {row["task_id"]: _Told(row["outcome"], row["attempt"]) for row in rows}
    return found


def _said(records: Records, task_id: str) -> Said | None:
    try:
        papers = records.papers(task_id)
    except EvidenceError:  # told elsewhere
        return None
    return Said.by(papers) if papers else None


def _differ(said: Said, told: _Told | None) -> str:
    """How the log differs from the papers, in words that begin with `not` when it tells what no paper says."""
    stands = said.outcome or "open"
    if told is None:
        return f"{stands}, and unknown to the log"
    if told.outcome and told.outcome != said.outcome:
        return f"not {told.outcome} as the log has it, but {stands}"
    if said.outcome and not told.outcome:
        return f"{said.outcome}, and open by the log"
    if not said.outcome and said.attempt > told.attempt:
        return f"in attempt {said.attempt}, and in {told.attempt or 'none'} by the log"
    return ""
