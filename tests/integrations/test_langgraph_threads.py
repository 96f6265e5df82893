"""The port `Threads` over real graphs and LangGraph's own checkpointers."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt

from agentq.errors import AgentqError
from agentq.integrations.langgraph.history import call_id, notice_id
from agentq.integrations.langgraph.threads import PAGE, GraphThreads
from agentq.integrations.threads import Notice, Thread, ThreadFailed, View
from tests.chat.graphs import GRAPHS
from tests.chat.postgres import Cluster, cluster
from tests.chat.savers import SAVERS, open_saver

THREAD = Thread("thread-1")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for the whole session."""
    with cluster() as running:
        yield running


@pytest.fixture(params=SAVERS)
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Each checkpointer in turn, with nothing in it."""
    place = str(tmp_path / "chat.sqlite")
    if request.param.startswith("postgres"):
        place = request.getfixturevalue("postgres").database()
    async with AsyncExitStack() as stack:
        yield await open_saver(request.param, place, stack)


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"type": "tool_call", "id": f"call_{name}", "name": name, "args": arguments}])


class Chat:
    """A chat over a graph and a checkpointer: what its app does, and what a bridge does."""

    def __init__(self, make: Callable[..., Any], saver: Any) -> None:
        self.given: list[list[BaseMessage]] = []
        self.answers: list[AIMessage] = []
        self.graph = make(self._answer, saver)
        self.threads = GraphThreads(self.graph)
        self.config: Any = {"configurable": {"thread_id": THREAD.id}}

    def _answer(self, messages: Sequence[BaseMessage]) -> AIMessage:
        self.given.append(list(messages))
        return self.answers.pop(0) if self.answers else AIMessage(f"Answer {len(self.given)}.")

    async def do(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of the graph, as an app makes it with this checkpointer."""
        try:
            return await getattr(self.graph, f"a{method}")(*arguments, **named)
        except NotImplementedError:
            return await asyncio.to_thread(getattr(self.graph, method), *arguments, **named)

    async def turn(self, words: Any = "Hello.", **more: Any) -> None:
        """A turn of the app's own."""
        begin = {"messages": [HumanMessage(words)]} if isinstance(words, str) else words
        await self.do("invoke", begin, {**self.config, **more})

    async def append(self, *task_ids: str) -> None:
        await self.threads.append(THREAD, [Notice(one, "notify", f"{one} completed") for one in task_ids])

    async def look(self) -> View:
        return await self.threads.look(THREAD)

    async def missing(self, *task_ids: str) -> list[str]:
        return await self.threads.missing(THREAD, task_ids)

    async def messages(self) -> list[BaseMessage]:
        found: list[BaseMessage] = (await self.do("get_state", self.config)).values["messages"]
        return found

    async def notices(self) -> list[str]:
        """The jobs that the thread tells of."""
        return [str(m.content).split()[0] for m in await self.messages() if m.name == "poll_job_status"]

    async def place(self) -> Any:
        """Where the last checkpoint is."""
        return (await self.do("get_state", self.config)).config


@pytest.fixture(params=GRAPHS)
async def chat(request: pytest.FixtureRequest, saver: Any) -> AsyncIterator[Chat]:
    """A chat in which something was said, on each graph and checkpointer."""
    chat = Chat(GRAPHS[request.param], saver)
    await chat.turn()
    return chat


@pytest.fixture
async def quick() -> Chat:
    """One of them."""
    chat = Chat(GRAPHS["by-hand"], InMemorySaver())
    await chat.turn()
    return chat


# ---------------------------------------------------------------------- on every graph and checkpointer


