"""The chat of the race of notices: a graph that notes each of its runs, and a server that never holds a turn.

    python -m tests.chat.race FOLDER THREADS SEED    serves until the file `over` is in the folder

What a person says is how long the model takes to answer; at "Ask me." it asks back, and the server answers later. Runs
that a bridge began take as long as their step's name has it, and one in fifty fails.
"""

import asyncio
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

AT_ONCE = 12
EVERY = 15.0
"""Seconds between two turns of a thread; of many threads, more."""
ASK = "Ask me."
LOCKED = 60.0
"""Seconds that a checkpointer waits for another one's write."""


@asynccontextmanager
async def chat() -> AsyncIterator[Any]:
    """The graph of this process's home."""
    async with opened(Path(os.environ["HOME"]) / "chat") as graph:
        yield graph


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Any]:
    """The graph whose chats are in this folder. Processes are killed, never the machine: nothing need be synced."""
    async with aiosqlite.connect(folder / "chat.sqlite", timeout=LOCKED) as connection:
        await connection.execute("PRAGMA synchronous = OFF")
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        yield _graph(folder).compile(checkpointer=saver)


def _graph(folder: Path) -> "StateGraph[Any]":
    async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        with _noted(folder, config):
            last = state["messages"][-1]
            if not isinstance(last, HumanMessage):
                await _of_itself(config)
            elif last.content == ASK:
                return {"messages": [AIMessage(f"You said {interrupt('May I?')}.")]}
            else:
                await asyncio.sleep(float(str(last.content)))
        return {"messages": [AIMessage(f"Answer {len(state['messages'])}.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("first", lambda _: None)
    graph.add_node("model", model)
    graph.add_edge(START, "first")
    graph.add_edge("first", "model")
    graph.add_edge("model", END)
    return graph


async def _of_itself(config: RunnableConfig) -> None:
    """Nobody said anything: one run in ten takes long enough for its bridge to be killed, one in fifty fails."""
    luck = random.Random(str(config["configurable"]["checkpoint_ns"]) + str(os.getpid()))
    await asyncio.sleep(luck.uniform(0.3, 1.5) if luck.random() < 0.1 else luck.uniform(0, 0.02))
    if luck.random() < 0.02:
        raise RuntimeError("the model is away")


# ---------------------------------------------------------------------- notes


@contextmanager
def _noted(folder: Path, config: RunnableConfig) -> Iterator[None]:
    """Note that the model began, and how it ended; of a process that was killed there is no end."""
    configurable = config["configurable"]
    about = {
        "pid": os.getpid(),
        "thread": configurable["thread_id"],
        "step": configurable["checkpoint_ns"],
        "wake": config.get("metadata", {}).get("agentq_wake"),
    }
    _note(folder, about | {"what": "began"})
    ended = "failed"
    try:
        yield
        ended = "ended"
    finally:
        _note(folder, about | {"what": ended})


def _note(folder: Path, about: dict[str, Any]) -> None:
    line = json.dumps(about | {"at": time.monotonic()}) + "\n"
    descriptor = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


# ---------------------------------------------------------------------- the server


def configured(thread: str) -> Any:
    """The configuration of a thread's runs: every other thread has a tenant."""
    tenant = tenant_of(thread)
    return {"configurable": {"thread_id": thread} | ({"tenant_id": tenant} if tenant else {})}


def tenant_of(thread: str) -> str | None:
    """Whose thread it is."""
    return "acme" if int(thread.removeprefix("t")) % 2 else None


class Server:
    """Turns in threads at random, several at once, never two in one thread."""

    def __init__(self, graph: Any, folder: Path, threads: int, seed: int) -> None:
        self._graph, self._folder = graph, folder
        self._threads = [f"t{number}" for number in range(threads)]
        self._luck = random.Random(seed)
        self._pause = max(4.0, 2 * AT_ONCE * EVERY / threads)
        self._asked: set[str] = set()

    async def run(self) -> None:
        """Say something in each thread; then take turns until it is over, and answer what was asked."""
        shares = [self._threads[place::AT_ONCE] for place in range(min(AT_ONCE, len(self._threads)))]
        met = asyncio.Barrier(len(shares))
        await asyncio.gather(*(self._worker(share, met) for share in shares))
        await asyncio.gather(*(self._answer(thread) for thread in self._threads))

    async def _worker(self, threads: list[str], met: asyncio.Barrier) -> None:
        for thread in threads:
            await self._say(thread, "0")
        await met.wait()
        (self._folder / "met").touch()
        while not (self._folder / "over").exists():
            await asyncio.sleep(self._luck.uniform(0, self._pause))
            thread = self._luck.choice(threads)
            if thread in self._asked:
                await self._answer(thread)
            else:
                await self._say(thread, self._words())

    def _words(self) -> str:
        """Most answers take a moment, some longer than a notice must have been there to be confirmed."""
        luck = self._luck.random()
        if luck < 0.15:
            return ASK
        return f"{self._luck.uniform(2, 5) if luck < 0.4 else self._luck.uniform(0, 0.3):.3f}"

    async def _say(self, thread: str, words: str) -> None:
        how = self._luck.choice(["sync", "async"])
        await self._turn(thread, {"messages": [HumanMessage(words)]}, how)
        if words == ASK:
            self._asked.add(thread)

    async def _answer(self, thread: str) -> None:
        """Answer what a thread asks; a run that began before it did may have written over its question."""
        self._asked.discard(thread)
        if (await self._graph.aget_state(configured(thread))).interrupts:
            await self._turn(thread, Command(resume="yes"), "async")

    async def _turn(self, thread: str, begin: Any, durability: str) -> None:
        async for _ in self._graph.astream(begin, configured(thread), durability=durability):
            pass


async def _serve(folder: Path, threads: int, seed: int) -> None:
    async with opened(folder) as graph:
        await Server(graph, folder, threads, seed).run()


# ---------------------------------------------------------------------- what became of it


def histories(folder: Path, threads: int) -> dict[str, tuple[list[dict[str, Any]], int]]:
    """The metadata of each thread's last checkpoint and its ancestors, the oldest first, and how many others it has
    that brought a notice."""
    found = dict[str, tuple[list[dict[str, Any]], int]]()
    with closing(sqlite3.connect(folder / "chat.sqlite")) as db:
        for thread in (f"t{number}" for number in range(threads)):
            rows = {here: (parent, json.loads(said)) for here, parent, said in db.execute(ROWS, (thread,))}
            here, history = max(rows, default=None), list[dict[str, Any]]()
            while here in rows:
                here, said = rows.pop(here)
                history.insert(0, said)
            found[thread] = (history, sum("agentq_notice" in said for _, said in rows.values()))
    return found


ROWS = (
    "SELECT checkpoint_id, parent_checkpoint_id, metadata FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ''"
)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
