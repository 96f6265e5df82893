"""Why a task does not move: one sentence, and the next thing to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from agentq.coordinator import Coordinator
from agentq.errors import NotFound
from agentq.lifecycle import NEEDS, Status, due, starts_from
from agentq.loops import was_needed
from agentq.messages import PRIORITIES, Message, utc_now
from agentq.records import Records

SCANNED = 10_000
"""How many of the tasks that are not settled are looked through for those before one."""
NAMED = 3
PICKED_UP_SECONDS = 5.0
"""After how many seconds a task should have been picked up by a worker that waits for one."""


class Queue(NamedTuple):
    """An agent's queue: how many workers wait at it, and how many messages wait in it."""

    listeners: int
    messages: int


class Why(Message):
    """The reason in words, and what to do about it."""

    task_id: str
    state: str
    reason: str
    next: str = ""


@dataclass(slots=True)
class Explainer:
    """Explains one task; `queue` asks the engine for an agent's, and answers with words when that is away."""

    records: Records
    coordinator: Coordinator
    queue: "Callable[[str], Queue | str]"

    def why(self, task_id: str) -> Why:
        """Why the task is where it is; raises NotFound."""
        status = self.coordinator.status(task_id)
        reason, hint = self._ended(status) if status.finished_at else self._open(status)
        return Why(task_id=task_id, state=status.state, reason=reason, next=hint)

    # ------------------------------------------------------------------ ended

    def _ended(self, status: Status) -> tuple[str, str]:
        task_id, manifest = status.task_id, self.records.manifest(status.task_id)
        reason = status.reason or f"by {status.worker}"
        if manifest and manifest.given_up:
            return f"dead-lettered, because {reason}", f"agentq dlq show {task_id}"
        if status.state == "completed":
            return f"{reason}, {'verified' if status.verified else 'unverified'}", f"agentq result {task_id}"
        if manifest and not was_needed(manifest):
            return reason, f"agentq result {status.group}" if status.group else ""
        needed = self._lost(task_id) if reason.startswith(NEEDS) else None
        return reason, f"agentq why {needed}" if needed else f"agentq {'result' if status.tasks else 'retry'} {task_id}"

    def _lost(self, task_id: str) -> str | None:
        """What it needed that did not complete: trying again makes no sense before that."""
        needs = self.records.known(task_id).needs
        return next((n.task_id for n in needs if n.manifest and n.manifest.status != "completed"), None)

    # ------------------------------------------------------------------ open

    def _open(self, status: Status) -> tuple[str, str]:
        if status.tasks:
            return self._group(status)
        if status.state == "processing":
            return self._processing(status)
        explain = {
            "lease": self._lease,
            "dependencies": self._dependencies,
            "delayed": self._delayed,
            "approval": self._approval,
            "moved": self._moved,
        }.get(status.waits_for or "", self._queued)
        return explain(status)

    def _group(self, status: Status) -> tuple[str, str]:
        found = [
            self.coordinator.status(i)
            for i in self.coordinator.members(status.task_id)
            if self.records.is_registered(i)
        ]
        left = [one for one in found if not one.finished_at]
        first = next((one for one in left if one.waits_for != "dependencies"), None)
        total = sum((status.tasks or {}).values())
        if first is None:
            return f"{len(found) - len(left)} of its {total} tasks have ended", f"agentq status {status.task_id}"
        what = first.waits_for or first.state
        return f"{len(left)} of its {total} tasks have not ended, the first is {first.task_id} ({what})", (
            f"agentq why {first.task_id}"
        )

    def _processing(self, status: Status) -> tuple[str, str]:
        who = f"{status.worker} on {status.host}" if status.host else f"{status.worker}"
        if status.cancel_asked:
            return f"it is being cancelled: {who} stops it", f"agentq cancel {status.task_id} --wait"
        since, heard = _ago(status.since), _ago(status.renewed_at)
        return f"{who} has been working on it for {since} (attempt {status.attempt}), last heard of {heard} ago", (
            f"agentq wait {status.task_id}"
        )

    def _lease(self, status: Status) -> tuple[str, str]:
        papers = self.records.known(status.task_id)
        lease = papers.running.lease_seconds if papers.running else 0.0
        left = lease - (utc_now() - status.renewed_at).total_seconds() if status.renewed_at else 0.0
        ends = f"its lease ends in {left:.0f} s" if left > 0 else "its lease is over"
        where = f" on {status.host}" if status.host else ""
        queue = self.queue(status.agent)
        who = f"{status.worker}{where}, which worked on it (attempt {status.attempt}), has been silent for"
        said = f"{who} {_ago(status.renewed_at)}; {ends}"
        if isinstance(queue, str):
            return f"{said}; {queue}", "agentq doctor"
        if queue.listeners == 0:
            return f"{said}, and no worker of {status.agent} waits to take it over", f"agentq worker run {status.agent}"
        return f"{said}, then another worker takes it over", f"agentq wait {status.task_id}"

    def _dependencies(self, status: Status) -> tuple[str, str]:
        named = [self._needed(task_id) for task_id in status.needs[:NAMED]]
        more = f" and {len(status.needs) - NAMED} more" if len(status.needs) > NAMED else ""
        return f"it waits for {', '.join(named)}{more}", f"agentq why {status.needs[0]}"

    def _needed(self, task_id: str) -> str:
        try:
            needed = self.coordinator.status(task_id)
        except NotFound:
            return f"{task_id} (nobody has submitted it)"
        return f"{task_id} ({needed.state}{f', {needed.waits_for}' if needed.waits_for else ''})"

    def _delayed(self, status: Status) -> tuple[str, str]:
        assert status.until is not None
        left = _span((status.until - utc_now()).total_seconds())
        after = f" after {status.reason}" if status.reason else ""
        return f"it is delayed until {status.until:%Y-%m-%d %H:%M:%SZ} (in {left}){after}", (
            f"agentq wait {status.task_id}"
        )

    def _approval(self, status: Status) -> tuple[str, str]:
        papers = self.records.known(status.task_id)
        asked = f"; {papers.demand.reason}" if papers.demand else ""
        return f"it is ready, and nobody has approved it{asked}", (
            f"agentq approve {status.task_id} --by YOU --digest {(status.digest or '')[:12]}"
        )

    def _moved(self, status: Status) -> tuple[str, str]:
        task_id, home, move = status.task_id, status.moved_to, self.records.known(status.task_id).last_move
        by = f" by {move.by}" if move else ""
        if self.records.marks.is_open(task_id):
            return f"it is on its way to {home}, and that was broken off", f"agentq store copy {task_id} --to {home}"
        return f"it was moved to {home}{by}, and is at home there", f"agentq why {task_id} --store {home}"

    # ------------------------------------------------------------------ queued

    def _queued(self, status: Status) -> tuple[str, str]:
        if self.records.marks.is_unpublished(status.task_id):
            return "it is not known to be in its queue; a worker publishes it soon", "agentq doctor --repair"
        before, running = self._others(status)
        queue = self.queue(status.agent)
        behind = f", behind {before} other{'s' if before > 1 else ''}" if before else ""
        if isinstance(queue, str):
            return f"it is queued for {status.agent}{behind}; {queue}", "agentq doctor"
        waiting = queue.listeners
        busy = running and waiting <= len(running)  # who has just taken one still counts as waiting
        if waiting and not busy and queue.messages == 0 and self._should_be_running(status):
            return self._passed_over(status)
        if waiting and not before and not busy:
            return (
                f"a worker of {status.agent} waits and takes it now",
                "agentq doctor --repair, if it still stands here",
            )
        if waiting and not busy:
            return f"it is queued for {status.agent}{behind}", f"agentq wait {status.task_id}"
        if running:
            named = ", ".join(f"{one.task_id} (for {_ago(one.since)})" for one in running[:NAMED])
            return f"the workers of {status.agent} are busy with {named}{behind}", f"agentq wait {status.task_id}"
        return f"no worker of {status.agent} is up{behind}", f"agentq worker run {status.agent}"

    def _should_be_running(self, status: Status) -> bool:
        """Whether a worker has had the time to take it since it last could."""
        papers = self.records.known(status.task_id)
        since = max(filter(None, (starts_from(papers), due(papers))), default=None)
        return since is not None and utc_now() - since > timedelta(seconds=PICKED_UP_SECONDS)

    def _passed_over(self, status: Status) -> tuple[str, str]:
        """No queue tells what is parked, nor an engine which store a worker has: what can be said is what is not."""
        here = self.records.store.url
        return (
            f"a worker of {status.agent} waits, its queue is empty, and nobody has picked this up: a worker with"
            f" another store than {here} parks it (its log says so), or the message is lost",
            f"agentq store copy {status.task_id} --to THE_WORKERS_STORE, or: agentq doctor --repair",
        )

    def _others(self, status: Status) -> tuple[int, list[Status]]:
        """How many tasks of the same agent come before this one, and which are running."""
        found = list(self._of_agent(status.agent))
        mine = _place(status)
        before = sum(one.waits_for == "queued" and _place(one) < mine for one in found)
        return before, [one for one in found if one.state == "processing"]

    def _of_agent(self, agent: str) -> Iterator[Status]:
        for task_id in islice(self.records.marks.unsettled(), SCANNED):
            envelope = self.records.envelope(task_id)
            if envelope and envelope.to == agent and not envelope.is_group:
                yield self.coordinator.status(task_id)


def _place(status: Status) -> tuple[int, float, str]:
    created = status.created_at.timestamp() if status.created_at else 0.0
    return -PRIORITIES.index(status.priority), created, status.task_id


def _ago(moment: datetime | None) -> str:
    return _span((utc_now() - moment).total_seconds()) if moment else "an unknown time"


def _span(seconds: float) -> str:
    """A duration in whole units: 45 s, 0:12:05."""
    return f"{max(0.0, seconds):.0f} s" if seconds < 100 else str(timedelta(seconds=int(seconds)))
