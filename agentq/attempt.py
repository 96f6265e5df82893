"""One attempt of a task: run the agent, collect and check the evidence, commit or end."""

import asyncio
import functools
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from agentq.budgets import Limits
from agentq.claim import Claims, end_of
from agentq.commit import commit, completion_of
from agentq.credentials import masked
from agentq.engine import Delivery, Engine
from agentq.errors import AgentqError, Conflict, Invalid
from agentq.evidence import Evidence
from agentq.gathering import Gathering
from agentq.handover import begun, hand_over
from agentq.keeper import Keeper, standing
from agentq.lifecycle import backoff, cancelled_because
from agentq.messages import REASON_LIMIT, Outcome, Stopped, Usage, shorten, utc_now
from agentq.papers import Proposal
from agentq.patience import cancelled, patiently
from agentq.profile import Profile
from agentq.prompt import render
from agentq.proposal import read_own
from agentq.quota import Growth
from agentq.records import Records
from agentq.runner import Ended, Job, Ran, Runner
from agentq.sessions import Sessions
from agentq.surroundings import credentials, surroundings
from agentq.telling.attempt import Telling
from agentq.telling.reply import reply_of
from agentq.tracing import Span, current
from agentq.verdict import Settle, Start, Verdict
from agentq.workplace import Workplace

log = logging.getLogger("agentq")

SHORTEST_PARK, LONGEST_PARK = timedelta(seconds=1), timedelta(days=7)
UNUSABLE_PARK = timedelta(minutes=1)
"""How long a task waits whose agent could do nothing: another worker may have a login, and this one stops."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What an attempt needs of its worker."""

    records: Records
    engine: Engine
    runner: Runner
    verifier: Runner | None
    profile: Profile
    claims: Claims
    sessions: Sessions
    scratch: Path
    repositories: Path | None = None


