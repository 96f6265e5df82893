"""Faults for one process: it dies, stalls or is refused at a named step of the store or the engine.

A fault is a sentence, such as `die before put_new attempts/*/1.json`, `die after 2 put attempts/*.lease.json` (the
second one), `stall before put inbox/*` (until the flag `go` is there; `stalled` says that it waits), `lose after
put_new results/*` (done, but the answer is lost; `lost` says so), `refuse before put *` (as long as the flag `away` is
there; `refused` says so), `break before get *` (a bug, once), `hang before ack` (the whole event loop, for good;
`hangs` says so).
The steps of the engine are `publish task|guard`, `notify`, `dead_letter`, `receive`, `ack` and `refuse`.
"""

import asyncio
import fnmatch
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agentq.app
import agentq.observer
import agentq.process_table
from agentq.engine import Delivery, Engine
from agentq.errors import StoreUnavailable
from agentq.store import Store

READS = ("get", "open", "keys")
WRITES = ("put_new", "put", "put_file", "delete")


def install(sentences: Sequence[str], flags: Path) -> None:
    """Have this process's app open a store and an engine that have these faults.

    The sentence `be on NAME` is no fault: the process takes itself for one of a host of that name.
    """
    for name in [sentence.removeprefix("be on ") for sentence in sentences if sentence.startswith("be on ")]:
        be_on(name)
    sentences = [sentence for sentence in sentences if not sentence.startswith("be on ")]
    if not sentences:
        return
    plan = Plan([Fault.parse(sentence) for sentence in sentences], flags)
    open_store, open_engine = agentq.app.open_store, agentq.observer.open_engine
    agentq.app.open_store = lambda *where: FaultyStore(open_store(*where), plan)
    agentq.observer.open_engine = lambda settings: FaultyEngine(open_engine(settings), plan)


def be_on(name: str) -> None:
    """Let nobody tell from here what became of other hosts' processes, nor others of this one's."""
    agentq.process_table._boot = lambda: f"boot-of-{name}/1"
    socket.gethostname = lambda: name


@dataclass(slots=True)
class Fault:
    """What happens, on which side of which step, and how many of these steps pass unharmed before."""

    act: str
    when: str
    step: str
    passes: int

    @classmethod
    def parse(cls, sentence: str) -> "Fault":
        """The fault that a sentence describes."""
        act, when, *step = sentence.split()
        nth = int(step.pop(0)) if step[0].isdigit() else 1
        assert act in ("die", "stall", "lose", "refuse", "break", "hang"), sentence
        assert when in ("before", "after"), sentence
        return cls(act, when, " ".join(step), nth - 1)


@dataclass(slots=True)
class Plan:
    """The faults of this process, and the folder of flags by which a test and they speak."""

    faults: list[Fault]
    flags: Path
    stalls: list[str] = field(default_factory=list)

    def due(self, when: str, step: str) -> Iterator[Fault]:
        """The faults that strike at this step now."""
        for fault in self.faults:
            if fault.when != when or not fnmatch.fnmatchcase(step, fault.step):
                continue
            if fault.passes:
                fault.passes -= 1
            else:
                yield fault

    def strike(self, when: str, step: str) -> bool:
        """Let what is due happen; True when there is something to wait for."""
        stalled = False
        for fault in list(self.due(when, step)):
            if fault.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault.act == "break":
                self.faults.remove(fault)
                raise RuntimeError(f"a bug at {step}")
            elif fault.act == "hang":
                (self.flags / "hangs").touch()
                time.sleep(3600)
            elif fault.act == "lose":
                self.faults.remove(fault)
                (self.flags / "lost").touch()
                raise StoreUnavailable(f"no answer to {step}")
            elif fault.act == "refuse" and (self.flags / "away").exists():
                (self.flags / "refused").touch()
                raise StoreUnavailable(f"cannot {step}: the store's disk is full")
            elif fault.act == "stall":
                self.faults.remove(fault)
                (self.flags / "stalled").touch()
                stalled = True
        return stalled

    def step(self, step: str, do: Callable[[], Any]) -> Any:
        """Do a step of the store, with its faults."""
        self._wait(self.strike("before", step))
        done = do()
        self._wait(self.strike("after", step))
        return done

    async def astep(self, step: str, do: Callable[[], Awaitable[Any]]) -> Any:
        """The same for a step of the engine."""
        if self.strike("before", step):
            await asyncio.to_thread(self._wait, True)
        done = await do()
        if self.strike("after", step):
            await asyncio.to_thread(self._wait, True)
        return done

    def _wait(self, stalled: bool) -> None:
        while stalled and not (self.flags / "go").exists():
            time.sleep(0.01)


class FaultyStore:
    """A store whose steps are `<method> <key>`."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store, self._plan = store, plan

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in (*READS, *WRITES):
            return method

        def faulty(key: str, *rest: Any, **named: Any) -> Any:
            return self._plan.step(f"{name} {key}", lambda: method(key, *rest, **named))

        return faulty


class FaultyEngine:
    """An engine with faults, also in what is done with its deliveries."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine, self._plan = engine, plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def publish(self, envelope: Any, *, delay: float = 0.0, guard: Any = None) -> None:
        """A step of its own for a guard."""
        step = "publish guard" if guard else "publish task"
        await self._plan.astep(step, lambda: self._engine.publish(envelope, delay=delay, guard=guard))

    async def notify(self, completion: Any, reply_to: str) -> None:
        """A step."""
        await self._plan.astep("notify", lambda: self._engine.notify(completion, reply_to))

    async def dead_letter(self, envelope: Any, reason: str) -> None:
        """A step."""
        await self._plan.astep("dead_letter", lambda: self._engine.dead_letter(envelope, reason))

    async def receive(self, agent: str) -> "FaultyDelivery":
        """A step."""
        return FaultyDelivery(await self._plan.astep("receive", lambda: self._engine.receive(agent)), self._plan)


class FaultyDelivery:
    """A delivery with faults."""

    def __init__(self, delivery: Delivery, plan: Plan) -> None:
        self._delivery, self._plan = delivery, plan
        self.body, self.guard, self.published_at = delivery.body, delivery.guard, delivery.published_at
        self.was_delayed = delivery.was_delayed

    async def ack(self) -> None:
        """A step."""
        await self._plan.astep("ack", self._delivery.ack)

    async def dead_letter(self, reason: str) -> None:
        """A step."""
        await self._plan.astep("refuse", lambda: self._delivery.dead_letter(reason))