async def test_a_thread_is_told_and_rests(chat: Chat) -> None:
    assert await chat.threads.look(Thread("another")) == View("gone")
    assert await chat.look() == View("idle")
    assert await chat.missing("job-1", "job-2") == ["job-1", "job-2"]
    await chat.append("job-1", "job-2")
    assert await chat.look() == View("running", noticed=True, unattended=2)
    assert await chat.missing("job-2", "job-3", "job-1") == ["job-3"]
    await chat.threads.rest(THREAD)
    assert await chat.look() == View("idle", unattended=2)
    assert len(chat.given) == 1, "nothing ran"
    asked, said, first, second = await chat.messages()
    assert (asked.content, said.content) == ("Hello.", "Answer 1.")
    assert isinstance(said, AIMessage)
    assert isinstance(first, ToolMessage)
    assert isinstance(second, ToolMessage)
    assert [one["args"] for one in said.tool_calls] == [{"job_id": "job-1"}, {"job_id": "job-2"}]
    assert [one["id"] for one in said.tool_calls] == [first.tool_call_id, second.tool_call_id]
    assert (first.tool_call_id, first.id) == (call_id("job-1"), notice_id("job-1"))
    assert (first.content, second.content) == ("job-1 completed", "job-2 completed")
    before = await chat.place()
    await chat.append("job-1")
    assert await chat.place() == before, "it is there"
    await chat.turn("And?")
    assert [m.content for m in chat.given[-1]][-1] == "And?"
    assert await chat.look() == View("idle")
    assert await chat.missing("job-1", "job-2") == []


async def test_a_thread_is_woken(chat: Chat) -> None:
    await chat.append("job-1")
    await chat.threads.run(THREAD, ["job-1"])
    assert await chat.look() == View("idle", unattended=1)
    assert [m.content for m in chat.given[-1]] == ["Hello.", "Answer 1.", "job-1 completed"]
    assert (await chat.messages())[-1].content == "Answer 2."
    assert await chat.missing("job-1") == []


async def test_what_somebody_s_run_wrote_over_is_missing(chat: Chat) -> None:
    before = await chat.place()
    await chat.append("job-1")
    await chat.threads.rest(THREAD)
    await chat.do("update_state", before, {"messages": [HumanMessage("Meanwhile.")]}, as_node="__start__")
    assert await chat.missing("job-1", "job-2") == ["job-1", "job-2"]
    assert await chat.notices() == []
    await chat.do("update_state", chat.config, None, as_node="__end__")
    await chat.append("job-1")
    assert await chat.missing("job-1", "job-2") == ["job-2"]
    assert await chat.notices() == ["job-1"]


async def test_where_somebody_has_begun_nothing_is_appended(chat: Chat) -> None:
    said = {"messages": [HumanMessage("Meanwhile.")]}
    await chat.do("update_state", chat.config, said, as_node="__start__")
    before = await chat.place()
    await chat.append("job-1", "job-2")
    assert await chat.place() == before
    await chat.do("update_state", chat.config, None, as_node="__end__")
    await chat.append("job-1", "job-2")
    assert await chat.notices() == ["job-1", "job-2"]


async def test_a_run_that_began_before_a_notice_is_seen_beside_it(chat: Chat) -> None:
    before = await chat.place()
    said = {"messages": [HumanMessage("Meanwhile.")]}
    begun = await chat.do("update_state", before, said, as_node="__start__")
    assert await chat.look() == View("running")
    marked = {**before, "metadata": {"agentq_notice": "job-1"}}
    await chat.do("update_state", marked, {"messages": [AIMessage("A notice.")]}, as_node="__start__")
    assert await chat.look() == View("running", noticed=True, beside=True)
    await chat.threads.rest(THREAD)
    assert await chat.look() == View("idle", beside=True)
    await chat.append(*(f"job-{n}" for n in range(2, 8)))
    assert (await chat.look()).beside
    await chat.do("update_state", begun, None, as_node="__end__")
    assert await chat.look() == View("idle")
    assert await chat.missing("job-1", "job-2") == ["job-1", "job-2"]


async def test_a_notice_stays_brought_when_the_chat_forgets_it(chat: Chat) -> None:
    start = await chat.place()
    await chat.append("job-1", "job-2")
    await chat.threads.rest(THREAD)
    gone = [RemoveMessage(id=str(m.id)) for m in await chat.messages()]
    await chat.do("update_state", chat.config, {"messages": [*gone, HumanMessage("In short.")]}, as_node="__start__")
    for n in range(PAGE + 2):
        await chat.do("update_state", chat.config, {"messages": [AIMessage(f"{n}")]}, as_node="model")
    assert await chat.notices() == []
    assert await chat.missing("job-0", "job-1", "job-2") == ["job-0"]
    await chat.do("update_state", start, {"messages": [HumanMessage("No.")]}, as_node="__start__")
    assert await chat.missing("job-0", "job-1", "job-2") == ["job-0", "job-1", "job-2"], "this is another branch"


