"""A server whose only door is the engine's, for many engines: `/HEX/engine` is the one of the settings in HEX (JSON).

`python -m tests.conformance.doors` prints its port, and ends with its stdin.
"""

import asyncio
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from agentq.config import LogSection, Settings
from agentq.desk import Desk
from agentq.gateway.engine_door import routes
from agentq.gateway.place import Gateway
from agentq.tokens import Tokens

if TYPE_CHECKING:
    from agentq.gateway.hub import Hub

HOME = Path(tempfile.mkdtemp(prefix="agentq-doors-"))


class Doors:
    """One gateway for each settings that somebody asks for."""

    def __init__(self) -> None:
        self._apps: dict[str, Starlette] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].split("/")[1]
        if name not in self._apps:
            self._apps[name] = Starlette(routes=[Mount(f"/{name}", routes=_routes(name))])
        await self._apps[name](scope, receive, send)


def _routes(name: str) -> list[BaseRoute]:
    values = json.loads(bytes.fromhex(name)) | {"data": HOME, "store": f"file://{HOME}/store", "keys": HOME}
    log = LogSection.model_construct(**values.pop("log"))  # a test's log may be shorter than is allowed
    desk = Desk(Settings.model_validate(values).model_copy(update={"log": log}))
    return routes(Gateway(desk, Tokens(desk.app.store), cast("Hub", None)))


async def _serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(Doors(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(_serve())
