"""The server on standard input and output, which belong to the protocol alone."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from mcp.server.stdio import stdio_server

from agentq.desk import Desk
from agentq.errors import ExitCode, Invalid
from agentq.integrations.mcp.server import make_server

CLOSE_SECONDS = 2.0
"""How long the last answers may take to be read, once standard input has ended."""


def serve(desk: Desk) -> None:
    """Serve until standard input ends, or a signal comes; then nothing of it runs any more.

    Raises Invalid when standard input or output is closed.
    """
    if sys.stdin is None or sys.stdout is None:
        raise Invalid("standard input or output is closed", hint="A client starts this with both, or serve --http.")
    wire = take_stdout()
    asyncio.run(_serve(desk, wire))
    desk.close()


async def _serve(desk: Desk, wire: TextIO) -> None:
    server, loop = make_server(desk), asyncio.get_running_loop()
    leave = _leaving(desk)
    loop.add_signal_handler(signal.SIGTERM, leave, ExitCode.OK)
    loop.add_signal_handler(signal.SIGINT, leave, ExitCode.INTERRUPTED)
    stdout = cast(Any, _Wire(wire, lambda: leave(ExitCode.OK)))
    async with stdio_server(stdout=stdout) as (read, write):
        await server.run(read, write, server.create_initialization_options())
        loop.call_later(CLOSE_SECONDS, leave, ExitCode.OK)  # a client that reads nothing is waited for no longer


def take_stdout() -> TextIO:
    """What leads to the client, for the protocol alone: all else that is printed goes to standard error now."""
    sys.stdout.flush()
    taken = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(taken, "w", encoding="utf-8", newline="\n")


def _leaving(desk: Desk) -> Callable[[int], None]:
    """What ends this process: a thread that reads standard input can be waited for by nobody."""

    def leave(code: int) -> None:
        desk.close()
        sys.stderr.flush()
        os._exit(code)

    return leave


class _Wire:
    """What the client reads, a line each; whoever finds that nobody reads any more calls `lost`."""

    def __init__(self, file: TextIO, lost: Callable[[], None]) -> None:
        self._file, self._lost = file, lost

    async def write(self, text: str) -> None:
        await asyncio.to_thread(self._put, text)

    async def flush(self) -> None:
        """Nothing is held back."""

    def _put(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            self._lost()
