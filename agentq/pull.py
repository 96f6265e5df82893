"""Workers that pull: an agent that is itself interactive takes a task, renews its lease, and ends it, without a daemon.

It is the same protocol as a daemon's: the claim is an attempt's paper, its guard is parked in the engine for one lease,
and whoever receives that guard when the lease has stood still takes the task over.
"""

import asyncio
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from agentq.artifacts import evidence_prefix
from agentq.claim import Claims, end_of
from agentq.commit import REPORT, commit, completion_of
from agentq.decided import ANSWER, DECISION, DECISION_LIMIT, Decided, read_decided
from agentq.deliveries import carry_out
from agentq.engine import Delivery, Engine, Guard
from agentq.errors import AgentqError, Conflict, Invalid
from agentq.evidence import SUMMARY
from agentq.guards import guard_id
from agentq.handover import context_of
from agentq.judgement import VERDICT, VERDICT_LIMIT, read_judgement
from agentq.keeper import standing
from agentq.lifecycle import cancelled_because
from agentq.messages import SUMMARY_LIMIT, Artifact, Completion, Decision, Envelope, Message, Outcome, shorten, utc_now
from agentq.papers import Lease, Owner
from agentq.patience import cancelled
from agentq.proposal import Hand, proof_of
from agentq.records import Records
from agentq.settle import settle, settle_in_store
from agentq.tracing import current
from agentq.verdict import LookAgain, Start, Verdict

NOBODY = Owner(host="", pid=0, boot="", started="")
"""The owner of a pulled attempt: no process stands behind it, so that only its lease tells whether it lives."""
ARRIVAL_SECONDS = 5.0
"""How long a message may take to arrive that waits in the queue already."""


class Held(Message):
    """A claim in somebody's hands: what proves to agentq that it is theirs."""

    task_id: str
    attempt: int
    token: str
    agent: str
    store: str


class Holdings:
    """The claims that this user holds on this host: one file each, for the owner's eyes only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ready(self) -> None:
        """Make their folder, before there is a claim that could not be remembered."""
        self._folder.mkdir(exist_ok=True, mode=0o700)

    def keep(self, held: Held) -> None:
        """Remember a claim."""
        path = self._path(held.task_id)
        path.touch(mode=0o600)
        path.write_bytes(held.to_json())

    def find(self, task_id: str, store: str, agent: str | None = None) -> Held | None:
        """The claim on a task of that store, None when nobody here holds it, or not that agent."""
        try:
            held = Held.model_validate_json(self._path(task_id).read_bytes())
        except (OSError, ValidationError):
            return None
        return held if held.store == store and agent in (None, held.agent) else None

    def forget(self, task_id: str) -> None:
        """Forget a claim that ended."""
        self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.json"


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that was claimed, its context document, and when its lease ends unless it is renewed."""

    start: Start
    context: bytes | None
    until: datetime


async def pull(records: Records, engine: Engine, claims: Claims, seconds: float) -> Taken | None:
    """Claim the agent's next task that may be started; None when there is none for so many seconds."""
    agent, deadline = claims.terms.agent, asyncio.get_running_loop().time() + seconds
    while True:
        delivery = await _receive(engine, agent, deadline - asyncio.get_running_loop().time())
        if delivery is None and await engine.depth(agent):  # it is there, and would be missed for want of patience
            delivery = await _receive(engine, agent, ARRIVAL_SECONDS)
        if delivery is None:
            return None
        verdict = await _decide(claims, delivery)
        if isinstance(verdict, Start):
            taken = await _hold(records, engine, claims, verdict, delivery)
            if taken:
                return taken
            verdict = await asyncio.to_thread(claims.decide, verdict.papers.envelope.task_id, may_start=False)
        await carry_out(verdict, delivery, engine, records.journal, lambda manifest: settle(records, engine, manifest))


async def _receive(engine: Engine, agent: str, seconds: float) -> Delivery | None:
    if seconds <= 0:
        return None
    receiving = asyncio.ensure_future(engine.receive(agent))
    try:
        await asyncio.wait({receiving}, timeout=seconds)
    finally:
        await cancelled(receiving)
    return None if receiving.cancelled() else receiving.result()


async def _decide(claims: Claims, delivery: Delivery) -> Verdict:
    pick_up = functools.partial(claims.pick_up, was_delayed=delivery.was_delayed)
    for looked in (False, True):
        verdict = await asyncio.to_thread(pick_up, delivery.body, delivery.guard, delivery.published_at, looked)
        if not isinstance(verdict, LookAgain):
            break
        await asyncio.sleep(verdict.after)
    return verdict


