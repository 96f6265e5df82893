"""Waits as tasks of the protocol: the extension `io.modelcontextprotocol/tasks` of version 2026-07-28.

A wait's id holds what is waited for and since when: nothing about it is kept here, so it outlives this server.
"""

import base64
import binascii
import json
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CancelTaskRequestParams,
    GetTaskRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentq.desk import Desk
from agentq.errors import AgentqError, NotFound
from agentq.integrations.mcp.arguments import checked
from agentq.integrations.mcp.waiting import Waited, look
from agentq.integrations.mcp.words import told
from agentq.messages import utc_now

EXTENSION = "io.modelcontextprotocol/tasks"
POLL_MS = 2000
LONGEST_ID = 2048
"""Characters of a wait's id, which travels in a header; who waits for more tasks than fit is answered as ever."""
KEPT = 1000
"""How many cancelled waits are remembered."""
_MARK = "wait."

Context = ServerRequestContext[Any, Any]


class Update(GetTaskRequestParams):
    """`tasks/update`: a wait asks nothing of its client, so what comes is acknowledged and unread."""


class Waits:
    """The waits that clients run as tasks."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._cancelled: OrderedDict[str, datetime] = OrderedDict()

    def add_to(self, server: Server[Any]) -> None:
        """Let a server offer the extension."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", GetTaskRequestParams, self._get)
        server.add_request_handler("tasks/update", Update, self._update)
        server.add_request_handler("tasks/cancel", CancelTaskRequestParams, self._cancel)

    async def begin(self, ctx: Context, waited: Waited) -> dict[str, Any] | None:
        """The task that a wait becomes; None when the client knows no tasks, when it is over already, or is too long.

        Raises NotFound for a task that nobody submitted.
        """
        began = utc_now()
        wait_id = id_of(waited, began)
        if not is_declared(ctx) or len(wait_id) > LONGEST_ID:
            return None
        answer, where = await look(self._desk, waited)
        return None if answer is not None else {"resultType": "task", **_task(wait_id, began, "working", where)}

    async def _get(self, ctx: Context, params: GetTaskRequestParams) -> dict[str, Any]:
        waited, began = self._known(ctx, params.task_id)
        if params.task_id in self._cancelled:
            return _task(params.task_id, began, "cancelled", "nobody waits any more; the tasks themselves go on")
        try:
            answer, where = await look(self._desk, waited)
        except NotFound as error:
            raise MCPError(INVALID_PARAMS, told(error)) from error
        except AgentqError as error:  # the store is away: the wait goes on
            return _task(params.task_id, began, "working", told(error))
        if answer is None:
            return _task(params.task_id, began, "working", where)
        result = {"content": [{"type": "text", "text": answer}], "isError": False}
        return {**_task(params.task_id, began, "completed", where), "result": result}

    async def _update(self, ctx: Context, params: Update) -> dict[str, Any]:
        self._known(ctx, params.task_id)
        return {}

    async def _cancel(self, ctx: Context, params: CancelTaskRequestParams) -> dict[str, Any]:
        self._known(ctx, params.task_id)
        self._cancelled[params.task_id] = utc_now()
        while len(self._cancelled) > KEPT:
            self._cancelled.popitem(last=False)
        return {}

    def _known(self, ctx: Context, wait_id: str) -> tuple[Waited, datetime]:
        """What a client's wait is for and since when; it must know tasks, and the id must be one of a wait."""
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)
        if not is_declared(ctx):
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
        return waited_by(wait_id)


def is_declared(ctx: Context) -> bool:
    """Whether the client said with this request that it knows tasks."""
    known = ctx.session.client_capabilities
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and EXTENSION in ((known and known.extensions) or {})


def id_of(waited: Waited, began: datetime) -> str:
    """The id of a wait."""
    said = json.dumps([int(began.timestamp()), int(waited.any), *waited.ids], separators=(",", ":"))
    return _MARK + base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def waited_by(wait_id: str) -> tuple[Waited, datetime]:
    """What a wait's id holds; raises MCPError for what is none."""
    try:
        code = wait_id.removeprefix(_MARK)
        began, is_any, *ids = json.loads(base64.b64decode(code + "=" * (-len(code) % 4), b"-_", validate=True))
        waited = Waited(tuple(checked(one) for one in ids), bool(is_any))
        if not ids or not wait_id.startswith(_MARK):
            raise ValueError(wait_id)
        return waited, datetime.fromtimestamp(began, UTC)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError, binascii.Error, AgentqError) as error:
        raise MCPError(INVALID_PARAMS, "Failed to retrieve task: there is no such wait; call wait again") from error


def _task(wait_id: str, began: datetime, status: str, where: str) -> dict[str, Any]:
    return {
        "taskId": wait_id,
        "status": status,
        "statusMessage": where,
        "createdAt": began.isoformat(),
        "lastUpdatedAt": utc_now().isoformat(),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }
