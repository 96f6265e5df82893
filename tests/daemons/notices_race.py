"""The race of notices: two bridges and a broker that are killed at random, beside a server that asks nobody.

Jobs of all modes are registered and ended in this process; what became of their notices is counted in the end from the
checkpoints alone. `make bench` runs it with 10,000 jobs, test_notices_endurance.py with a few hundred.
"""

import asyncio
import json
import logging
import os
import random
import re
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from tempfile import TemporaryDirectory
from typing import Any

from agentq.app import App
from agentq.config import load_settings
from agentq.desk import Desk
from agentq.messages import Envelope
from agentq.proposal import Hand
from tests.brokers.node import Node
from tests.chat.race import ROWS, histories, opened, tenant_of
from tests.daemons.conftest import on_rabbitmq, on_sqlite
from tests.daemons.harness import ROOT, Deployment, Nursery, Process, until

BRIDGES = 2
BRIDGE_KILLS, BROKER_KILLS, SOON = (0.5, 3.0), (15.0, 30.0), (3.0, 8.0)
"""Seconds between two kills of any bridge, and of the broker; of that in a race of less than SHORT jobs."""
SHORT = 1000
MODES = ("notify", "wake", "notify+wake")
PRELOADED = ("tests.chat.race", "agentq.cli.bridge", "agentq.integrations.langgraph.bridge")
FEEDERS, BATCH, BACKLOG = 2, 5, 200
MET, DRAINED = 120.0, 60.0
"""Seconds within which each thread has begun, and all is told once nobody is killed any more."""


