"""Histories with notices, as the providers' own converters send them, obey what the providers document.

These are imported where they are used: whoever collects all tests would wait for them.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from agentq.integrations.langgraph.threads import GraphThreads
from agentq.integrations.threads import Notice, Thread

THREAD = Thread("t")
CONFIG: Any = {"configurable": {"thread_id": "t"}}
CALL = {"type": "tool_call", "id": "toolu_1", "name": "trigger_agent_job", "args": {"role": "r"}}


class Broken(AssertionError):
    """A history that a provider refuses."""


def must(holds: object, what: str) -> None:
    if not holds:
        raise Broken(what)


# ---------------------------------------------------------------------- what providers document


def obeys_anthropic(payload: dict[str, Any]) -> None:
    """Tool use: each is answered at once, first thing in the next user's message, and nothing else is answered."""
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in payload["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if turns and turns[-1][0] == message["role"]:  # the API combines turns of one role
            turns[-1][1].extend(blocks)
        else:
            turns.append((message["role"], list(blocks)))
    must(turns[0][0] == turns[-1][0] == "user", "it begins and ends with the user's turn")
    asked: list[str] = []
    for role, blocks in turns:
        must(all(block.get("text", "x").strip() for block in blocks), "no text is empty")
        answers = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        must(sorted(answers) == sorted(asked), f"{asked} are answered at once, not {answers}")
        must(all(block["type"] == "tool_result" for block in blocks[: len(answers)]), "results come first")
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        must(role == "assistant" or not asked, "only the assistant uses tools")
        must(all(re.fullmatch(r"[a-zA-Z0-9_-]+", one) for one in asked), "the ids of tool uses")
        texts = [block["type"] for block in blocks]
        must("tool_use" not in texts[:-1] or "text" not in texts[texts.index("tool_use") :], "tool uses come last")
    must(not asked, "no use without an answer")


def obeys_chat_completions(payload: dict[str, Any]) -> None:
    """An assistant's message with tool_calls is followed by one tool message for each, and by nothing else first."""
    asked: list[str] = []
    for message in payload["messages"]:
        if message["role"] == "tool":
            must(message["tool_call_id"] in asked, f"nobody asked for {message['tool_call_id']}")
            asked.remove(message["tool_call_id"])
            continue
        must(not asked, f"{asked} are answered first")
        asked = [call["id"] for call in message.get("tool_calls", ())]
        must(all(len(one) <= 40 for one in asked), "the ids of calls")
        must(message["content"] or asked, "a message says something")
    must(not asked, "no call without an answer")


def obeys_responses(payload: dict[str, Any]) -> None:
    """Each function call has one output, and it comes before anything else is said."""
    asked: list[str] = []
    for item in payload["input"]:
        if item.get("type") == "function_call":
            asked.append(item["call_id"])
            must(len(item["call_id"]) <= 64, "the ids of calls")
        elif item.get("type") == "function_call_output":
            must(item["call_id"] in asked, f"nobody asked for {item['call_id']}")
            asked.remove(item["call_id"])
        else:
            must(not asked, f"{asked} are answered first")
    must(not asked, "no call without an output")


def obeys_gemini(contents: Sequence[Any]) -> None:
    """A turn with function calls comes right after a user's turn or responses, and its responses right after it."""
    before, asked = None, 0
    for content in contents:
        must(content.parts, "a turn has parts")
        calls = sum(1 for part in content.parts if part.function_call)
        responses = sum(1 for part in content.parts if part.function_response)
        must(responses == asked, f"{asked} calls have as many responses in the next turn, not {responses}")
        must(not responses or responses == len(content.parts), "responses are alone in their turn")
        must(not calls or before == "user", "calls come right after a user's turn or responses")
        before, asked = content.role, calls
    must(not asked, "no call without a response")
    must(before == "user", "it ends with the user's turn or responses")


def _anthropic(messages: list[BaseMessage]) -> None:
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(model="claude-opus-4-5", api_key="none")  # type: ignore[call-arg, arg-type]
    obeys_anthropic(model._get_request_payload(messages))


def _openai(messages: list[BaseMessage]) -> None:
    from langchain_openai import ChatOpenAI

    obeys_chat_completions(ChatOpenAI(model="gpt-5", api_key="none")._get_request_payload(messages))  # type: ignore[arg-type]


def _responses(messages: list[BaseMessage]) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="gpt-5", api_key="none", use_responses_api=True, output_version="responses/v1")  # type: ignore[arg-type]
    obeys_responses(model._get_request_payload(messages))


def _gemini(name: str) -> Callable[[list[BaseMessage]], None]:
    from langchain_google_genai import ChatGoogleGenerativeAI

    def check(messages: list[BaseMessage]) -> None:
        model = ChatGoogleGenerativeAI(model=name, api_key="none")  # type: ignore[call-arg]
        obeys_gemini(model._prepare_request(messages)["contents"])

    return check


PROVIDERS = {
    "anthropic": _anthropic,
    "openai": _openai,
    "openai-responses": _responses,
    "gemini-2.5": _gemini("gemini-2.5-pro"),
    "gemini-3": _gemini("gemini-3-pro-preview"),
}


@pytest.fixture(params=PROVIDERS)
def accepts(request: pytest.FixtureRequest) -> Callable[[list[BaseMessage]], None]:
    """What raises Broken for a history that a provider would refuse."""
    return PROVIDERS[request.param]


# ---------------------------------------------------------------------- histories


def text(words: str) -> AIMessage:
    return AIMessage(words)


def block(words: str) -> AIMessage:
    return AIMessage([{"type": "text", "text": words}])


def v1(words: str) -> AIMessage:
    return AIMessage([{"type": "text", "text": words}], response_metadata={"output_version": "v1"})


def thought(words: str) -> AIMessage:
    return AIMessage([{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": words}])


SAYS: dict[str, Callable[[str], AIMessage]] = {"text": text, "block": block, "v1": v1, "thought": thought}


class Chat:
    """A graph with a scripted model, which keeps what the model was given."""

    def __init__(self, says: Callable[[str], AIMessage]) -> None:
        self.given: list[list[BaseMessage]] = []
        self._says, self._calls = says, 0
        graph = StateGraph(MessagesState)
        graph.add_node("model", self._model)
        graph.add_edge(START, "model")
        self.graph = graph.compile(checkpointer=InMemorySaver())
        self.threads = GraphThreads(self.graph)

    def _model(self, state: MessagesState) -> dict[str, Any]:
        self.given.append(state["messages"])
        return {"messages": [self._says(f"Answer {len(self.given)}.")]}

    async def turn(self, *messages: BaseMessage) -> None:
        """A turn of the app's own."""
        await self.graph.ainvoke({"messages": list(messages)}, CONFIG)

    async def first_turn(self) -> None:
        """The turn that started a job."""
        answer = ToolMessage("queued", tool_call_id="toolu_1", name="trigger_agent_job")
        await self.turn(HumanMessage("Look it up."), AIMessage("", tool_calls=[CALL]), answer)

    async def notice(self, *task_ids: str, wake: bool = False) -> None:
        """What a bridge does."""
        notices = [Notice(one, "wake" if wake else "notify", f"{one} completed\n| All done.") for one in task_ids]
        await self.threads.append(THREAD, notices)
        await (self.threads.run(THREAD, task_ids) if wake else self.threads.rest(THREAD))


@pytest.fixture(params=SAYS)
async def chat(request: pytest.FixtureRequest) -> Chat:
    """A chat in which a job was started."""
    chat = Chat(SAYS[request.param])
    await chat.first_turn()
    return chat


Accepts = Callable[[list[BaseMessage]], None]


@pytest.mark.promise("notice-history")
async def test_a_notice_and_then_a_turn(chat: Chat, accepts: Accepts) -> None:
    await chat.notice("job-1")
    await chat.turn(HumanMessage("Well?"))
    for given in chat.given:
        accepts(given)
    assert [m.content for m in chat.given[-1] if m.name == "poll_job_status"] == ["job-1 completed\n| All done."]


async def test_two_notices_in_a_row(chat: Chat, accepts: Accepts) -> None:
    await chat.notice("job-1")
    await chat.notice("job-2", "job-3")
    await chat.turn(HumanMessage("Well?"))
    accepts(chat.given[-1])
    assert sum(m.name == "poll_job_status" for m in chat.given[-1]) == 3


async def test_a_notice_that_wakes(chat: Chat, accepts: Accepts) -> None:
    await chat.notice("job-1", wake=True)
    assert len(chat.given) == 2
    accepts(chat.given[-1])
    await chat.notice("job-2", wake=True)
    await chat.turn(HumanMessage("Thanks."))
    for given in chat.given:
        accepts(given)


async def test_a_notice_after_a_person_s_words_and_after_a_tool(accepts: Accepts) -> None:
    chat = Chat(text)
    await chat.graph.aupdate_state(CONFIG, {"messages": [HumanMessage("Look it up.")]}, as_node="__start__")
    await chat.notice("job-1", "job-2", wake=True)
    accepts(chat.given[-1])


def test_what_a_model_said_is_kept_whole(accepts: Accepts) -> None:
    from agentq.integrations.langgraph.history import joined

    last = AIMessage("Started.", id="a", usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2})
    found = joined([ASKED, last], Notice("job-1", "notify", "done"))
    assert found
    assert found[0].model_dump(exclude={"tool_calls"}) == last.model_dump(exclude={"tool_calls"})
    accepts([HumanMessage("Go."), *found])


CALLING = AIMessage("", tool_calls=[CALL])
ANSWER = ToolMessage("done", tool_call_id="toolu_1", name="trigger_agent_job")
ASKED = HumanMessage("Go.")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([ASKED, CALLING], id="no answer"),
        pytest.param([ASKED, CALLING, HumanMessage("And?"), ANSWER], id="not at once"),
        pytest.param([ASKED, CALLING, ANSWER, AIMessage("Started."), ANSWER], id="a second answer"),
    ],
)
def test_the_rules_catch_a_bad_history(bad: list[BaseMessage], request: pytest.FixtureRequest) -> None:
    refused = []
    for name, accepts in PROVIDERS.items():
        try:
            accepts(bad)
        except Broken:
            refused.append(name)
    tolerant = {n for n in PROVIDERS if n.startswith("gemini")}  # its converter finds answers wherever they are
    assert {*PROVIDERS} - {*refused} <= ({*()} if "no answer" in request.node.name else tolerant)


def test_what_openai_keeps_by_an_id_is_not_joined() -> None:
    from langchain_openai import ChatOpenAI

    from agentq.integrations.langgraph.history import apart, joined

    kept = AIMessage("Started.", id="a", response_metadata={"id": "resp_1"})
    first, second = (Notice(f"job-{n}", "notify", "done") for n in (1, 2))
    assert joined([ASKED, kept], first) is None
    call, answer = apart(first)
    both = joined([ASKED, kept, call, answer], second)
    assert both
    model = ChatOpenAI(model="gpt-5", api_key="none", use_responses_api=True, use_previous_response_id=True)  # type: ignore[arg-type]
    payload = model._get_request_payload([ASKED, kept, both[0], answer, both[1]])
    assert payload["previous_response_id"] == "resp_1"
    assert [item["type"] for item in payload["input"]] == ["function_call"] * 2 + ["function_call_output"] * 2
    obeys_responses(payload)


def test_gemini_refuses_a_call_apart_from_the_words_before_it() -> None:
    apart = [ASKED, AIMessage("Started."), CALLING, ANSWER]
    for name, accepts in PROVIDERS.items():
        if name.startswith("gemini"):
            with pytest.raises(Broken, match="right after a user's turn"):
                accepts(apart)
        else:
            accepts(apart)
