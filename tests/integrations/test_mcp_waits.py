"""Waiting over MCP: bounded, cancelled, many at once, as tasks of the protocol, and while a server is away."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import anyio
import mcp_types as types
import pytest
from mcp.client import advertise
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError

from agentq.integrations.mcp.tasks import EXTENSION, id_of, waited_by
from agentq.integrations.mcp.waiting import Waited
from agentq.messages import utc_now
from tests.brokers.node import Node
from tests.desk import Desk, on
from tests.integrations.mcp_clients import MODES, PATIENCE, Progress, Served, eventually, over_http, over_stdio, submit

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}


@pytest.mark.promise("mcp-waits")
@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_ends_in_time_and_says_where_the_tasks_stand(desk: Desk, mode: Any) -> None:
    await submit(desk, "slow", "quick")
    async with over_stdio(desk, mode) as talk:
        said = await talk.ok("wait", ids=["slow"], seconds=0.2)
        assert said.startswith("not ended after 0.2 s:\nslow  pending  waits for: implementation-worker, queued\n")
        assert "call wait again" in said
        desk.finish("quick", "failed", reason="no compiler")
        said = await talk.ok("wait", ids=["slow", "quick", "slow"], any=True, seconds=10_000)
        assert said.splitlines()[0].startswith("quick failed, because")
        assert "| no compiler" in said
        assert "not ended" not in said


@pytest.mark.promise("mcp-waits")
@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_ends_when_its_client_cancels_it(desk: Desk, mode: Any) -> None:
    await submit(desk, "slow")
    async with over_stdio(desk, mode) as talk:
        progress = Progress()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def wait() -> None:
                    await talk.ok("wait", ids=["slow"], seconds=600, progress=progress)

                group.start_soon(wait)
                await asyncio.wait_for(progress.began.wait(), PATIENCE)
                scope.cancel()
        heard = len(progress.said)
        assert "slow  pending" in await talk.ok("status", ids=["slow"])
        assert "not ended after 6 s" in await talk.ok("wait", ids=["slow"], seconds=6)
        assert len(progress.said) == heard  # it would have said more in that time


@pytest.mark.promise("mcp-waits")
@pytest.mark.parametrize("mode", MODES)
async def test_fifty_waits_at_once_hold_up_nothing(any_desk: Desk, mode: Any) -> None:
    desk, ids = any_desk, [f"t{number}" for number in range(50)]
    await submit(desk, *ids)
    async with over_stdio(desk, mode) as talk:
        progress = Progress()
        waits = [asyncio.create_task(talk.ok("wait", ids=[one], seconds=60, progress=progress)) for one in ids]
        await asyncio.wait_for(progress.began.wait(), PATIENCE)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert "is queued" in await talk.ok("submit", **TASK, id="one-more")
        assert loop.time() - began < 20  # they wait for 60 s
        for one in ids:
            desk.finish(one)
        for one, said in zip(ids, await asyncio.wait_for(asyncio.gather(*waits), 60), strict=True):
            assert said.startswith(f"{one} completed")


# ---------------------------------------------------------------------- as tasks of the protocol


class _Made(types.Result):
    """What a server answers that makes a task of a call."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int | None = None
    poll_interval_ms: int | None = None


class _Get(types.Request[types.GetTaskRequestParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: types.GetTaskRequestParams
    name_param = "taskId"


class _Cancel(_Get):
    method: Literal["tasks/cancel"] = "tasks/cancel"  # type: ignore[assignment]


class _Update(_Get):
    method: Literal["tasks/update"] = "tasks/update"  # type: ignore[assignment]


class _Detailed(types.Result):
    task_id: str = ""
    status: str = ""
    status_message: str | None = None
    created_at: str = ""
    result: dict[str, Any] | None = None


class _Tasks(ClientExtension):
    """A client that polls the tasks that it is given."""

    identifier = EXTENSION

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.polled: list[_Detailed] = []
        self.meanwhile = meanwhile

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=_Made, resolve=self._poll)]

    async def _poll(self, made: _Made, context: ClaimContext) -> types.CallToolResult:
        while True:
            self.polled.append(await _ask(context.session, _Get, made.task_id))
            if self.polled[-1].status == "completed":
                return types.CallToolResult.model_validate(self.polled[-1].result)
            self.meanwhile()


async def _ask(session: Any, kind: Any, task_id: str) -> _Detailed:
    return await session.send_request(kind(params=types.GetTaskRequestParams(task_id=task_id)), _Detailed)


@pytest.mark.promise("mcp-tasks")
async def test_a_wait_is_a_task_for_a_client_that_knows_tasks(desk: Desk) -> None:
    await submit(desk, "slow")
    finish = iter([lambda: None, lambda: desk.finish("slow")])
    tasks = _Tasks(lambda: next(finish, lambda: None)())
    async with over_stdio(desk, extensions=[tasks]) as talk:
        assert EXTENSION in (talk.client.server_capabilities.extensions or {})
        assert (await talk.ok("wait", ids=["slow"], seconds=1)).startswith("slow completed  verified")
        assert [one.status for one in tasks.polled] == ["working", "working", "completed"]
        assert tasks.polled[0].status_message == "0 of 1 ended, 1 left: slow"
        assert len({(one.task_id, one.created_at) for one in tasks.polled}) == 1
        assert (await talk.ok("wait", ids=["slow"])).startswith("slow completed")  # at once, without a task
        assert len(tasks.polled) == 3
        assert "there is no task" in await talk.refused("wait", ids=["nope"])


