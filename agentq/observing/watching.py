"""What a watcher is shown of the log: what was, then what happens; each event once, the ends behind the last words."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from agentq.events import OUTPUT, REPLY, SPOKEN, Event

OUTCOMES = ("completed", "failed", "cancelled", "expired")
ENDS = (*OUTCOMES, "attempt_ended")
HOLD = 6.0
"""Seconds that an attempt's end is held back for what its agent printed, which comes from another log."""
REMEMBERED = 100_000
"""How many events are known again when they come twice."""


class Watch:
    """Picks what is shown: with `tasks` only those and `members`, until the former have ended; else all, or an agent's.

    Moments are seconds of any steady clock.
    """

    def __init__(
        self,
        tasks: Collection[str] = (),
        members: Collection[str] = (),
        *,
        agent: str | None = None,
        agent_of: Callable[[str], str | None] = lambda task_id: None,
        with_output: bool = True,
    ) -> None:
        self._named = frozenset(tasks)
        self.tasks = self._named | frozenset(members)
        self._agent, self._agent_of = agent, agent_of
        self.with_output = with_output
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._talking: dict[tuple[str, int], datetime] = {}
        self._heard_out: dict[str, int] = {}
        self._held: dict[str, tuple[float, list[Event]]] = {}
        self.ended: dict[str, Event] = {}
        """The outcomes that were shown, by their tasks."""
        self.is_behind = False
        """Whether output that is there is still being read: no end is shown meanwhile."""

    def history(self, events: Iterable[Event]) -> list[Event]:
        """What was, oldest first; of attempts that ended before, nothing that they printed is shown later."""
        shown = [event for event in sorted(events, key=lambda event: event.at) if self._is_new(event)]
        for event in shown:
            self._note(event)
            if event.kind in ENDS and event.task_id and event.attempt:
                self._heard_out[event.task_id] = max(event.attempt, self._heard_out.get(event.task_id, 0))
        return shown

    def expect(self, task_id: str, attempt: int, since: datetime) -> None:
        """Hold the end of an attempt that a daemon runs since then behind its last words."""
        if self.with_output:
            self._talking[task_id, attempt] = since

    def take(self, events: Iterable[Event], now: float) -> list[Event]:
        """What of these is to be shown now, in order."""
        shown: list[Event] = []
        for event in events:
            if self._is_wanted(event) and self._is_new(event):
                shown += self._in_turn(event, now)
        return shown

    def due(self, now: float) -> list[Event]:
        """What is not held back any longer."""
        if self.is_behind:
            return []
        over = [task_id for task_id, (deadline, _) in self._held.items() if deadline <= now]
        return [event for task_id in over for event in self._let_go(task_id)]

    @property
    def talking_since(self) -> datetime | None:
        """When the eldest attempt began that may still print, None when there is none."""
        return min(self._talking.values(), default=None)

    @property
    def is_over(self) -> bool:
        """Whether all named tasks have ended and nothing is held back."""
        return bool(self._named) and self._named <= self.ended.keys() and not self._held

    @property
    def left(self) -> list[str]:
        """The named tasks whose end was neither shown nor is held back."""
        return sorted(self._named - self.ended.keys() - self._held.keys())

    def _is_wanted(self, event: Event) -> bool:
        if event.kind in SPOKEN and not self._is_wanted_output(event):
            return False
        if self.tasks:
            return event.task_id in self.tasks
        if self._agent is None:
            return True
        return self._agent == (event.agent or (event.task_id and self._agent_of(event.task_id)))

    def _is_wanted_output(self, event: Event) -> bool:
        return self.with_output and (event.attempt or 0) > self._heard_out.get(event.task_id or "", -1)

    def _is_new(self, event: Event) -> bool:
        if event.id in self._seen:
            return False
        self._seen[event.id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _in_turn(self, event: Event, now: float) -> list[Event]:
        """The event, or nothing while it is held back, or it and what it lets go."""
        task_id = event.task_id
        if task_id is None or event.kind == REPLY:
            return [event]
        if event.kind == OUTPUT:
            self._note(event)
            return [event, *(self._let_go(task_id) if event.data.get("whole") else ())]
        if task_id in self._held:
            self._held[task_id][1].append(event)
            return []
        if event.kind in ENDS and (task_id, event.attempt or 0) in self._talking:
            self._held[task_id] = (now + HOLD, [event])
            return []
        self._note(event)
        return [event]

    def _note(self, event: Event) -> None:
        """Note who may still print, and who has ended."""
        if event.task_id is None:
            return
        attempt = (event.task_id, event.attempt or 0)
        if event.kind == "claimed" and event.worker:
            self.expect(*attempt, event.at)
        elif event.kind in ENDS or (event.kind == OUTPUT and event.data.get("whole")):
            self._talking.pop(attempt, None)
        if event.kind in OUTCOMES:
            self.ended[event.task_id] = event

    def _let_go(self, task_id: str) -> list[Event]:
        _, events = self._held.pop(task_id, (0.0, []))
        for event in events:
            self._note(event)
        return events
