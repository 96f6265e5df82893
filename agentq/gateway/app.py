"""The gateway's application: the API's operations, the streams, the workers' doors and the page, behind the guard."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agentq.errors import AgentqError
from agentq.gateway import engine_door, socket, sse, store_door, upkeep
from agentq.gateway.answering import endpoint
from agentq.gateway.api import (
    agents,
    control,
    dead_letters,
    evidence,
    figures,
    health,
    inbox,
    plans,
    tasks,
    threads,
)
from agentq.gateway.guard import Guard, Names
from agentq.gateway.openapi import document
from agentq.gateway.operations import Operation
from agentq.gateway.place import Gateway
from agentq.gateway.problems import Refused, response_of

log = logging.getLogger("agentq")

API = (health, tasks, evidence, control, dead_letters, agents, figures, plans, inbox, threads)
DOORS = (socket, sse, engine_door, store_door)
PAGE = Path(__file__).with_name("page")


def operations() -> tuple[Operation, ...]:
    """All operations of the API."""
    return tuple(operation for module in API for operation in module.OPERATIONS)


def make_app(gateway: Gateway, names: Names) -> ASGIApp:
    """The application for one gateway, for those who call it by one of these names."""
    known = operations()
    app = Starlette(
        routes=[
            *_routes(known, gateway),
            *(route for door in DOORS for route in door.routes(gateway)),
            _openapi(known),
            Route("/", _index),
            Mount("/page", _Page(directory=PAGE)),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
        lifespan=lambda _: _running(gateway),
    )
    app.router.redirect_slashes = False
    return Guard(app, gateway, names)


@contextlib.asynccontextmanager
async def _running(gateway: Gateway) -> AsyncIterator[None]:
    """Follow the logs and look after threads as long as the gateway runs."""
    async with gateway.hub.running(), upkeep.running(gateway):
        gateway.books.begin()
        try:
            yield
        finally:
            await gateway.books.close()


def _routes(known: Sequence[Operation], gateway: Gateway) -> list[BaseRoute]:
    """One route for each path, which answers all its methods: what it does not know it names in `Allow`."""
    paths = dict.fromkeys(operation.path for operation in known)
    by_path = {path: [operation for operation in known if operation.path == path] for path in paths}
    return [
        Route(path, endpoint(gateway, found), methods=[operation.method for operation in found])
        for path, found in by_path.items()
    ]


def _openapi(known: Sequence[Operation]) -> Route:
    described = document(known)

    async def answer(request: Request) -> Response:
        """The document, which says that no token is needed to whom none is."""
        grant = request.scope["grant"]
        free = {"security": [{}, *described["security"]]} if grant and grant.is_everything else {}
        return JSONResponse(described | free)

    return Route("/openapi.json", answer)


class _Page(StaticFiles):
    """The page's files, which a browser asks for again each time, and keeps when they are the same."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        """A file, or that it is the same as before."""
        response = super().file_response(*arguments, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _index(_: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def _http_error(_: Request, error: Exception) -> Response:
    """What routing itself refuses, as a problem."""
    assert isinstance(error, HTTPException)
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "GET, HEAD").split(", ")))
    words = {
        404: ("there is nothing here", "See what there is: /openapi.json"),
        405: ("this has no such method", f"It has: {allowed}."),
    }
    what, hint = words.get(error.status_code, (error.detail, ""))
    return response_of(Refused(error.status_code, what, hint=hint, headers=error.headers))


async def _bug(request: Request, error: Exception) -> Response:
    """What nobody has answered, told in the log; also when the answer had begun and is just cut off."""
    if isinstance(error, AgentqError):
        log.warning("the answer to %s %s broke off: %s", request.method, request.url.path, error)
    else:
        log.error("a bug, in %s %s", request.method, request.url.path, exc_info=error)
    return response_of(error)
