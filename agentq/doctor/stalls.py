"""Queues that stand still, and attempts whose workers are dead, as papers and workers together tell it."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agentq.doctor.findings import Ailment, span
from agentq.doctor.papers import Queue
from agentq.events import worker_id
from agentq.ledger import Ledger
from agentq.lifecycle import Papers, is_silent
from agentq.messages import utc_now
from agentq.observing.roster import Member, Roster
from agentq.ownership import is_orphaned
from agentq.papers import Attempt, Claim

QUIET_SECONDS = 60.0
"""How long nothing begins or ends before an idle worker counts as one that should have taken what waits."""

_MOVED = """SELECT EXISTS (SELECT 1 FROM tasks INDEXED BY by_end WHERE finished_at > :since AND agent = :agent)
  OR EXISTS (SELECT 1 FROM tasks INDEXED BY by_state
    WHERE state IN ('pending', 'processing') AND agent = :agent AND (claimed_at > :since OR ended_at > :since))
  AS moved"""


@dataclass(frozen=True, slots=True)
class Stalls:
    """Looks for what stands still; a task that could start is to be started within `patience` seconds.

    Without a roster, because the log could not be read, nothing is said of workers.
    """

    ledger: Ledger
    roster: Roster | None
    patience: float
    store: str

    def queues(self, queues: Mapping[str, Queue]) -> Iterator[Ailment | str]:
        """The queues that stand still, and as a note those for which no worker is up, but not for long."""
        for agent, queue in sorted(queues.items()):
            assert queue.since
            waits = time.time() - queue.since.timestamp()
            said = f"{_tasks(queue.count)} of {agent} could start, the first ({queue.task_id}) for {span(waits)}"
            workers = self._up(agent)
            if workers:
                how = self._stuck(agent, queue, workers) if waits > self.patience else ""
                if how:
                    remedy = f"agentq why {queue.task_id}"
                    yield Ailment(None, "stuck", f"{said}, {how}", False, "queues", agent, remedy)
            elif waits > self.patience:
                remedy = f"agentq worker run {agent}"
                yield Ailment(None, "no-worker", f"{said}, and no worker is up", False, "queues", agent, remedy)
            else:
                yield f"{said}; no worker of it is up: agentq worker run {agent}"

    def _stuck(self, agent: str, queue: Queue, workers: Iterable[Member]) -> str:
        """Why a queue should move and does not, empty when it does or need not."""
        assert queue.since
        idle = next((one for one in workers if one.is_idle), None)
        if idle and not self._moved_since(agent, time.time() - min(QUIET_SECONDS, self.patience)):
            elsewhere = (
                f" (it works for the store {idle.row.store})" if idle.row.store not in (None, self.store) else ""
            )
            return f"while {idle.row.worker} is idle{elsewhere}"
        if not idle and not self._moved_since(agent, queue.since.timestamp()):
            return "and nothing of it began or ended since: all its workers are busy"
        return ""

    def _moved_since(self, agent: str, since: float) -> bool:
        return bool(self.ledger.query(_MOVED, {"agent": agent, "since": since})[0]["moved"])

    def leases(self, running: Iterable[Papers]) -> Iterator[Ailment]:
        """The attempts whose workers are dead or silent, and who takes them over."""
        for papers in running:
            claim, last = papers.running, papers.last
            if claim and last and (how := self._dead(claim, last)):
                what = f"attempt {claim.attempt}: {how}"
                heir, remedy = self._heir(papers.envelope.to, claim)
                task_id, agent = papers.envelope.task_id, claim.worker
                yield Ailment(task_id, "lease", f"{what}; {heir}", False, "workers", agent, remedy)

    def _dead(self, claim: Claim, last: Attempt) -> str:
        """How its worker is known to be dead, empty when it is not."""
        worker = worker_id(claim.worker, claim.owner.host, claim.owner.pid) if claim.owner.host else claim.worker
        heard = max(claim.at, last.lease.at) if last.lease else claim.at
        known = self.roster[worker] if self.roster else None
        if is_orphaned(claim):
            return f"the process of {worker} is gone"
        if known and known.standing == "down" and known.row.heard_at > heard.timestamp():
            return f"{worker} has ended"
        if is_silent(last, utc_now()):
            return f"{worker} has not renewed its lease for {span((utc_now() - heard).total_seconds())}"
        return ""

    def _heir(self, agent: str, claim: Claim) -> tuple[str, str]:
        """Who takes an attempt over and when, and what to do when nobody is there."""
        if self.roster is None:
            return "a worker takes it over, if one is up", ""
        heirs = self._up(agent)
        if not heirs:
            return "no worker is up to take it over", f"agentq worker run {agent}"
        at_last = f"at the latest when its lease of {claim.lease_seconds:g} s has stood still"
        return f"{heirs[0].row.worker} takes it over, {at_last}", ""

    def _up(self, agent: str) -> list[Member]:
        """The workers that take the agent's tasks."""
        return [one for one in self.roster.at_work(agent) if one.standing == "up"] if self.roster else []


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
