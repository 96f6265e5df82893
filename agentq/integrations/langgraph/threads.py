"""The threads of a LangGraph graph, by its own checkpointer: the port `Threads`."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentq.harmless import one_line
from agentq.integrations.langgraph.calls import Calls, Config, Saved, Snapshot
from agentq.integrations.langgraph.history import apart, holds, is_unanswered, joined, unattended
from agentq.integrations.threads import Notice, State, Thread, ThreadFailed, View
from agentq.messages import shorten

NOTICE, WAKE, REST = "agentq_notice", "agentq_wake", "agentq_rest"
"""Of a checkpoint's metadata: the job whose notice it brought, the jobs for which its run was begun, and that it has
the thread rest after a notice."""
TENANT_KEY = "tenant_id"
PAGE, FEW = 20, 4
"""How many checkpoints are looked through at once."""
REMEMBERED = 1000
"""Of how many threads it is remembered what was looked for in vain: that may take reading all of a thread."""
SAID = 500
_OF_LANGGRAPH = {
    *("source", "step", "parents", "writes", "run_id", "thread_id", "checkpoint_id", "checkpoint_ns"),
    *("checkpoint_map", "counters_since_delta_snapshot"),
}
_PREFIXES = ("agentq_", "langgraph_", "ls_", "lc_", "__")

RunConfig = Callable[[Thread], Any]
"""What the app gives to a thread's run, at once or awaited: a RunnableConfig, and `context` for the graph's schema."""


class GraphThreads:
    """The threads of one compiled graph with a checkpointer.

    A thread keeps the configuration that its app's own runs had, as far as its checkpoints tell: texts, numbers and
    truth values. What `config` answers for it comes on top, and its tenant under `tenant_key`.
    """

    def __init__(
        self,
        graph: Any,
        messages_key: str = "messages",
        *,
        tenant_key: str = TENANT_KEY,
        config: RunConfig | None = None,
    ) -> None:
        self._graph, self._calls = graph, Calls(graph)
        self._key, self._tenant_key, self._config = messages_key, tenant_key, config
        self._known = dict[Thread, tuple[str, dict[str, bool]]]()
        self._alone = asyncio.Lock()

    # ------------------------------------------------------------------ the port

    async def look(self, thread: Thread) -> View:
        """How a thread stands now; one whose checkpoints name another tenant is gone."""
        with _failing(thread, "look at"):
            async with self._alone:
                return await self._look(thread)

    async def _look(self, thread: Thread) -> View:
        state = await self._calls.state(_bare(thread))
        if state.metadata is None or self._is_of_another(thread, state):
            return View("gone")
        messages, at_work = self._messages(state), bool(state.next) and not state.interrupts
        return View(
            self._state(state, messages),
            noticed=at_work and NOTICE in state.metadata,
            woken=at_work and WAKE in state.metadata and not await self._is_answered(state),
            unattended=unattended(messages),
            beside=await self._is_run_beside(thread, state),
        )

    async def missing(self, thread: Thread, task_ids: Sequence[str]) -> list[str]:
        """Those of these jobs whose notice is not in the thread."""
        with _failing(thread, "look at"):
            async with self._alone:
                return await self._missing(thread, task_ids)

    async def _missing(self, thread: Thread, task_ids: Sequence[str]) -> list[str]:
        state = await self._calls.state(_bare(thread))
        messages = self._messages(state)
        away = [task_id for task_id in task_ids if not holds(messages, task_id)]
        if not away or state.metadata is None:
            return away
        known = self._known_at(thread, _named(state.config) or "")
        if new := [task_id for task_id in away if task_id not in known]:
            found = await self._among_ancestors(state, await self._marked(thread, new))
            known |= {task_id: task_id in found for task_id in new}
        return [task_id for task_id in away if not known[task_id]]

    async def append(self, thread: Thread, notices: Sequence[Notice]) -> None:
        """Append notices, each by a checkpoint of its own, but those that are there; nothing runs. It ends where
        somebody has begun a run since the thread was looked at."""
        with _failing(thread, "append to"):
            for notice in notices:
                state = await self._calls.state(_bare(thread))
                config, _ = await self._run_config(thread, state, {NOTICE: notice.task_id})
                async with self._alone:  # a notice is made for what is there: nothing of ours delays it now
                    if not await self._put(thread, notice, config):
                        return

    async def _put(self, thread: Thread, notice: Notice, config: Config) -> bool:
        """Append a notice, unless it is there; False for a thread that is not to be written to any more."""
        state = await self._calls.state(_bare(thread))
        messages = self._messages(state)
        if holds(messages, notice.task_id):
            return True
        if self._state(state, messages) != "idle" and (state.interrupts or NOTICE not in (state.metadata or {})):
            return False
        put = await self._calls.update(config, {self._key: self._fitting(thread, messages, notice)}, "__start__")
        if not holds(self._messages(await self._calls.state(put)), notice.task_id):
            raise self._takes_none(thread)
        return True

    async def rest(self, thread: Thread) -> None:
        """Have nothing to run next, unless somebody has begun a run since the thread was looked at."""
        with _failing(thread, "append to"):
            config, _ = await self._run_config(thread, await self._calls.state(_bare(thread)), {REST: "yes"})
            async with self._alone:
                state = await self._calls.state(_bare(thread))
                if _is_ours(state.metadata) and not state.interrupts:
                    await self._calls.update(config, None, "__end__")

    async def run(self, thread: Thread, task_ids: Sequence[str]) -> None:
        """Run what is to run next, until the thread rests or is interrupted."""
        with _failing(thread, "run"):
            state = await self._calls.state(_bare(thread))
            config, context = await self._run_config(thread, state, {WAKE: " ".join(task_ids)})
            await self._calls.run(config, context)

    # ------------------------------------------------------------------ how it stands

    def _state(self, state: Snapshot, messages: Sequence[Any]) -> State:
        if state.interrupts or self._is_at_breakpoint(state):
            return "interrupted"
        if state.next:
            return "running"
        return "unanswered" if is_unanswered(messages) else "idle"

    def _is_at_breakpoint(self, state: Snapshot) -> bool:
        """Whether a run stops before what is next, unless that was begun by a notice."""
        before = self._graph.interrupt_before_nodes or ()
        stops = bool(state.next) if before == "*" else bool({*before} & {*state.next})
        return stops and NOTICE not in (state.metadata or {})

    async def _is_answered(self, state: Snapshot) -> bool:
        """Whether somebody has answered what a run asked for: then he runs the thread now."""
        saved = await self._calls.saved(state.config)
        return saved is not None and any(channel == "__resume__" for _, channel, _ in saved.pending_writes or ())

    async def _is_run_beside(self, thread: Thread, state: Snapshot) -> bool:
        """Whether something is to run after the newest checkpoint of others, when ours are newer than that."""
        before = None
        while _is_ours(state.metadata):
            page = await self._calls.listed(_root(thread), before=before, limit=FEW)
            for saved in page:
                if not _is_ours(saved.metadata):
                    return bool((await self._calls.state(saved.config)).next)
            if len(page) < FEW:
                break
            before = page[-1].config
        return False

    def _messages(self, state: Snapshot) -> list[Any]:
        found = state.values.get(self._key) if isinstance(state.values, Mapping) else None
        return list(found) if isinstance(found, (list, tuple)) else []

    def _is_of_another(self, thread: Thread, state: Snapshot) -> bool:
        found = (state.metadata or {}).get(self._tenant_key)
        return thread.tenant is not None and found is not None and str(found) != thread.tenant

    # ------------------------------------------------------------------ what was appended

    def _known_at(self, thread: Thread, checkpoint: str) -> dict[str, bool]:
        """Which notices are known to be in a thread, and which not, as long as this is its last checkpoint."""
        found, known = self._known.pop(thread, ("", {}))
        self._known[thread] = checkpoint, known if found == checkpoint else {}
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return self._known[thread][1]

    async def _marked(self, thread: Thread, task_ids: Sequence[str]) -> dict[str, str]:
        """The checkpoints that brought these jobs' notices, also those that were written over."""
        marked = dict[str, str]()
        for task_id in task_ids:
            for saved in await self._calls.listed(_root(thread), marked={NOTICE: task_id}, limit=PAGE):
                messages = saved.checkpoint["channel_values"].get(self._key)
                if holds(messages, task_id) or not isinstance(messages, list):
                    marked[_id_of(saved)] = task_id
        return marked

    async def _among_ancestors(self, state: Snapshot, marked: dict[str, str]) -> set[str]:
        """The jobs of those of these checkpoints that are the last one or come before it on its branch.

        Ids of checkpoints are in the order of time, so nothing older than all of these is looked at.
        """
        found, wanted, before = set[str](), _named(state.config), None
        thread = Thread(str(state.config["configurable"]["thread_id"]))
        while wanted and marked and wanted >= min(marked):
            page = await self._calls.listed(_root(thread), before=before, limit=PAGE)
            if not page:
                break
            for saved in page:
                if _id_of(saved) == wanted:
                    if wanted in marked:
                        found.add(marked.pop(wanted))
                    wanted = _named(saved.parent_config)
            before = page[-1].config
        return found

    # ------------------------------------------------------------------ writing

    def _fitting(self, thread: Thread, messages: list[Any], notice: Notice) -> list[Any]:
        """The messages that bring a notice into this history; raises ThreadFailed when the graph would not append."""
        close = joined(messages, notice)
        if close and (after := self._after(messages, close)) is not None and len(after) == len(messages) + 1:
            return close
        pair = apart(notice)
        after = self._after(messages, pair)
        if after is None or len(after) < len(messages) + len(pair):
            raise self._takes_none(thread)
        return pair

    def _after(self, messages: list[Any], update: list[Any]) -> list[Any] | None:
        """The history as the graph would make it of this update, None where it has no reducer for that."""
        channel = self._graph.channels.get(self._key)
        if reducer := getattr(channel, "reducer", None):
            after = reducer([*messages], [[*update]])
        elif operator := getattr(channel, "operator", None):
            after = operator([*messages], [*update])
        else:
            return None
        return after if isinstance(after, list) else None

    def _takes_none(self, thread: Thread) -> ThreadFailed:
        return ThreadFailed(
            f"thread {one_line(thread.id)}: the graph appends no messages under {self._key!r}",
            hint="Name the key of its state that holds the messages, with a reducer such as add_messages:"
            " --messages-key, or Bridge(messages_key=…).",
        )

    async def _run_config(self, thread: Thread, state: Snapshot, marks: Mapping[str, str]) -> tuple[Config, Any]:
        """The configuration for a thread's run, and its context."""
        given = self._config(thread) if self._config else {}
        given = dict(await given if inspect.isawaitable(given) else given)
        context, metadata = given.pop("context", None), {**given.pop("metadata", {}), **marks}
        tenant = {} if thread.tenant is None else {self._tenant_key: thread.tenant}
        configurable = {**_kept(state.metadata), **given.pop("configurable", {}), **tenant, "thread_id": thread.id}
        config: Config = {**given, "configurable": configurable, "metadata": metadata}  # type: ignore[typeddict-item]
        return config, context


