"""What to do with one delivery, decided from the papers alone; every path may be walked again by anyone.

Two hands that meet here agree by creating a paper: an attempt's number (claim or seal), an attempt's end, the
manifest. Who loses reads the papers again from the start and never tries the next number on its own.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from logging import DEBUG, INFO, WARNING, getLogger

from agentq.budgets import Budgets, Limits
from agentq.commit import commit_seal, seal_as
from agentq.credentials import told
from agentq.engine import Guard
from agentq.errors import EvidenceError, Invalid, StoreUnavailable
from agentq.gates import check_needs, note_release
from agentq.guards import guard_id, is_genuine
from agentq.lifecycle import Papers, due, ending
from agentq.messages import ENVELOPE_LIMIT, Budget, Envelope, Outcome, Stopped, Usage, parse_envelope, utc_now
from agentq.papers import Attempt, Claim, Demand, End, Owner, new_token
from agentq.profile import Profile
from agentq.records import Records
from agentq.request import texts_of
from agentq.trust import Senders
from agentq.verdict import Drop, LookAgain, Park, Refuse, Settle, Start, Verdict

log = getLogger("agentq")

WRONG_STORE_DELAY = 60.0
REMEMBERED = 10_000
"""Of how many tasks of another store it is remembered that somebody was told."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one worker may take, and on what terms. Times are seconds."""

    agent: str
    owner: Owner
    types: Collection[str]
    max_attempts: int
    lease: float
    renewal: float
    irreversible: Collection[str] = ()
    budget: Budget = field(default_factory=Budget)


def terms_of(profile: Profile, owner: Owner) -> Terms:
    """The terms of a profile's agent, for attempts of that owner."""
    return Terms(
        agent=profile.agent,
        owner=owner,
        types=profile.types,
        max_attempts=profile.retry.max_attempts,
        lease=profile.limits.lease_seconds,
        renewal=profile.limits.renew_seconds,
        irreversible=profile.irreversible,
        budget=Budget(max_cost_usd=profile.limits.max_cost_usd, max_tokens=profile.limits.max_tokens),
    )


