"""The bridge as a library inside a server, and how a graph is found by its name."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from agentq.desk import Desk as Office
from agentq.errors import Invalid, Unavailable
from agentq.integrations.deliverer import Pace
from agentq.integrations.langgraph import Bridge
from agentq.integrations.langgraph.graphs import load, load_graph
from agentq.integrations.threads import Thread
from agentq.messages import Envelope, new_task_id
from agentq.turns import TurnTaken
from tests.desk import Desk

QUICK = Pace(poll=(0.05, 0.1), confirm=0.1)
PATIENCE = 20.0


def _graph(saver: Any) -> Any:
    def model(state: MessagesState) -> dict[str, Any]:
        words = state["messages"][-1].content
        if words == "Ask me.":
            interrupt("May I?")
        return {"messages": [AIMessage(f"To {words[:12]!r}.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_edge(START, "model")
    return graph.compile(checkpointer=saver)


class Server:
    """A server with one graph, whose checkpointer is of the kind that can only be called, and agentq's desk."""

    def __init__(self, desk: Desk, office: Office, graph: Any) -> None:
        self.desk, self.office, self.graph = desk, office, graph

    def says(self, words: str = "Hello.", thread: str = "t1", **more: Any) -> None:
        self.graph.invoke({"messages": [HumanMessage(words)]}, {"configurable": {"thread_id": thread, **more}})

    async def job(self, mode: str = "notify", thread: str = "t1", tenant: str | None = None) -> str:
        """A job of a thread, which has ended."""
        labels = {"thread": thread, "notice": mode} | ({"tenant": tenant} if tenant else {})
        asked = {"from": "chat", "to": "implementation-worker", "type": "implementation", "reply_to": "results.chat"}
        envelope = {"task_id": new_task_id(), "instructions": "Do it.", "labels": labels, **asked}
        task = (await self.office.submit(Envelope.model_validate(envelope))).envelope.task_id
        self.desk.finish(task)
        return task

    def told(self, thread: str = "t1") -> list[str]:
        messages = self.graph.get_state({"configurable": {"thread_id": thread}}).values.get("messages", [])
        return [json.loads(m.content)["job_id"] for m in messages if m.name == "poll_job_status"]

    def bridge(self, **more: Any) -> Bridge:
        return Bridge(self.graph, self.office, pace=QUICK, **more)

    def unread(self) -> list[str]:
        return [m.task_id for m in self.desk.app().coordinator.inbox("chat")]


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Server]:
    """A server in whose first thread something was said."""
    with ExitStack() as stack:
        office = stack.enter_context(Office(desk.app().settings))
        place = str(desk.folder / "chat.sqlite")
        saver: Any = InMemorySaver()
        if request.param == "sqlite":
            saver = stack.enter_context(SqliteSaver.from_conn_string(place))
        server = Server(desk, office, _graph(saver))
        server.says()
        yield server


async def _until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_bridge_tells_in_the_background(server: Server) -> None:
    first = await server.job()
    async with server.bridge():
        await _until(lambda: not server.unread())
        assert server.told() == [first]
        second = await server.job("wake")
        await _until(lambda: not server.unread())
    assert server.told() == [first, second]
    third = await server.job()
    async with server.bridge():
        await _until(lambda: not server.unread())
    assert server.told() == [first, second, third]


async def test_all_that_can_be_brought_now_is(server: Server) -> None:
    await asyncio.to_thread(server.says, "Ask me.", "t2")
    one, two = await server.job(), await server.job("wake")
    waits, gone = await server.job("wake", "t2"), await server.job("wake", "t3")
    bridge = server.bridge()
    did = await bridge.deliver()
    assert (sorted(did.appended), sorted(did.acknowledged)) == (sorted((one, two)), sorted((one, two)))
    assert did.waits == {Thread("t2"): "it is interrupted for a human"}
    assert did.gone == (Thread("t3"),)
    assert sorted(server.unread()) == sorted((waits, gone))
    assert (await bridge.deliver()).appended == ()


