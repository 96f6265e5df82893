"""Which events a worker may put into the log: what its own processes do, what its agent's attempts say, and of the
tasks within its reach what their papers say, in the papers' words.

The log takes the first event of an id and drops all later ones, and anybody can work out the ids of a task's events:
who told one that is not true, or not yet, would keep the true one out of it for ever.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from agentq import story
from agentq.errors import AgentqError, EvidenceError, Unavailable
from agentq.events import THREAD_KINDS, WORKER_KINDS, Event
from agentq.gateway.reach import Known, Reach
from agentq.messages import Outcome, shorten
from agentq.papers import NUMBERED, Claim, Demand, Release
from agentq.records import DEMAND, RELEASE, Records

T = TypeVar("T")

OUTCOMES = frozenset(get_args(Outcome))
OF_OTHERS = ("released", "cancel_requested")
"""What a worker does to tasks that wait for its own ones, and `gc` removes the papers of."""
ON_PAPER = {"submitted", "delayed", "approval_requested", "claimed", "attempt_ended", *OF_OTHERS} | OUTCOMES
ON_PAPER |= {"dead_lettered", "settled"}
OF_NO_WORKER = frozenset((*THREAD_KINDS, "approved", "rejected"))
REASON_LIMIT = 1000
MOST_ATTEMPTS = 10**9
_COPY = re.compile(r"dead_lettered/([0-9a-f]{1,64})")


class TellingRights:
    """What the workers of one agent may tell; it reads papers, and so it blocks."""

    def __init__(self, agent: str, records: Records, reach: Reach) -> None:
        self._agent, self._records, self._reach = agent, records, reach

    def told(self, events: Sequence[Event]) -> list[Event]:
        """Those of the events that go into the log, as they go there.

        Raises StoreUnavailable, and nothing for an event that cannot be checked: it must hold up no other.
        """
        return [told for event in events if (told := self._told(event))]

    def _told(self, event: Event) -> Event | None:
        if event.kind in WORKER_KINDS:
            return event if self._is_of_a_worker(event) else None
        known = self._known(event.task_id) if event.task_id else None
        if copy := _copy_of(event):
            return self._refused(event, copy, known)
        if known is None or not _is_named_after(event):
            return None
        if event.kind in ON_PAPER:
            return self._on_paper(event, known)
        may = event.kind not in OF_NO_WORKER and self._is_own(known) and event.agent in (None, self._agent)
        return event if may else None

    def _is_of_a_worker(self, event: Event) -> bool:
        """Whether it is of a process of this agent, wherever it says whose it is."""
        names = (event.id, event.worker or event.id)
        mine = event.agent == self._agent and all(name.startswith(f"{self._agent}@") for name in names)
        return mine and event.task_id is None

    def _refused(self, event: Event, copy: str, known: Known | None) -> Event:
        """That a message was refused, which is no word of another agent's task, whatever the message called itself."""
        task_id = event.task_id if known is None or self._is_own(known) else None
        name = f"{task_id or 'message'}/dead_lettered/{copy}"
        reason = {"reason": shorten(str(event.data.get("reason", "")), REASON_LIMIT)}
        return Event(id=name, kind="dead_lettered", at=event.at, task_id=task_id, data=reason)

    # ------------------------------------------------------------------ papers

    def _on_paper(self, event: Event, known: Known) -> Event | None:
        """What the papers say of that; what they do not say any more is believed of tasks that the worker may end."""
        try:
            if not self._reach.concerns(self._agent, known.task_id):
                return None
            found = next((one for one in self._papers_say(event, known.task_id) if one.id == event.id), None)
            if found or not self._records.collected(known.task_id):
                return found
        except Unavailable:
            raise
        except AgentqError:  # a paper is damaged
            if not self._is_own(known):
                return None
        is_of_others = event.kind in OF_OTHERS and event.id == f"{known.task_id}/{event.kind}"
        return event if self._is_own(known) or is_of_others else None

    def _papers_say(self, event: Event, task_id: str) -> Iterator[Event]:
        """The events of the papers that one of that kind is told of; only those are read."""
        records, kind = self._records, event.kind
        number = event.attempt if event.attempt and 0 < event.attempt < MOST_ATTEMPTS else None
        if kind in ("submitted", "delayed", "approval_requested") and (envelope := records.envelope(task_id)):
            yield from story.submitted(envelope)
        if kind == "approval_requested" and (demand := self._control(task_id, DEMAND, Demand)):
            yield story.demanded(task_id, demand)
        if kind == "released" and (release := self._control(task_id, RELEASE, Release)):
            yield story.released(task_id, release)
        if kind == "cancel_requested" and (cancel := records.cancel(task_id)):
            yield story.cancel_requested(task_id, cancel)
        if kind == "claimed" and number:
            paper = self._read(f"attempts/{task_id}/{number}.json", NUMBERED)
            if isinstance(paper, Claim):
                yield story.claimed(task_id, paper)
        if kind in ("attempt_ended", "delayed") and number and (end := records.ended(task_id, number)):
            yield from story.attempt_ended(task_id, end)
        if kind in (*OUTCOMES, "dead_lettered", "settled") and (manifest := records.manifest(task_id)):
            yield from story.finished(manifest, records.envelope(task_id))
            yield story.settled(task_id, event.at)

    def _control(self, task_id: str, name: str, model: type[T]) -> T | None:
        return self._read(f"controls/{task_id}/{name}", TypeAdapter(model))

    def _read(self, key: str, model: TypeAdapter[T]) -> T | None:
        data = self._records.store.get(key)
        try:
            return None if data is None else model.validate_json(data)
        except ValidationError as error:
            raise EvidenceError(f"the paper {key} is damaged") from error

    def _known(self, task_id: str) -> Known | None:
        try:
            return self._reach.known(task_id)
        except Unavailable:
            raise
        except AgentqError:
            return None

    def _is_own(self, known: Known) -> bool:
        return known.to == self._agent


def _copy_of(event: Event) -> str | None:
    """What tells the refusal of one message from that of another, None for any other event."""
    found = _COPY.fullmatch(event.id.removeprefix(f"{event.task_id or 'message'}/"))
    return found[1] if found and event.kind == "dead_lettered" else None


def _is_named_after(event: Event) -> bool:
    """Whether its id is of its own task and kind, so that it takes no other event's place."""
    name = f"{event.task_id}/{event.kind}"
    return event.kind.isidentifier() and (event.id == name or event.id.startswith(f"{name}/"))
