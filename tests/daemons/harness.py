"""What the tests of this folder share: a deployment of agentq for one test, and its processes."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Literal, TypeAlias, TypeVar

from agentq.coordinator import Coordinator
from agentq.engine import DeadLetter, Engine
from agentq.lifecycle import Papers
from agentq.messages import Completion, Envelope, sha256_hex
from agentq.records import Records
from agentq.stores.file import FileStore
from tests.conformance.engines import EngineUnderTest

ROOT = Path(__file__).parents[2]
AGENT = Path(__file__).with_name("agent.sh")
PATIENCE = 15.0
"""Seconds after which something that should have happened has not."""

PROFILE: dict[str, dict[str, Any]] = {
    "runner": {"command": [str(AGENT)], "grace_seconds": 0.3},
    "limits": {"lease_seconds": 1.0, "renew_seconds": 0.1, "sweep_seconds": 0.25, "timeout_seconds": 30},
    "retry": {"max_attempts": 3, "delay_seconds": 0.1, "factor": 1, "longest_seconds": 0.1},
}

T = TypeVar("T")
Flag: TypeAlias = str | Sequence[str] | Literal[True]


def until(look: Callable[[], T], what: str = "", seconds: float = PATIENCE) -> T:
    """What `look` answers as soon as that is something; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or look}"
        time.sleep(0.01)
    return found


class Process:
    """A process that the nursery forked."""

    def __init__(self, arguments: tuple[str, ...], stdout: Path, stderr: Path) -> None:
        self.arguments, self.stdout, self.stderr = arguments, stdout, stderr
        self.pid = 0
        self.code: int | None = None
        self.ended = threading.Event()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, minus the signal that killed it."""
        assert self.ended.wait(seconds), f"{self.arguments} still runs after {seconds:g} s:\n{self.said()}"
        assert self.code is not None
        return self.code

    def send(self, what: Signals) -> None:
        """Send it a signal; one that has ended gets none."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, what)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.send(SIGKILL)
        self.wait()

    def said(self) -> str:
        """What it printed to stderr."""
        return self.stderr.read_text() if self.stderr.exists() else ""

    def says(self, words: str) -> None:
        """Wait until it has printed that to stderr."""
        until(lambda: words in self.said() or self.ended.is_set(), f"{words!r} in:\n{self.said()}")
        assert words in self.said(), f"{self.arguments} ended with {self.code}:\n{self.said()}"


