"""The whole examination: each part is looked at by itself, and one that is away hides no other."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing

from agentq.doctor import agreement, clocks
from agentq.doctor.findings import Ailment, Findings, span
from agentq.doctor.papers import Census
from agentq.doctor.stalls import Stalls
from agentq.doctor.threads import neglected
from agentq.engine import Engine
from agentq.errors import AgentqError, EngineUnavailable, NotPermitted, StoreUnavailable
from agentq.ledger import Damaged, Ledger, catch_up
from agentq.messages import utc_now
from agentq.observing.roster import FORGOTTEN_SECONDS, Roster
from agentq.proof import prove
from agentq.records import Records

STUCK_SECONDS = 900.0
"""After how long a task that could start should have been."""
LEASE_SECONDS = 20.0
"""What leases tolerate where no worker says otherwise."""

EngineOpened = Callable[[], AbstractAsyncContextManager[Engine]]
LedgerOpened = Callable[[Callable[[str], object]], Ledger]
"""Opens the ledger, and says when it had to be made anew."""


class Examination:
    """One look at everything; it changes nothing but for a probe that is put into the store and removed."""

    def __init__(
        self,
        records: Callable[[], Records],
        engine: EngineOpened,
        ledger: LedgerOpened,
        agents: Sequence[str],
        patience: float = STUCK_SECONDS,
    ) -> None:
        self._records, self._engine, self._ledger = records, engine, ledger
        self._agents, self._patience = agents, patience
        self._findings = Findings()

    async def run(self) -> Findings:
        """All that is found."""
        census = await self._look_at_papers()
        async with AsyncExitStack() as stack:
            engine = await self._look_at_engine(stack)
            await self._look_at_log(engine, census)
        return self._findings

    async def _look_at_engine(self, stack: AsyncExitStack) -> Engine | None:
        """The engine, opened as long as the stack stands; None when it does not answer."""
        found = self._findings
        try:
            engine = await stack.enter_async_context(self._engine())
            found.health = await engine.health(self._agents)
        except AgentqError as error:
            found.engine_error = error
            return None
        found.ailments += [_unbounded(name) for name in found.health.unbounded]
        return engine

    async def _look_at_papers(self) -> Census | None:
        """What the papers say, None when the store cannot be used."""

        def look() -> tuple[Census, list[Ailment]]:
            prove((records := self._records()).store)
            return Census.of(records), list(neglected(records, self._patience))

        try:
            census, in_threads = await asyncio.to_thread(look)
        except AgentqError as error:
            self._findings.store_error = error
            return None
        self._findings.ailments += [*census.ailments, *in_threads]
        if census.left_out:
            self._findings.notes.append(f"{census.left_out} more tasks that are not settled were not looked at")
        return census

    async def _look_at_log(self, engine: Engine | None, census: Census | None) -> None:
        """What log and ledger tell, as of now if the engine can be asked."""
        found = self._findings
        try:
            with self._ledger(found.notes.append) as ledger:
                is_read = engine is not None and await self._is_caught_up(ledger, engine)
                roster = Roster.of(ledger) if is_read else None
                if census:
                    self._look_at_workers(Stalls(ledger, roster, self._patience, self._records().store.url), census)
                if roster and engine:
                    found.ailments += [*([_GAP] if ledger.has_gap else []), *_clocks(ledger, roster)]
                    found.notes.append(await _begins(engine))
                    await self._compare(ledger, engine, census)
        except Damaged as error:
            found.ailments.append(Ailment(None, "ledger", str(error), part="log", remedy="agentq ledger rebuild"))
        except StoreUnavailable as error:
            found.store_error = error
        except EngineUnavailable as error:
            found.log_error = error
        except AgentqError as error:
            found.ledger_error = error

    async def _is_caught_up(self, ledger: Ledger, engine: Engine) -> bool:
        """Whether the ledger knows now what the log tells."""
        try:
            await catch_up(ledger, engine)
        except NotPermitted as error:
            self._findings.notes.append(f"this login may not read the log, so nothing is said of workers: {error}")
            return False
        except EngineUnavailable as error:
            as_of = f"{ledger.as_of:%Y-%m-%d %H:%M:%SZ}" if ledger.as_of else "never"
            self._findings.log_error = EngineUnavailable(f"{error}; it was read last: {as_of}", hint=error.hint)
            return False
        return True

    def _look_at_workers(self, stalls: Stalls, census: Census) -> None:
        self._findings.ailments += stalls.leases(census.running)
        if stalls.roster:
            for said in stalls.queues(census.queues):
                if isinstance(said, Ailment):
                    self._findings.ailments.append(said)
                else:
                    self._findings.notes.append(said)

    async def _compare(self, ledger: Ledger, engine: Engine, census: Census | None) -> None:
        """Where papers and log seem to differ, look again: what was written meanwhile is in the log by now."""
        if census is None:
            return
        records = self._records()
        suspects = await asyncio.to_thread(agreement.Suspects.of, records, ledger, census)
        if suspects.task_ids:
            await catch_up(ledger, engine)
            differences = await asyncio.to_thread(agreement.differences, records, ledger, suspects)
            self._findings.ailments += differences.ailments()
            self._findings.notes += differences.notes()


_GAP = Ailment(
    None,
    "gap",
    "part of the log was gone before it was read (retention, or a stream that was made anew)",
    part="log",
    remedy="agentq ledger rebuild fills in from the papers what it told",
)


def _unbounded(name: str) -> Ailment:
    what = f"{name} has no retention: it grows until the disk is full"
    remedy = f"delete the stream {name} and run agentq init: that loses the log until now, and no task"
    return Ailment(None, "unbounded", what, mendable=False, part="log", remedy=remedy)


def _clocks(ledger: Ledger, roster: Roster) -> list[Ailment]:
    """The clocks that are too far apart, among those heard of in the last hour."""
    recent = [one.row for one in roster.members if one.row.heard_at > time.time() - FORGOTTEN_SECONDS]
    hosts = {row.host for row in recent}
    beats = [clocks.Beat(row["host"], row["at"]) for row in ledger.beats() if row["host"] in hosts]
    leases = [row.lease_seconds for row in recent if row.lease_seconds]
    return list(clocks.ailments(clocks.differences(beats), min(leases, default=LEASE_SECONDS)))


async def _begins(engine: Engine) -> str:
    """Since when the log tells what happened."""
    async with aclosing(engine.read("events")) as pages:
        async for page in pages:
            if page.events:
                return f"the log begins {span((utc_now() - page.events[0].at).total_seconds())} ago"
            if page.caught_up:
                break
    return "nothing is in the log"
