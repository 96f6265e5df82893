"""What a chat pays: for a job that it starts inside a running graph, and until it is told of a job's end; and the race
of notices, in which bridges and their broker are killed at random: nothing may be lost or doubled."""

import asyncio
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from agentq.app import App
from agentq.config import Settings, load_settings
from agentq.desk import Desk
from agentq.integrations.langgraph import Bridge, chat_tools
from agentq.messages import Envelope
from agentq.proposal import Hand
from agentq.store import Store
from tests.brokers.node import Node
from tests.chat.graphs import Scripted
from tests.daemons.harness import ROOT
from tests.daemons.notices_race import race

CALLS = int(os.environ.get("AGENTQ_BENCH_CALLS", "100"))
NOTICES = int(os.environ.get("AGENTQ_BENCH_NOTICES", "10000"))
BIN = Path(sys.executable).parent
PROFILE = """agent = "researcher"
types = ["research"]
[runner]
command = ["/bin/true"]
"""
ASKED = {"role": "researcher", "input_summary": "Compare the parsers below docs/, and bring a table of their limits."}


def bench(folder: Path, url: str) -> None:
    """Measure both engines, RabbitMQ at that URL and one of its own to be killed, and print it."""
    for name, broker in (("rabbitmq", url), ("sqlite", f"sqlite://{folder}/chat.db")):
        environment = _laid_out(folder / "chat" / name, broker)
        settings = load_settings(environ=environment, cwd=folder)
        asyncio.run(_starting(name, settings))
        asyncio.run(_told_by_a_daemon(name, settings, environment))
        asyncio.run(_told_inside(name, settings))
    if NOTICES:
        print(f"\n{NOTICES} notices, two bridges of which one is killed every 0.5-3 s, the broker every 15-30 s")
        with Node.find("4.3") as node:
            race(NOTICES, secrets.randbits(32), node)


def _laid_out(folder: Path, broker: str) -> dict[str, str]:
    (folder / "workers" / "researcher").mkdir(parents=True)
    (folder / "workers" / "researcher" / "worker.toml").write_text(PROFILE)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "AGENTQ_BROKER": broker,
        "AGENTQ_NAMESPACE": "chat",
        "AGENTQ_STORE": str(folder / "store"),
        "AGENTQ_DATA": str(folder / "data"),
        "AGENTQ_WORKERS": str(folder / "workers"),
    }
    subprocess.run([BIN / "agentq", "init"], env=environment, cwd=folder, check=True, capture_output=True)
    return environment


# ---------------------------------------------------------------------- starting a job


@tool
def nothing() -> str:
    """Do nothing."""
    return "done"


async def _starting(name: str, settings: Settings) -> None:
    """Turns of a graph that start a job, beside turns that call a tool which does nothing, and a submit alone."""
    calls: dict[str, list[float]] = {"trigger_agent_job": [], "nothing": []}

    async def timed(request: Any, execute: Callable[[Any], Awaitable[Any]]) -> Any:
        began = time.perf_counter()
        answer = await execute(request)
        calls[request.tool_call["name"]].append(time.perf_counter() - began)
        assert request.tool_call["name"] == "nothing" or '"queued"' in answer.content, answer.content
        return answer

    turns: dict[str, list[float]] = {name: [] for name in calls}
    submits = []
    with Desk(settings) as desk:
        graph = _graph(ToolNode([*chat_tools(desk=desk), nothing], awrap_tool_call=timed))
        for number in range(CALLS + 1):
            for tool_name, times in turns.items():
                begin = {"messages": [HumanMessage(tool_name)]}
                config: Any = {"configurable": {"thread_id": f"{tool_name}-{number}"}}
                times.append(await _seconds(graph.ainvoke(begin, config)))
            request = Envelope(task_id=f"alone-{number}", to="researcher", type="research", instructions="Find out.")
            submits.append(await _seconds(desk.submit(request)))
    print(f"\n{name}: {CALLS} jobs started inside a running graph, one at a time")
    _print("trigger_agent_job, the call", calls["trigger_agent_job"][1:])
    _print("desk.submit alone", submits[1:])
    _print("a turn that starts a job", turns["trigger_agent_job"][1:])
    _print("the same with a tool that does nothing", turns["nothing"][1:])


def _graph(tools: ToolNode) -> Any:
    """A model that calls the tool it is told to, then ends, in a graph made by hand."""

    def script(messages: Any) -> AIMessage:
        if not isinstance(messages[-1], HumanMessage):
            return AIMessage("Done.")
        name = str(messages[-1].content)
        return AIMessage("", tool_calls=[{"name": name, "args": {} if name == "nothing" else ASKED, "id": "call-1"}])

    model = Scripted(script=script)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver())


