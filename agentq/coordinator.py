"""What the coordinator's side does: submit, read and wait. No engine is needed to read."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agentq.artifacts import was_collected
from agentq.claim import end_of
from agentq.commit import REPORT
from agentq.errors import Conflict, Invalid, NoSuchTask, NotFound, NothingYet, StoreUnavailable
from agentq.gates import check_needs, look_at_gates
from agentq.groups import plant
from agentq.lifecycle import Papers, Status, broken, derive, expires_at
from agentq.messages import Artifact, Completion, Doubted, Envelope, new_task_id, utc_now
from agentq.papers import Claim
from agentq.records import Records
from agentq.request import fit
from agentq.settle import settle_in_store

SILENT = 2.0
"""After how many leases without a renewal whoever waits for a cancelled task takes its worker for gone."""
SHARE, LONGEST_PAUSE = 0.1, 30.0
"""The share of its time that whoever waits spends on looking at all papers, and the longest pause in that; seconds."""
LONGEST_LOOK = 2.0
"""Seconds between two looks at tasks that somebody waits for, at most."""
PLAN_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Registered:
    """A task as it stands after `register`: whether this call made it, and what must be handed to the engine now."""

    envelope: Envelope
    new: bool
    publish: Sequence[Envelope] = ()


class Coordinator:
    """Reads and writes tasks for whoever asks for work."""

    def __init__(
        self,
        records: Records,
        *,
        is_gone: Callable[[Claim], bool] = lambda _: False,
        released: list[Envelope] | None = None,
        told: Callable[[Completion], Completion] = lambda manifest: manifest,
    ) -> None:
        self._records = records
        self._is_gone = is_gone
        self._told = told
        self.released: list[Envelope] = [] if released is None else released
        """What reading released on the way: whoever has an engine may publish it, or a sweep does."""

    # ------------------------------------------------------------------ submitting

    def register(self, request: Envelope, context: bytes | None = None) -> Registered:
        """Register a task durably; the same id with the same content is the same task, with another a Conflict.

        `context` is put beside the task; instructions too long for an envelope are moved there.
        """
        request, context = fit(request, context, self._records.store.ref)
        return self._register(request, {} if context is None else {request.task_id: context})

    def register_plan(self, request: Envelope, contexts: Mapping[str, bytes]) -> Registered:
        """Register a group and all its tasks, whose contexts are given by their ids; repeating finishes the first one.

        The group's own paper commits it: before that nothing of it is a task, after it whoever sweeps completes it.
        """
        if len(request.to_json()) > PLAN_LIMIT:
            raise Invalid(f"the plan has more than {PLAN_LIMIT >> 20} MiB", hint="Put long instructions into files.")
        taken = [t.task_id for t in request.plan if (e := self._records.envelope(t.task_id)) and e.group != t.group]
        if taken:
            raise Conflict(
                f"{taken[0]} is a task already, and not of this plan", hint="Choose another id for the plan."
            )
        return self._register(request, contexts)

    def _register(self, request: Envelope, contexts: Mapping[str, bytes]) -> Registered:
        found = self._records.envelope(request.task_id)
        digest, new = request.request_digest(), False
        if found is None or (found.request_sha256 == digest and self._lost_its_mark(found.task_id)):
            check_needs(self._records, request)
            for task_id, context in contexts.items():
                self._put_context(task_id, context)
            envelope = self._records.signer.envelope(request.registered(self._records.store.url, utc_now()))
            found = self._records.register(envelope)
            new = found is envelope
        if found.request_sha256 != digest:
            raise Conflict(
                f"{found.task_id} is registered with another content",
                hint="Choose another id, or leave it out and one is made.",
            )
        return Registered(found, new, self._to_publish(found, new=new))

    def _to_publish(self, envelope: Envelope, *, new: bool) -> list[Envelope]:
        """What of a registered task the engine must be given: itself, or of a group its tasks that may start."""
        if envelope.is_group:
            ready = plant(self._records, envelope)
            return [*ready, *(e for task in envelope.plan if task.has_gates for e in self._look(task.task_id))]
        if envelope.has_gates:
            return self._look(envelope.task_id)
        # A new task is not in any queue, whatever became of its mark.
        return [envelope] if new or self._records.marks.is_unpublished(envelope.task_id) else []

    def _look(self, task_id: str, papers: Papers | None = None, *, may_release: bool = True) -> list[Envelope]:
        """Take a task one step further, if there is one to take; answers with what was released."""
        found = look_at_gates(self._records, task_id, papers, may_release=may_release)
        if isinstance(found, Completion):
            return settle_in_store(self._records, found)
        return [found] if found else []

    def _lost_its_mark(self, task_id: str) -> bool:
        """True for a task that nobody settled and that no sweep would find: its submit died while `doctor` mended."""
        if self._records.marks.is_open(task_id) or self._records.manifest(task_id):
            return False
        return self._records.known(task_id).moved_to is None

    def _put_context(self, task_id: str, context: bytes) -> None:
        found = self._records.create(f"tasks/{task_id}.md", context)
        if found is not None:
            raise Conflict(
                f"tasks/{task_id}.md is in the store with another content",
                hint="Choose another id, or remove that file if nobody needs it.",
            )

    def published(self, task_id: str) -> None:
        """Note that the engine has the task."""
        self._records.marks.published(task_id)

    def retry(self, task_id: str, new_id: str | None = None) -> Envelope:
        """The request for a new task that repeats a finished one and cites it."""
        papers = self._records.known(task_id)
        envelope = papers.envelope
        if papers.manifest is None and papers.seal is None:
            raise Conflict(f"{task_id} has not ended, there is nothing to retry", hint=f"See: agentq status {task_id}")
        if envelope.is_group:
            raise _is_a_group(envelope)
        lost = [need.task_id for need in papers.needs if need.manifest and need.manifest.status != "completed"]
        if not lost and (over := broken(papers)):
            raise Conflict(f"{task_id} would be {over[0]} again: {over[1]}", hint=f"See: agentq why {task_id}")
        if lost and envelope.run_if != "always":
            raise Conflict(
                f"{task_id} needs {lost[0]}, which did not complete: it would fail again",
                hint=f"Retry {lost[0]} first, then submit this one anew with --after its new id.",
            )
        update = {
            "task_id": new_id or new_task_id(),
            "retry_of": task_id,
            "context_ref": self._context_here(papers),
            "reply_to": envelope.reply_to or (f"results.{envelope.from_}" if envelope.group else None),
            "group": None,
            "created_at": None,
            "store": None,
            "request_sha256": None,
            "not_before": None,
            "delay_seconds": None,
        }
        return envelope.model_copy(update=update)

    def _context_here(self, papers: Papers) -> str | None:
        """The ref of a task's context in this store; raises EvidenceError when it was collected."""
        ref, task_id = papers.envelope.context_ref, papers.envelope.task_id
        key = self._records.artifacts.key(ref, task_id) if ref else None
        if key and papers.collected and self._records.store.get(key) is None:
            raise was_collected(task_id, papers.collected)
        return self._records.store.ref(key) if key else ref

    # ------------------------------------------------------------------ reading

    def envelope(self, task_id: str) -> Envelope:
        """The envelope as registered; NotFound for an unknown task."""
        envelope = self._records.envelope(task_id)
        if envelope is None:
            raise NoSuchTask(f"there is no task {task_id}", self._records.store.url)
        return envelope

    def status(self, task_id: str) -> Status:
        """The task's state, from its papers alone; what is overdue (a TTL, a cancel, a gate) is done on the way."""
        papers = self._current(task_id)
        status, told = self._derived(papers), self._told(papers.manifest) if papers.manifest else None
        if not isinstance(told, Doubted):
            return status
        return status.model_copy(update={"verified": False, "unverified_because": told.unverified_because})

    def _current(self, task_id: str) -> Papers:
        papers = self._records.known(task_id)
        if papers.manifest is None:
            with contextlib.suppress(StoreUnavailable):  # a full disk is no reason to say nothing
                self.released += self._look(task_id, papers, may_release=False)
                papers = self._records.known(task_id)
        return papers

    def _derived(self, papers: Papers) -> Status:
        if papers.envelope.is_group:
            return self._status_of_group(papers)
        claim = papers.running
        return derive(papers, utc_now(), gone=claim is not None and self._is_gone(claim))

    def _status_of_group(self, papers: Papers) -> Status:
        """A group runs from when its first task was started."""
        status = derive(papers, utc_now())
        states = Counter(self._state_of(task.task_id) for task in papers.envelope.plan)
        started = papers.manifest is None and set(states) != {"pending"}
        update = {"state": "processing"} if started else {}
        return status.model_copy(update={"tasks": dict(states), "waits_for": None, **update})

    def _state_of(self, task_id: str) -> str:
        try:
            return self._derived(self._current(task_id)).state
        except NotFound:  # the plan is being registered
            return "pending"

    def members(self, task_id: str) -> list[str]:
        """The tasks of a group, empty for any other task."""
        return [task.task_id for task in self.envelope(task_id).plan]

    def result(self, task_id: str) -> Completion:
        """The task's manifest, Doubted when it is not proven; a seal that nobody committed is committed now.

        Raises NotFound, NothingYet.
        """
        return self._told(self._result(task_id))

    def _result(self, task_id: str) -> Completion:
        manifest = self._records.manifest(task_id)
        if manifest:
            return manifest
        status = self.status(task_id)
        manifest = self._records.manifest(task_id)
        if manifest:
            return manifest
        waits = f", waits for: {status.waits_for}" if status.waits_for else ""
        raise NothingYet(
            f"{task_id} has no result yet: {status.state}{waits}", hint=f"Wait for it: agentq wait {task_id}"
        )

    def late_evidence(self, manifest: Completion) -> list[str]:
        """Refs of what lies beside the result's own evidence: other attempts', late and found pieces."""
        records, task_id = self._records, manifest.task_id
        named = {records.artifacts.key(artifact.ref, task_id) for artifact in manifest.artifacts}
        return [records.store.ref(key) for key in records.store.keys(f"artifacts/{task_id}/") if key not in named]

    def place(self, task_id: str, artifact: Artifact) -> str:
        """The ref under which a piece of a task's evidence lies in this store."""
        key = self._records.artifacts.key(artifact.ref, task_id)
        return self._records.store.ref(key) if key else artifact.ref

    def collected(self, task_id: str) -> datetime | None:
        """Since when the task's evidence may be gone, None while it is kept."""
        envelope = self._records.envelope(task_id)
        owners = (task_id, *(task.task_id for task in envelope.plan)) if envelope else (task_id,)
        found = (self._records.collected(owner) for owner in owners)
        return next((collected.at for collected in found if collected), None)

    def check(self, manifest: Completion) -> None:
        """Check every artifact and the report's copy against the manifest; raises EvidenceError."""
        for artifact in manifest.artifacts:
            self._records.artifacts.check(artifact)
        report = manifest.artifact(REPORT)
        if report and manifest.result_ref and not self._records.marks.is_open(manifest.task_id):
            self._records.artifacts.check(
                report.model_copy(update={"name": "the report's copy", "ref": manifest.result_ref})
            )

    def read(self, artifact: Artifact) -> bytes:
        """An artifact's content, checked; raises EvidenceError."""
        return self._records.artifacts.read(artifact)

    def wait(
        self,
        task_ids: Sequence[str],
        seconds: float | None,
        *,
        enough: int | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> list[Completion]:
        """Wait until so many of the tasks (all) have ended, or so many seconds; answers with those that have ended.

        From the papers alone: what ended before is not missed, and no broker is asked. `between` is called after each
        look, and may hand over what was released.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        look, pause = self.looking(task_ids), 0.05
        wanted = len(set(task_ids)) if enough is None else enough
        while True:
            ended = look()
            between()
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if len(ended) >= wanted or left <= 0:
                return ended
            time.sleep(left)
            pause = min(LONGEST_LOOK, pause * 1.5)

    def looking(self, task_ids: Sequence[str]) -> Callable[[], list[Completion]]:
        """What to call again and again, at most every few seconds: it answers with those of the tasks that have ended.

        For whoever waits without blocking a thread; as `wait`, it ends what nobody else may be there to end.
        """
        waiter, waiting, ended = _Waiter(self._records, self._result), dict.fromkeys(task_ids), dict[str, Completion]()

        def look() -> list[Completion]:
            for task_id in [i for i in waiting if i not in ended]:
                if found := waiter.look(task_id):
                    ended[task_id] = found
            return [self._told(ended[task_id]) for task_id in waiting if task_id in ended]

        return look

    # ------------------------------------------------------------------ inbox

    def inbox(self, coordinator: str) -> Iterator[Completion]:
        """The unread completions of a coordinator, oldest first; looking changes nothing but what is overdue."""
        with contextlib.suppress(StoreUnavailable):
            self._end_overdue(coordinator)
        unread = (self._records.manifest(task_id) for task_id in self._records.inbox(coordinator))
        return iter(sorted((self._told(m) for m in unread if m), key=lambda m: m.finished_at))

    def _end_overdue(self, coordinator: str) -> None:
        """End the coordinator's tasks whose TTL ran out, also when no worker is up to do it."""
        for task_id, deadline in list(self._records.marks.overdue(coordinator, utc_now())):
            papers = self._records.papers(task_id)
            if papers is None:
                continue  # it is being registered
            self.released += self._look(task_id, papers, may_release=False)
            expires = expires_at(papers)
            started = papers.was_started or papers.moved_to or papers.manifest
            if started or expires is None or expires > deadline:
                self._records.marks.will_not_expire(papers.envelope, deadline)

    def acknowledge(self, coordinator: str, task_id: str) -> None:
        """Mark a completion as read; one that is not fully settled yet is settled first, so that it stays read."""
        manifest = self._records.manifest(task_id)
        if manifest and self._records.marks.is_open(task_id):
            self.released += settle_in_store(self._records, manifest)
        self._records.take_from_inbox(coordinator, task_id)


def _is_a_group(group: Envelope) -> Invalid:
    if group.review:
        return Invalid(
            f"{group.task_id} is a review loop", hint="Submit it again under another id: agentq submit --id."
        )
    return Invalid(f"{group.task_id} is a plan", hint="Submit its file under another id: agentq plan submit --id.")


@dataclass(slots=True)
class _Waiter:
    """Looks again and again at tasks that somebody waits for, and ends what nobody else may be there to end.

    At their results each time; at all their papers, which may be those of a thousand tasks, for a share of its time.
    """

    records: Records
    result: Callable[[str], Completion]
    again: dict[str, float] = field(default_factory=dict)
    seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)

    def look(self, task_id: str) -> Completion | None:
        """The task's result, None while there is none; raises NotFound."""
        now = time.monotonic()
        if now < self.again.get(task_id, now):
            return self.records.manifest(task_id)
        try:
            return self.result(task_id)
        except NothingYet:
            self._end_silent(task_id)
        took = time.monotonic() - now
        self.again[task_id] = now + min(LONGEST_PAUSE, took / SHARE)
        return None

    def _end_silent(self, task_id: str) -> None:
        """End the attempt of a cancelled task whose lease stood still for long, by this process's own clock."""
        papers = self.records.papers(task_id)
        if papers is None or papers.cancel is None or papers.running is None or papers.last is None:
            return
        claim, last = papers.running, papers.last
        mark = (last.number, last.lease.counter if last.lease else 0)
        if self.seen.get(task_id, (None, 0.0))[0] != mark:
            self.seen[task_id] = (mark, time.monotonic())
        elif time.monotonic() - self.seen[task_id][1] > SILENT * claim.lease_seconds:
            reason = f"its worker was silent for over {claim.lease_seconds:g} s"
            end = end_of(claim, papers.cancel.by, reason, stopped="presumed", usage=last.spent)
            self.records.end(task_id, end)
