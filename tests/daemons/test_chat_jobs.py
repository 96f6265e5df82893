"""Jobs of a chat agent with real workers: ahead of background work, and results handed on when nobody is there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.tools import BaseTool

from agentq.config import load_settings
from agentq.desk import Desk
from agentq.integrations.langgraph import chat_tools
from tests.brokers.node import Node
from tests.daemons.harness import Deployment, script, until


@contextmanager
def at_a_desk(deployment: Deployment, **flags: Any) -> Iterator[dict[str, BaseTool]]:
    """The tools of a chat process that ends with the block."""
    with Desk(load_settings(environ=deployment.environment, cwd=deployment.home)) as desk:
        yield {tool.name: tool for tool in chat_tools(desk, roles=[deployment.agent], **flags)}


def call(tool: BaseTool, call_id: str, **arguments: Any) -> dict[str, Any]:
    asked = {"name": tool.name, "args": arguments, "id": call_id, "type": "tool_call"}
    answer: dict[str, Any] = json.loads(
        tool.invoke(asked, {"configurable": {"thread_id": "t", "tenant_id": "acme"}}).content
    )
    return answer


def started(tools: dict[str, BaseTool], deployment: Deployment, call_id: str, *steps: str, **options: Any) -> str:
    answer = call(
        tools["trigger_agent_job"], call_id, role=deployment.agent, input_summary=script(*steps), options=options
    )
    assert answer["status"] == "queued", answer
    job_id: str = answer["job_id"]
    return job_id


def order(deployment: Deployment) -> list[str]:
    """The tasks whose agents have started, in order."""
    lines = (deployment.desk / "notes").read_text().splitlines()
    return [line.split()[0] for line in lines if line.split()[2] == "started"]


@pytest.mark.promise("chat-job")
def test_a_chats_job_runs_ahead_of_background_work(deployment: Deployment) -> None:
    background = [deployment.submit("report done") for _ in range(3)]
    with at_a_desk(deployment) as tools:
        job = started(tools, deployment, "1", "report The parser is written.")
        late = started(tools, deployment, "2", "report done", delay_seconds=0.01)
        worker = deployment.start_worker()
        answer = call(tools["wait_for_jobs"], "3", job_ids=[job, late], seconds=30)
        assert answer["status"] == "ended"
        answer = call(tools["poll_job_status"], "4", job_id=job)
    assert answer["status"] == "completed"
    assert "| The parser is written." in answer["digest"]
    assert {"report", "transcript"} <= {one["name"] for one in answer["references"]}
    for task in background:
        deployment.ended(task)
    assert order(deployment)[0] == job
    assert deployment.json("inbox", "--for", "chat")
    assert worker.pid
    deployment.rest()


@pytest.mark.promise("chat-plan")
def test_a_writer_gets_the_results_of_two_researchers_when_the_chat_is_gone(deployment: Deployment) -> None:
    with at_a_desk(deployment) as tools:
        first = started(tools, deployment, "1", "report Whales sing.", notice="none")
        second = started(tools, deployment, "2", "report Bees dance.", notice="none")
        writer = started(tools, deployment, "3", "report Animals talk.", after=[first, second])
    deployment.start_worker()
    deployment.ended(writer)
    told = deployment.prompt(writer, 1)
    assert "Whales sing." in told
    assert "Bees dance." in told
    unread = until(lambda: [one["task_id"] for one in deployment.json("inbox", "--for", "chat")], "the notice")
    assert unread == [writer]
    deployment.rest()


@pytest.mark.promise("chat-plan")
def test_a_plan_does_the_same_in_one_call(deployment: Deployment) -> None:
    tasks = [
        {"name": "whales", "role": deployment.agent, "input_summary": script("report Whales sing.")},
        {"name": "bees", "role": deployment.agent, "input_summary": script("report Bees dance.")},
        {
            "name": "writer",
            "role": deployment.agent,
            "input_summary": script("report Animals talk."),
            "after": ["whales", "bees"],
        },
    ]
    with at_a_desk(deployment) as tools:
        plan = call(tools["run_plan"], "1", tasks=tasks)
        assert plan["status"] == "queued", plan
    deployment.start_worker()
    deployment.ended(plan["job_id"])
    told = deployment.prompt(plan["tasks"]["writer"], 1)
    assert "Whales sing." in told
    assert "Bees dance." in told
    assert [one["task_id"] for one in deployment.json("inbox", "--for", "chat")] == [plan["job_id"]]
    with at_a_desk(deployment) as tools:
        answer = call(tools["poll_job_status"], "2", job_id=plan["job_id"])
    assert answer["status"] == "completed"
    assert "3 of 3 tasks completed" in answer["digest"]
    deployment.rest()


def test_a_running_job_is_stopped_by_the_chat(deployment: Deployment) -> None:
    deployment.start_worker()
    with at_a_desk(deployment) as tools:
        job = started(tools, deployment, "1", "hold never")
        deployment.agent_runs(job)
        assert call(tools["poll_job_status"], "2", job_id=job)["status"] == "processing"
        assert call(tools["cancel_job"], "3", job_id=job, reason="enough")["status"] in ("processing", "cancelled")
        answer = call(tools["wait_for_jobs"], "4", job_ids=[job], seconds=30)
    assert [one["status"] for one in answer["jobs"]] == ["cancelled"]
    deployment.rest()


def test_a_desk_outlives_its_broker(broker: Node, on_broker: Deployment) -> None:
    with at_a_desk(on_broker) as tools:
        job = started(tools, on_broker, "1", "report done")
        broker.stop()
        again = {"role": on_broker.agent, "input_summary": script("report done")}
        answer = call(tools["trigger_agent_job"], "2", **again)
        assert answer["status"] == "unavailable", answer
        assert answer["message"].startswith("Nothing was started:")
        assert call(tools["poll_job_status"], "3", job_id=job)["status"] == "pending"
        assert call(tools["wait_for_jobs"], "4", job_ids=[job], seconds=0)["status"] == "waiting"
        assert "cannot be read" in call(tools["list_jobs"], "5")["message"]
        assert call(tools["cancel_job"], "6", job_id=job)["status"] == "cancelled"
        broker.start()
        answer = until(
            lambda: (found := call(tools["trigger_agent_job"], "2", **again))["status"] == "queued" and found,
            "the broker to be back",
            60,
        )
        until(lambda: "cannot be read" not in call(tools["list_jobs"], "5")["message"], "the log to be back", 60)
        on_broker.start_worker()
        waited = call(tools["wait_for_jobs"], "7", job_ids=[answer["job_id"]], seconds=60)
        assert [one["status"] for one in waited["jobs"]] == ["completed"]
    on_broker.rest()
