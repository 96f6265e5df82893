"""Loading what a command names as `module:name`: a compiled graph, or what makes one, and functions of an app."""

import importlib
import inspect
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from agentq.errors import AgentqError, Invalid, Unavailable
from agentq.harmless import one_line
from agentq.messages import shorten

SAID = 500
WHERE = "It is looked for as Python does from the current folder, and with PYTHONPATH."
CHECKPOINTER = "Compile it with one that lasts: graph.compile(checkpointer=…), or create_agent(…, checkpointer=…)."


def load(place: str) -> Any:
    """What `module:name` names, the current folder's modules first; raises Invalid."""
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise Invalid(f"{place!r} names nothing", hint="Write module:name, such as app.chat:graph.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = _imported(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise Invalid(f"{module_name} has no {name}", hint="Name the graph, or the function that makes it.")
        found = getattr(found, part)
    return found


@asynccontextmanager
async def load_graph(place: str) -> AsyncIterator[Any]:
    """The compiled graph that `module:name` names, or that the function or context manager of that name makes; what
    that opened is closed at the end.

    Raises Invalid when there is none, or it has no checkpointer, and Unavailable when making it fails.
    """
    found = load(place)
    async with AsyncExitStack() as stack:
        if not isinstance(found, (Pregel, StateGraph)) and callable(found):
            found = await _made(place, found, stack)
        yield checked(found, place)


def checked(graph: Any, name: str = "the graph") -> Any:
    """The graph, when it is a compiled one with a checkpointer; else raises Invalid."""
    if isinstance(graph, StateGraph):
        raise Invalid(f"{name} is a graph that is not compiled", hint=CHECKPOINTER)
    if not isinstance(graph, Pregel):
        raise Invalid(f"{name} is no graph of LangGraph's, but {type(graph).__name__}", hint="Name a compiled graph.")
    if not isinstance(graph.checkpointer, BaseCheckpointSaver):
        raise Invalid(f"{name} has no checkpointer, so it has no threads", hint=CHECKPOINTER)
    return graph


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise Invalid(f"there is no module {name}", hint=WHERE) from error
        raise Invalid(
            f"{name} cannot be imported: {_said(error)}", hint="Install what it needs beside agentq."
        ) from error
    except Exception as error:
        raise Invalid(f"{name} cannot be imported: {_said(error)}", hint=WHERE) from error


async def _made(place: str, make: Any, stack: AsyncExitStack) -> Any:
    """What a function makes: at once or awaited, and entered when it is a context manager."""
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as error:
        raise Invalid(f"{place} cannot be called without arguments", hint="Name a function that needs none.") from error
    try:
        made = make()
        made = await made if inspect.isawaitable(made) else made
        if hasattr(made, "__aenter__"):
            return await stack.enter_async_context(made)
        return stack.enter_context(made) if hasattr(made, "__enter__") else made
    except AgentqError:
        raise
    except Exception as error:
        raise Unavailable(
            f"{place} made no graph: {_said(error)}", hint="Look at what it needs, then try again."
        ) from error


def _said(error: Exception) -> str:
    return shorten(one_line(f"{type(error).__name__}: {error}"), SAID)