async def _seconds(act: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await act
    return time.perf_counter() - began


# ---------------------------------------------------------------------- being told


class _Timed:
    """A store that notes when a manifest is there: the commit point."""

    def __init__(self, store: Store) -> None:
        self._store, self.committed = store, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_new(self, key: str, data: bytes) -> bool:
        done = self._store.put_new(key, data)
        if key.startswith("results/") and key.endswith(".json"):
            self.committed = time.monotonic()
        return done


def _quiet(saver: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda _: {"messages": [AIMessage("Hello.")]})
    graph.add_edge(START, "model")
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def chat() -> AsyncIterator[Any]:
    """The graph of this process's home."""
    async with _opened(Path(os.environ["HOME"])) as graph:
        yield graph


@asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[Any]:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "chat.sqlite")) as saver:
        yield _quiet(saver)


async def _told_by_a_daemon(name: str, settings: Settings, environment: dict[str, str]) -> None:
    folder = Path(environment["HOME"])
    async with _opened(folder) as graph:
        rows = "SELECT count(*) FROM checkpoints WHERE thread_id = ? AND CAST(metadata AS TEXT) LIKE '%agentq_notice%'"

        def is_told(thread: str) -> bool:
            return bool(db.execute(rows, (thread,)).fetchone()[0])

        with closing(sqlite3.connect(folder / "chat.sqlite")) as db, _daemon(environment):
            times = await _ends(settings, graph, "chat", is_told)
    print(f"\n{name}: {CALLS} jobs that end one at a time: from the result's commit to the notice in the thread")
    _print("`agentq bridge run`, SQLite's checkpointer", times)


async def _told_inside(name: str, settings: Settings) -> None:
    graph = _quiet(InMemorySaver())

    def is_told(thread: str) -> bool:
        metadata = graph.get_state({"configurable": {"thread_id": thread}}).metadata
        return "agentq_notice" in metadata or "agentq_rest" in metadata

    with Desk(settings) as desk:
        async with Bridge(graph, desk, coordinator="inside"):
            times = await _ends(settings, graph, "inside", is_told)
    _print("Bridge in the server's process, in memory", times)


async def _ends(settings: Settings, graph: Any, coordinator: str, is_told: Callable[[str], bool]) -> list[float]:
    """The seconds from each job's commit to its notice, looked for every millisecond."""
    times = []
    with Desk(settings) as desk:
        timed = _Timed(desk.app.store)
        desk.app.__dict__["store"] = timed
        for number in range(CALLS + 1):
            thread, task = f"{coordinator}-{number}", f"{coordinator}-job-{number}"
            await graph.ainvoke({"messages": [HumanMessage("Hello.")]}, {"configurable": {"thread_id": thread}})
            await desk.call(lambda app, thread=thread, task=task: _register(app, coordinator, thread, task))
            ending = asyncio.create_task(desk.call(lambda app, task=task: _end(app, task)))
            async with asyncio.timeout(60):
                while not is_told(thread):  # noqa: ASYNC110 - a checkpointer has no events
                    await asyncio.sleep(0.001)
            times.append(time.monotonic() - timed.committed)
            await ending
    return times[1:]


def _register(app: App, coordinator: str, thread: str, task_id: str) -> None:
    labels = {"thread": thread, "notice": "notify"}
    fields: Any = {"from": coordinator, "labels": labels, "reply_to": f"results.{coordinator}"}
    request = Envelope(task_id=task_id, to="researcher", type="research", instructions="Find out.", **fields)
    app.coordinator.register(request)


def _end(app: App, task_id: str) -> None:
    app.hands.end_by_hand(task_id, Hand(by="researcher", status="completed", report=b"Found out.\n"))


@contextmanager
def _daemon(environment: dict[str, str]) -> Iterator[None]:
    command = [BIN / "agentq", "bridge", "run", "--graph", "tests.benchmarks.chat:chat"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr
        while "ready" not in (line := daemon.stderr.readline()):
            if not line:
                raise SystemExit("the bridge did not come up")
        drain = subprocess.Popen(["cat"], stdin=daemon.stderr, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)
            drain.wait(5)


# ----------------------------------------------------------------------


def _print(what: str, times: list[float]) -> None:
    p50, p99 = (1000 * sorted(times)[len(times) * percent // 100] for percent in (50, 99))
    print(f"  {what:<44} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms")


def main() -> None:
    """Run this benchmark alone."""
    import tempfile

    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with Node.find("4.3") as node, tempfile.TemporaryDirectory(prefix="agentq-bench-") as folder:
        bench(Path(folder), node.url)


if __name__ == "__main__":
    main()