async def _hold(records: Records, engine: Engine, claims: Claims, start: Start, delivery: Delivery) -> Taken | None:
    """Give the attempt its guard and its first renewal, then let go of the delivery; None when it must not start."""
    envelope, claim = start.papers.envelope, start.claim
    try:
        context = await asyncio.to_thread(context_of, records, start.papers)
    except (Invalid, Conflict) as error:
        final = isinstance(error, Invalid)
        if final:
            completion = completion_of(
                start.papers, "failed", by=claim.worker, attempt=claim.attempt, reason=str(error)
            )
            await asyncio.to_thread(commit, records, completion)
        else:
            end = end_of(claim, claim.worker, str(error), counts=False, started=False)
            await asyncio.to_thread(records.end, envelope.task_id, end)
        return None
    guard = Guard(attempt=claim.attempt, counter=1, id=guard_id(claim.token))
    try:
        await engine.publish(envelope, delay=claim.lease_seconds, guard=guard)
        lease = Lease(token=claim.token, counter=1, at=utc_now(), guard=guard.id)
        await asyncio.to_thread(records.renew, envelope.task_id, claim.attempt, lease)
    except AgentqError as error:
        why = f"it could not be handed out: {error}"
        end = end_of(claim, claim.worker, why, counts=False, started=False)
        await asyncio.to_thread(records.end, envelope.task_id, end)
        raise
    await delivery.ack()
    return Taken(start, context, lease.at + timedelta(seconds=claim.lease_seconds))


class Holder:
    """Acts for whoever holds a claim. Every method raises Conflict when the attempt is no longer theirs."""

    def __init__(self, records: Records, held: Held, released: list[Envelope], *, artifact_bytes: int) -> None:
        self._records = records
        self._held = held
        self._artifact_bytes = artifact_bytes
        self._released = released

    def renew(self) -> datetime | Completion:
        """Go on for another lease: until when; the manifest when somebody asked to cancel, and it ends so."""
        start = self._start()
        if start.papers.cancel:
            return self._end_cancelled(start)
        last = self._records.lease(self._held.task_id, self._held.attempt)
        counter, guard = (last.counter, last.guard) if last else (0, None)
        lease = Lease(token=self._held.token, counter=counter + 1, at=utc_now(), guard=guard)
        self._records.renew(self._held.task_id, self._held.attempt, lease)
        self._start()
        return lease.at + timedelta(seconds=start.claim.lease_seconds)

    def finish(self, hand: Hand, pieces: Sequence[tuple[str, Path]] = ()) -> Completion:
        """End the task with evidence, unverified; Invalid, with nothing written, when a piece that was asked for is
        missing or empty, or what looks like a credential is said. One that was cancelled meanwhile ends as cancelled;
        evidence is kept in any case."""
        hand.refuse_credentials()
        self._refuse_large(pieces)
        summary = hand.summary
        try:
            start = self._start()
        except Conflict:
            list(self._add(f"hand-{proof_of(self._held.token)[:12]}", summary, pieces))
            raise
        envelope, came_to, answer = start.papers.envelope, dict[str, object](), ""
        if hand.status == "completed":
            self._require(envelope, summary, dict(pieces))
            decided = _decided(envelope, dict(pieces), summary)
            came_to = {"verdict": _verdict(envelope, dict(pieces)), "decided": decided and decided.chosen}
            answer = decided.answer(summary) if decided else ""
        artifacts = tuple(self._add(self._held.attempt, summary, pieces, answer))
        if start.papers.cancel:
            return self._end_cancelled(start, artifacts)
        status: Outcome = "completed" if hand.status == "completed" else "failed"
        return self._commit(start, status, hand.reason, shorten(summary, SUMMARY_LIMIT), artifacts, came_to)

    def release(self, hand: Hand) -> Completion | None:
        """Give the task back, uncounted, for another try at that time; the manifest when it was cancelled meanwhile."""
        hand.refuse_credentials()
        start = self._start()
        if start.papers.cancel:
            return self._end_cancelled(start)
        end = end_of(
            start.claim, start.claim.worker, hand.reason or "given back", counts=False, retry_at=hand.not_before
        )
        self._records.marks.unpublish(self._held.task_id)
        if self._records.end(self._held.task_id, end) != end:
            raise self._lost()
        self._released.append(start.papers.envelope)
        current().processed(start.papers.envelope, end.attempt, start.claim.at, "released", why=end.reason)
        return None

    # ------------------------------------------------------------------

    def _start(self) -> Start:
        papers = self._records.known(self._held.task_id)
        claim = papers.running
        if claim is None or (claim.attempt, claim.token) != (self._held.attempt, self._held.token):
            raise self._lost()
        if claim.owner != NOBODY:
            raise Invalid(
                f"attempt {claim.attempt} of {self._held.task_id} is a worker's, and AGENTQ_OUTPUT is not set",
                hint="Inside an agent leave AGENTQ_* as they are.",
            )
        return Start(papers, claim)

    def _lost(self) -> Conflict:
        return Conflict(
            f"attempt {self._held.attempt} of {self._held.task_id} is no longer yours: it ended or was taken over",
            hint=f"Stop working on it. See: agentq status {self._held.task_id}",
        )

    def _refuse_large(self, pieces: Sequence[tuple[str, Path]]) -> None:
        for name, path in pieces:
            size = path.stat().st_size if path.is_file() else 0
            if size > self._artifact_bytes:
                raise Invalid(
                    f"{name} ({path}) has {size} bytes, an artifact may have {self._artifact_bytes}",
                    hint="Give a smaller one, or raise artifact_bytes under [limits] of the agent's profile.",
                )

    def _require(self, envelope: Envelope, summary: str, pieces: dict[str, Path]) -> None:
        there = {name for name, path in pieces.items() if path.is_file() and path.stat().st_size}
        there |= {SUMMARY} if summary.strip() else set()
        missing = [name for name in dict.fromkeys((*envelope.expected_output.artifacts, *pieces)) if name not in there]
        if missing:
            raise Invalid(
                f"{envelope.task_id} must bring what is missing or empty: {', '.join(missing)}",
                hint="Give each with --artifact NAME=PATH; the report with --result-file.",
            )

    def _add(
        self, place: int | str, summary: str, pieces: Sequence[tuple[str, Path]], answer: str = ""
    ) -> Iterator[Artifact]:
        prefix = evidence_prefix(self._held.task_id, place)
        names = {name for name, _ in pieces}
        for name, path in pieces:
            yield self._records.artifacts.add(prefix, name, path, suffix=path.suffix[:16], made_by="agent")
        for name, text in ((SUMMARY, summary), (REPORT, summary), (ANSWER, answer)):
            if text.strip() and name not in names:
                yield self._records.artifacts.add(
                    prefix, name, f"{text.strip()}\n".encode(), suffix=".md", made_by="agent"
                )

    def _end_cancelled(self, start: Start, artifacts: tuple[Artifact, ...] = ()) -> Completion:
        assert start.papers.cancel is not None
        return self._commit(start, "cancelled", cancelled_because(start.papers.cancel), "", artifacts)

    def _commit(
        self,
        start: Start,
        status: Outcome,
        reason: str | None,
        summary: str,
        artifacts: tuple[Artifact, ...],
        came_to: Mapping[str, object] = MappingProxyType({}),
    ) -> Completion:
        if standing(self._records, start) == "lost":
            raise self._lost()
        completion = completion_of(
            start.papers,
            status,
            by=start.claim.worker,
            attempt=self._held.attempt,
            reason=reason,
            summary=summary,
            stopped="presumed" if status == "cancelled" else None,
            artifacts=artifacts,
        )
        manifest = commit(self._records, completion.model_copy(update=dict(came_to)))
        error = "failed" if status == "failed" else None
        current().processed(start.papers.envelope, completion.attempt, start.claim.at, status, error, reason)
        self._released += settle_in_store(self._records, manifest)
        if manifest.attempt != self._held.attempt:
            raise self._lost()
        return manifest


