"""Small graphs for chats: a scripted model in an agent of LangChain's, and one in a graph made by hand."""

from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

Script = Callable[[Sequence[BaseMessage]], AIMessage]


class Scripted(BaseChatModel):
    """A chat model that answers what a function answers."""

    script: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script(messages))])

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """The same model: its script knows the tools."""
        return self


@tool
def ask_person(question: str) -> str:
    """Ask a person."""
    return str(interrupt(question))


@tool
def breaks() -> str:
    """Break."""
    raise RuntimeError("a bug\nin two lines")


TOOLS = [ask_person, breaks]


def by_hand(script: Script, saver: Any) -> Any:
    """A model and its tools in a graph made by hand."""
    model = Scripted(script=script)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(TOOLS, handle_tool_errors=False))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver)


def agent(script: Script, saver: Any) -> Any:
    """LangChain's own agent."""
    return create_agent(Scripted(script=script), TOOLS, checkpointer=saver)


GRAPHS = {"agent": agent, "by-hand": by_hand}