@pytest.mark.promise("mcp-tasks")
async def test_a_task_is_polled_over_http_too(desk: Desk) -> None:
    await submit(desk, "slow")
    tasks = _Tasks(lambda: desk.finish("slow"))
    with Served(desk) as served:
        async with over_http(await asyncio.to_thread(lambda: served.url), extensions=[tasks]) as talk:
            assert (await talk.ok("wait", ids=["slow"])).startswith("slow completed  verified")
            assert [one.status for one in tasks.polled] == ["working", "completed"]
            cancelled = await _ask(talk.client.session, _Cancel, tasks.polled[0].task_id)
            assert (cancelled.task_id, cancelled.status) == ("", "")


@pytest.mark.promise("mcp-tasks")
async def test_a_task_outlives_the_server_and_ends_alone_when_it_is_cancelled(desk: Desk) -> None:
    await submit(desk, "slow", "other")
    async with over_stdio(desk, extensions=[_Tasks()]) as talk:
        made = await talk.client.session.call_tool("wait", {"ids": ["slow"]}, allow_claimed=True)
        assert isinstance(made, _Made)
        assert (made.status, made.ttl_ms) == ("working", None)
        other = await talk.client.session.call_tool("wait", {"ids": ["slow", "other"], "any": True}, allow_claimed=True)
        assert isinstance(other, _Made)
    async with over_stdio(desk, extensions=[_Tasks()]) as talk:
        session = talk.client.session
        assert (await _ask(session, _Get, made.task_id)).status == "working"
        await _ask(session, _Update, made.task_id)
        await _ask(session, _Cancel, made.task_id)
        assert (await _ask(session, _Get, made.task_id)).status == "cancelled"
        assert "slow  pending" in await talk.ok("status", ids=["slow"])
        desk.finish("slow")
        done = await _ask(session, _Get, other.task_id)
        assert done.status == "completed"
        assert done.result
        assert done.result["content"][0]["text"].startswith("slow completed")


@pytest.mark.parametrize("wait_id", ["", "wait.", "wait.x", "wait.W10", "wait.WzEsMF0", "slow", "wait." + "A" * 5000])
async def test_what_is_no_wait_is_refused(desk: Desk, wait_id: str) -> None:
    async with over_stdio(desk, extensions=[_Tasks()]) as talk:
        for kind in (_Get, _Cancel, _Update):
            with pytest.raises(MCPError) as refused:
                await _ask(talk.client.session, kind, wait_id)
            assert refused.value.error.code == types.INVALID_PARAMS
            assert "call wait again" in refused.value.error.message


async def test_tasks_are_only_for_who_declares_them(desk: Desk) -> None:
    wait_id = id_of(Waited(("slow",)), utc_now())
    assert waited_by(wait_id)[0] == Waited(("slow",))
    await submit(desk, "slow")
    for mode, code in (("auto", types.MISSING_REQUIRED_CLIENT_CAPABILITY), ("legacy", types.METHOD_NOT_FOUND)):
        async with over_stdio(desk, mode) as talk:
            with pytest.raises(MCPError) as refused:
                await _ask(talk.client.session, _Get, wait_id)
            assert refused.value.error.code == code
            assert "not ended" in await talk.ok("wait", ids=["slow"], seconds=0)
    async with over_stdio(desk, "legacy", extensions=[advertise(EXTENSION)]) as talk:
        assert "not ended" in await talk.ok("wait", ids=["slow"], seconds=0)


# ---------------------------------------------------------------------- while a server is away


@pytest.mark.promise("mcp-away")
async def test_the_tools_work_again_when_the_broker_is_back(
    broker_of_my_own: Callable[[], Node], tmp_path: Any
) -> None:
    node = await asyncio.to_thread(broker_of_my_own)
    desk = Desk(tmp_path, on(node))
    init = desk.start("init")
    await asyncio.to_thread(init.communicate)
    async with over_stdio(desk) as talk:
        await talk.ok("submit", **TASK, id="before")
        waiting = asyncio.create_task(talk.ok("wait", ids=["before"], seconds=120))
        await asyncio.to_thread(node.stop)
        refused = await talk.refused("submit", **TASK, id="during")
        assert "cannot be reached" in refused or "registered, but not known" in refused, refused
        assert "before  pending" in await talk.ok("status", ids=["before"])
        assert "engine does not answer" in await talk.ok("why", id="before")
        assert "the log cannot be read, and never was" in await talk.refused("list")
        desk.finish("before")
        assert (await waiting).startswith("before completed")
        assert "| All done." in await talk.ok("result", id="before")
        await asyncio.to_thread(node.start)

        async def is_queued() -> bool:
            return not (await talk.call("submit", **TASK, id="during"))[0]

        await eventually(is_queued)
        await eventually(lambda: asyncio.to_thread(desk.waiting))


@pytest.mark.promise("mcp-away")
async def test_the_tools_work_again_when_the_store_is_back(desk: Desk) -> None:
    await submit(desk, "before")
    away = desk.folder / "away"
    async with over_stdio(desk) as talk:
        assert "before  pending" in await talk.ok("status", ids=["before"])
        desk.shared.rename(away)
        desk.shared.write_text("not a folder")
        for tool, given in (
            ("submit", TASK),
            ("status", {"ids": ["before"]}),
            ("result", {"id": "before"}),
            ("inbox", {}),
            ("wait", {"ids": ["before"], "seconds": 1}),
            ("why", {"id": "before"}),
            ("cancel", {"id": "before"}),
        ):
            said = await talk.refused(tool, **given)
            assert "bug" not in said, (tool, said)
        assert (await talk.client.list_resources()).resources == []
        with pytest.raises(MCPError):
            await talk.client.read_resource("agentq://tasks/before/result")
        desk.shared.unlink()
        away.rename(desk.shared)
        assert "before  pending" in await talk.ok("status", ids=["before"])
        assert "is queued" in await talk.ok("submit", **TASK)