def _decided(envelope: Envelope, pieces: dict[str, Path], summary: str) -> Decided | None:
    """What was decided where an answer was asked for; raises Invalid for what is no decision, or has no answer."""
    if DECISION not in envelope.expected_output.artifacts:
        return None
    path = pieces[DECISION]
    if path.stat().st_size > DECISION_LIMIT:
        raise Invalid(f"the decision {path} is larger than {DECISION_LIMIT} bytes", hint="Give a smaller one.")
    try:
        decided = read_decided(path.read_bytes())
    except Invalid as error:
        raise _to_be_corrected(DECISION, path, error) from error
    if ANSWER not in pieces and not decided.answer(summary):
        raise Invalid("there is no answer", hint=f"Give it with --artifact {ANSWER}=PATH, or as the decision's text.")
    return decided


def _verdict(envelope: Envelope, pieces: dict[str, Path]) -> Decision | None:
    """What a review comes to that was asked for; raises Invalid for one that is none."""
    if VERDICT not in envelope.expected_output.artifacts:
        return None
    path = pieces[VERDICT]
    if path.stat().st_size > VERDICT_LIMIT:
        raise Invalid(f"the verdict {path} is larger than {VERDICT_LIMIT} bytes", hint="Give a smaller one.")
    try:
        return read_judgement(path.read_bytes()).verdict
    except Invalid as error:
        raise _to_be_corrected(VERDICT, path, error) from error


def _to_be_corrected(name: str, path: Path, error: Invalid) -> Invalid:
    return Invalid(str(error), hint=f"Correct {path}, and give it with --artifact {name}={path}. {error.hint}".rstrip())