async def test_an_interrupted_thread_says_so(chat: Chat) -> None:
    chat.answers = [calling("ask_person", question="Really?")]
    await chat.turn("Do it.")
    assert await chat.look() == View("interrupted")
    await chat.turn(Command(resume="yes"))
    assert await chat.look() == View("idle")


async def test_nothing_is_appended_where_somebody_has_begun_or_a_person_is_asked(chat: Chat) -> None:
    await chat.append("job-1")
    await chat.threads.rest(THREAD)
    await chat.do("update_state", chat.config, {"messages": [HumanMessage("Wait.")]}, as_node="__start__")
    await chat.append("job-2")
    assert await chat.missing("job-1", "job-2") == ["job-2"]
    chat.answers = [calling("ask_person", question="May I?")]
    await chat.turn(None)
    await chat.append("job-2")
    await chat.threads.rest(THREAD)
    assert (await chat.look()).state == "interrupted"
    assert await chat.missing("job-2") == ["job-2"]


async def test_a_run_that_asks_a_person_is_not_ours_any_more(chat: Chat) -> None:
    chat.answers = [calling("ask_person", question="Really?")]
    await chat.append("job-1")
    await chat.threads.run(THREAD, ["job-1"])
    assert await chat.look() == View("interrupted", unattended=1)
    await chat.turn(Command(resume="yes"))
    assert await chat.look() == View("idle", unattended=1)


async def test_a_run_that_fails_is_told_in_one_line_and_goes_on_at_its_last_step(chat: Chat) -> None:
    chat.answers = [calling("breaks"), AIMessage("It works again.")]
    await chat.append("job-1")
    with pytest.raises(ThreadFailed, match=r"^cannot run thread thread-1: RuntimeError: a bug in two lines$") as failed:
        await chat.threads.run(THREAD, ["job-1"])
    assert failed.value.hint
    assert await chat.look() == View("running", woken=True, unattended=1)
    assert len(chat.given) == 2
    with pytest.raises(ThreadFailed):
        await chat.threads.run(THREAD, ["job-1"])
    assert len(chat.given) == 2, "the model is not asked again"
    await chat.threads.rest(THREAD)
    assert await chat.look() == View("unanswered", unattended=1)


async def test_what_the_app_s_runs_were_configured_with_is_kept(chat: Chat) -> None:
    chat.config["configurable"] |= {"tenant_id": "acme", "user": "ann", "depth": 3, "thing": object()}
    await chat.turn("I am Ann.", metadata={"plan": "free"})
    acme = Thread(THREAD.id, "acme")
    assert await chat.threads.look(acme) == View("idle")
    assert await chat.threads.look(Thread(THREAD.id, "other")) == View("gone")
    await chat.threads.append(acme, [Notice("job-1", "wake", "done")])
    await chat.threads.run(acme, ["job-1"])
    kept = (await chat.do("get_state", {"configurable": {"thread_id": THREAD.id}})).metadata
    assert {
        "tenant_id": "acme",
        "user": "ann",
        "depth": 3,
        "plan": "free",
        "agentq_wake": "job-1",
    }.items() <= kept.items()
    assert "agentq_notice" not in kept
    await chat.append("job-2")
    await chat.threads.rest(THREAD)
    kept = (await chat.do("get_state", {"configurable": {"thread_id": THREAD.id}})).metadata
    assert (kept["tenant_id"], "agentq_wake" in kept, "agentq_notice" in kept) == ("acme", False, False)


# ---------------------------------------------------------------------- what depends on neither


class Slow:
    """A graph with a node that waits."""

    def __init__(self, saver: Any = None) -> None:
        self.begun, self.go, self.ran = asyncio.Event(), asyncio.Event(), 0
        graph = StateGraph(MessagesState)
        graph.add_node("first", lambda _: {"messages": [AIMessage("First.")]})
        graph.add_node("slow", self._slow)
        graph.add_edge(START, "first")
        graph.add_edge("first", "slow")
        self.graph = graph.compile(checkpointer=saver or InMemorySaver())
        self.threads = GraphThreads(self.graph)

    async def _slow(self, _: MessagesState) -> dict[str, Any]:
        self.begun.set()
        await self.go.wait()
        self.ran += 1
        return {"messages": [AIMessage("Done.")]}


CONFIG: Any = {"configurable": {"thread_id": THREAD.id}}


