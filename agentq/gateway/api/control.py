"""Cancelling and retrying tasks, and approving or rejecting them."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from starlette.responses import Response

from agentq.gateway.api.idempotency import IDEMPOTENCY, id_of
from agentq.gateway.api.shapes import Given, Made, Text, Told
from agentq.gateway.api.tasks import made
from agentq.gateway.operations import APPROVERS, COORDINATORS, Call, Operation
from agentq.lifecycle import Status
from agentq.messages import TaskId

if TYPE_CHECKING:
    from agentq.app import App


class Cancel(Given):
    """Why a task is cancelled."""

    reason: Text | None = None
    allow_secrets: bool = False


class Retry(Given):
    """The id of the new task; one is made without it."""

    id: TaskId | None = None


class Approve(Given):
    """What was seen, as `GET …/request` shows it: another digest is refused."""

    digest: Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")]


class Reject(Given):
    """Why it must not be done."""

    reason: Annotated[Text, Field(pattern=r"\S")]
    allow_secrets: bool = False


class Approved(Told):
    """The approval that holds."""

    task_id: TaskId
    by: str
    at: str
    digest: str


async def _cancel(call: Call) -> Status:
    task_id, asked, by = call.path["task_id"], call.body, call.grant.name

    def act(app: "App") -> Status:
        manifest = app.hands.cancel(task_id, by, asked.reason, allow_secrets=asked.allow_secrets)
        stop = {name: getattr(manifest, name, None) for name in ("stopped", "stop_seconds")}
        return app.coordinator.status(task_id).model_copy(update=stop)

    return await call.gateway.desk.call(act)


async def _retry(call: Call) -> Response:
    desk, task_id = call.gateway.desk, call.path["task_id"]
    new_id = await desk.call(lambda app: id_of(call, "task", call.body.id, app.records.is_registered))
    request = await desk.call(lambda app: app.coordinator.retry(task_id, new_id))
    registered = await desk.submit(request, allow_secrets=True)  # it was written down before
    return await made(desk, registered.envelope.task_id, new=registered.new)


async def _approve(call: Call) -> dict[str, Any]:
    task_id, by, digest = call.path["task_id"], call.grant.name, call.body.digest
    approval = await call.gateway.desk.call(lambda app: app.hands.approve(task_id, by, digest))
    return {"task_id": task_id, **approval.model_dump(mode="json", include={"by", "at", "digest"})}


async def _reject(call: Call) -> Status:
    task_id, asked, by = call.path["task_id"], call.body, call.grant.name

    def act(app: "App") -> Status:
        app.hands.reject(task_id, by, asked.reason, allow_secrets=asked.allow_secrets)
        return app.coordinator.status(task_id)

    return await call.gateway.desk.call(act)


OPERATIONS = (
    Operation(
        "POST",
        "/api/tasks/{task_id}/cancel",
        "Cancel a task, or a plan with all its tasks",
        _cancel,
        COORDINATORS,
        body=Cancel,
        answer=Status,
        tag="control",
        raises=(409, 502),
        about="Final at once unless it runs; then its worker stops it, and `cancel_asked` is true until it has."
        " Repeating it changes nothing; 409 when it ended otherwise.",
    ),
    Operation(
        "POST",
        "/api/tasks/{task_id}/retry",
        "Ask again for a task that has ended, as a new one",
        _retry,
        COORDINATORS,
        body=Retry,
        answer=Made,
        status=201,
        also=(200,),
        tag="control",
        headers=(IDEMPOTENCY,),
        raises=(409, 502),
    ),
    Operation(
        "POST",
        "/api/tasks/{task_id}/approve",
        "Let a task start that waits for an approval",
        _approve,
        APPROVERS,
        body=Approve,
        answer=Approved,
        tag="control",
        raises=(409, 502),
    ),
    Operation(
        "POST",
        "/api/tasks/{task_id}/reject",
        "End a task that waits for an approval",
        _reject,
        APPROVERS,
        body=Reject,
        answer=Status,
        tag="control",
        raises=(409, 502),
    ),
)