class Nursery:
    """The client of `nursery.py`, whose processes find these modules imported."""

    def __init__(self, *modules: str) -> None:
        command = [sys.executable, "-m", "tests.daemons.nursery", *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self._starting: list[Process] = []
        self._running: dict[int, Process] = {}
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, process: Process, **request: Any) -> Process:
        """Fork it."""
        assert self._server.stdin
        request |= {"arguments": process.arguments, "stdout": str(process.stdout), "stderr": str(process.stderr)}
        self._started.clear()
        self._starting.append(process)
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        assert self._started.wait(4 * PATIENCE), "the nursery does not answer"  # it may be importing still
        return process

    def close(self) -> None:
        """End it and all that it forked."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(PATIENCE)
        self._reader.join()
        self._server.stdout.close()

    def _read(self) -> None:
        assert self._server.stdout
        for line in self._server.stdout:
            pid, code = json.loads(line)
            if code is None:
                process = self._running[pid] = self._starting.pop(0)
                process.pid = pid
                self._started.set()
            elif pid in self._running:  # else it is an orphan of one
                process = self._running.pop(pid)
                process.code = code
                process.ended.set()


class Deployment:
    """agentq on one machine: a store, an engine, a worker's profile, and whoever works with them."""

    def __init__(self, home: Path, nursery: Nursery, system: EngineUnderTest, settings: Mapping[str, str]) -> None:
        self.home, self.system = home, system
        self.agent = system.agent
        self.desk, self.flags, self.store_path = home / "desk", home / "flags", home / "disk" / "store"
        self.data, self.logs = home / "data", home / "logs"
        self.workers: list[Process] = []
        self._nursery = nursery
        self._settings = settings
        for folder in (self.desk / "gates", self.desk / "prompts", self.flags, self.store_path, self.logs):
            folder.mkdir(parents=True)
        self.profile()
        self.records = Records(FileStore(self.store_path))
        self.with_engine(lambda engine: engine.declare([self.agent, *BUILT_IN], ["coordinator"]))

    def profile(self, irreversible: Sequence[str] = (), **sections: Mapping[str, Any]) -> None:
        """Write the worker's profile, with other values in some sections."""
        folder = self.home / "workers" / "worker"
        folder.mkdir(parents=True, exist_ok=True)
        sections = {"environment": {"set": {"DESK": str(self.desk)}}, **sections}
        merged = {name: {**PROFILE.get(name, {}), **sections.get(name, {})} for name in (*PROFILE, *sections)}
        text = "".join(f"[{name}]\n{_toml(values)}" for name, values in merged.items())
        top = _toml({"agent": self.agent, "types": ["work"], "irreversible": list(irreversible)})
        (folder / "worker.toml").write_text(top + text)
        (folder / "prompt.md").write_text("You are a scripted agent.")

    @property
    def environment(self) -> dict[str, str]:
        """What agentq's processes find in their environment, and nothing else."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AGENTQ_STORE": f"file://{self.store_path}",
            "AGENTQ_DATA": str(self.data),
            "AGENTQ_WORKERS": str(self.home / "workers"),
            "AGENTQ_DEBUG": "1",
            **self._settings,
        }

    # ------------------------------------------------------------------ processes

    def start(
        self,
        *arguments: str,
        faults: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Process:
        """Start `agentq` with these arguments, in this deployment's environment and folder unless others are named."""
        name = f"{len(list(self.logs.iterdir())):03}-{arguments[0]}"
        process = Process(arguments, self.logs / f"{name}.out", self.logs / f"{name}.err")
        process.stderr.touch()
        return self._nursery.start(
            process,
            faults=faults,
            flags=str(self.flags),
            environment=self.environment if environment is None else dict(environment),
            folder=str(folder or self.home),
        )

    def cli(
        self, *arguments: str, faults: tuple[str, ...] = (), seconds: float = PATIENCE
    ) -> "subprocess.CompletedProcess[str]":
        """Run `agentq` with these arguments to its end."""
        process = self.start(*arguments, faults=faults)
        code = process.wait(seconds)
        return subprocess.CompletedProcess(arguments, code, process.stdout.read_text(), process.said())

    def json(self, *arguments: str) -> Any:
        """What a command prints as JSON; it must succeed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def start_worker(self, *faults: str, ready: bool = True) -> Process:
        """Start a worker with these faults, and wait until it says that it is ready."""
        worker = self.start("worker", "run", self.agent, faults=faults)
        self.workers.append(worker)
        if ready:
            worker.says(f"{self.agent}: ready")
        return worker

    def close(self) -> None:
        """Kill what still runs."""
        self.open_gate("end")
        for worker in self.workers:
            worker.send(Signals.SIGCONT)
            worker.kill()

    # ------------------------------------------------------------------ what a test does

    def submit(self, *steps: str, faults: tuple[str, ...] = (), **flags: Flag) -> str:
        """Submit a task that lets the agent do these steps, and answer its id."""
        done = self.cli(*self.submission(*steps, **flags), faults=faults)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def submission(self, *steps: str, **flags: Flag) -> list[str]:
        """The arguments that submit such a task."""
        options = [part for name, value in flags.items() for part in _option(f"--{name.replace('_', '-')}", value)]
        return ["submit", "--to", self.agent, "--type", "work", "--instructions", script(*steps), *options]

    def request(self, task_id: str, *steps: str, **fields: Any) -> Envelope:
        """Such a task as `submit_all` takes it."""
        least = {"task_id": task_id, "to": self.agent, "type": "work", "reply_to": "results.coordinator"}
        return Envelope.model_validate({**least, "instructions": script(*steps), **fields})

    def open_gate(self, name: str) -> None:
        """Let the agents go on that hold at this gate."""
        (self.desk / "gates" / name).touch()

    def raise_flag(self, name: str) -> None:
        """Set a flag for the faults."""
        (self.flags / name).touch()

    def lower_flag(self, name: str) -> None:
        """Unset it."""
        (self.flags / name).unlink()

    def see_flag(self, name: str) -> None:
        """Wait for a fault to say something."""
        until(lambda: (self.flags / name).exists(), f"the flag {name}")

    def with_engine(self, act: Callable[[Engine], Any]) -> Any:
        """What a coroutine answers that is given an engine of its own."""

        async def whole() -> Any:
            engine = self.system.make()
            try:
                return await act(engine)
            finally:
                await engine.close()

        return asyncio.run(whole())

    def submit_all(self, *requests: Envelope) -> None:
        """Register and publish many tasks in this process, which is quicker than a command for each."""

        async def act(engine: Engine) -> None:
            coordinator = Coordinator(self.records)
            for request in requests:
                for task in coordinator.register(request).publish:
                    await engine.publish(task)
                    coordinator.published(task.task_id)

        self.with_engine(act)

    def publish(self, envelope: Envelope, copies: int = 1) -> None:
        """Publish copies of a message, without any papers."""

        async def act(engine: Engine) -> None:
            for _ in range(copies):
                await engine.publish(envelope)

        self.with_engine(act)

    def publish_raw(self, *bodies: bytes) -> None:
        """Publish any bytes, as a program would that knows nothing of agentq."""

        async def all_of_them() -> None:
            for body in bodies:
                await self.system.publish_raw(self.agent, body)

        asyncio.run(all_of_them())

    # ------------------------------------------------------------------ what a test sees

    def keys(self, prefix: str) -> list[str]:
        """The store's keys."""
        return list(self.records.store.keys(prefix))

    def papers(self, task_id: str) -> Papers:
        """The task's papers."""
        papers = self.records.papers(task_id)
        assert papers is not None
        return papers

    def notes(self, task_id: str, word: str) -> list[list[str]]:
        """What the task's agents noted behind that word, each after the number of its attempt."""
        path = self.desk / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        found = (line.split() for line in lines)
        return [[attempt, *rest] for task, attempt, said, *rest in found if (task, said) == (task_id, word)]

    def noted(self, task_id: str, word: str) -> list[str]:
        """Wait for the first such note."""
        until(lambda: self.notes(task_id, word), f"{word} of {task_id}")
        return self.notes(task_id, word)[0]

    def starts(self, task_id: str) -> list[int]:
        """The attempts in which an agent was started for the task, in order."""
        return [int(attempt) for attempt, *_ in self.notes(task_id, "started")]

    def agent_runs(self, task_id: str, attempt: int = 1) -> None:
        """Wait until that attempt's agent has started."""
        until(lambda: attempt in self.starts(task_id), f"attempt {attempt} of {task_id}")

    def prompt(self, task_id: str, attempt: int) -> str:
        """What the agent was told."""
        return (self.desk / "prompts" / f"{task_id}.{attempt}").read_text()

    def depth(self) -> int:
        """How many messages wait for the agent, without delayed ones."""
        depth: int = self.with_engine(lambda engine: engine.depth(self.agent))
        return depth

    def lose_message(self) -> None:
        """Take the agent's next message out of its queue, as if it had never been there."""

        async def act(engine: Engine) -> None:
            await (await engine.receive(self.agent)).ack()

        self.with_engine(act)

    def has_guard(self, task_id: str, attempt: int = 1) -> None:
        """Wait until the attempt's guard is in its lease."""

        def look() -> bool:
            lease = self.records.lease(task_id, attempt)
            return lease is not None and lease.guard is not None

        until(look, "a guard")

    def is_renewed(self, task_id: str, attempt: int = 1, times: int = 3) -> None:
        """Wait for some more renewals of the attempt."""
        lease = self.records.lease(task_id, attempt)
        assert lease is not None
        until(lambda: (now := self.records.lease(task_id, attempt)) and now.counter >= lease.counter + times)

    def status(self, task_id: str) -> str:
        """The state as `agentq status` tells it, and what a pending task waits for."""
        found = self.json("status", task_id)
        assert isinstance(found, dict)
        return " ".join(part for part in (found["state"], found["waits_for"]) if part)

    def evidence(self, task_id: str, attempt: int | str) -> dict[str, str]:
        """What lies under an attempt's prefix: names and texts."""
        prefix = f"artifacts/{task_id}/{attempt}/"
        found = {key.removeprefix(prefix): self.records.store.get(key) or b"" for key in self.keys(prefix)}
        return {name: data.decode(errors="replace") for name, data in found.items()}

    def dead_letters(self, count: int) -> list[DeadLetter]:
        """Wait until there are so many of this deployment's agent, and no more."""

        def look() -> list[DeadLetter]:
            letters: list[DeadLetter] = self.with_engine(lambda engine: engine.dead_letters())
            return [letter for letter in letters if letter.agent == self.agent]

        until(lambda: len(look()) >= count, f"{count} dead letters")
        assert len(look()) == count
        return look()

    def left_processes(self) -> dict[int, str]:
        """The processes that agents left behind."""
        return dict(_processes_with(f"DESK={self.desk}".encode()))

    # ------------------------------------------------------------------ how it must be in the end

    def ended(self, task_id: str) -> Completion:
        """Wait until the task has its one result and nothing of it is left to do."""
        until(
            lambda: self.records.manifest(task_id) and not self.records.marks.is_open(task_id),
            f"the end of {task_id}; its attempts: {self.keys(f'attempts/{task_id}/')}",
        )
        manifest = self.records.manifest(task_id)
        assert manifest is not None
        return manifest

    def check(self, task_id: str, status: str = "completed", *, starts: list[int], attempt: int) -> Completion:
        """Wait for the task's end; exactly one result is accepted, and everything tells the same of it."""
        manifest = self.ended(task_id)
        assert (manifest.status, manifest.attempt) == (status, attempt)
        assert self.starts(task_id) == starts
        assert not self.notes(task_id, "overlap"), "two agents ran at once"
        assert self.status(task_id) == status
        report = manifest.artifact("report")
        if report:
            copy = self.records.store.get(f"results/{task_id}.md")
            assert copy is not None
            assert sha256_hex(copy) == report.sha256 == manifest.result_sha256
        done = self.cli("result", task_id)
        assert done.returncode == {"completed": 0, "failed": 8, "cancelled": 9, "expired": 10}[status], done
        envelope = self.papers(task_id).envelope
        if envelope.reply_to:
            assert f"inbox/{envelope.from_}/{task_id}.json" in self.keys(f"inbox/{envelope.from_}/")
        return manifest

    def rest(self) -> None:
        """Drain the workers; nothing is left of anything, and doctor finds nothing."""
        until(lambda: not list(self.data.glob("scratch/*/*/*")), "the scratch folders to be empty")
        for worker in self.workers:
            worker.send(SIGTERM)
        for worker in self.workers:
            assert worker.wait() in (0, -SIGKILL), worker.said()
        assert not self.left_processes()
        assert self.keys("open/") == self.keys("outbox/") == []
        assert not list(self.data.glob("scratch/*/*/*"))
        done = self.cli("doctor")
        assert done.returncode == 0, done.stdout


BUILT_IN = ("implementation-worker", "mention-worker", "review-worker")


def script(*steps: str) -> str:
    """Instructions that the scripted agent can follow."""
    return "\n".join(("Follow these steps.", *(f"$ {step}" for step in steps)))


def foreign(agent: str, **changed: Any) -> dict[str, Any]:
    """The mission's ten fields, as a producer sends them that knows nothing of agentq."""
    return {
        "task_id": f"task-{secrets.token_hex(4)}",
        "from": "coordinator",
        "to": agent,
        "type": "work",
        "priority": "normal",
        "ttl_seconds": 3600,
        "reply_to": "results.coordinator",
        "context_ref": None,
        "instructions": script("report done"),
        "expected_output": {"format": "markdown", "artifacts": []},
    } | changed


def _option(name: str, value: Flag) -> Iterator[str]:
    """A flag as arguments: without a value for True, once for each of several values."""
    if value is True:
        yield name
        return
    for one in [value] if isinstance(value, str) else value:
        yield from (name, one)


def _toml(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def _processes_with(mark: bytes) -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name), (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