async def test_a_thread_that_runs_says_so() -> None:
    slow = Slow()
    running = asyncio.create_task(slow.graph.ainvoke({"messages": [HumanMessage("Go.")]}, CONFIG))
    await slow.begun.wait()
    assert await slow.threads.look(THREAD) == View("running")
    slow.go.set()
    await running
    assert await slow.threads.look(THREAD) == View("idle")


async def test_a_run_that_is_cancelled_can_be_gone_on_with() -> None:
    slow = Slow()
    await slow.graph.aupdate_state(CONFIG, {"messages": [HumanMessage("Go.")]}, as_node="__start__")
    await slow.graph.aupdate_state(CONFIG, None, as_node="__end__")
    await slow.threads.append(THREAD, [Notice("job-1", "wake", "done")])
    running = asyncio.create_task(slow.threads.run(THREAD, ["job-1"]))
    await slow.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await slow.threads.look(THREAD)).woken
    slow.go.set()
    await slow.threads.run(THREAD, ["job-1"])
    messages = (await slow.graph.aget_state(CONFIG)).values["messages"]
    assert [m.content for m in messages if isinstance(m, AIMessage)][-2:] == ["First.", "Done."]
    assert slow.ran == 1


async def test_a_run_in_a_thread_stops_after_its_step_when_it_is_cancelled(tmp_path: Path) -> None:
    begun, go, ran = threading.Event(), threading.Event(), list[str]()

    def slow(_: MessagesState) -> None:
        begun.set()
        assert go.wait(10)
        ran.append("slow")

    graph = StateGraph(MessagesState)
    graph.add_node("slow", slow)
    graph.add_node("last", lambda _: ran.append("last"))
    graph.add_edge(START, "slow")
    graph.add_edge("slow", "last")
    with SqliteSaver.from_conn_string(str(tmp_path / "chat.sqlite")) as saver:
        compiled = graph.compile(checkpointer=saver)
        threads = GraphThreads(compiled)
        compiled.update_state(CONFIG, {"messages": [HumanMessage("Go.")]}, as_node="__start__")
        running = asyncio.create_task(threads.run(THREAD, ["job-1"]))
        assert await asyncio.to_thread(begun.wait, 10)
        running.cancel()
        await asyncio.sleep(0)
        assert not running.done(), "it still writes"
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ran == ["slow"]
        assert (await threads.look(THREAD)).woken
        await threads.run(THREAD, ["job-1"])
        assert ran == ["slow", "last"]
        assert (await threads.look(THREAD)).state == "idle"


async def test_what_a_graph_within_asks_a_person_interrupts_the_thread() -> None:
    inner = StateGraph(MessagesState)
    inner.add_node("ask", lambda _: {"messages": [AIMessage(str(interrupt("May I?")))]})
    inner.add_edge(START, "ask")
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    compiled = outer.compile(checkpointer=InMemorySaver())
    threads = GraphThreads(compiled)
    await compiled.aupdate_state(CONFIG, {"messages": [HumanMessage("Go.")]}, as_node="__start__")
    await threads.run(THREAD, ["job-1"])
    assert await threads.look(THREAD) == View("interrupted")
    await compiled.ainvoke(Command(resume="yes"), CONFIG)
    assert await threads.look(THREAD) == View("idle")
    await threads.append(THREAD, [Notice("job-1", "notify", "done")])
    await threads.rest(THREAD)
    assert await threads.missing(THREAD, ["job-1"]) == []


async def test_a_run_that_somebody_goes_on_with_is_his() -> None:
    begun, begun_again, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def beside(_: MessagesState) -> None:
        interrupt("one?")

    async def slow(_: MessagesState) -> None:
        if not begun.is_set():
            begun.set()
            raise RuntimeError("at the first try")
        begun_again.set()
        await go.wait()

    graph = StateGraph(MessagesState)
    graph.add_node("beside", beside)
    graph.add_node("slow", slow)
    graph.add_edge(START, "beside")
    graph.add_edge(START, "slow")
    compiled = graph.compile(checkpointer=InMemorySaver())
    threads = GraphThreads(compiled)
    await compiled.aupdate_state(CONFIG, {"messages": [HumanMessage("Go.")]}, as_node="__start__")
    with pytest.raises(ThreadFailed):
        await threads.run(THREAD, ["job-1"])
    running = asyncio.create_task(compiled.ainvoke(Command(resume="yes"), CONFIG))

    await begun_again.wait()
    view = await threads.look(THREAD)
    assert not view.woken
    assert view.state in ("running", "interrupted")
    go.set()
    await running


