"""What the HTTP API consists of: one `Operation` for each method of a path, from which routes and OpenAPI are made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from agentq.gateway.place import Gateway
from agentq.tokens import Grant, Role

READERS: frozenset[Role] = frozenset({"observer", "coordinator", "approver"})
COORDINATORS: frozenset[Role] = frozenset({"coordinator"})
APPROVERS: frozenset[Role] = frozenset({"approver"})
ANYBODY: frozenset[Role] = frozenset({"observer", "coordinator", "approver", "worker"})
"""Whoever brings a token at all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in, its parts checked against the operation's models."""

    gateway: Gateway
    grant: Grant
    path: Mapping[str, str]
    query: Any
    body: Any
    request: Request


Answer = BaseModel | dict[str, Any] | list[Any] | Response | None
"""What an operation answers: data for JSON, None for nothing (204), or a response of its own."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path under /api, `{names}` of which are tasks, threads and so on.

    `may` is who may: one of these roles, None for everybody, token or not. `query` and `body` are checked before `act`
    is called, which raises what the CLI would; None answers 204. `answer` is the model or the media type that is
    documented, for `status` and for those in `also`; `raises` are further statuses of problems, and `headers` are
    parameters of OpenAPI that are headers.
    """

    method: str
    path: str
    summary: str
    act: Callable[[Call], Awaitable[Answer]]
    may: frozenset[Role] | None = READERS
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | str = "application/json"
    status: int = 200
    about: str = ""
    tag: str = "tasks"
    raises: tuple[int, ...] = ()
    also: tuple[int, ...] = ()
    headers: tuple[Mapping[str, Any], ...] = ()