def _bare(thread: Thread) -> Config:
    return {"configurable": {"thread_id": thread.id}}


def _root(thread: Thread) -> Config:
    """The thread's own checkpoints, without those of its subgraphs."""
    return {"configurable": {"thread_id": thread.id, "checkpoint_ns": ""}}


def _id_of(saved: Saved) -> str:
    return _named(saved.config) or ""


def _named(config: Config | None) -> str | None:
    return config["configurable"].get("checkpoint_id") if config else None


def _is_ours(metadata: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint is of a notice, or of what became of it."""
    return any(mark in (metadata or {}) for mark in (NOTICE, WAKE, REST))


def _kept(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of a checkpoint's metadata its app's run was configured with; what LangGraph adds itself is left out."""
    return {
        key: value
        for key, value in (metadata or {}).items()
        if key not in _OF_LANGGRAPH and not key.startswith(_PREFIXES) and isinstance(value, (str, int, float, bool))
    }


@contextlib.contextmanager
def _failing(thread: Thread, what: str) -> Iterator[None]:
    """Whatever the graph's own code or its checkpointer raises is a ThreadFailed."""
    try:
        yield
    except ThreadFailed:
        raise
    except Exception as error:
        said = shorten(one_line(f"{type(error).__name__}: {error}"), SAID)
        raise ThreadFailed(
            f"cannot {what} thread {one_line(thread.id)}: {said}", hint="Look at the graph's code and its checkpointer."
        ) from error