class AttemptRun:
    """Carries one claimed attempt to its end; `run` answers what is to be done with the task then."""

    def __init__(self, bench: Bench, start: Start, delivery: Delivery, span: Span = Span()) -> None:
        self._bench = bench
        self._start = start
        self._records = bench.records
        self._envelope = start.papers.envelope
        self._number = start.claim.attempt
        self._place = Workplace(
            bench.records,
            bench.profile,
            bench.sessions,
            bench.scratch,
            self._envelope,
            self._number,
            bench.repositories,
        )
        self._scratch = self._place.scratch
        self._began = time.monotonic()
        self._gone_at = self._began
        self._stopped: Stopped = "proven"  # nothing runs yet
        self._started = False
        self._upkeep: list[asyncio.Task[None]] = []
        self._span = span
        self._ended: Ended = "done"
        self.ran = Ran("stopped")
        self._budget = Limits()
        self._listening: asyncio.Task[None] | None = None
        limits = bench.profile.limits
        self.telling = Telling(bench.records.journal, self._envelope.task_id, self._number, bench.profile.agent, limits)
        self._reply = reply_of(self._envelope, bench.profile, self._scratch.output, self.telling)
        self.keeper = Keeper(bench.records, bench.engine, limits, start, delivery)

    async def run(self) -> Verdict:
        """Run the agent, commit its result or end the attempt, and clean up; never raises for what the agent did."""
        self._upkeep = [asyncio.create_task(self.keeper.keep())]
        try:
            await self._look()  # what was sealed or cancelled since the claim must not start
            self.ran = await self._run_agent()
            verdict = await self._finish(self.ran)
        except BaseException:
            self._place.release()  # what is in it is brought in as late evidence
            raise
        finally:
            await cancelled(*self._upkeep)
            if self._listening:
                await self._listening
        going_on = self._stopped == "proven" and self.keeper.stop != "lost" and not isinstance(verdict, Settle)
        await patiently(functools.partial(self._place.close, going_on=going_on))
        return verdict

    # ------------------------------------------------------------------ running

    async def _run_agent(self) -> Ran:
        if self.keeper.stop:
            return Ran("stopped", f"{self.keeper.stop} before the agent was started")
        try:
            job = await patiently(self._prepare)
        except Invalid as error:
            return Ran("refused", str(error))
        except Conflict as error:
            return Ran("parked", str(error))
        except (AgentqError, OSError) as error:
            return Ran("failed", f"the attempt could not be prepared: {error}")
        growth = await asyncio.to_thread(Growth, (self._scratch.output, job.workdir))
        limit = self._bench.profile.limits.attempt_bytes
        self._upkeep.append(asyncio.create_task(growth.watch(limit, lambda: self.keeper.ask("overfull"))))
        self._upkeep.append(asyncio.create_task(self.telling.watch(job.output)))
        self._listening = asyncio.create_task(self.telling.run())
        for unbounded in self._unbounded():
            log.warning("%s: attempt %d: %s", self._envelope.task_id, self._number, unbounded)
            self.telling.progress(unbounded)
        self.telling.progress("agent started")
        async with self._reply.followed():
            try:
                return await self._run(job)
            finally:
                self.telling.end()

    async def _run(self, job: Job) -> Ran:
        """Run the agent; one whose conversation is gone begins another one."""
        ran = await self._unless_stopped(self._bench.runner, job)
        if job.session is None or ran.session or ran.ended != "failed":
            return ran
        log.warning("%s: attempt %d begins a new conversation: %s", job.task_id, job.attempt, masked(ran.reason or ""))
        return await self._unless_stopped(self._bench.runner, replace(job, session=None))

    async def _unless_stopped(self, runner: Runner, job: Job) -> Ran:
        """Run a program to its end, and note when, and whether, all of it was gone."""
        if self.keeper.stop:
            return Ran("stopped", f"{self.keeper.stop} before it was started")
        with current().step("run agent" if runner is self._bench.runner else "verify") as step:
            self._started = True
            ran = await runner.run(job)
            step.ended(ran.ended, None if ran.ended == "done" else ran.ended, masked(ran.reason or ""))
        self._gone_at = time.monotonic()
        if not ran.proven:
            self._stopped = "presumed"
        return ran

    def _prepare(self) -> Job:
        """Make the attempt's folders and prompt; raises Invalid for what no further attempt could mend."""
        self._scratch.create()
        handover = hand_over(self._records, self._start.papers, self._scratch)
        workspace = self._place.open(functools.partial(begun, self._records, self._start.papers))
        work, output, notes = workspace.path, self._scratch.output, self._place.notes
        profile, limits = self._bench.profile, self._bench.profile.limits
        prompt = render(profile, self._start.papers, self._number, handover, output, work, notes)
        timeout = self._envelope.timeout_seconds or limits.timeout_seconds
        job = self._job(prompt, work, self._scratch.transcript, timeout)
        self._budget = self._bench.claims.limits(self._start.papers)
        return replace(
            job,
            environment={**credentials(profile), **job.environment},
            max_cost_usd=self._budget.cost_left,
            silence_seconds=limits.silence_seconds,
            heard=self.telling.hear,
            doing=lambda words: self.telling.progress(masked(words)),
            spent=self._spends,
            met=self._place.meets,
            answers=self._reply.hear if self._reply.expected else None,
            session=self._place.session,
        )

    def _spends(self, usage: Usage) -> None:
        self.keeper.spent = usage
        if self._budget.passed(usage):
            self.keeper.ask("overspent")

    def _unbounded(self) -> Iterator[str]:
        """The limits that hinder nothing, because the agent does not tell what they bound."""
        section = self._bench.profile.runner
        for bounded, tells, what in (
            (self._budget.bounds_tokens, section.tells_tokens, "max_tokens"),
            (self._budget.cost_left is not None, section.tells_cost, "max_cost_usd"),
        ):
            if bounded and not tells:
                yield f"{what} does not hold: an agent of kind {section.kind} does not tell what it takes"

    def _job(self, prompt: str, workdir: Path, transcript: Path, timeout: float) -> Job:
        return Job(
            task_id=self._envelope.task_id,
            attempt=self._number,
            token=self._start.claim.token,
            prompt=prompt,
            workdir=workdir,
            output=self._scratch.output,
            transcript=transcript,
            environment=surroundings(
                self._bench.profile, self._records, self._start, self._scratch, self._span.environment
            ),
            timeout_seconds=timeout,
            output_limit=self._bench.profile.limits.output_bytes,
            stop=self.keeper.stopped,
        )

    # ------------------------------------------------------------------ finishing

    async def _finish(self, ran: Ran) -> Verdict:
        proposal = await patiently(self._proposed)
        ran = _as_told(ran, proposal)
        self._ended = ran.ended
        with current().step("collect"):
            evidence, summary = await self._collect(ran, proposal)
        self._span.event("evidence", artifacts=len(evidence.artifacts), faults=len(evidence.faults))
        await self._look()
        if self.keeper.stop == "lost":
            log.warning(
                "%s: attempt %d was taken over; its work is kept as late evidence", self._envelope.task_id, self._number
            )
            self._span.ended("lost", "lost", "it was taken over")
            return await self._decide()
        if self.keeper.stop == "drained":
            return await self._end("interrupted: the worker was stopped", evidence, counts=False)
        if self.keeper.stop == "cancelled":
            return await self._cancelled(evidence, summary)
        if self.keeper.stop == "overfull":
            limit = self._bench.profile.limits.attempt_bytes
            reason = f"stopped: it wrote more than {limit} bytes to its workspace and its output folder"
            return await self._end(reason, evidence, retry_at=self._next_try())
        if self.keeper.stop == "overspent":
            passed = self._budget.passed(self.keeper.spent or Usage())
            return await self._commit("failed", evidence, summary, reason=f"stopped: {passed}")
        return await self._judge(ran, proposal, evidence, summary)

    def _proposed(self) -> Proposal | None:
        """The agent's own word, put beside its evidence; what is none is told and left out."""
        claim = self._start.claim
        try:
            proposal = read_own(self._scratch.output, self._envelope.task_id, self._number, claim.token)
        except Invalid as error:
            log.warning("%s: attempt %d: %s", self._envelope.task_id, self._number, error)
            return None
        return self._records.propose(proposal) if proposal else None

    async def _look(self) -> None:
        stop = await patiently(functools.partial(standing, self._records, self._start))
        if stop:
            self.keeper.ask(stop)

    async def _cancelled(self, evidence: Evidence, summary: str) -> Verdict:
        cancel = await patiently(functools.partial(self._records.cancel, self._envelope.task_id))
        return await self._commit(
            "cancelled",
            evidence,
            summary,
            reason=cancelled_because(cancel) if cancel else None,
            stopped=self._stopped,
            stop_seconds=round(max(0.0, self._gone_at - (self.keeper.stopped_at or self._gone_at)), 3),
        )

    async def _judge(self, ran: Ran, proposal: Proposal | None, evidence: Evidence, summary: str) -> Verdict:
        """Commit what is final, end what may be tried again."""
        if ran.ended == "refused":
            return await self._commit("failed", evidence, summary, reason=ran.reason)
        if proposal and proposal.status == "failed" and ran.ended in ("done", "failed"):
            return await self._commit("failed", evidence, summary, reason=proposal.reason)
        if ran.ended in ("parked", "unusable"):
            retry_at = utc_now() + UNUSABLE_PARK if ran.ended == "unusable" else _within_bounds(ran.not_before)
            return await self._end(ran.reason or ran.ended, evidence, counts=False, retry_at=retry_at)
        if ran.ended != "done":
            return await self._end(ran.reason or ran.ended, evidence, retry_at=self._next_try())
        if evidence.faults:
            reason = f"the agent said it was done, but {evidence.in_words()}"
            return await self._end(reason, evidence, retry_at=self._next_try())
        return await self._commit(
            "completed", evidence, summary, verified=True, verdict=evidence.verdict, decided=evidence.decided
        )

    async def _commit(
        self,
        status: Outcome,
        evidence: Evidence,
        summary: str,
        *,
        reason: str | None = None,
        verified: bool = False,
        **more: object,
    ) -> Verdict:
        completion = completion_of(
            self._start.papers,
            status,
            by=self._bench.profile.agent,
            attempt=self._number,
            reason=reason and masked(shorten(reason, REASON_LIMIT)),
            summary=masked(summary),
            verified=verified,
            artifacts=tuple(evidence.artifacts),
            usage=self._usage(),
        )
        completion = completion.model_copy(update={"traceparent": self._span.traceparent, **more})
        manifest = await patiently(functools.partial(commit, self._records, completion))
        self._bench.sessions.forget(self._envelope.task_id)
        self._span.event("commit", outcome=manifest.status)
        error = "refused" if self._ended == "refused" else "failed"
        self._span.ended(status, error if status == "failed" else None, completion.reason)
        return Settle(manifest)

    def _usage(self) -> Usage:
        """What the attempt took, its verify command's time included."""
        return self.ran.usage.model_copy(update={"seconds": round(time.monotonic() - self._began, 3)})

    def _next_try(self) -> datetime | None:
        """When the task may be tried again after this attempt, None when it will not be."""
        retry, counted = self._bench.profile.retry, self._start.papers.counted + 1
        is_last = self._bench.claims.is_last(self._start.papers, started=self._started)
        if is_last or self._budget.used_up(self.ran.usage):
            return None
        delay = backoff(
            retry.delay_seconds, retry.factor, retry.longest_seconds, counted, retry.jitter, random.random()
        )
        return utc_now() + timedelta(seconds=delay)

    async def _end(
        self, reason: str, evidence: Evidence, *, counts: bool = True, retry_at: datetime | None = None
    ) -> Verdict:
        by = self._bench.profile.agent
        reason = masked(shorten(reason, REASON_LIMIT))
        end = end_of(self._start.claim, by, reason, counts=counts, retry_at=retry_at, stopped=self._stopped)
        told = {"artifacts": tuple(evidence.artifacts), "usage": self._usage(), "started": self._started}
        end = end.model_copy(update=told)
        await patiently(functools.partial(self._records.end, self._envelope.task_id, end))
        if counts and self._place.session:  # what went wrong twice may lie in the conversation
            self._bench.sessions.forget(self._envelope.task_id)
        log.info("%s: attempt %d ended: %s", self._envelope.task_id, self._number, reason)
        word = self.keeper.stop or ("evidence" if self._ended == "done" else self._ended)
        self._span.ended(word, word if counts else None, reason)
        return await self._decide()

    async def _decide(self) -> Verdict:
        decide = functools.partial(self._bench.claims.decide, self._envelope.task_id, may_start=False)
        return await patiently(decide)

    # ------------------------------------------------------------------ evidence

    async def _collect(self, ran: Ran, proposal: Proposal | None) -> tuple[Evidence, str]:
        """Put everything the attempt left into the store, and check it against what was asked for."""
        if not self._scratch.root.exists():
            return Evidence(), ""
        self.telling.progress("collecting evidence")
        profile, workspace = self._bench.profile, self._place.workspace
        gathering = Gathering(self._records, profile, self._envelope, self._scratch, workspace)
        return await gathering.run(ran, proposal, self._verify, overfull=self.keeper.stop == "overfull")

    async def _verify(self) -> Ran | None:
        workspace = self._place.workspace
        if self._bench.verifier is None or workspace is None:
            return None
        self.telling.progress("verifying")
        seconds = self._bench.profile.evidence.verify_seconds
        job = self._job("", workspace.path, self._scratch.tests, seconds)
        return await self._unless_stopped(self._bench.verifier, job)


def _as_told(ran: Ran, proposal: Proposal | None) -> Ran:
    """An agent that gave its task back and then ended by itself is parked, whatever its exit code."""
    if proposal is None or proposal.status != "released" or ran.ended not in ("done", "failed", "try_again", "parked"):
        return ran
    reason = proposal.reason or f"given back by {proposal.by}"
    return replace(ran, ended="parked", reason=reason, not_before=proposal.not_before)


def _within_bounds(not_before: datetime | None) -> datetime:
    """When a parked task may be tried again: not at once, lest it turn in a circle, and not in years."""
    now = utc_now()
    return min(max(not_before or now, now + SHORTEST_PARK), now + LONGEST_PARK)