@dataclass(slots=True)
class Tally:
    """What became of the jobs' notices, and what was done to their bridges.

    `by_two`: steps that one bridge began while another one was alive at it; `again`: runs that began once more though
    nothing had been said since the last one had answered.
    """

    jobs: int
    seconds: float = 0.0
    bridge_kills: int = 0
    broker_kills: int = 0
    turns: int = 0
    runs: int = 0
    cut: int = 0
    overwritten: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    by_two: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs in {self.seconds:.0f} s: {len(self.lost)} notices lost, {len(self.doubled)} doubled, "
            f"{len(self.unread)} unread; {self.bridge_kills} kills of bridges, {self.broker_kills} of the broker, "
            f"{self.turns} turns of a server, {self.overwritten} notices written over by it; "
            f"{self.runs} wake runs, {self.cut} of them cut off by a kill, {len(self.by_two)} by two bridges at once, "
            f"{len(self.again)} for nothing new, {len(self.broken)} places in histories that no provider takes"
        )

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not be, by kind."""
        kinds = ("lost", "doubled", "unread", "by_two", "again", "broken")
        return {kind: found for kind in kinds if (found := getattr(self, kind))}


class Race:
    """One race in a deployment, on a broker that is killed too when it is given."""

    def __init__(self, deployment: Deployment, jobs: int, seed: int, node: Node | None = None) -> None:
        self.deployment, self.jobs, self.seed, self.node = deployment, jobs, seed, node
        self.threads = max(10, jobs // 20)
        self.folder = deployment.home / "chat"
        self.folder.mkdir()
        self._luck = random.Random(seed)
        self._thread_of: dict[str, str] = {}
        self._killed: dict[int, float] = {}
        self._broker_kills = 0

    def run(self) -> Tally:
        """Race, and count."""
        began = time.monotonic()
        with ExitStack() as stack:
            server = self._server(stack)
            until(lambda: (self.folder / "met").exists(), "a word in each thread", MET)
            with self._killing():
                asyncio.run(self._feed())
                (self.folder / "over").touch()
                assert server.wait(60) == 0, "the server failed"
            last = [self._bridge() for _ in range(BRIDGES)]
            for bridge in last:
                bridge.says("ready")
            self._drain()
            for bridge in last:
                bridge.send(SIGTERM)
                assert bridge.wait(60) == 0, bridge.said()
        tally = Tally(self.jobs, time.monotonic() - began, len(self._killed), self._broker_kills)
        self._count_notices(tally)
        self._count_runs(tally)
        return tally

    # ------------------------------------------------------------------ who takes part

    def _server(self, stack: ExitStack) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.chat.race", str(self.folder), str(self.threads), str(self.seed)]
        environment = self.deployment.environment | {"PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(command, env=environment, cwd=ROOT)
        stack.callback(server.wait)
        stack.callback(server.kill)
        return server

    def _bridge(self) -> Process:
        process = self.deployment.start("bridge", "run", "--graph", "tests.chat.race:chat")
        self.deployment.workers.append(process)
        return process

    @contextmanager
    def _killing(self) -> Iterator[None]:
        """Bridges that are killed and replaced at random, and a broker that is killed and started again."""
        over, loops = threading.Event(), [self._kill_bridges, *([self._kill_broker] if self.node else [])]
        with ThreadPoolExecutor(len(loops)) as pool:
            running = [pool.submit(loop, over, random.Random(self.seed + n)) for n, loop in enumerate(loops, 1)]
            try:
                yield
            finally:
                over.set()
            for one in running:
                one.result()

    def _kill_bridges(self, over: threading.Event, luck: random.Random) -> None:
        crew = [self._bridge() for _ in range(BRIDGES)]
        while not over.wait(luck.uniform(*BRIDGE_KILLS)):
            place = luck.randrange(BRIDGES)
            self._kill(crew[place])
            crew[place] = self._bridge()
        for bridge in crew:
            self._kill(bridge)

    def _kill(self, bridge: Process) -> None:
        assert not bridge.ended.is_set(), f"a bridge ended by itself:\n{bridge.said()}"
        self._killed[bridge.pid] = time.monotonic()  # before the signal: the other one may see its end before we do
        bridge.kill()

    def _kill_broker(self, over: threading.Event, luck: random.Random) -> None:
        assert self.node
        while not over.wait(luck.uniform(*(SOON if self.jobs < SHORT else BROKER_KILLS))):
            self.node.kill()
            self._broker_kills += 1
            over.wait(luck.uniform(0, 3))
            self.node.start()

    # ------------------------------------------------------------------ jobs

    async def _feed(self) -> None:
        """Have all jobs registered and ended, as fast as they are read."""
        settings = load_settings(environ=self.deployment.environment, cwd=self.deployment.home)
        tasks = [f"job-{number:05}" for number in range(self.jobs)]
        self._thread_of = {task: f"t{self._luck.randrange(self.threads)}" for task in tasks}
        asked = [(task, self._thread_of[task], self._luck.choice(MODES)) for task in tasks]
        with Desk(settings) as desk:
            await asyncio.gather(*(self._feeder(desk, asked[place::FEEDERS]) for place in range(FEEDERS)))

    async def _feeder(self, desk: Desk, asked: list[tuple[str, str, str]]) -> None:
        for place in range(0, len(asked), BATCH):
            batch = asked[place : place + BATCH]
            await desk.call(lambda app, batch=batch: [_end(app, *one) for one in batch])
            while len(self._unread()) > BACKLOG:  # noqa: ASYNC110 - the papers have no events
                await asyncio.sleep(0.05)

    def _unread(self) -> list[str]:
        folder = self.deployment.store_path / "inbox" / "chat"
        return sorted(path.stem for path in folder.glob("job-*.json"))

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAINED
        while self._unread() and time.monotonic() < deadline:
            time.sleep(0.1)

    def tale(self, fault: str) -> str:
        """The checkpoints and messages of the thread that a fault names first, for whoever looks for its cause."""
        thread = next(iter(re.findall(r"\bt\d+\b", fault)))
        with closing(sqlite3.connect(self.folder / "chat.sqlite")) as db:
            rows = sorted(db.execute(ROWS, (thread,)))
        kept = ("source", "step", "agentq_notice", "agentq_wake", "agentq_rest")
        lines = [f"{here} after {parent}: {_some(json.loads(said), kept)}" for here, parent, said in rows]
        messages = asyncio.run(self._messages())[thread]
        shown = [f"{m.type} {m.id} {m.content!r:.60} {getattr(m, 'tool_calls', [])!s:.300}" for m in messages]
        return "\n".join((thread, *lines, *shown))

    # ------------------------------------------------------------------ counting

    def _count_notices(self, tally: Tally) -> None:
        """Each job has one notice in the history of its own thread, and in its messages; nothing is unread."""
        tally.unread = self._unread()
        told = Counter[tuple[str, str]]()
        for thread, (history, others) in histories(self.folder, self.threads).items():
            tally.overwritten += others
            told.update((thread, one["agentq_notice"]) for one in history if "agentq_notice" in one)
        shown = Counter[tuple[str, str]]()
        for thread, messages in asyncio.run(self._messages()).items():
            shown.update((thread, m.id.removeprefix("agentq-notice-")) for m in messages if m.type == "tool")
            tally.again += _answered_again(thread, messages)
            tally.broken += _broken(thread, messages)
            tally.turns += sum(m.type == "human" for m in messages)
        for task, thread in self._thread_of.items():
            counts = {told.pop((thread, task), 0), shown.pop((thread, task), 0)}
            if counts != {1}:
                (tally.lost if 0 in counts else tally.doubled).append(f"{task} of {thread}: {sorted(counts)}")
        tally.doubled += [f"{task} in {thread}: of another thread" for thread, task in (told + shown)]

    async def _messages(self) -> dict[str, list[Any]]:
        async with opened(self.folder) as graph:
            saver, found = graph.checkpointer, dict[str, list[Any]]()
            for thread in (f"t{number}" for number in range(self.threads)):
                saved = await saver.aget_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
                found[thread] = saved.checkpoint["channel_values"]["messages"]
            return found

    def _count_runs(self, tally: Tally) -> None:
        """What bridges ran, by the notes of the graph: none began while another one's run of its thread went on."""
        notes = [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]
        going: dict[str, dict[str, Any]] = {}
        for note in sorted((note for note in notes if note["wake"]), key=lambda note: note["at"]):
            thread, before = note["thread"], going.get(note["thread"])
            if note["what"] != "began":
                if before and before["step"] == note["step"]:
                    del going[thread]
                continue
            tally.runs += 1
            if before:
                tally.cut += 1
                if self._killed.get(before["pid"], float("inf")) > note["at"]:
                    tally.by_two.append(f"{thread}: {before} and {note}")
            going[thread] = note


