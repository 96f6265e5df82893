"""Threads: opening them, writing in them, asking agents, and what becomes of the description."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from agentq.errors import Invalid, Unavailable
from agentq.events import Event
from agentq.gateway.answering import answered
from agentq.gateway.api.idempotency import IDEMPOTENCY, id_of
from agentq.gateway.api.shapes import Agent, Given, Text, Told
from agentq.gateway.operations import COORDINATORS, Call, Operation
from agentq.gateway.problems import MEDIA_TYPE, problem_of
from agentq.messages import TaskId
from agentq.threads.gathering import Summary, summaries
from agentq.threads.papers import PIECE_LIMIT, TEXT_LIMIT, TITLE_LIMIT, AskType, Id, NotAsked, Version
from agentq.threads.reading import Described, Papers, Shown, View, shown, view
from agentq.threads.streams import OffsetTaken

if TYPE_CHECKING:
    from agentq.gateway.chronicle import Chronicle
    from agentq.threads.threads import Opened, Posted, Threads

LISTED = 100
Long = Annotated[str, Field(max_length=TEXT_LIMIT)]


class NewThread(Given):
    """A thread as it is opened; `refinements` says what becomes of descriptions that agents propose."""

    title: Annotated[str, Field(min_length=1, max_length=TITLE_LIMIT)]
    description: Long = ""
    id: Id | None = None
    refinements: Literal["ask", "accept"] = "ask"
    allow_secrets: bool = False


class NewMessage(Given):
    """A message; one that is `generating` begins empty and grows, and asks whom it mentions when it is complete."""

    text: Long = ""
    state: Literal["completed", "generating"] = "completed"
    id: Id | None = None
    allow_secrets: bool = False


class Asking(Given):
    """An agent that is asked by itself, with words if there are any."""

    agent: Agent
    text: Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)] | None = None
    id: Id | None = None
    allow_secrets: bool = False


class Addition(Given):
    """What is appended to a message, and behind how many characters."""

    offset: Annotated[int, Field(ge=0, le=TEXT_LIMIT)]
    text: Annotated[str, Field(min_length=1, max_length=PIECE_LIMIT)]
    allow_secrets: bool = False


class Ending(Given):
    """How a message that grew ends."""

    state: Literal["completed", "failed"]
    reason: Text | None = None
    allow_secrets: bool = False


class Change(Given):
    """A text in the place of the version `base` of the description, or the acceptance of what a task proposes."""

    base: Annotated[int, Field(ge=0, lt=2**31)]
    text: Long | None = None
    accepts: TaskId | None = None
    allow_secrets: bool = False

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "Change":
        if (self.text is None) == (self.accepts is None):
            raise ValueError("give text, or accepts: one of them")
        return self


class Decline(Given):
    """A task whose proposal is not wanted."""

    task_id: TaskId
    reason: Text | None = None
    allow_secrets: bool = False


class Listing(Told):
    """Threads, the one with the newest message first."""

    threads: list[Summary]


class Written(Told):
    """A message as it stands, and whom it could not ask, and why."""

    message: Shown
    not_asked: tuple[NotAsked, ...]


class Grown(Told):
    """Where a message goes on."""

    message_id: str
    offset: int


# ---------------------------------------------------------------------- reading


async def _list(call: Call) -> Listing:
    return Listing(threads=await call.gateway.scribe.do(lambda threads: summaries(threads.shelf, LISTED)))


async def _read(call: Call) -> View:
    """The cursor is taken first: what comes behind it may be in the view already, and is never missing in both."""
    thread_id, hub = call.path["thread_id"], call.gateway.hub
    try:
        cursor: str | None = hub.cursor(f"/threads/{thread_id}")
    except Invalid:  # no such thread can be
        cursor = None
    papers = await call.gateway.scribe.do(lambda threads: threads.papers(thread_id))
    return view(papers, await _replies(call, papers), cursor)


async def _replies(call: Call, papers: Papers) -> dict[str, list[Event]]:
    """What is told of the answers that have no text of their own; nothing while it cannot be read."""
    wanted = [
        task_id
        for task_id, answer in papers.answers.items()
        if answer.manifest is None or answer.manifest.status != "completed"
    ]

    def read(chronicle: "Chronicle") -> dict[str, list[Event]]:
        return {task_id: chronicle.texts(task_id, "reply") for task_id in wanted}

    try:
        return await call.gateway.hub.read(read) if wanted else {}
    except Unavailable:
        return {}


# ---------------------------------------------------------------------- writing


async def _open(call: Call) -> Response:
    asked: NewThread = call.body

    def open_(threads: "Threads") -> "Opened":
        return threads.open(
            asked.title,
            call.grant.name,
            description=asked.description,
            thread_id=id_of(call, "thr", asked.id, threads.shelf.find),
            refinements=asked.refinements,
            allow_secrets=asked.allow_secrets,
        )

    opened = await call.gateway.scribe.do(open_)
    return answered(view(Papers(opened.thread)), 201 if opened.new else 200)


async def _post(call: Call) -> Response:
    asked: NewMessage = call.body

    def post(threads: "Threads") -> "Posted":
        return threads.post(
            call.path["thread_id"],
            call.grant.name,
            asked.text,
            message_id=_message_id(call, asked.id, threads),
            kind=threads.kind_of(call.grant.agent or call.grant.name),
            state=asked.state,
            allow_secrets=asked.allow_secrets,
        )

    return _written(await call.gateway.scribe.do(post))


def _written(posted: "Posted") -> Response:
    written = Written(message=shown(posted.post), not_asked=posted.post.not_asked)
    return answered(written, 201 if posted.new else 200)


def _asks(kind: AskType, words: str) -> Any:
    """The operation that asks one agent in that way; without a text it says those words."""

    async def ask(call: Call) -> Response:
        asked: Asking = call.body

        def post(threads: "Threads") -> "Posted":
            return threads.post(
                call.path["thread_id"],
                call.grant.name,
                words.format(agent=asked.agent) if asked.text is None else asked.text,
                message_id=_message_id(call, asked.id, threads),
                kind=threads.kind_of(call.grant.agent or call.grant.name),
                named=(asked.agent, kind),
                allow_secrets=asked.allow_secrets,
            )

        return _written(await call.gateway.scribe.do(post))

    return ask


def _message_id(call: Call, given: str | None, threads: "Threads") -> str | None:
    return id_of(call, "m", given, lambda keyed: threads.shelf.posted(call.path["thread_id"], keyed))


async def _append(call: Call) -> Response:
    asked: Addition = call.body
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]

    def append(threads: "Threads") -> int:
        by, allow_secrets = call.grant.name, asked.allow_secrets
        return threads.append(thread_id, message_id, by, asked.offset, asked.text, allow_secrets=allow_secrets)

    try:
        offset = await call.gateway.scribe.do(append)
    except OffsetTaken as error:
        return JSONResponse(problem_of(error) | {"offset": error.offset}, 409, media_type=MEDIA_TYPE)
    return answered(Grown(message_id=message_id, offset=offset), 200)


async def _end(call: Call) -> Shown:
    asked: Ending = call.body
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]

    def end(threads: "Threads") -> Shown:
        by, allow_secrets = call.grant.name, asked.allow_secrets
        ended = threads.end(thread_id, message_id, by, asked.state, asked.reason, allow_secrets=allow_secrets)
        return shown(threads.own(thread_id, message_id, by), ended)

    return await call.gateway.scribe.do(end)


# ---------------------------------------------------------------------- the description


async def _change(call: Call) -> Described:
    asked: Change = call.body
    thread_id, by = call.path["thread_id"], call.grant.name

    def change(threads: "Threads") -> Version:
        if asked.accepts is not None:
            return threads.accept(thread_id, asked.accepts, by, asked.base)
        return threads.describe(thread_id, asked.text or "", asked.base, by, allow_secrets=asked.allow_secrets)

    version = await call.gateway.scribe.do(change)
    return Described(
        number=version.number, text=version.text, by=version.by, at=version.at, from_task=version.from_task
    )


async def _decline(call: Call) -> None:
    asked: Decline = call.body
    thread_id, by = call.path["thread_id"], call.grant.name
    await call.gateway.scribe.do(
        lambda threads: threads.decline(thread_id, asked.task_id, by, asked.reason, allow_secrets=asked.allow_secrets)
    )


# ---------------------------------------------------------------------- all of it

_ABOUT_ASKING = (
    " It answers as soon as the message stands, whether the broker is there or not; the agent's answer is in the thread"
    " at once, `generating`, and is `completed` or `failed` by its task."
)


def _asking(name: str, kind: AskType, summary: str, words: str) -> Operation:
    return Operation(
        "POST",
        f"/api/threads/{{thread_id}}/{name}",
        summary,
        _asks(kind, words),
        COORDINATORS,
        body=Asking,
        answer=Written,
        status=201,
        also=(200,),
        headers=(IDEMPOTENCY,),
        tag="threads",
        raises=(404, 409, 502),
        about=f"A message of the caller's that gives the agent a task of type `{kind}`.{_ABOUT_ASKING}",
    )


OPERATIONS = (
    Operation(
        "POST",
        "/api/threads",
        "Open a thread",
        _open,
        COORDINATORS,
        body=NewThread,
        answer=View,
        status=201,
        also=(200,),
        headers=(IDEMPOTENCY,),
        tag="threads",
        raises=(409, 502),
    ),
    Operation("GET", "/api/threads", "List threads", _list, answer=Listing, tag="threads", raises=(502,)),
    Operation(
        "GET",
        "/api/threads/{thread_id}",
        "Read a thread",
        _read,
        answer=View,
        tag="threads",
        raises=(404, 502),
        about="What is still being written is here as far as it is; `cursor` is what to give as `since` to"
        " `/threads/{thread_id}`, and pieces that begin before a message's `offset` are in its text already.",
    ),
    Operation(
        "POST",
        "/api/threads/{thread_id}/messages",
        "Post a message",
        _post,
        COORDINATORS,
        body=NewMessage,
        answer=Written,
        status=201,
        also=(200,),
        headers=(IDEMPOTENCY,),
        tag="threads",
        raises=(404, 409, 502),
        about=f"Every `@agent` in it, outside of code, quotations and addresses, gets a `mention` task.{_ABOUT_ASKING}",
    ),
    Operation(
        "PATCH",
        "/api/threads/{thread_id}/messages/{message_id}",
        "Append to a message of one's own that is generating",
        _append,
        COORDINATORS,
        body=Addition,
        answer=Grown,
        tag="threads",
        raises=(404, 409, 502),
        about="Of two who append at one offset the first one is taken; 409 has the true `offset`. A repeat of what"
        " stands there is none. A message of which nothing is heard for a minute is ended as failed.",
    ),
    Operation(
        "POST",
        "/api/threads/{thread_id}/messages/{message_id}/end",
        "End a message of one's own that is generating",
        _end,
        COORDINATORS,
        body=Ending,
        answer=Shown,
        tag="threads",
        raises=(404, 409, 502),
        about="Then it asks whom it mentions. The first end holds: repeating it changes nothing, another one is 409.",
    ),
    _asking("assign", "assignment", "Assign a thread to an agent", "Assigned to {agent}."),
    _asking("run", "manual", "Have an agent act on a thread now", "{agent}, have a look at this."),
    _asking("refine", "refinement", "Have an agent propose a better description", "{agent}, refine the description."),
    Operation(
        "POST",
        "/api/threads/{thread_id}/description",
        "Change the description, or accept what a task proposes",
        _change,
        COORDINATORS,
        body=Change,
        answer=Described,
        tag="threads",
        raises=(404, 409, 502),
        about="`base` is the number of the version that is replaced: 409 when another one is current by now.",
    ),
    Operation(
        "POST",
        "/api/threads/{thread_id}/description/decline",
        "Decline what a task proposes",
        _decline,
        COORDINATORS,
        body=Decline,
        tag="threads",
        status=204,
        raises=(404, 409, 502),
    ),
)
