"""The chat of the daemons' tests: a graph whose threads, notes and signs lie in a folder.

A sign is a file by which a test and the chat speak: at `hold` the model's node waits for `go` and says `holds`, at
`fail` it fails, at `fails` each time; at `die-after-notice` the process dies as soon as a notice is in a thread. Those
that say nothing else are for one time.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from tests.chat.savers import open_saver


@asynccontextmanager
async def chat() -> AsyncIterator[Any]:
    """The graph of this process's home."""
    async with opened(Path(os.environ["HOME"]) / "chat") as graph:
        yield graph


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Any]:
    """The graph whose chats are in this folder."""
    folder.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        saver = await open_saver("sqlite-async", str(folder / "chat.sqlite"), stack)
        saver.aput = _dying(saver.aput, folder)
        yield _graph(folder).compile(checkpointer=saver)


def _graph(folder: Path) -> "StateGraph[Any]":
    def first(_: MessagesState, config: RunnableConfig) -> None:
        _note(folder, "first", config)

    async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        _note(folder, "model", config)
        if _taken(folder, "hold"):
            (folder / "holds").touch()
            await _seen(folder / "go")
        if _taken(folder, "fail") or (folder / "fails").exists():
            raise RuntimeError("the model is away")
        last = state["messages"][-1]
        if isinstance(last, HumanMessage) and last.content == "Ask me.":
            return {"messages": [AIMessage(f"You said {interrupt('May I?')}.")]}
        return {"messages": [AIMessage(f"Answer {len(state['messages'])}.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("first", first)
    graph.add_node("model", model)
    graph.add_edge(START, "first")
    graph.add_edge("first", "model")
    return graph


async def _seen(sign: Path) -> None:
    while not await asyncio.to_thread(sign.exists):  # noqa: ASYNC110 - another process sets it
        await asyncio.sleep(0.01)


def notes(folder: Path, node: str, thread: str) -> list[int]:
    """The processes in which a node ran for a thread, in order."""
    path = folder / "notes"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [int(pid) for pid, *rest in lines if rest == [node, thread]]


def _note(folder: Path, node: str, config: Any) -> None:
    with (folder / "notes").open("a") as file:
        file.write(f"{os.getpid()} {node} {config['configurable']['thread_id']}\n")


def _taken(folder: Path, sign: str) -> bool:
    try:
        (folder / sign).unlink()
    except FileNotFoundError:
        return False
    return True


def _dying(put: Any, folder: Path) -> Any:
    async def dying(config: Any, *rest: Any) -> Any:
        done = await put(config, *rest)
        if "agentq_notice" in (config.get("metadata") or {}) and _taken(folder, "die-after-notice"):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return dying


async def _turn(thread: str, words: str, flags: Sequence[str]) -> None:
    """A turn in a server of its own."""
    config: Any = {"configurable": {"thread_id": thread}}
    async with chat() as graph, AsyncExitStack() as stack:
        if "--turn" in flags:
            from agentq.integrations.langgraph.bridge import Bridge

            bridge = Bridge(graph)
            stack.callback(bridge.close)
            await stack.enter_async_context(bridge.turn(thread))
        durability = "exit" if "--exit" in flags else "async"
        await graph.ainvoke({"messages": [HumanMessage(words)]}, config, durability=durability)


if __name__ == "__main__":
    import sys

    asyncio.run(_turn(sys.argv[1], sys.argv[2], sys.argv[3:]))
