"""agentq for LangGraph: tools that start jobs from a chat, and the bridge that tells the chat of their ends."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentq.integrations.langgraph.bridge import Bridge as Bridge
    from agentq.integrations.langgraph.tools import chat_tools as chat_tools

__all__ = ["Bridge", "chat_tools"]

_MODULES = {"Bridge": "bridge", "chat_tools": "tools"}
_EXTRA = ("langgraph", "langchain_core")


def __getattr__(name: str) -> Any:
    """What is here is imported when it is used: neither needs the other."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _EXTRA:
            raise ImportError(f"{name} needs {error.name}; install it: pip install 'agentq[langgraph]'") from error
        raise
