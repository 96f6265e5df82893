"""Background jobs of chat agents: started, asked for, waited for and cancelled, for one thread of one tenant at a time.

Every answer is a dict that a model reads (`text_of`): what cannot be is refused in words, and nothing is raised.
"""

import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from agentq.app import App
from agentq.desk import Desk
from agentq.errors import AgentqError, Conflict, Invalid, NotFound, Unavailable
from agentq.integrations.allowance import Allowance
from agentq.integrations.jobs import (
    DIGEST_CHARS,
    SILENT,
    Answer,
    Bounds,
    Options,
    Task,
    Where,
    ended,
    in_words,
    listed,
    not_found,
    open_job,
    refused,
    short,
    unavailable,
)
from agentq.integrations.requests import Request, Requests, check_where, visible
from agentq.integrations.threads import COORDINATOR, MODES, TENANT, THREAD, Mode
from agentq.messages import PRIORITIES, Completion, Envelope, Priority, explain, is_key

LOG = logging.getLogger("agentq")
WAYS: tuple[str, ...] = (SILENT, *MODES)
"""How the end of a job may be told."""
LIMIT = 20
WAIT_SECONDS, LONGEST_WAIT = 60.0, 600.0
WAITED_FOR = 100
LISTED, LIST_LIMIT, PAGE, PAGES = 20, 100, 200, 20

M = TypeVar("M", bound=BaseModel)
Scope = Literal["conversation", "everywhere"]


