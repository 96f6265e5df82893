"""A graph's calls, by whichever side of its checkpointer works: some can only be awaited, some only be called."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import StateSnapshot

T = TypeVar("T")
Config = RunnableConfig
Saved = CheckpointTuple
Snapshot = StateSnapshot


class Calls:
    """What is asked of a compiled graph, awaited; what its checkpointer can only be called for runs in a thread."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self._saver: BaseCheckpointSaver[Any] = graph.checkpointer
        self._awaits: bool | None = None

    async def state(self, config: Config) -> Snapshot:
        """The state at the checkpoint that is named, else at the last one; its metadata is None where there is none."""
        if await self._can_await():
            found: Snapshot = await self.graph.aget_state(config)
            return found
        return await _in_thread(lambda _: self.graph.get_state(config))

    async def saved(self, config: Config) -> Saved | None:
        """The checkpoint as it is saved."""
        if await self._can_await():
            return await self._saver.aget_tuple(config)
        return await _in_thread(lambda _: self._saver.get_tuple(config))

    async def listed(
        self, config: Config, *, marked: Mapping[str, Any] | None = None, before: Config | None = None, limit: int
    ) -> list[Saved]:
        """The last checkpoints, the newest first: those with these metadata, and before that one."""
        wanted: Any = {"filter": dict(marked) if marked else None, "before": before, "limit": limit}
        if await self._can_await():
            return [one async for one in self._saver.alist(config, **wanted)]
        return await _in_thread(lambda _: [*self._saver.list(config, **wanted)])

    async def update(self, config: Config, values: Any, as_node: str) -> Config:
        """Put a checkpoint after the last one, and answer where it is."""
        if await self._can_await():
            put: Config = await self.graph.aupdate_state(config, values, as_node=as_node)
            return put
        return await _in_thread(lambda _: self.graph.update_state(config, values, as_node=as_node))

    async def run(self, config: Config, context: Any = None) -> None:
        """Run what is next until nothing is, or an interrupt; one that is cancelled ends at its next step at latest."""
        how: Any = {
            "durability": "sync",
            "stream_mode": "updates",
            **({"context": context} if context is not None else {}),
        }
        if await self._can_await():
            async for _ in self.graph.astream(None, config, **how):
                pass
            return

        def steps(stopped: threading.Event) -> None:
            for _ in self.graph.stream(None, config, **how):
                if stopped.is_set():
                    return

        await _in_thread(steps)

    async def _can_await(self) -> bool:
        if self._awaits is None:
            try:
                await self._saver.aget_tuple({"configurable": {"thread_id": "agentq-looks", "checkpoint_ns": ""}})
                self._awaits = True
            except NotImplementedError:
                self._awaits = False
        return self._awaits


async def _in_thread(act: Callable[[threading.Event], T]) -> T:
    """What `act` answers in a thread of its own; a caller that is cancelled waits for its end, and asks for it."""
    stopped = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(act, stopped))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([running])
        running.exception()  # whoever was cancelled does not care
        raise
