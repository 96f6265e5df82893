"""Dead letters: looked at, tried again, removed."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agentq.engine import DeadLetter
from agentq.errors import NotFound
from agentq.gateway.api.shapes import Given, Told
from agentq.gateway.operations import COORDINATORS, Call, Operation
from agentq.harmless import one_line
from agentq.messages import TaskId

if TYPE_CHECKING:
    from agentq.app import App

SHOWN = 64 * 1024
"""Bytes of a body that are shown."""


class Letter(Told):
    """A dead letter; its `body` is somebody's words, cut after 64 KiB."""

    id: str
    agent: str
    reason: str
    at: str | None
    task_id: str | None
    body: str


class Which(Given):
    """How many of the oldest are shown; with none they are only counted."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 1000


class Letters(Told):
    """The oldest dead letters, and how many there are."""

    dead_letters: list[Letter]
    count: int


class Retried(Told):
    """The task that a dead letter became."""

    id: str
    task_id: TaskId


async def _letters(call: Call) -> list[DeadLetter]:
    desk = call.gateway.desk

    async def ask() -> list[DeadLetter]:
        return await (await desk.engine()).dead_letters()

    return await desk.run(ask)


async def _list(call: Call) -> dict[str, Any]:
    limit = call.query.limit
    if not limit:
        return {"dead_letters": [], "count": await _count(call)}
    found = await _letters(call)
    return {"dead_letters": [_plain(letter) for letter in found[:limit]], "count": len(found)}


async def _count(call: Call) -> int:
    desk = call.gateway.desk

    async def ask() -> int:
        return await (await desk.engine()).count_dead_letters()

    return await desk.run(ask)


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "agent": letter.agent,
        "reason": letter.reason,
        "at": letter.at.isoformat() if letter.at else None,
        "task_id": letter.task_id,
        "body": letter.body[:SHOWN].decode(errors="backslashreplace"),
    }


async def _one(call: Call) -> DeadLetter:
    asked = call.path["id"]
    found = next((letter for letter in await _letters(call) if letter.id == asked), None)
    if found is None:
        raise NotFound(f"there is no dead letter {one_line(asked)[:128]}", hint="See: GET /api/dead-letters")
    return found


async def _retry(call: Call) -> Retried:
    letter = await _one(call)

    def act(app: "App") -> str:
        return asyncio.run(app.dead_letters.retry(letter)).task_id

    task_id = await call.gateway.desk.call(act)
    await _drop(call, letter)
    return Retried(id=letter.id, task_id=task_id)


async def _remove(call: Call) -> None:
    await _drop(call, await _one(call))


async def _drop(call: Call, letter: DeadLetter) -> None:
    desk = call.gateway.desk

    async def remove() -> int:
        return await (await desk.engine()).remove_dead_letters([letter.id])

    await desk.run(remove)


OPERATIONS = (
    Operation(
        "GET",
        "/api/dead-letters",
        "The dead letters that there are",
        _list,
        query=Which,
        answer=Letters,
        tag="dead letters",
    ),
    Operation(
        "POST",
        "/api/dead-letters/{id}/retry",
        "Ask again for what a dead letter asked for, and remove it",
        _retry,
        COORDINATORS,
        answer=Retried,
        tag="dead letters",
        raises=(409, 502),
        about="A task that has ended becomes a new one, one that has not is handed to its queue again.",
    ),
    Operation(
        "DELETE",
        "/api/dead-letters/{id}",
        "Remove a dead letter; the papers of its task stay",
        _remove,
        COORDINATORS,
        status=204,
        tag="dead letters",
    ),
)