class Chat:
    """The jobs of chat threads: each is a task of `coordinator`, which runs ahead of background work.

    `roles` are those that may be asked for (every agent that is known); `mode` is how a thread is told of an end unless
    the model chooses another of `modes`; `limit` bounds the open jobs of a thread. Raises Invalid for what cannot be.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        coordinator: str = COORDINATOR,
        roles: Sequence[str] | None = None,
        mode: Mode = "notify",
        modes: Sequence[str] | None = None,
        priority: Priority = "high",
        limit: int = LIMIT,
        digest_chars: int = DIGEST_CHARS,
    ) -> None:
        modes = tuple(dict.fromkeys((mode, *((SILENT,) if modes is None else modes))))
        _check(coordinator, modes, priority, limit)
        self.desk = desk
        self.coordinator = coordinator
        self.digest_chars = digest_chars
        self._requests = Requests(coordinator, None if roles is None else tuple(roles), mode, modes, priority)
        self._allowance = Allowance(limit)
        if strangers := set(roles or ()) - set(desk.app.agents.names):
            raise Invalid(
                f"there is no agent {', '.join(sorted(strangers))}", hint=f"Known: {', '.join(desk.app.agents.names)}."
            )

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The roles that there are, and the types of task that each takes, the usual one first."""
        return self._requests.known(self.desk.agents())

    @property
    def modes(self) -> tuple[str, ...]:
        """How the end of a job may be told, the usual way first."""
        return self._requests.modes

    # ------------------------------------------------------------------ starting

    async def trigger(
        self, where: Where, role: str, input_summary: str, options: Options | Mapping[str, Any] | None = None
    ) -> Answer:
        """Start a job, and answer with its id as soon as that is durable. The same call again is the same job."""

        async def act() -> Answer:
            said = _read(Options, options)
            request = await self.desk.call(lambda app: self._requests.single(app, where, role, input_summary, said))
            return await self._start(where, request)

        return await self._answered(act)

    async def plan(
        self,
        where: Where,
        tasks: Sequence[Task | Mapping[str, Any]],
        options: Bounds | Mapping[str, Any] | None = None,
    ) -> Answer:
        """Start tasks that wait for one another and are handed each other's results, as one job with one end."""

        async def act() -> Answer:
            said, bounds = [_read(Task, task) for task in tasks], _read(Bounds, options)
            request = await self.desk.call(lambda app: self._requests.plan(app, where, said, bounds))
            return await self._start(where, request)

        return await self._answered(act)

    async def _start(self, where: Where, request: Request) -> Answer:
        if answer := await self.desk.call(lambda app: self._admit(app, where, request)):
            return answer
        try:
            if request.envelope.is_group:
                registered = await self.desk.submit_plan(request.envelope, request.contexts)
            else:
                registered = await self.desk.submit(request.envelope)
        except Unavailable as error:
            return await self._stands(where, request, error)
        except Conflict:
            return refused(
                f"This same call has started {where.job_id} before, for something else, and that one stands."
                " To start another job, make another call.",
                job_id=where.job_id,
            )
        except BaseException:
            with contextlib.suppress(Unavailable):
                await self._withdraw(where, request)
            raise
        return await self.desk.call(lambda app: self._started(app, registered.envelope))

    def _admit(self, app: App, where: Where, request: Request) -> Answer | None:
        if app.records.is_registered(request.envelope.task_id):
            return None
        others = self._allowance.admit(app.records, where, request.counted)
        if others is None:
            return None
        return refused(
            f"{others} jobs of this conversation are open, {self._allowance.limit} is the limit, and nothing was"
            " started. Wait for some (wait_for_jobs), or cancel what is not needed (cancel_job); then try again."
        )

    async def _withdraw(self, where: Where, request: Request) -> bool:
        """Count a request no more unless it is registered after all, and answer whether it is."""

        def act(app: App) -> bool:
            if app.records.is_registered(request.envelope.task_id):
                return True
            self._allowance.withdraw(app.records, where, request.counted)
            return False

        return await self.desk.call(act)

    async def _stands(self, where: Where, request: Request, error: Unavailable) -> Answer:
        """What became of a request while the engine or the store was away."""
        job_id = request.envelope.task_id
        try:
            is_registered = await self._withdraw(where, request)
        except Unavailable:
            return unavailable(
                f"It is not known whether {job_id} was started: {in_words(error)} Poll it later, then decide.",
                job_id=job_id,
            )
        if is_registered:
            return unavailable(
                f"{job_id} is registered, and starts by itself when its queue is back. Do not start it again.",
                job_id=job_id,
            )
        return unavailable(f"Nothing was started: {in_words(error)} Try again later.")

    def _started(self, app: App, envelope: Envelope) -> Answer:
        answer: Answer = {"job_id": envelope.task_id, "status": "queued"}
        if envelope.plan and not envelope.review:
            answer["tasks"] = {
                task.task_id.removeprefix(f"{envelope.task_id}."): task.task_id for task in envelope.plan
            }
        asked = [task.task_id for task in (envelope.plan or (envelope,)) if task.requires_approval]
        if asked and not envelope.plan:
            answer["status"] = "approval"
        return answer | {"message": " ".join((_next(envelope), *(_approval(app, task_id) for task_id in asked[:3])))}

    # ------------------------------------------------------------------ asking

    async def poll(self, where: Where, job_id: str) -> Answer:
        """Where a job stands, and what came of it once it has ended."""
        return await self._answered(lambda: self.desk.call(lambda app: self._poll(app, where, job_id)))

    def _poll(self, app: App, where: Where, job_id: str) -> Answer:
        check_where(where)
        envelope = visible(app, where, job_id)
        if envelope is None:
            return not_found(job_id)
        status = app.coordinator.status(job_id)
        if status.finished_at:
            return ended(app.coordinator, app.coordinator.result(job_id), chars=self.digest_chars)
        answer = open_job(status, is_told=envelope.reply_to is not None)
        if status.waits_for == "approval":
            answer["message"] = _approval(app, job_id)
        return answer

    async def cancel(self, where: Where, job_id: str, reason: str | None = None) -> Answer:
        """Cancel a job that a chat of this tenant started, a plan with all its tasks."""
        return await self._answered(lambda: self.desk.call(lambda app: self._cancel(app, where, job_id, reason)))

    def _cancel(self, app: App, where: Where, job_id: str, reason: str | None) -> Answer:
        check_where(where)
        envelope = visible(app, where, job_id)
        if envelope is None:
            return not_found(job_id)
        if THREAD not in envelope.labels:
            return refused(f"No chat has started {job_id}: a person has to cancel it.", job_id=job_id)
        try:
            manifest = app.hands.cancel(job_id, self.coordinator, reason)
        except Conflict:
            status = app.coordinator.status(job_id)
            return {"job_id": job_id, "status": status.state, "message": "It had ended before: poll it for its result."}
        if manifest is None:
            return {"job_id": job_id, "status": "processing", "message": "It is being stopped: that takes a moment."}
        return {"job_id": job_id, "status": manifest.status, "message": "It is cancelled."}

    async def jobs(
        self, where: Where, *, scope: Scope = "conversation", state: str | None = None, limit: int = LISTED
    ) -> Answer:
        """The jobs of the thread, or of all threads of its tenant, newest first, as the log tells them."""
        return await self._answered(lambda: self.desk.call(lambda app: self._jobs(app, where, scope, state, limit)))

    def _jobs(self, app: App, where: Where, scope: Scope, state: str | None, limit: int) -> Answer:
        from agentq.ledger import Filter

        check_where(where)
        own = f"{THREAD}={where.thread}" if scope == "conversation" else THREAD
        labels = (own,) if where.tenant is None else (own, f"{TENANT}={where.tenant}")
        asked = Filter(states=(state,) if state else (), labels=labels)
        said: list[str] = []
        limit = max(1, min(limit, LIST_LIMIT))
        with app.caught_up_ledger(lambda words: said.append(str(words))) as ledger:
            found, before = [], None
            for _ in range(PAGES):
                rows = ledger.tasks(asked, PAGE, before)
                found += [row for row in rows if row.labels.get(TENANT) == where.tenant and row.group is None]
                if len(found) > limit or len(rows) < PAGE:
                    break
                before = rows[-1].task_id
        return listed(found, limit, said)

    async def wait(
        self, where: Where, job_ids: Sequence[str], seconds: float = WAIT_SECONDS, *, any: bool = False
    ) -> Answer:
        """Wait for jobs to end, all or the first of them, at most 600 seconds; those that ended before are seen."""

        async def act() -> Answer:
            check_where(where)
            if not 1 <= len(set(job_ids)) <= WAITED_FOR:
                raise Invalid(f"give 1 to {WAITED_FOR} job ids", hint="See list_jobs.")
            known = await self.desk.call(lambda app: [i for i in dict.fromkeys(job_ids) if visible(app, where, i)])
            wanted = min(1, len(known)) if any else len(known)
            found = await self.desk.looking(
                lambda app: app.coordinator.looking(known),
                enough=lambda ends: len(ends) >= wanted,
                seconds=max(0.0, min(seconds, LONGEST_WAIT)),
            )
            return await self.desk.call(lambda app: _waited(app, list(dict.fromkeys(job_ids)), known, found, wanted))

        return await self._answered(act)

    # ------------------------------------------------------------------ answering

    async def _answered(self, act: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """What was done, or in words why it was not."""
        try:
            return await act()
        except ValidationError as error:
            return refused(f"{explain(error)}. Correct that and call again.")
        except Unavailable as error:
            return unavailable(f"{in_words(error)} Try again later.")
        except AgentqError as error:
            return refused(in_words(error))
        except Exception as error:
            LOG.exception("agentq: a chat's call failed")
            return unavailable(f"agentq failed ({type(error).__name__}), which its operator finds in the log.")


def _check(coordinator: str, modes: Sequence[str], priority: str, limit: int) -> None:
    if not is_key(coordinator, 64):
        raise Invalid(f"{coordinator!r} is no name of a coordinator", hint="Letters, digits, '.', '_' and '-'.")
    if unknown := [mode for mode in modes if mode not in WAYS]:
        raise Invalid(f"{unknown[0]!r} is no way to tell a thread", hint=f"One of: {', '.join(WAYS)}.")
    if priority not in PRIORITIES:
        raise Invalid(f"{priority!r} is no priority", hint=f"One of: {', '.join(PRIORITIES)}.")
    if limit < 1:
        raise Invalid("a thread must be allowed at least one open job", hint="Give a limit of 1 or more.")


def _read(model: type[M], said: M | Mapping[str, Any] | None) -> M:
    return said if isinstance(said, model) else model.model_validate({} if said is None else said)


def _next(envelope: Envelope) -> str:
    """What a model does once a job is started: anything but ask for it."""
    if envelope.reply_to is None:
        return "Started. Its end is told to nobody: name it in `after` of another job, or wait for it."
    waits = (
        f" It starts when {', '.join(envelope.depends_on)} completed, with their results."
        if envelope.depends_on
        else ""
    )
    return f"Started.{waits} Do not poll, go on: this conversation is told when it has ended."


def _approval(app: App, task_id: str) -> str:
    """That a person must approve a task, and how."""
    with contextlib.suppress(NotFound):
        why = app.why(task_id)
        if why.next.startswith("agentq approve"):
            return f"A person must approve {task_id}, you cannot. Tell them to run: {why.next}"
    return f"A person must approve {task_id} before it starts, you cannot: agentq why {task_id} tells them how."


def _waited(app: App, job_ids: Sequence[str], known: Sequence[str], found: Sequence[Completion], wanted: int) -> Answer:
    ends = {manifest.task_id: manifest for manifest in found}
    jobs = [
        not_found(job_id) if job_id not in known else short(ends.get(job_id) or app.coordinator.status(job_id))
        for job_id in job_ids
    ]
    if not known:
        return {"status": "not_found", "jobs": jobs, "message": "There are no such jobs."}
    if len(ends) >= wanted:
        return {"status": "ended", "jobs": jobs, "message": "Read what came of each with poll_job_status."}
    return {
        "status": "waiting",
        "jobs": jobs,
        "message": "Some have not ended yet, and go on. Go on too, or wait once more.",
    }
