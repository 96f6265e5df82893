"""Asking for tasks, and reading where they stand."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from agentq.asking import Asked, Words, request_for
from agentq.context import Context, check_text
from agentq.desk import Desk
from agentq.errors import Invalid
from agentq.events import Event
from agentq.gateway.answering import answered
from agentq.gateway.api.idempotency import IDEMPOTENCY, id_of
from agentq.gateway.api.shapes import Agent, Duration, Events, Given, Listed, Made, Moment, Plain, Told
from agentq.gateway.operations import COORDINATORS, Call, Operation
from agentq.ledger import Filter, Ledger
from agentq.ledger.timeline import Timeline
from agentq.lifecycle import Status
from agentq.messages import Envelope, Name, Priority, TaskId
from agentq.observing.plain import plain
from agentq.request import is_url, past
from agentq.store import Store
from agentq.why import Why

if TYPE_CHECKING:
    from agentq.app import App

SHOWN = 256 * 1024
"""Characters of a context that are shown."""
_WORDS = Words(
    name=lambda part: "id" if part == "task_id" else part,
    give_something="Say what: instructions, context, or both.",
    see="Correct it and ask again: nothing was written. See: /openapi.json",
)


class NewTask(Given):
    """A task as it is asked for, as `agentq submit` takes it."""

    to: Agent
    type: Name
    instructions: Annotated[str, Field(min_length=1, max_length=1 << 20)] | None = None
    id: TaskId | None = None
    priority: Priority = "normal"
    ttl: Duration | None = None
    timeout: Duration | None = None
    delay: Duration | None = None
    at: Annotated[str, Field(max_length=64, description="Not before that time, in ISO 8601.")] | None = None
    after: Annotated[tuple[TaskId, ...], Field(max_length=1000)] = ()
    run_if: Literal["completed", "always", "changes_requested"] | None = None
    expect: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    format: Annotated[str, Field(min_length=1, max_length=64)] = "markdown"
    labels: Annotated[dict[str, str], Field(max_length=100)] = Field(default_factory=dict)
    requires_approval: bool = False
    context: Annotated[str, Field(description="The context document, as text.")] | None = None
    repo: Annotated[str, Field(max_length=4096, description="A URL, or a folder on the worker's machine.")] | None = (
        None
    )
    base: Annotated[str, Field(max_length=256)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    review_by: Agent | None = None
    rounds: Annotated[int, Field(ge=1, le=10)] | None = None
    review_type: Name | None = None
    allow_secrets: bool = False


class Wanted(Given):
    """Which tasks are meant; all conditions must hold, of several states one."""

    state: Annotated[
        tuple[str, ...],
        Field(
            max_length=20,
            description="A state, open, ended, queued, delayed, dependencies, approval or lease. Repeatable.",
        ),
    ] = ()
    agent: Agent | None = None
    type: Name | None = None
    label: Annotated[tuple[Plain, ...], Field(max_length=20, description="key or key=value. Repeatable.")] = ()
    text: Annotated[str, Field(min_length=1, max_length=256, description="Words in id, title, summary, reason.")] | (
        None
    ) = None
    sender: Name | None = None
    plan: TaskId | None = None
    plans: bool = False
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Annotated[TaskId, Field(description="Go on below this task.")] | None = None


class Request(Told):
    """What a task asks for, exactly: the envelope, and its context, of which only the beginning is shown when it is
    `cut`; `digest` is what an approval covers, null unless it waits for one."""

    envelope: dict[str, Any]
    context: str | None
    cut: bool
    digest: str | None


# ---------------------------------------------------------------------- asking


async def _create(call: Call) -> Response:
    asked: NewTask = call.body
    desk = call.gateway.desk
    task_id = await desk.call(lambda app: id_of(call, "task", asked.id, app.records.is_registered))
    request, contexts = request_of(asked, task_id, coordinator=call.grant.name, store=desk.app.store)
    if request.is_group:
        registered = await desk.submit_plan(request, contexts, allow_secrets=asked.allow_secrets)
    else:
        registered = await desk.submit(request, contexts.get(request.task_id), allow_secrets=asked.allow_secrets)
    return await made(desk, registered.envelope.task_id, new=registered.new)


def request_of(
    asked: NewTask, task_id: str | None, *, coordinator: str, store: Store
) -> tuple[Envelope, dict[str, bytes]]:
    """The request that is asked for, and its contexts; raises Invalid."""
    if asked.repo is not None and ("\0" in asked.repo or not (asked.repo.startswith("/") or is_url(asked.repo))):
        raise Invalid("repo is no URL and no absolute path", hint="The gateway has no folder of yours: name it whole.")
    same = asked.model_dump(exclude={"id", "context", "allow_secrets", "repo"})
    if asked.repo is not None:  # a folder of the worker's machine is not to be looked up on this one
        same["labels"] = {**asked.labels, "repo": asked.repo}
    context = None if asked.context is None else _context(asked.context)
    return request_for(Asked(**same, task_id=task_id), context, coordinator=coordinator, store=store, words=_WORDS)


async def made(desk: Desk, task_id: str, *, new: bool) -> Response:
    """The answer to who asked for a task: 201 for a new one, 200 for one that was known."""
    state = "pending" if new else await desk.call(lambda app: str(app.coordinator.status(task_id).state))
    return answered(Made(task_id=task_id, new=new, state=state), 201 if new else 200)


def _context(text: str) -> Context:
    try:
        return Context(check_text(text.encode(), "context"))
    except UnicodeEncodeError as error:
        raise Invalid("context has half a character in it", hint="Send Unicode.") from error


# ---------------------------------------------------------------------- reading


async def _list(call: Call) -> dict[str, Any]:
    wanted: Wanted = call.query
    asked = Filter(
        states=wanted.state,
        agent=wanted.agent,
        type=wanted.type,
        sender=wanted.sender,
        group=wanted.plan,
        labels=wanted.label,
        since=seconds_of("since", wanted.since),
        until=seconds_of("until", wanted.until),
        text=wanted.text,
        plans=wanted.plans,
    )
    return await call.gateway.books.read(lambda ledger: _found(ledger, asked, wanted))


def _found(ledger: Ledger, asked: Filter, wanted: Wanted) -> dict[str, Any]:
    found = ledger.tasks(asked, wanted.limit + 1, wanted.before)
    shown, more = found[: wanted.limit], len(found) > wanted.limit
    return {
        "tasks": [plain(row) for row in shown],
        "next": shown[-1].task_id if more else None,
        "as_of": as_of(ledger),
    }


def as_of(ledger: Ledger) -> str | None:
    """When the ledger last had caught up with the log."""
    return ledger.as_of.isoformat() if ledger.as_of else None


def seconds_of(name: str, text: str | None) -> float | None:
    """A moment that a parameter names, in unix seconds; raises Invalid."""
    return None if text is None else past(name, text).timestamp()


async def _status(call: Call) -> Status:
    task_id = call.path["task_id"]
    return await call.gateway.desk.call(lambda app: app.coordinator.status(task_id))


async def _request(call: Call) -> dict[str, Any]:
    task_id = call.path["task_id"]
    return await call.gateway.desk.call(lambda app: _request_of(app, task_id))


def _request_of(app: "App", task_id: str) -> dict[str, Any]:
    status, envelope = app.coordinator.status(task_id), app.coordinator.envelope(task_id)
    data = b""
    if envelope.context_ref and (key := app.records.artifacts.key(envelope.context_ref, task_id)):
        data = app.store.get(key) or b""
    text = data[: 4 * SHOWN].decode(errors="replace")
    return {
        "envelope": envelope.model_dump(mode="json", by_alias=True),
        "context": text[:SHOWN] if envelope.context_ref else None,
        "cut": len(text) > SHOWN,
        "digest": status.digest,
    }


async def _why(call: Call) -> Why:
    task_id = call.path["task_id"]
    return await call.gateway.desk.call(lambda app: app.why(task_id))


async def _events(call: Call) -> dict[str, Any]:
    task_id = call.path["task_id"]
    events = await call.gateway.books.read(lambda ledger: ledger.events(task_id), partly=True)
    if not any(event.kind == "submitted" for event in events):
        events = await call.gateway.desk.call(lambda app: _told_by_papers(app, task_id)) or events
    progress = await asyncio.to_thread(call.gateway.hub.chronicle.progress, task_id)
    return {"events": [event.model_dump(mode="json") for event in Timeline.of([*events, *progress]).events]}


def _told_by_papers(app: "App", task_id: str) -> list[Event]:
    """What the papers tell of a task that the log does not know, or not any more; raises NotFound."""
    from agentq.rebuild import story_of

    app.coordinator.envelope(task_id)
    return list(story_of(app.records, task_id))


OPERATIONS = (
    Operation(
        "POST",
        "/api/tasks",
        "Ask for a task",
        _create,
        COORDINATORS,
        body=NewTask,
        answer=Made,
        status=201,
        also=(200,),
        headers=(IDEMPOTENCY,),
        raises=(404, 409, 502),
        about="It is registered and in its agent's queue when this answers, which never waits for the agent. With an"
        " `id` or an `Idempotency-Key` a repeat is harmless: the same content answers 200, another one 409. While the"
        " broker is away it is refused with 503, and nothing is lost that was accepted.",
    ),
    Operation("GET", "/api/tasks", "List tasks, newest first", _list, query=Wanted, answer=Listed, raises=(404,)),
    Operation(
        "GET",
        "/api/tasks/{task_id}",
        "Where a task stands, by its papers",
        _status,
        answer=Status,
    ),
    Operation(
        "GET",
        "/api/tasks/{task_id}/request",
        "What exactly a task asks for, and what an approval of it covers",
        _request,
        answer=Request,
    ),
    Operation("GET", "/api/tasks/{task_id}/why", "Why a task stands where it stands", _why, answer=Why),
    Operation(
        "GET",
        "/api/tasks/{task_id}/events",
        "What happened to a task",
        _events,
        answer=Events,
        about="With the newest 200 of what its attempts said that they do (`progress`).",
    ),
)