class Claims:
    """Decides over deliveries for one worker."""

    def __init__(
        self,
        records: Records,
        terms: Terms,
        *,
        is_gone: Callable[[Claim], bool],
        stop_silent: Callable[[Claim], bool] = lambda _: False,
        now: Callable[[], datetime] = utc_now,
        senders: Senders | None = None,
    ) -> None:
        self.records = records
        self.terms = terms
        self._senders = senders
        self._is_gone = is_gone
        self._stop_silent = stop_silent
        self._now = now
        self._unsure: dict[str, Claim] = {}
        self._told: set[str] = set()
        self._budgets = Budgets(records, terms.budget)

    def limits(self, papers: Papers) -> Limits:
        """What a task may still spend. Raises StoreUnavailable."""
        return self._budgets.of(papers)

    def is_last(self, papers: Papers, *, started: bool) -> bool:
        """Whether no attempt can follow one that is not over yet and counts, and whose agent was or was not started."""
        most = papers.envelope.max_attempts or self.terms.max_attempts
        return papers.counted + 1 >= most or (started and papers.envelope.type in self.terms.irreversible)

    def pick_up(
        self,
        body: bytes,
        guard: Guard | None,
        published_at: datetime | None,
        looked: bool = False,
        *,
        was_delayed: bool = False,
    ) -> Verdict:
        """What to do with a delivery; papers that follow from it (a claim, an end, a seal) are written already."""
        try:
            envelope = self._admit(parse_envelope(body), guard, published_at, was_delayed=was_delayed)
        except (Invalid, EvidenceError) as error:
            return Refuse(str(error))
        if isinstance(envelope, Park):
            return envelope
        return self.decide(envelope.task_id, guard, looked)

    def decide(
        self, task_id: str, guard: Guard | None = None, looked: bool = False, *, may_start: bool = True
    ) -> Verdict:
        """The same for a registered task; without `may_start` a task that is ready is parked for no time at all."""
        verdict: Verdict | _Again = AGAIN
        while isinstance(verdict, _Again):
            try:
                verdict = self._look(task_id, guard, looked, may_start=may_start)
            except EvidenceError as error:  # a damaged paper is for a person to mend, and must not stop the worker
                return Refuse(str(error))
        return verdict

    def _look(self, task_id: str, guard: Guard | None, looked: bool, *, may_start: bool) -> "Verdict | _Again":
        papers = self.records.papers(task_id)
        if papers is None:
            return Refuse(f"{task_id} is not registered in {self.records.store.url}")
        verdict: Verdict | _Again | None = self._ended(papers) or self._moved(papers)
        verdict = verdict or self._running(papers, guard, looked, may_start=may_start)
        verdict = verdict or self._over(papers) or self._gates(papers) or self._not_yet(papers)
        if verdict:
            return verdict
        return self._claim(papers) if may_start else Park(papers.envelope, 0.0, "released")

    # ------------------------------------------------------------------ admitting

    def _admit(
        self, message: Envelope, guard: Guard | None, published_at: datetime | None, *, was_delayed: bool
    ) -> Envelope | Park:
        """The registered envelope that the message stands for; registers a foreign producer's. Raises Invalid."""
        registered = self.records.envelope(message.task_id)
        if message.is_group or (registered and registered.is_group):
            raise Invalid(f"{message.task_id} is a plan: its tasks are delivered, it is not")
        if registered is None and (not message.is_foreign or message.store not in (None, self.records.store.url)):
            return self._papers_missing(message, guard)
        if message.to != self.terms.agent:
            raise Invalid(f"the message is for {message.to} and was in the queue of {self.terms.agent}")
        if registered is None and was_delayed:
            raise Invalid(f"{message.task_id} is not registered, and came through a delay: any worker may have put it")
        registered = registered or self._register(message, published_at)
        if registered.request_sha256 != message.request_digest():
            raise Invalid(f"another task is registered as {message.task_id}; this message's content is not that task's")
        return registered

    def _papers_missing(self, message: Envelope, guard: Guard | None) -> Park:
        """Leave a task of another store to its own workers, with its guard if it is one; say so once."""
        here = self.records.store.url
        if message.store in (None, here):
            raise Invalid(f"{message.task_id} has no papers in {here}: collected long ago, or never registered")
        where = f"its papers are in {message.store}, this worker's store is {here}"
        why = f"{where}: correct AGENTQ_STORE, or bring it here: agentq store copy {message.task_id} --to {here}"
        return Park(message, WRONG_STORE_DELAY, why, guard, WARNING if self._is_news(message.task_id) else DEBUG)

    def _is_news(self, task_id: str) -> bool:
        """True when nobody was told of this task yet."""
        if task_id in self._told:
            return False
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told.add(task_id)
        return True

    def _register(self, message: Envelope, published_at: datetime | None) -> Envelope:
        refusal = self._other_type(message)
        if refusal:
            raise Invalid(refusal)
        if self._senders:
            raise Invalid(f"{self.terms.agent} runs only what is signed, and no agentq registered and signed this")
        check_needs(self.records, message, must_exist=False)
        envelope = message.registered(self.records.store.url, message.created_at or published_at or self._now())
        if len(envelope.to_json()) > ENVELOPE_LIMIT:
            raise Invalid(f"the message is so long that its registered envelope has more than {ENVELOPE_LIMIT} bytes")
        for line in told(texts_of(envelope, {})):
            log.warning("%s came from elsewhere, and whoever reads the store can read it: %s", envelope.task_id, line)
        return self.records.register(envelope, published=True)

    def _other_type(self, envelope: Envelope) -> str | None:
        if not self.terms.types or envelope.type in self.terms.types:
            return None
        return f"{self.terms.agent} takes no tasks of type {envelope.type!r}, only {', '.join(self.terms.types)}"

    # ------------------------------------------------------------------ deciding, in this order

    def _ended(self, papers: Papers) -> Verdict | None:
        if papers.manifest:
            return Settle(papers.manifest)
        return Settle(commit_seal(self.records, papers.seal)) if papers.seal else None

    def _moved(self, papers: Papers) -> Park | None:
        """Leave a task that is at home in another store to the workers there, who may share this queue."""
        home, task_id = papers.moved_to, papers.envelope.task_id
        if home is None:
            return None
        level = INFO if self._is_news(task_id) else DEBUG
        return Park(papers.envelope, WRONG_STORE_DELAY, f"it was moved to {home}", level=level)

    def _running(
        self, papers: Papers, guard: Guard | None, looked: bool, *, may_start: bool
    ) -> "Verdict | _Again | None":
        claim, last = papers.running, papers.last
        if claim is None or last is None:
            return None
        if may_start and self._was_unsure(papers.envelope.task_id, claim):
            refusal = self._unproven(papers)
            return self._bury(papers, claim, refusal) if refusal else Start(papers, claim)
        if self._is_gone(claim):
            return self._bury(papers, claim, "its worker's process died")
        if guard and guard.attempt == claim.attempt and is_genuine(guard, claim, last):
            return self._guard_came_back(papers, last, guard, looked)
        return self._copy_of_running(papers, last)

    def _was_unsure(self, task_id: str, claim: Claim) -> bool:
        """True, once, for a claim of this worker whose creation was never confirmed and that nobody runs."""
        unsure = self._unsure.get(task_id)
        return unsure is not None and unsure.token == claim.token and self._unsure.pop(task_id, None) is unsure

    def _guard_came_back(self, papers: Papers, last: Attempt, guard: Guard, looked: bool) -> "Verdict | _Again":
        lease = last.lease
        counter = lease.counter if lease else 0
        if lease and lease.guard and lease.guard != guard.id:
            return Drop(f"attempt {last.number} has another guard")
        if counter != guard.counter:
            return self._park_guard(papers, last.number, counter, guard.id)
        if not looked:
            return LookAgain(2 * self.terms.renewal)
        self.bury_silent(papers)
        return AGAIN

    def bury_silent(self, papers: Papers) -> None:
        """End the running attempt of a worker whose lease stood still; what its agent runs on this host is stopped."""
        if claim := papers.running:
            self._stop_silent(claim)
            self._bury(papers, claim, f"its worker was silent for over {claim.lease_seconds:g} s")

    def _copy_of_running(self, papers: Papers, last: Attempt) -> Verdict:
        if last.lease and last.lease.guard:
            return Drop(f"attempt {last.number} is running and has its guard")
        counter = last.lease.counter if last.lease else 0
        return self._park_guard(papers, last.number, counter, guard_id(last.paper.token))

    def _park_guard(self, papers: Papers, number: int, counter: int, guard_id: str) -> Park:
        guard = Guard(attempt=number, counter=counter, id=guard_id)
        lease = max(self.terms.lease, papers.running.lease_seconds if papers.running else 0.0)
        return Park(papers.envelope, lease, f"guards attempt {number}", guard)

    def _bury(self, papers: Papers, claim: Claim, reason: str) -> "_Again":
        usage = papers.last.spent if papers.last else None
        end = end_of(claim, self.terms.agent, reason, at=self._now(), stopped="presumed", usage=usage)
        self.records.end(papers.envelope.task_id, end)
        return AGAIN

    def _over(self, papers: Papers) -> "Verdict | _Again | None":
        """Seal a task that must not be started (again)."""
        over = ending(papers, self._now())
        if over:
            return self._seal(papers, *over)
        refusal = self._other_type(papers.envelope) or self._unproven(papers) or self._irrevocable(papers)
        if refusal:
            return self._seal(papers, "failed", refusal, given_up=True)
        if papers.counted >= (papers.envelope.max_attempts or self.terms.max_attempts):
            return self._seal(papers, "failed", _exhausted(papers), given_up=True)
        spent = self.limits(papers).used_up()
        return self._seal(papers, "failed", spent) if spent else None

    def _unproven(self, papers: Papers) -> str | None:
        """Why this worker must not run what these papers say, whatever message brought it here."""
        if self._senders is None:
            return None
        to = papers.envelope.to
        return self._senders.refusal(papers) if to == self.terms.agent else f"it is for {to}"

    def _irrevocable(self, papers: Papers) -> str | None:
        """Why a task is not tried again by itself: what its agent may have done cannot be undone."""
        if papers.envelope.type not in self.terms.irreversible:
            return None
        runs = (a.end for a in papers.earlier if isinstance(a.paper, Claim) and a.end and a.end.started is not False)
        if (end := next(runs, None)) is None:
            return None
        return f"not tried again, for what attempt {end.attempt} may have done cannot be undone; it ended: {end.reason}"

    def _gates(self, papers: Papers) -> "Verdict | _Again | None":
        """Let go of a task with a shut gate: whoever opens the last one publishes it again."""
        envelope = papers.envelope
        if envelope.type in self.terms.irreversible and not papers.needs_approval:
            reason = f"tasks of type {envelope.type} cannot be undone, says the profile of {self.terms.agent}"
            demand = Demand(token=new_token(), by=self.terms.agent, at=self._now(), reason=reason)
            self.records.demand_approval(envelope.task_id, demand)
            return AGAIN
        if not papers.is_open:
            return Drop(f"{envelope.task_id} waits for {', '.join(papers.missing) or 'its approval'}")
        if papers.is_gated and papers.release is None:
            note_release(self.records, papers)
        return None

    def _seal(self, papers: Papers, status: Outcome, reason: str, *, given_up: bool = False) -> "Verdict | _Again":
        by, now = self.terms.agent, self._now()
        manifest = seal_as(self.records, papers, status, reason, by=by, given_up=given_up, at=now)
        return Settle(manifest) if manifest else AGAIN

    def _not_yet(self, papers: Papers) -> Park | None:
        until, now = due(papers), self._now()
        if until is None or until <= now:
            return None
        return Park(papers.envelope, (until - now) / timedelta(seconds=1), f"not before {until:%H:%M:%S}")

    def _claim(self, papers: Papers) -> "Verdict | _Again":
        """Take the next number. A claim of which the store's answer is unknown is kept: the next try asks for the
        same one, or finds it, so that no attempt of a living worker is left for others to bury."""
        task_id = papers.envelope.task_id
        claim = self._unsure.pop(task_id, None)
        if claim is None or claim.attempt != papers.next_number:
            claim = self._new_claim(papers.next_number)
        try:
            if not self.records.take(task_id, claim):
                return AGAIN
            manifest = self.records.manifest(task_id)
        except StoreUnavailable:
            self._unsure[task_id] = claim
            raise
        return Settle(manifest) if manifest else Start(papers, claim)

    def _new_claim(self, number: int) -> Claim:
        return Claim(
            attempt=number,
            token=new_token(),
            worker=self.terms.agent,
            owner=self.terms.owner,
            at=self._now(),
            lease_seconds=self.terms.lease,
        )


class _Again:
    """Another hand was first, or a paper was written: read the papers again."""


AGAIN = _Again()


def end_of(
    claim: Claim,
    by: str,
    reason: str,
    *,
    counts: bool = True,
    at: datetime | None = None,
    retry_at: datetime | None = None,
    stopped: Stopped | None = None,
    started: bool | None = None,
    usage: Usage | None = None,
) -> End:
    """The end paper of an attempt that brought no result."""
    return End(
        attempt=claim.attempt,
        token=new_token(),
        by=by,
        at=at or utc_now(),
        reason=reason,
        counts=counts,
        retry_at=retry_at,
        stopped=stopped,
        started=started,
        usage=usage,
    )


def _exhausted(papers: Papers) -> str:
    last = papers.earlier[-1].end if papers.earlier else None
    times = "once" if papers.counted == 1 else f"{papers.counted} times"
    return f"tried {times}, the last time: {last.reason if last else 'unknown'}"