async def test_a_breakpoint_is_for_a_person(quick: Chat) -> None:
    quick.graph.interrupt_before_nodes = ["tools"]
    quick.answers = [calling("breaks")]
    await quick.turn("Go.")
    assert await quick.look() == View("interrupted")


async def test_calls_that_nobody_answered(quick: Chat) -> None:
    quick.answers = [calling("unknown")]
    await quick.do("update_state", quick.config, {"messages": [calling("of_the_browser")]}, as_node="model")
    await quick.do("update_state", quick.config, None, as_node="__end__")
    assert await quick.look() == View("unanswered")


async def test_after_a_person_s_words_a_notice_is_no_longer_unattended(quick: Chat) -> None:
    for n in range(3):
        await quick.append(f"job-{n}")
        await quick.threads.run(THREAD, [f"job-{n}"])
        assert (await quick.look()).unattended == n + 1
    await quick.turn("I am here.")
    assert (await quick.look()).unattended == 0


async def test_looking_costs_the_same_in_a_long_thread(quick: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3 * PAGE):
        await quick.turn()
    await quick.append("job-1")
    listed, alist = list[int](), quick.graph.checkpointer.alist

    async def counting(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
        listed.append(named["limit"])
        async for one in alist(*arguments, **named):
            yield one

    monkeypatch.setattr(quick.graph.checkpointer, "alist", counting)
    await quick.do("update_state", quick.config, {"messages": [RemoveMessage(notice_id("job-1"))]}, as_node="model")
    assert await quick.missing("job-1") == []
    assert await quick.missing("job-2") == ["job-2"]
    assert len(listed) == 3
    for _ in range(3):
        assert await quick.missing("job-1", "job-2") == ["job-2"]
    assert len(listed) == 3, "nothing has changed since"
    await quick.turn()
    await quick.turn()
    await quick.append("job-2")
    assert await quick.missing("job-1", "job-2") == []


async def test_after_a_tool_s_turn_a_notice_is_a_message_of_its_own(quick: Chat) -> None:
    answer = ToolMessage("in one", tool_call_id="call_of_the_browser")
    update = {"messages": [calling("of_the_browser"), answer]}
    await quick.do("update_state", quick.config, update, as_node="model")
    await quick.do("update_state", quick.config, None, as_node="__end__")
    await quick.append("job-1", "job-2")
    *_, call, first, second = await quick.messages()
    assert isinstance(call, AIMessage)
    assert [one["id"] for one in call.tool_calls] == [call_id("job-1"), call_id("job-2")]
    assert [first.id, second.id] == [notice_id("job-1"), notice_id("job-2")]


async def test_messages_that_are_kept_as_changes_are_appended_too() -> None:
    class Kept(TypedDict):
        messages: Annotated[
            list[Any], DeltaChannel(lambda old, new: add_messages(old, [m for one in new for m in one]))
        ]

    graph = StateGraph(Kept)
    graph.add_node("model", lambda _: {"messages": [AIMessage("Hello.")]})
    graph.add_edge(START, "model")
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.ainvoke({"messages": [HumanMessage("Hi.")]}, CONFIG)
    threads = GraphThreads(compiled)
    await threads.append(THREAD, [Notice("job-1", "wake", "done")])
    await threads.run(THREAD, ["job-1"])
    messages = (await compiled.aget_state(CONFIG)).values["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
    assert await threads.missing(THREAD, ["job-1"]) == []
    await compiled.aupdate_state(CONFIG, {"messages": [RemoveMessage(notice_id("job-1"))]}, as_node="model")
    assert await threads.missing(THREAD, ["job-1", "job-2"]) == ["job-2"]


class Other(TypedDict):
    notes: Annotated[list[str], lambda old, new: [*old, *new]]


class Bare(TypedDict):
    messages: list[Any]


@pytest.mark.parametrize("schema", [Other, Bare])
async def test_a_graph_that_takes_no_messages_is_left_alone(schema: Any) -> None:
    graph = StateGraph(schema)
    graph.add_node("only", lambda _: {})
    graph.add_edge(START, "only")
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.ainvoke({"notes": ["a"], "messages": ["a"]}, CONFIG)
    before = await compiled.aget_state(CONFIG)
    with pytest.raises(ThreadFailed, match="the graph appends no messages under 'messages'") as failed:
        await GraphThreads(compiled).append(THREAD, [Notice("job-1", "notify", "done")])
    assert "--messages-key" in failed.value.hint
    assert await compiled.aget_state(CONFIG) == before
    assert await GraphThreads(compiled).missing(THREAD, ["job-1"]) == ["job-1"]


class Inner(MessagesState):
    notes: str


class Outer(TypedDict):
    notes: str


async def test_a_graph_whose_input_has_no_messages_keeps_what_it_has() -> None:
    graph = StateGraph(Inner, input_schema=Outer)
    graph.add_node("only", lambda _: {"messages": [AIMessage("Hello.")]})
    graph.add_edge(START, "only")
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.ainvoke({"notes": "a"}, CONFIG)
    threads = GraphThreads(compiled)
    with pytest.raises(ThreadFailed):
        await threads.append(THREAD, [Notice("job-1", "notify", "done")])
    assert await threads.missing(THREAD, ["job-1"]) == ["job-1"], "what was not taken was not brought"


async def test_messages_without_ids_are_appended_and_not_joined() -> None:
    class Plain(TypedDict):
        log: Annotated[list[Any], lambda old, new: [*old, *new]]

    graph = StateGraph(Plain)
    graph.add_node("only", lambda _: {"log": [AIMessage("Hello.", id="a")]})
    graph.add_edge(START, "only")
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.ainvoke({"log": [HumanMessage("Hi.")]}, CONFIG)
    threads = GraphThreads(compiled, "log")
    await threads.append(THREAD, [Notice("job-1", "notify", "done")])
    log = (await compiled.aget_state(CONFIG)).values["log"]
    assert [m.content for m in log] == ["Hi.", "Hello.", "", "done"]
    assert await threads.missing(THREAD, ["job-1"]) == []


async def test_a_run_is_given_what_its_app_says() -> None:
    seen: list[Any] = []

    class Context(TypedDict):
        locale: str

    def look(_: MessagesState, runtime: Runtime[Context], config: RunnableConfig) -> None:
        seen.append((runtime.context, config["configurable"]["model"], config["metadata"]["of"]))

    async def config(thread: Thread) -> Any:
        return {"configurable": {"model": "m"}, "metadata": {"of": thread.id}, "context": {"locale": "de"}}

    graph = StateGraph(MessagesState, context_schema=Context)
    graph.add_node("look", look)
    graph.add_edge(START, "look")
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.aupdate_state(CONFIG, {"messages": [HumanMessage("Go.")]}, as_node="__start__")
    await GraphThreads(compiled, config=config).run(THREAD, ["job-1"])
    assert seen == [({"locale": "de"}, "m", THREAD.id)]


async def test_a_checkpointer_that_fails_is_no_bug() -> None:
    chat = Chat(GRAPHS["by-hand"], InMemorySaver())

    async def away(*_: Any) -> None:
        raise OSError("connection refused\x1b[2J")

    chat.graph.checkpointer.aget_tuple = away
    with pytest.raises(AgentqError, match=r"cannot look at thread thread-1: OSError: connection refused\\x1b"):
        await chat.look()


@pytest.mark.skipif("TEST_POSTGRES" not in os.environ, reason="make test-all says TEST_POSTGRES=1")
async def test_threads_of_postgres_are_there_again_after_it_was_away() -> None:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    with cluster() as server:
        how = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(server.url(), kwargs=how, open=False, timeout=5, min_size=1) as pool:
            saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
            await saver.setup()
            chat = Chat(GRAPHS["by-hand"], saver)
            await chat.turn()
            await asyncio.to_thread(server.stop)
            with pytest.raises(ThreadFailed, match="cannot append to thread thread-1"):
                await chat.append("job-1")
            await asyncio.to_thread(server.start)
            for _ in range(5):
                with contextlib.suppress(ThreadFailed):
                    await chat.append("job-1")
            assert await chat.notices() == ["job-1"]
            assert await chat.missing("job-1", "job-2") == ["job-2"]
