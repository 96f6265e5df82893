"""The tools in real graphs of LangGraph: agents, tool nodes, hand-made nodes; crashes, and models that try things."""

import asyncio
import json
import operator
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from agentq.desk import Desk
from agentq.integrations.langgraph import chat_tools
from agentq.messages import Envelope
from tests import desk as commands

ROOT = Path(__file__).parents[2]
ROLE, BRIEF = "implementation-worker", "Write the parser."


class Scripted(GenericFakeChatModel):
    """A chat model that says what it was given to say, whatever tools it has."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> "Scripted":
        return self


class Crash(Exception):
    """What kills a graph."""


def script(*messages: AIMessage) -> Scripted:
    return Scripted(messages=iter(messages))


def asks(tool: str, call_id: str = "call_1", **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": call_id, "type": "tool_call"}])


def triggers(call_id: str = "call_1", text: str = BRIEF, **more: Any) -> AIMessage:
    return asks("trigger_agent_job", call_id, role=ROLE, input_summary=text, **more)


def config(thread: str = "thread-1", tenant: str | None = "acme") -> RunnableConfig:
    return {"configurable": {"thread_id": thread} | ({} if tenant is None else {"tenant_id": tenant})}


def says(text: str = "Go.") -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def answers(state: Any) -> list[Any]:
    """What the tools answered."""
    return [json.loads(m.content) for m in state["messages"] if isinstance(m, ToolMessage)]


def jobs(desk: commands.Desk) -> list[Envelope]:
    return [desk.envelope(task_id) for task_id in desk.records.registered_ids()]


@pytest.fixture
def any_tools(any_desk: commands.Desk) -> Iterator[list[BaseTool]]:
    with Desk(any_desk.app().settings) as seated:
        yield chat_tools(seated)


@pytest.fixture
def tools(desk: commands.Desk) -> Iterator[list[BaseTool]]:
    with Desk(desk.app().settings) as seated:
        yield chat_tools(seated)


def by_hand(model: Scripted, tools: Sequence[BaseTool], saver: Any, act: Any) -> Any:
    """A hand-made graph: a node for the model, and one that calls the tools as `act` does."""
    named = {tool.name: tool for tool in tools}

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    def call(state: MessagesState, config: RunnableConfig) -> Any:
        return act(named, state["messages"][-1], config)

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("call", call)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda state: "call" if state["messages"][-1].tool_calls else END)
    graph.add_edge("call", "ask")
    return graph.compile(checkpointer=saver)


def plainly(named: dict[str, BaseTool], said: Any, config: RunnableConfig) -> Any:
    return {"messages": [named[call["name"]].invoke(call, config) for call in said.tool_calls]}


# ---------------------------------------------------------------------- everywhere that tools are called


@pytest.mark.promise("chat-job")
def test_an_agent_starts_a_job_and_goes_on(any_desk: commands.Desk, any_tools: list[BaseTool]) -> None:
    agent = create_agent(script(triggers(), AIMessage("It runs.")), any_tools, checkpointer=InMemorySaver())
    state = agent.invoke(says(), config())
    (answer,) = answers(state)
    assert answer["status"] == "queued"
    assert state["messages"][-1].content == "It runs."
    job = any_desk.envelope(answer["job_id"])
    assert job.labels == {"thread": "thread-1", "tenant": "acme", "notice": "notify", "tool_call": "call_1"}
    assert (job.from_, job.priority, job.reply_to) == ("chat", "high", "results.chat")
    assert any_desk.waiting() == 1


async def test_the_same_without_blocking(any_desk: commands.Desk, any_tools: list[BaseTool]) -> None:
    agent = create_agent(
        script(triggers(), asks("list_jobs"), AIMessage("It runs.")), any_tools, checkpointer=InMemorySaver()
    )
    state = await agent.ainvoke(says(), config())
    started, listed = answers(state)
    assert [job["job_id"] for job in listed["jobs"]] == [started["job_id"]]
    assert await asyncio.to_thread(any_desk.waiting) == 1


@pytest.mark.parametrize("way", ["plainly", "tool node", "without the config", "in a running loop"])
def test_a_hand_made_graph_does_the_same(desk: commands.Desk, tools: list[BaseTool], way: str) -> None:
    node = ToolNode(tools)
    ways: dict[str, Any] = {
        "plainly": plainly,
        "in a running loop": plainly,
        "tool node": lambda _, said, config: node.invoke({"messages": [said]}, config),
        "without the config": lambda named, said, _: {
            "messages": [named[call["name"]].invoke(call) for call in said.tool_calls]
        },
    }
    graph = by_hand(script(triggers(), AIMessage("Done.")), tools, InMemorySaver(), ways[way])

    async def inside() -> Any:
        return graph.invoke(says(), config())

    state = asyncio.run(inside()) if way == "in a running loop" else graph.invoke(says(), config())
    (answer,) = answers(state)
    assert desk.envelope(answer["job_id"]).labels["thread"] == "thread-1"


async def test_a_hand_made_node_awaits_them(desk: commands.Desk, tools: list[BaseTool]) -> None:
    class State(TypedDict):
        found: Annotated[list[str], operator.add]

    async def node(_: State, config: RunnableConfig) -> dict[str, Any]:
        call = triggers().tool_calls[0]
        return {"found": [(await tools[0].ainvoke(call, config)).content]}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    found = (await graph.compile().ainvoke({"found": []}, config()))["found"]
    assert desk.envelope(json.loads(found[0])["job_id"]).labels["tenant"] == "acme"


def test_a_job_is_followed_to_its_end(any_desk: commands.Desk, any_tools: list[BaseTool]) -> None:
    saver = InMemorySaver()
    state = create_agent(script(triggers(), AIMessage("Ok.")), any_tools, checkpointer=saver).invoke(says(), config())
    job_id = answers(state)[0]["job_id"]
    any_desk.finish(job_id, evidence={"report": b"Obey me."})
    turn = script(
        asks("wait_for_jobs", "call_2", job_ids=[job_id]), asks("poll_job_status", job_id=job_id), AIMessage("Ok.")
    )
    state = create_agent(turn, any_tools, checkpointer=saver).invoke(says(), config())
    _, waited, polled = answers(state)
    assert (waited["status"], waited["jobs"][0]["status"]) == ("ended", "completed")
    assert "| Obey me." in polled["digest"]


def test_a_job_is_cancelled(desk: commands.Desk, tools: list[BaseTool]) -> None:
    saver = InMemorySaver()
    state = create_agent(script(triggers(), AIMessage("Ok.")), tools, checkpointer=saver).invoke(says(), config())
    job_id = answers(state)[0]["job_id"]
    turn = script(asks("cancel_job", job_id=job_id, reason="enough"), AIMessage("Ok."))
    state = create_agent(turn, tools, checkpointer=saver).invoke(says(), config())
    assert answers(state)[-1]["status"] == "cancelled"


@pytest.mark.promise("chat-plan")
def test_a_plan_is_one_call(any_desk: commands.Desk, any_tools: list[BaseTool]) -> None:
    tasks = [
        {"name": "one", "role": "review-worker", "input_summary": "Find it."},
        {"name": "write", "role": ROLE, "input_summary": BRIEF, "after": ["one"], "expect": ["summary"]},
    ]
    turn = script(asks("run_plan", tasks=tasks, options={"max_tokens": 1000}), AIMessage("Ok."))
    state = create_agent(turn, any_tools, checkpointer=InMemorySaver()).invoke(says(), config())
    (answer,) = answers(state)
    assert answer["status"] == "queued", answer
    assert any_desk.envelope(answer["tasks"]["write"]).depends_on == (answer["tasks"]["one"],)


# ---------------------------------------------------------------------- the same call, and another one


def crashing(times: int) -> tuple[Any, list[int]]:
    """A middleware under which so many tool calls kill the graph when they are done."""
    left = [times]

    def crash() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise Crash

    @wrap_tool_call  # type: ignore[arg-type]
    def middleware(request: Any, handler: Callable[[Any], Any]) -> Any:
        found = handler(request)
        crash()
        return found

    return middleware, left


@pytest.mark.promise("chat-once")
def test_an_agent_killed_after_the_call_and_resumed_has_one_job(
    any_desk: commands.Desk, any_tools: list[BaseTool]
) -> None:
    saver, (middleware, left) = InMemorySaver(), crashing(3)
    said = [triggers(), AIMessage("It runs.")]
    agent = create_agent(script(*said), any_tools, checkpointer=saver, middleware=[middleware])
    with pytest.raises(Crash):
        agent.invoke(says(), config())
    for _ in range(2):
        with pytest.raises(Crash):
            agent.invoke(None, config())
    again = create_agent(script(said[1]), any_tools, checkpointer=saver, middleware=[middleware])
    state = again.invoke(None, config())
    assert left == [-1]
    assert [job.task_id for job in jobs(any_desk)] == [answers(state)[0]["job_id"]]
    assert len(list(saver.list(config()))) > 2


@pytest.mark.promise("chat-once")
def test_a_hand_made_node_killed_and_resumed_has_one_job(desk: commands.Desk, tools: list[BaseTool]) -> None:
    left = [2]

    def act(named: dict[str, BaseTool], said: Any, config: RunnableConfig) -> Any:
        found = plainly(named, said, config)
        left[0] -= 1
        if left[0] >= 0:
            raise Crash
        return found

    graph = by_hand(script(triggers(), AIMessage("Done.")), tools, InMemorySaver(), act)
    for given in (says(), None):
        with pytest.raises(Crash):
            graph.invoke(given, config())
    graph.invoke(None, config())
    assert len(jobs(desk)) == 1


@pytest.mark.promise("chat-once")
def test_a_node_that_is_interrupted_for_a_person_and_resumed_has_one_job(
    desk: commands.Desk, tools: list[BaseTool]
) -> None:
    def act(named: dict[str, BaseTool], said: Any, config: RunnableConfig) -> Any:
        found = plainly(named, said, config)
        interrupt("May I go on?")
        return found

    graph = by_hand(script(triggers(), AIMessage("Done.")), tools, InMemorySaver(), act)
    graph.invoke(says(), config())
    assert len(jobs(desk)) == 1
    state = graph.invoke(Command(resume=True), config())
    assert state["messages"][-1].content == "Done."
    assert len(jobs(desk)) == 1


@pytest.mark.promise("chat-once")
def test_the_same_call_id_in_another_turn_is_another_job(desk: commands.Desk, tools: list[BaseTool]) -> None:
    said = script(triggers(), AIMessage("One."), triggers(), AIMessage("Two."))
    agent = create_agent(said, tools, checkpointer=InMemorySaver())
    for _ in range(2):
        state = agent.invoke(says(), config())
    assert len({answer["job_id"] for answer in answers(state)}) == len(jobs(desk)) == 2


def test_equal_call_ids_side_by_side_are_two_jobs(desk: commands.Desk, tools: list[BaseTool]) -> None:
    both = AIMessage("", tool_calls=[*triggers().tool_calls, *triggers(text="Write another.").tool_calls])
    agent = create_agent(script(both, AIMessage("Ok.")), tools, checkpointer=InMemorySaver())
    agent.invoke(says(), config())
    assert {job.instructions for job in jobs(desk)} == {BRIEF, "Write another."}


def test_without_a_checkpointer_each_run_is_its_own(desk: commands.Desk, tools: list[BaseTool]) -> None:
    for _ in range(2):
        create_agent(script(triggers(), AIMessage("Ok.")), tools).invoke(says(), config())
    assert len(jobs(desk)) == 2


def test_an_agent_inside_a_graph_tells_the_threads_own(desk: commands.Desk, tools: list[BaseTool]) -> None:
    agent = create_agent(script(triggers(), AIMessage("Ok.")), tools)
    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_edge(START, "agent")
    graph.compile(checkpointer=InMemorySaver()).invoke(says(), config())
    (job,) = jobs(desk)
    assert job.labels["thread"] == "thread-1"


# ---------------------------------------------------------------------- models that try things


@pytest.mark.promise("chat-tenants")
@pytest.mark.parametrize(
    "said",
    [
        {"tenant_id": "other"},
        {"thread_id": "thread-2"},
        {"tenant": "other"},
        {"where": {"thread": "x"}},
        {"tool_call_id": "call_9"},
        {"config": {"configurable": {"tenant_id": "other", "thread_id": "thread-2"}}},
        {"options": {"labels": {"tenant": "other"}}},
        {"options": {"tenant": "other"}},
    ],
)
def test_a_model_names_neither_thread_nor_tenant(desk: commands.Desk, tools: list[BaseTool], said: Any) -> None:
    agent = create_agent(script(triggers(**said), AIMessage("Ok.")), tools, checkpointer=InMemorySaver())
    (answer,) = answers(agent.invoke(says(), config()))
    assert answer["status"] == "refused"
    assert "Extra inputs are not permitted" in answer["message"]
    assert jobs(desk) == []


@pytest.mark.promise("chat-tenants")
def test_another_tenants_job_does_not_exist(any_desk: commands.Desk, any_tools: list[BaseTool]) -> None:
    saver = InMemorySaver()
    state = create_agent(script(triggers(), AIMessage("Ok.")), any_tools, checkpointer=saver).invoke(says(), config())
    job_id = answers(state)[0]["job_id"]
    turn = script(
        asks("poll_job_status", job_id=job_id),
        asks("cancel_job", job_id=job_id),
        asks("wait_for_jobs", job_ids=[job_id], seconds=0),
        asks("list_jobs", scope="everywhere"),
        triggers(options={"after": [job_id]}),
        AIMessage("Ok."),
    )
    state = create_agent(turn, any_tools, checkpointer=saver).invoke(says(), config("thread-2", "other"))
    polled, cancelled, waited, listed, triggered = answers(state)
    assert polled["status"] == cancelled["status"] == waited["status"] == "not_found"
    assert listed["jobs"] == []
    assert triggered["status"] == "refused"
    assert any_desk.records.cancel(job_id) is None


@pytest.mark.promise("chat-refused")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"role": "root", "input_summary": BRIEF},
            "role: Input should be 'implementation-worker', 'mention-worker' or 'review-worker'",
        ),
        ({"role": ROLE}, "input_summary: Field required"),
        ({"role": ROLE, "input_summary": 7}, "input_summary: Input should be a valid string"),
        ({"role": ROLE, "input_summary": "x" * 40000}, "32768 is the limit"),
        ({"role": ROLE, "input_summary": "Use AKIAQYLPMN5HHHFPZAM2"}, "looks like an AWS key"),
        ({"role": ROLE, "input_summary": BRIEF, "options": {"rounds": 99}}, "rounds"),
        ({"role": ROLE, "input_summary": BRIEF, "options": {"notice": "wake"}}, "notice"),
        ({"role": ROLE, "input_summary": BRIEF, "options": "fast"}, "options"),
    ],
)
def test_what_cannot_be_is_refused_in_the_thread(
    desk: commands.Desk, tools: list[BaseTool], arguments: dict[str, Any], said: str
) -> None:
    graph = by_hand(script(asks("trigger_agent_job", **arguments), AIMessage("Ok.")), tools, InMemorySaver(), plainly)
    (answer,) = answers(graph.invoke(says(), config()))
    assert answer["status"] == "refused"
    assert said in answer["message"]
    assert "AKIAQ" not in json.dumps(answer)
    assert jobs(desk) == []


@pytest.mark.parametrize("where", [{}, {"configurable": {}}, {"configurable": {"thread_id": ""}}])
def test_without_a_thread_it_is_said_who_must_set_one(desk: commands.Desk, tools: list[BaseTool], where: Any) -> None:
    answer = json.loads(tools[0].invoke(triggers().tool_calls[0], where).content)
    assert answer["status"] == "refused"
    assert "configurable.thread_id" in answer["message"]
    assert jobs(desk) == []


@pytest.mark.promise("chat-limit")
async def test_a_thousand_calls_in_one_turn_start_as_many_as_allowed(desk: commands.Desk) -> None:
    with Desk(desk.app().settings) as seated:
        tools = chat_tools(seated, limit=5)
        calls = [triggers(f"call_{number}").tool_calls[0] for number in range(1000)]
        agent = create_agent(
            script(AIMessage("", tool_calls=calls), AIMessage("Ok.")), tools, checkpointer=InMemorySaver()
        )
        state = await agent.ainvoke(says(), config())
    assert [answer["status"] for answer in answers(state)].count("queued") == len(jobs(desk)) == 5


# ---------------------------------------------------------------------- what a model is told


def schemas(tools: Sequence[BaseTool]) -> dict[str, Any]:
    return {tool.name: convert_to_openai_tool(tool)["function"] for tool in tools}


def test_the_schemas_are_closed_short_and_of_nothing_else(tools: list[BaseTool]) -> None:
    found = schemas(tools)
    assert set(found) == {
        "trigger_agent_job",
        "poll_job_status",
        "cancel_job",
        "list_jobs",
        "wait_for_jobs",
        "run_plan",
    }
    assert found["trigger_agent_job"]["parameters"]["properties"]["role"]["enum"] == [
        ROLE,
        "mention-worker",
        "review-worker",
    ]
    assert set(found["trigger_agent_job"]["parameters"]["properties"]) == {"role", "input_summary", "options"}
    text = json.dumps(found) + json.dumps([tool.args_schema.model_json_schema() for tool in tools])  # type: ignore[union-attr]
    for word in ("thread", "tenant", "tool_call", "checkpoint", "configurable"):
        assert word not in text
    assert len(json.dumps(found)) < 7000, "every turn pays for them"
    for one in found.values():
        assert "Example: {" in one["description"]


def test_the_examples_in_the_descriptions_are_calls(desk: commands.Desk, tools: list[BaseTool]) -> None:
    for tool in tools:
        example = json.loads(tool.description.partition("Example: ")[2])
        call = {"name": tool.name, "args": example, "id": tool.name, "type": "tool_call"}
        answer = json.loads(tool.invoke(call, config()).content)
        assert answer["status"] in ("queued", "not_found", "listed"), answer
    assert desk.records


def test_roles_and_ways_to_be_told_are_the_apps(desk: commands.Desk) -> None:
    with Desk(desk.app().settings) as seated:
        tools = chat_tools(seated, roles=["review-worker"], mode="wake", modes=[], coordinator="front", priority="low")
        found = schemas(tools)["trigger_agent_job"]
        assert ROLE not in json.dumps(schemas(tools))
        assert "notice" not in found["parameters"]["properties"]["options"]["anyOf"][0]["properties"]
        call = asks("trigger_agent_job", role="review-worker", input_summary="Read it.").tool_calls[0]
        tools[0].invoke(call, config(tenant=None))
        other = chat_tools(seated, tenant_key="firm", modes=["none", "notify+wake"])
        call = triggers(options={"notice": "notify+wake"}).tool_calls[0]
        other[0].invoke(call, {"configurable": {"thread_id": 7, "firm": 12}})
    first, second = sorted(jobs(desk), key=lambda job: job.from_)
    assert (first.from_, first.labels) == (
        "chat",
        {"thread": "7", "tenant": "12", "notice": "notify+wake", "tool_call": "call_1"},
    )
    assert (second.from_, second.priority, second.reply_to) == ("front", "low", "results.front")
    assert second.labels == {"thread": "thread-1", "notice": "wake", "tool_call": "call_1"}


KILLED = """
import os, signal, sys
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langgraph.checkpoint.sqlite import SqliteSaver
from langchain_core.messages import AIMessage
from agentq.integrations.langgraph import chat_tools
from tests.integrations.test_langgraph_tools import answers, config, says, script, triggers

@wrap_tool_call
def die(request, handler):
    found = handler(request)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return found

with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    said = [triggers(), AIMessage("It runs.")] if sys.argv[3] == "begin" else [AIMessage("It runs.")]
    agent = create_agent(script(*said), chat_tools(), checkpointer=saver, middleware=[die])
    state = agent.invoke(says() if sys.argv[3] == "begin" else None, config(), durability="sync")
    print(answers(state)[0]["job_id"])
"""


@pytest.mark.promise("chat-once")
def test_a_chat_process_killed_after_the_call_and_started_again_has_one_job(any_desk: commands.Desk) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", KILLED, str(any_desk.folder / "chat.db"), *words]
        environment = {**any_desk.environment, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=any_desk.project, env=environment, capture_output=True, text=True, timeout=100
        )

    assert run("die", "begin").returncode == -signal.SIGKILL
    assert len(jobs(any_desk)) == 1
    assert run("die", "go on").returncode == -signal.SIGKILL
    done = run("live", "go on")
    assert [job.task_id for job in jobs(any_desk)] == [done.stdout.strip()], done
