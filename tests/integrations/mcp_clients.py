"""Clients of `agentq mcp` for one test: the official one over stdio and HTTP, and one that speaks raw lines."""

import asyncio
import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from agentq.messages import Envelope
from tests.desk import Desk

MODES = ("auto", "legacy")
"""How the client comes to a version: 2026-07-28, or by the handshake to 2025-11-25."""
PATIENCE = 60.0


@dataclass(frozen=True)
class Talk:
    """A connected client."""

    client: Client

    async def call(self, tool: str, progress: Any = None, **given: Any) -> tuple[bool, str]:
        """Whether a call is answered as an error, and with what text."""
        result = await self.client.call_tool(tool, given, progress_callback=progress)
        (content,) = result.content
        assert isinstance(content, TextContent)
        assert result.structured_content is None
        return bool(result.is_error), content.text

    async def ok(self, tool: str, **given: Any) -> str:
        """What a call that must succeed is answered."""
        is_error, text = await self.call(tool, **given)
        assert not is_error, text
        return text

    async def refused(self, tool: str, **given: Any) -> str:
        """What a call is answered that must be refused: what is wrong, and the next thing to do."""
        is_error, text = await self.call(tool, **given)
        assert is_error, text
        assert "\n→ " in text, text
        assert "Traceback" not in text
        return text


async def submit(desk: Desk, *ids: str) -> None:
    """Submit small tasks, as a process of its own would."""
    asked = {"from_": "coordinator", "to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
    for task_id in ids:
        await desk.app().submit(Envelope(task_id=task_id, reply_to="results.coordinator", **asked))


class Place(Protocol):
    """Where a server is started, and with which settings."""

    @property
    def folder(self) -> Path: ...

    @property
    def project(self) -> Path: ...

    @property
    def environment(self) -> dict[str, str]: ...


def command(desk: Place, *more: str) -> StdioServerParameters:
    """How a client starts the server of a desk."""
    import sys

    arguments = ["-m", "agentq", "mcp", *more]
    return StdioServerParameters(command=sys.executable, args=arguments, env=desk.environment, cwd=desk.project)


@contextlib.asynccontextmanager
async def over_stdio(desk: Place, mode: Any = "auto", **more: Any) -> AsyncIterator[Talk]:
    """A client of a process of its own."""
    with (desk.folder / "stderr").open("a") as errlog:
        async with Client(stdio_client(command(desk), errlog=errlog), mode=mode, **more) as client:
            yield Talk(client)


@contextlib.asynccontextmanager
async def over_http(url: str, mode: Any = "auto", token: str | None = None, **more: Any) -> AsyncIterator[Talk]:
    """A client of a server that runs."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **more) as client,
    ):
        yield Talk(client)


class Progress:
    """What a call says of its progress while it waits."""

    def __init__(self) -> None:
        self.said: list[tuple[float, float | None, str | None]] = []
        self.began = asyncio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.said.append((progress, total, message))
        self.began.set()


class Lines:
    """`agentq mcp` as a process, spoken to in lines of JSON; every line of its stdout must be a message."""

    def __init__(self, desk: Desk, *arguments: str) -> None:
        self.stderr = desk.folder / "lines-stderr"
        with self.stderr.open("w") as errlog:
            self.process = desk.start("mcp", *arguments, stdin=subprocess.PIPE, stderr=errlog)
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def say(self, method: str, params: Mapping[str, Any] | None = None, number: int | None = None) -> None:
        """Send a request, or a notification without a number."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}
        self.raw(json.dumps(message | ({} if number is None else {"id": number})))

    def raw(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, number: int) -> dict[str, Any]:
        """The answer to a request; what comes before it is passed over."""
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self.messages.get(timeout=max(0.01, deadline - time.monotonic()))
            assert message is not None, self.stderr.read_text()
            if message.get("id") == number and "method" not in message:
                return message

    def shake_hands(self, version: str) -> dict[str, Any]:
        """Initialize with a version, and answer with what the server says."""
        info = {"clientInfo": {"name": "lines", "version": "1"}, "capabilities": {}, "protocolVersion": version}
        self.say("initialize", info, 0)
        answer = self.hear(0)
        self.say("notifications/initialized")
        result: dict[str, Any] = answer["result"]
        return result

    def call(self, tool: str, number: int = 1, **given: Any) -> dict[str, Any]:
        self.say("tools/call", {"name": tool, "arguments": given}, number)
        result: dict[str, Any] = self.hear(number)["result"]
        return result

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.messages.put(json.loads(line))
        self.messages.put(None)


class Served:
    """`agentq mcp --http` as a process."""

    def __init__(self, desk: Desk, *arguments: str, where: str = "127.0.0.1:0") -> None:
        self.stderr = desk.folder / "http-stderr"
        with self.stderr.open("w") as errlog:
            self.process = desk.start("mcp", "--http", where, *arguments, stderr=errlog)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    @property
    def url(self) -> str:
        """Where it serves."""
        return until(self._url, self.stderr.read_text)

    def _url(self) -> str | None:
        assert self.process.poll() is None, self.stderr.read_text()
        lines = self.stderr.read_text().splitlines()
        return next((line.split()[1] for line in lines if line.startswith("serving http")), None)


def until(look: Callable[[], Any], what: Callable[[], str] = lambda: "") -> Any:
    """What `look` answers as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
    return found


async def eventually(look: Callable[[], Awaitable[Any]], seconds: float = 60) -> None:
    """Wait until what `look` answers is something."""
    deadline = time.monotonic() + seconds
    while not await look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def lines_of(text: str) -> Iterator[str]:
    """The lines that are agentq's own: not behind a bar."""
    return (line for line in text.splitlines() if not line.startswith("|"))
