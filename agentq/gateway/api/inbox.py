"""The unread completions of whoever asks."""

from pydantic import RootModel

from agentq.errors import NotFound
from agentq.gateway.operations import COORDINATORS, Call, Operation
from agentq.messages import Completion


class Unread(RootModel[list[Completion]]):
    """Completions, as `agentq inbox --json` prints them."""


async def _list(call: Call) -> list[Completion]:
    name = call.grant.name
    return await call.gateway.desk.call(lambda app: list(app.coordinator.inbox(name)))


async def _acknowledge(call: Call) -> None:
    name, task_id = call.grant.name, call.path["task_id"]
    if task_id not in await call.gateway.desk.call(lambda app: list(app.records.inbox(name))):
        raise NotFound(f"not in the inbox of {name}: {task_id}", hint="See: GET /api/inbox")
    await call.gateway.desk.call(lambda app: app.coordinator.acknowledge(name, task_id))


OPERATIONS = (
    Operation(
        "GET",
        "/api/inbox",
        "Your completions that nobody has acknowledged, oldest first",
        _list,
        answer=Unread,
        tag="inbox",
        raises=(502,),
    ),
    Operation(
        "DELETE",
        "/api/inbox/{task_id}",
        "Acknowledge a completion",
        _acknowledge,
        COORDINATORS,
        status=204,
        tag="inbox",
    ),
)
