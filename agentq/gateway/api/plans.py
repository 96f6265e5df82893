"""Plans: tasks that wait for each other, asked for and shown as one."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from starlette.responses import Response

from agentq.errors import NoSuchTask, NotFound
from agentq.gateway.api.shapes import Given, Made, Told
from agentq.gateway.api.tasks import made
from agentq.gateway.operations import COORDINATORS, Call, Operation
from agentq.messages import Envelope, TaskId
from agentq.plans import Planned, read_plan

if TYPE_CHECKING:
    from agentq.app import App


class NewPlan(Given):
    """A plan as `agentq plan submit` takes it, as YAML or JSON text; nothing in it may name a file."""

    plan: Annotated[str, Field(min_length=1, max_length=1 << 20)]
    id: TaskId | None = None
    allow_secrets: bool = False


class Member(Told):
    """A task of a plan, and the tasks that it waits for."""

    task_id: TaskId
    agent: str
    type: str
    state: str
    waits_for: str | None
    needs: list[TaskId]


class Plan(Told):
    """A plan with its tasks in order."""

    task_id: TaskId
    description: str
    state: str
    tasks: list[Member]


async def _create(call: Call) -> Response:
    desk, asked, name = call.gateway.desk, call.body, call.grant.name
    planned = await desk.call(lambda app: _read(app, asked, name))
    registered = await desk.submit_plan(planned.request, planned.contexts, allow_secrets=asked.allow_secrets)
    return await made(desk, registered.envelope.task_id, new=registered.new)


def _read(app: "App", asked: NewPlan, name: str) -> Planned:
    return read_plan(
        app.store,
        asked.plan.encode(),
        allow_secrets=asked.allow_secrets,
        coordinator=name,
        check_target=app.agents.check_target,
        plan_id=asked.id,
        is_ours=False,
        called="plan",
    )


async def _show(call: Call) -> dict[str, Any]:
    task_id = call.path["task_id"]
    group, state = await call.gateway.desk.call(lambda app: _group(app, task_id))
    rows = await call.gateway.books.read(lambda ledger: ledger.members(task_id, len(group.plan) + 1), partly=True)
    stands = {row.task_id: (row.state, row.waits_for) for row in rows}
    return {
        "task_id": task_id,
        "description": group.instructions or "",
        "state": state,
        "tasks": [_member(task, *stands.get(task.task_id, ("pending", None))) for task in group.plan],
    }


def _member(task: Envelope, state: str, waits_for: str | None) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "agent": task.to,
        "type": task.type,
        "state": state,
        "waits_for": waits_for,
        "needs": task.depends_on,
    }


def _group(app: "App", task_id: str) -> tuple[Envelope, str]:
    try:
        envelope = app.coordinator.envelope(task_id)
    except NoSuchTask as error:
        raise NotFound(f"there is no plan {task_id}", hint="See: GET /api/tasks?plans=true") from error
    if not envelope.is_group:
        raise NotFound(f"{task_id} is no plan", hint=f"See: GET /api/tasks/{task_id}")
    return envelope, app.coordinator.status(task_id).state


OPERATIONS = (
    Operation(
        "POST",
        "/api/plans",
        "Ask for tasks that wait for each other",
        _create,
        COORDINATORS,
        body=NewPlan,
        answer=Made,
        status=201,
        also=(200,),
        tag="plans",
        raises=(404, 409, 502),
    ),
    Operation("GET", "/api/plans/{task_id}", "A plan and where its tasks stand", _show, answer=Plan, tag="plans"),
)
