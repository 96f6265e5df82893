"""A real worker's task over MCP: submitted, awaited, read and acknowledged by the official client."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.daemons.harness import Deployment, script, until
from tests.integrations.mcp_clients import MODES, Progress, over_stdio


@pytest.mark.promise("mcp-round")
@pytest.mark.parametrize("mode", MODES)
async def test_a_workers_result_is_awaited_and_read(deployment: Deployment, mode: Any) -> None:
    await asyncio.to_thread(deployment.start_worker)
    place = SimpleNamespace(folder=deployment.home, project=deployment.home, environment=deployment.environment)
    async with over_stdio(place, mode) as talk:
        asked = {
            "to": deployment.agent,
            "type": "work",
            "instructions": script("hold gate", "report All done."),
            "id": f"over-mcp-{mode}",
        }
        task_id = asked["id"]
        assert (await talk.ok("submit", **asked)).startswith(f"{task_id} is queued")
        progress = Progress()
        waiting = asyncio.create_task(talk.ok("wait", ids=[task_id], seconds=60, progress=progress))
        await asyncio.wait_for(progress.began.wait(), 20)
        deployment.open_gate("gate")
        assert (await waiting).startswith(f"{task_id} completed  verified")
        assert "verified" in (await talk.ok("result", id=task_id)).splitlines()[0]
        assert "acknowledged" in await talk.ok("inbox", acknowledge=[task_id])  # a wait may be quicker than its inbox
        await asyncio.to_thread(until, lambda: not deployment.records.marks.is_open(task_id))
        assert "nothing unread" in await talk.ok("inbox", acknowledge=[task_id])