async def test_whoever_holds_the_turn_is_not_written_over(server: Server) -> None:
    job = await server.job()
    bridge, other = server.bridge(), server.bridge()
    async with bridge.turn("t1"):
        did = await other.deliver()
        assert list(did.waits) == [Thread("t1")]
        assert server.told() == []
        with pytest.raises(TurnTaken):
            async with other.turn("t1", patience=0.1):
                pass
        async with other.turn("t1", "acme", patience=0.1):
            pass
        await asyncio.to_thread(server.says, "I am here.")
    assert (await bridge.deliver()).acknowledged == (job,)
    with bridge.turn("t1"):
        assert server.told() == [job]


async def test_a_tenant_is_told_of_its_own_jobs_alone(server: Server) -> None:
    await asyncio.to_thread(server.says, "Hello.", "t2", tenant_id="acme")
    own = await server.job("wake", "t2", "acme")
    others = await server.job("wake", "t2", "other")
    did = await server.bridge().deliver()
    assert did.acknowledged == (own,)
    assert did.gone == (Thread("t2", "other"),)
    assert server.told("t2") == [own]
    assert server.unread() == [others]


async def test_what_is_no_graph_with_threads_is_refused() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda _: {})
    graph.add_edge(START, "model")
    with pytest.raises(Invalid, match="not compiled"):
        Bridge(graph)
    with pytest.raises(Invalid, match="no checkpointer"):
        Bridge(graph.compile())
    with pytest.raises(Invalid, match="no graph of LangGraph's"):
        Bridge("graph")


# ---------------------------------------------------------------------- graphs by name

APP = """
import contextlib
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

closed = []
builder = StateGraph(MessagesState)
builder.add_node("model", lambda _: {})
builder.add_edge(START, "model")
bare = builder.compile()
graph = builder.compile(checkpointer=InMemorySaver())

def make():
    return graph

async def amake():
    return graph

@contextlib.contextmanager
def opened():
    yield graph
    closed.append("opened")

@contextlib.asynccontextmanager
async def aopened():
    yield graph
    closed.append("aopened")

def needs(one):
    return graph

def fails():
    raise OSError("the database is away")

class chats:
    inner = graph
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of an app in the current folder, and its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    name = f"app_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(APP)
    (tmp_path / f"{name}_broken.py").write_text("import not_installed_anywhere")
    (tmp_path / f"{name}_odd.py").write_text("raise ValueError('odd')")
    return name


@pytest.mark.parametrize("name", ["graph", "make", "amake", "opened", "aopened", "chats.inner"])
async def test_a_graph_is_found_and_closed(app: str, name: str) -> None:
    async with load_graph(f"{app}:{name}") as graph:
        assert graph is load(f"{app}:graph")
    assert load(f"{app}:closed") == ([name] if name.endswith("opened") else [])


@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ("{}", Invalid, "names nothing"),
        (":graph", Invalid, "names nothing"),
        ("{}_not:graph", Invalid, "there is no module"),
        (
            "{}_broken:graph",
            Invalid,
            "cannot be imported: ModuleNotFoundError: No module named 'not_installed_anywhere'",
        ),
        ("{}_odd:graph", Invalid, "cannot be imported: ValueError: odd"),
        ("{}:other", Invalid, "has no other"),
        ("{}:closed", Invalid, "is no graph of LangGraph's, but list"),
        ("{}:builder", Invalid, "not compiled"),
        ("{}:bare", Invalid, "no checkpointer"),
        ("{}:needs", Invalid, "cannot be called without arguments"),
        ("{}:fails", Unavailable, "made no graph: OSError: the database is away"),
    ],
)
async def test_what_cannot_be_loaded_is_said(app: str, place: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        async with load_graph(place.format(app)):
            pass
    assert raised.value.hint  # type: ignore[attr-defined]
