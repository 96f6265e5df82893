"""Where the browser's tests happen: a store, an engine, a gateway and workers, all processes of their own."""

import asyncio
import json
import os
import re
import shlex
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from typing import Any, TypeVar
from urllib.error import HTTPError

from agentq.app import App
from agentq.config import load_settings
from agentq.engine import Engine
from tests.daemons.harness import Nursery, Process, until

AGENT = Path(__file__).with_name("agent.sh")
TYPES = ("mention", "assignment", "manual", "refinement", "work")
PROFILE = """agent = "{name}"
types = [{types}]
[runner]
command = ["{command}"]
grace_seconds = 0.3
[limits]
lease_seconds = 1.0
renew_seconds = 0.1
sweep_seconds = 0.25
timeout_seconds = 60
{limits}
[retry]
max_attempts = {attempts}
delay_seconds = 0.1
factor = 1
longest_seconds = 0.1
[environment.set]
DESK = "{desk}"
AGENT_NAME = "{name}"
"""

T = TypeVar("T")


class Place:
    """A deployment of agentq for one test, with as many agents and gateways as it wants."""

    def __init__(self, home: Path, nursery: Nursery, environment: Mapping[str, str]) -> None:
        self.home, self.desk, self.logs = home, home / "desk", home / "logs"
        for folder in (self.desk / "gates", self.desk / "scripts", home / "workers", self.logs, home / "flags"):
            folder.mkdir(parents=True)
        self._nursery = nursery
        self._processes: list[Process] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AGENTQ_STORE": f"file://{home}/store",
            "AGENTQ_DATA": str(home / "data"),
            "AGENTQ_WORKERS": str(home / "workers"),
            "AGENTQ_DEBUG": "1",
            **environment,
        }

    # ------------------------------------------------------------------ processes

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start `agentq` with these arguments."""
        name = f"{len(list(self.logs.glob('*.err'))):03}-{arguments[0]}"
        process = Process(arguments, self.logs / f"{name}.out", self.logs / f"{name}.err")
        process.stderr.touch()
        self._nursery.start(
            process,
            faults=(),
            flags=str(self.home / "flags"),
            environment=self.environment | environment,
            folder=str(self.home),
        )
        self._processes.append(process)
        return process

    def cli(self, *arguments: str, **environment: str) -> str:
        """What a command prints; it must succeed."""
        process = self.start(*arguments, **environment)
        assert process.wait(30) == 0, process.said()
        return process.stdout.read_text().strip()

    def json(self, *arguments: str) -> Any:
        """What a command prints as JSON; it must succeed."""
        return json.loads(self.cli(*arguments, "--json"))

    def serve(self, port: int = 0, *flags: str) -> "Served":
        """Start a gateway on loopback and wait until it serves."""
        process = self.start("serve", "--listen", f"127.0.0.1:{port}", *flags)
        found = until(lambda: _address(process), f"a gateway's address in:\n{process.said()}", 30)
        return Served(self, process, found)

    def agent(self, name: str, script: str, *, attempts: int = 1, limits: str = "", **again: str) -> None:
        """Write an agent's profile and what it does, `attempt2="…"` what another attempt does instead."""
        folder = self.home / "workers" / name
        folder.mkdir(exist_ok=True)
        types = ", ".join(f'"{one}"' for one in TYPES)
        values = {"name": name, "types": types, "command": AGENT, "desk": self.desk}
        (folder / "worker.toml").write_text(PROFILE.format(**values, attempts=attempts, limits=limits))
        (folder / "prompt.md").write_text("You are a scripted agent.")
        (self.desk / "scripts" / name).write_text(script)
        for attempt, other in again.items():
            (self.desk / "scripts" / f"{name}.{attempt.removeprefix('attempt')}").write_text(other)

    def worker(self, name: str, script: str, **more: Any) -> Process:
        """Start a worker of such an agent and wait until it takes tasks."""
        self.agent(name, script, **more)
        self.cli("init")
        process = self.start("worker", "run", name)
        process.says(f"{name}: ready")
        return process

    def open_gate(self, name: str) -> None:
        """Let the agents go on that hold at this gate."""
        (self.desk / "gates" / name).touch()

    def close(self) -> None:
        """End what still runs, in order where that is quick."""
        self.open_gate("end")
        for process in self._processes:
            process.send(SIGTERM)
        for process in self._processes:
            if not process.ended.wait(3):
                process.kill()
        for log in sorted(self.logs.glob("*.err")):
            if said := log.read_text().strip():
                print(f"--- {log.name}\n{said}")

    # ------------------------------------------------------------------ behind the page

    def app(self) -> App:
        """The app over this place's store and engine."""
        return App(load_settings(environ=self.environment, cwd=self.home))

    def keys(self, prefix: str) -> list[str]:
        """The store's keys below a prefix."""
        return list(self.app().store.keys(prefix))

    def with_engine(self, act: Callable[[Engine], Awaitable[T]]) -> T:
        """What a coroutine answers that is given an engine of its own; in a thread, as Playwright has the loop here."""

        async def whole() -> T:
            async with self.app().engine() as engine:
                return await act(engine)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, whole()).result()


class Served:
    """One gateway process and its address."""

    def __init__(self, place: Place, process: Process, url: str) -> None:
        self.place, self.process, self.url = place, process, url.rstrip("/")
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def again(self, *flags: str) -> "Served":
        """Another one on the same port."""
        return self.place.serve(self.port, *flags)

    def thread(self, title: str = "A thread", **more: Any) -> str:
        """The id of a new thread."""
        return str(self.call("POST", "/api/threads", {"title": title, **more})["thread_id"])

    def post(self, thread: str, text: str) -> dict[str, Any]:
        """Post a message and answer it."""
        answer = self.call("POST", f"/api/threads/{thread}/messages", {"text": text})
        assert not answer["not_asked"]
        return dict(answer["message"])

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """What the API answers to a request that it must not refuse."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from error


def says(*parts: str, decision: str = "answer", why: str = "I know it.", **more: str) -> str:
    """An agent that writes these parts of its answer, holding at gate 1 behind the first, at 2 behind the second and so
    on; then it decides."""
    lines = [f"say {shlex.quote(part)}\nhold {number}" for number, part in enumerate(parts, 1)]
    return "\n".join([*lines, decides(decision, why, **more)])


def decides(decision: str, why: str, **more: str) -> str:
    """A step that writes down a decision."""
    return f"decide {shlex.quote(json.dumps({'decision': decision, 'why': why, **more}))}"


def _address(process: Process) -> str | None:
    assert not process.ended.is_set(), f"it ended with {process.code}: {process.said()}"
    said = re.search(r"https?://127\.0\.0\.1:\d+", process.said())
    return said[0] if said else None
