"""How soon a gateway tells what happens, to how many; what an idle connection costs it; and what clients miss that come
and go: `agentq serve` as a process, its clients in this one, on the same cores."""

import asyncio
import base64
import json
import os
import resource
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from agentq.engine import Engine
from tests import tales
from tests.desk import Desk
from tests.gateway import pairs
from tests.gateway.ears import Ear, ear
from tests.gateway.serving import Started, started

ROUNDS = int(os.environ.get("AGENTQ_BENCH_PUSHES", "200"))
EVENTS = int(os.environ.get("AGENTQ_BENCH_EVENTS", "10000"))
CROWDS = (1, 100, 1000)
AGENT = "implementation-worker"
TOPIC = f"/agents/{AGENT}/tasks"


def bench(folder: Path, url: str) -> None:
    """Measure both engines, RabbitMQ at that URL, and print it."""
    _let_many_in()
    for name, broker in (("rabbitmq", url), ("sqlite", None)):
        desk = _desk(folder / "gateway" / name, broker)
        print(f"\n{name}: a gateway and its clients, {ROUNDS} rounds; ms, median and p99")
        with started(desk) as gateway:
            for crowd in CROWDS:
                asyncio.run(_crowd(desk, gateway, crowd))
        wandered = asyncio.run(pairs.wander(desk, EVENTS))
        missed, repeated = sum(one.missed for one in wandered), sum(one.repeated for one in wandered)
        print(f"  {EVENTS} events, {len(wandered)} clients that reconnect at random over two gateways, one of them")
        print(f"  killed in the middle: {missed} missed, {repeated} repeated, {sum(one.gaps for one in wandered)} gaps")


def _let_many_in() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _desk(folder: Path, broker: str | None) -> Desk:
    folder.mkdir(parents=True)
    desk = Desk(folder, {"AGENTQ_BROKER": broker, "AGENTQ_NAMESPACE": "gateway-bench"} if broker else None)
    with desk.start("init", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as init:
        init.wait(60)
    return desk


async def _crowd(desk: Desk, gateway: Started, crowd: int) -> None:
    """One who is told, and a crowd: first of those who are told nothing, then of those who are told the same."""
    async with ear(gateway.ws) as one, desk.app().engine() as engine:
        await one.subscribe(TOPIC)
        await one.subscribe("/tasks/a")
        before = _rss(gateway)
        async with _others(gateway, crowd - 1, "/tasks/quiet"):
            cost = f", {(_rss(gateway) - before) / (crowd - 1):.0f} KiB for each" if crowd > 1 else ""
            print(f"  {crowd:>4} connections{cost}")
            await _print("the others idle", gateway, engine, one)
        if crowd > 1:
            async with _others(gateway, crowd - 1, TOPIC, "/tasks/a"):
                await _print("all told the same", gateway, engine, one)


async def _print(words: str, gateway: Started, engine: Engine, one: Ear) -> None:
    chunks = [await _chunk(engine, one) for _ in range(ROUNDS)]
    tasks = [await _task(gateway, one) for _ in range(max(10, ROUNDS // 4))]
    answered = [answer for answer, _ in tasks]
    print(
        f"    {words:<18}  chunk told to the log, then pushed {_ms(chunks)}"
        f"   task asked for, then pushed {_ms([pushed for _, pushed in tasks])} (answered {_ms(answered)})"
    )


async def _chunk(engine: Engine, one: Ear) -> float:
    """Seconds from before the log is told of a piece of an answer until it is heard."""
    began = time.perf_counter()
    which = str(time.time_ns())
    await engine.append([tales.event("a", "reply", 0, which, attempt=1, data={"text": "word ", "offset": 0})])
    while (await one.hear("event"))["event"]["id"] != f"a/reply/{which}":
        pass
    return time.perf_counter() - began


async def _task(gateway: Started, one: Ear) -> tuple[float, float]:
    """Seconds from before a task is asked for until that is answered, and until its agent hears of it."""
    began = time.perf_counter()
    asked = {"to": AGENT, "type": "implementation", "instructions": "Do it."}
    asking = asyncio.create_task(asyncio.to_thread(_timed, gateway, asked))
    while (await one.hear("event"))["event"]["kind"] != "submitted":
        pass
    pushed = time.perf_counter() - began
    return await asking - began, pushed


def _timed(gateway: Started, asked: dict[str, str]) -> float:
    gateway.post("/api/tasks", asked).ok(201)
    return time.perf_counter()


class Idle(asyncio.Protocol):
    """A client that subscribes and looks at nothing that it is told: as cheap as can be."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self._topics = topics
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        host = "{}:{}".format(*transport.get_extra_info("peername")[:2])
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.ready.done():
            return
        begun, self._seen = b"\r\n\r\n" in self._seen, self._seen + data
        if not begun and b"\r\n\r\n" in self._seen:
            for said in ({"op": "hello"}, *({"op": "subscribe", "topic": topic} for topic in self._topics)):
                self.transport.write(_frame(json.dumps(said).encode()))
        if self._seen.count(b"caught_up") == len(self._topics):
            self._seen = b""
            self.ready.set_result(None)


def _frame(said: bytes) -> bytes:
    """A short text frame, masked with zeros."""
    assert len(said) < 126
    return bytes((0x81, 0x80 | len(said), 0, 0, 0, 0)) + said


@asynccontextmanager
async def _others(gateway: Started, count: int, *topics: str) -> AsyncIterator[None]:
    where, loop, here = urlsplit(gateway.url), asyncio.get_running_loop(), list[Idle]()
    for _ in range(count):
        _, idle = await loop.create_connection(lambda: Idle(topics), where.hostname or "", where.port or 0)
        await idle.ready
        here.append(idle)
    try:
        yield
    finally:
        for idle in here:
            idle.transport.abort()


def _rss(gateway: Started) -> int:
    """KiB of memory that the gateway holds."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def _ms(seconds: list[float]) -> str:
    values = sorted(1000 * value for value in seconds)
    return f"{values[len(values) // 2]:.1f} / {values[min(len(values) - 1, len(values) * 99 // 100)]:.1f}"
