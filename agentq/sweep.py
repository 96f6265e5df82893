"""What an idle worker looks through: tasks that nobody published, settled or took over."""

import asyncio
import bisect
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentq import story
from agentq.claim import Claims
from agentq.engine import Engine
from agentq.errors import EngineUnavailable, Invalid, Unavailable
from agentq.gates import look_at_gates
from agentq.groups import ask_members, plant
from agentq.lifecycle import Papers
from agentq.messages import Completion, Envelope, parse_envelope
from agentq.patience import patiently
from agentq.records import Records
from agentq.settle import publish
from agentq.verdict import Park, Settle

log = logging.getLogger("agentq")

ROUND_LIMIT = 500


@dataclass(slots=True)
class _Seen:
    """What the last rounds saw of a task: a running attempt's counter, READY or ENDED; and since when."""

    mark: tuple[int, int]
    since: float = field(default_factory=time.monotonic)


READY, ENDED = (0, 0), (0, 1)  # no attempt has the number 0


class Sweep:
    """Looks through `outbox/` and `open/` for one worker; every act may be repeated by anyone."""

    def __init__(
        self,
        records: Records,
        engine: Engine,
        claims: Claims,
        agent: str,
        settle: Callable[[Completion], Awaitable[None]],
    ) -> None:
        self._records = records
        self._engine = engine
        self._claims = claims
        self._agent = agent
        self._settle = settle
        self._seen: dict[str, _Seen] = {}
        self._avoided: set[str] = set()
        self._last = ""

    def leave_alone(self, body: bytes) -> None:
        """Publish this message's task no more: a worker breaks over it, so that a person has to look."""
        with contextlib.suppress(Invalid):
            self._avoided.add(parse_envelope(body).task_id)

    async def recover(self) -> None:
        """At start: publish what was never published, settle what ended, and release what died on this host."""
        await self._publish_unpublished()
        for task_id in await self._unsettled():
            await self._visit(task_id, starting=True)

    async def round(self, *, idle: bool) -> None:
        """One look; what two rounds found waiting is healed: published again when `idle`, or settled."""
        await self._publish_unpublished()
        tasks = await self._unsettled()
        empty = idle and await self._engine.depth(self._agent) == 0
        for task_id in self._turn(tasks):
            await self._visit(task_id, idle=empty)
        still_open = set(tasks)
        self._seen = {task_id: seen for task_id, seen in self._seen.items() if task_id in still_open}

    def _turn(self, tasks: list[str]) -> list[str]:
        """The tasks that this round looks at: after those of the last one, then from the start again."""
        start = bisect.bisect(tasks, self._last)
        turn = (tasks[start:] + tasks[:start])[:ROUND_LIMIT]
        self._last = turn[-1] if turn else ""
        return turn

    async def _unsettled(self) -> list[str]:
        return await patiently(lambda: list(self._records.marks.unsettled()))

    async def _publish_unpublished(self) -> None:
        for task_id in await patiently(lambda: list(self._records.marks.unpublished())):
            await self._unless_bad(task_id, self._publish)

    async def _publish(self, task_id: str) -> None:
        envelope = await patiently(functools.partial(self._records.envelope, task_id))
        if envelope is None:
            return
        self._records.journal.tell(*story.submitted(envelope))  # whoever submitted it may have died before that
        if not envelope.is_group:
            await self._hand_over(envelope)
            return
        for task in await patiently(functools.partial(plant, self._records, envelope)):
            await self._hand_over(task)
        await patiently(functools.partial(self._records.marks.published, task_id))

    async def _hand_over(self, envelope: Envelope) -> None:
        """Publish a task; one of another agent stays marked when that cannot be done, perhaps it has no queue."""
        try:
            await publish(self._records, self._engine, envelope)
        except EngineUnavailable:
            if envelope.to == self._agent:
                raise

    async def _visit(self, task_id: str, *, starting: bool = False, idle: bool = False) -> None:
        await self._unless_bad(task_id, functools.partial(self._look_at, starting=starting, idle=idle))

    async def _unless_bad(self, task_id: str, step: Callable[[str], Awaitable[None]]) -> None:
        """Do it, unless the task's papers are bad: that is for `doctor` to tell, and must not stop the others."""
        if task_id in self._avoided:
            return
        try:
            await step(task_id)
        except Unavailable:
            raise
        except Exception:
            log.exception("%s is left alone from now on", task_id)
            self._avoided.add(task_id)

    async def _look_at(self, task_id: str, *, starting: bool, idle: bool) -> None:
        papers = await patiently(functools.partial(self._records.papers, task_id))
        if papers is None:
            return
        if papers.manifest:
            # Whoever committed is most likely settling it at this moment, and needs no help.
            if starting or self._seen_before(task_id, ENDED):
                await self._settle(papers.manifest)
            return
        if papers.moved_to:
            return  # what is left of it here is for `store copy` to finish
        found = await patiently(functools.partial(look_at_gates, self._records, task_id, papers))
        if isinstance(found, Completion):
            await self._settle(found)
        elif found:
            await self._hand_over(found)
        elif papers.envelope.is_group:
            await self._finish_planting(papers.envelope)
            if papers.cancel:  # whoever asked for it may have died half-way; its tasks are looked at in their turn
                ask = functools.partial(ask_members, self._records, papers.envelope, papers.cancel)
                await patiently(ask)
        elif papers.envelope.to == self._agent:
            await self._visit_unfinished(task_id, papers, idle=idle)

    async def _finish_planting(self, group: Envelope) -> None:
        """A plan whose submit died may have lost its mark too; its tasks are registered in their order."""
        if not await patiently(functools.partial(self._records.is_registered, group.plan[-1].task_id)):
            await self._publish(group.task_id)

    async def _visit_unfinished(self, task_id: str, papers: Papers, *, idle: bool) -> None:
        if self._stood_still(task_id, papers):
            await asyncio.to_thread(self._claims.bury_silent, papers)
        had_run = papers.running is not None
        verdict = await patiently(functools.partial(self._claims.decide, task_id, may_start=False))
        if isinstance(verdict, Settle):
            await self._settle(verdict.manifest)
        elif isinstance(verdict, Park) and verdict.guard is None and verdict.delay == 0:
            in_no_queue = had_run or (idle and self._seen_before(task_id, READY))
            if in_no_queue:
                await self._engine.publish(verdict.envelope)
                self._seen.pop(task_id, None)

    def _stood_still(self, task_id: str, papers: Papers) -> bool:
        """True when this process saw the same counter for longer than a lease and two renewals, by its own clock."""
        last = papers.last
        if papers.running is None or last is None:
            return False
        seen = self._seen_before(task_id, (last.number, last.lease.counter if last.lease else 0))
        terms = self._claims.terms
        silence = max(terms.lease, papers.running.lease_seconds) + 2 * terms.renewal
        return seen is not None and time.monotonic() - seen.since > silence

    def _seen_before(self, task_id: str, mark: tuple[int, int]) -> _Seen | None:
        """The earlier look that found the task just so; else this one is noted."""
        seen = self._seen.get(task_id)
        if seen is None or seen.mark != mark:
            self._seen[task_id] = _Seen(mark)
            return None
        return seen