def _end(app: App, task_id: str, thread: str, mode: str) -> None:
    """Register a job and end it, as a hand does."""
    labels = {"thread": thread, "notice": mode}
    if tenant := tenant_of(thread):
        labels["tenant"] = tenant
    fields: Any = {"from": "chat", "to": "worker", "type": "work", "reply_to": "results.chat", "labels": labels}
    app.coordinator.register(Envelope(task_id=task_id, instructions="Do it.", **fields))
    app.hands.end_by_hand(task_id, Hand(by="hand", status="completed", summary="All done."))


def _some(metadata: dict[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    return {key: metadata[key] for key in kept if key in metadata}


def _answered_again(thread: str, messages: Sequence[Any]) -> Iterator[str]:
    """The answers of the model that come right after another one."""
    for before, message in pairwise(messages):
        if before.type == message.type == "ai" and not before.tool_calls and not message.tool_calls:
            yield f"{thread}: {before.id} and {message.id}"


def _broken(thread: str, messages: Sequence[Any]) -> Iterator[str]:
    """Where calls are not answered at once, or an answer has no call: no provider would take that history."""
    open_calls = set[str]()
    for place, message in enumerate(messages):
        if message.type == "tool" and message.tool_call_id in open_calls:
            open_calls.remove(message.tool_call_id)
        elif message.type == "tool" or open_calls:
            yield f"{thread}: {place}: {message.id}; not answered: {open_calls}"
            open_calls = set()
        if message.type == "ai":
            open_calls = {call["id"] for call in message.tool_calls}


@contextmanager
def racing(make: Callable[[Path, Nursery], Deployment]) -> Iterator[Deployment]:
    """A deployment in memory where that can be, whose bridges are forked with all that they import."""
    shared = Path("/dev/shm")
    with (
        TemporaryDirectory(prefix="agentq-race-", dir=shared if os.access(shared, os.W_OK) else None) as home,
        closing(Nursery(*PRELOADED)) as nursery,
        closing(make(Path(home), nursery)) as deployment,
    ):
        yield deployment


def main() -> None:
    """Run one race: python -m tests.daemons.notices_race JOBS [rabbitmq|sqlite] [SEED]."""
    jobs, engine = int(sys.argv[1]), (sys.argv[2:3] or ["rabbitmq"])[0]
    seed = int((sys.argv[3:4] or [secrets.randbits(32)])[0])
    with ExitStack() as stack:
        node = stack.enter_context(Node.find("4.3")) if engine == "rabbitmq" else None
        race(jobs, seed, node)


def race(jobs: int, seed: int, node: Node | None) -> Tally:
    """One race on that broker, or on SQLite, and what is to be said of it."""
    logging.getLogger("agentq").setLevel(logging.ERROR)  # that the broker is away is known
    print(f"{'rabbitmq' if node else 'sqlite'}, seed {seed}, load {os.getloadavg()[0]:.1f}", flush=True)
    with racing(lambda home, nursery: on_rabbitmq(node, home, nursery) if node else on_sqlite(home, nursery)) as field:
        running = Race(field, jobs, seed, node)
        tally = running.run()
        print(tally)
        for kind, found in tally.faults.items():
            print(f"  {kind}: {'; '.join(found)}"[:2000])
            print(running.tale(found[0]) if kind != "unread" else "")
    return tally


if __name__ == "__main__":
    main()
