"""Which tasks are within a worker's reach: its agent's own, what waits for them, and what they build on."""

import contextlib
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

from agentq.errors import Invalid
from agentq.messages import Envelope, is_key
from agentq.records import Records

REMEMBERED = 50_000
"""Of how many tasks it is remembered what they say; they never say anything else."""
LOOK_SECONDS = 1.0
"""How often it is looked for new tasks, for each agent."""
FAR = 10_000
"""Through how many tasks it is looked for one of the agent's own below a task."""


@dataclass(frozen=True, slots=True)
class Known:
    """What counts here of a registered task."""

    task_id: str
    to: str
    agents: frozenset[str]
    """Whose it is, and of a plan whose its tasks are."""
    waits_on: tuple[str, ...]
    builds_on: frozenset[str]
    """The tasks whose papers and evidence it needs, and the key of its context."""
    group: str | None
    """The plan that it is a part of."""


class Reach:
    """The reach of the workers of all agents over one store; one of these for a gateway. Its methods block."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._within: set[tuple[str, str]] = set()
        self._near: dict[str, set[str]] = defaultdict(set)
        self._looked_at: dict[str, float] = {}

    def known(self, task_id: str) -> Known | None:
        """What is registered as that, None for nothing."""
        if found := self._known.get(task_id):
            return found
        if not is_key(task_id, 128):
            return None
        envelope = self._records.envelope(task_id)
        if envelope is None:
            return None
        known = self._known_of(envelope)
        with self._lock:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
                self._within.clear()
                self._near.clear()
            return self._known.setdefault(task_id, known)

    def builds_on(self, envelope: Envelope) -> frozenset[str]:
        """The tasks whose papers and evidence a task needs, and the key of its context."""
        ref, context = envelope.context_ref, None
        with contextlib.suppress(Invalid):
            context = self._records.artifacts.key(ref, envelope.task_id) if ref else None
        return frozenset((*envelope.waits_on, *envelope.borrows, *((context,) if context else ())))

    def _known_of(self, envelope: Envelope) -> Known:
        agents = frozenset((envelope.to, *(task.to for task in envelope.plan)))
        return Known(envelope.task_id, envelope.to, agents, envelope.waits_on, self.builds_on(envelope), envelope.group)

    def is_own(self, agent: str, task_id: str) -> bool:
        """Whether it is a task of the agent."""
        found = self.known(task_id)
        return found is not None and found.to == agent

    def holds(self, agent: str, task_id: str) -> bool:
        """Whether it is a task of the agent, or waits for one, however far below: what settling that one does may
        concern it."""
        if (agent, task_id) in self._within:
            return True
        found = self._is_above_own(agent, task_id)
        if found:
            self._within.add((agent, task_id))
            self._take_near(agent, task_id)
        return found

    def concerns(self, agent: str, task_id: str) -> bool:
        """Whether a worker of the agent has to do with that task: it is within reach, or of a plan that is, which any
        of its agents plants."""
        found = self.known(task_id)
        return found is not None and any(self.holds(agent, one) for one in (task_id, found.group) if one)

    def is_near(self, agent: str, what: str) -> bool:
        """Whether a task within reach builds on that task, or has the object of that key for its context."""
        if what in self._near[agent]:
            return True
        if time.monotonic() - self._looked_at.get(agent, float("-inf")) >= LOOK_SECONDS:
            self._looked_at[agent] = time.monotonic()
            for task_id in self._records.marks.unsettled():
                if self.holds(agent, task_id):
                    self._take_near(agent, task_id)
        return what in self._near[agent]

    def is_readable(self, agent: str, what: str) -> bool:
        """Whether a worker of the agent may read what is of that task, or has that key."""
        return self.holds(agent, what) or self.is_near(agent, what)

    def _take_near(self, agent: str, task_id: str) -> None:
        if found := self.known(task_id):
            self._near[agent] |= found.builds_on

    def _is_above_own(self, agent: str, task_id: str) -> bool:
        seen, waiting = {task_id}, [task_id]
        while waiting and len(seen) < FAR:
            found = self.known(waiting.pop())
            if found is None:
                continue
            if agent in found.agents or (agent, found.task_id) in self._within:
                return True
            below = [one for one in found.waits_on if one not in seen]
            seen.update(below)
            waiting += below
        return False
