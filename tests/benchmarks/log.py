"""The log beside the bare client in one run: events per second appended and read, and what agentq adds to it."""

import asyncio
import json
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import aiormq
from pamqp.commands import Basic

from agentq.engine import Engine
from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings
from agentq.engines.sqlite import SQLiteEngine
from agentq.events import Event
from agentq.messages import utc_now

EVENTS = 5_000
BATCH = 500
ROUNDS = 3
STREAM = "bare"

Timed = Callable[[], Awaitable[None]]


def bench(folder: Path, broker: str) -> None:
    """Print it for both engines."""
    print(
        f"\nthe log: {EVENTS} events in batches of {BATCH}, {ROUNDS} rounds in turn; per second, beside the bare client"
    )
    asyncio.run(_rabbitmq(broker))
    asyncio.run(_sqlite(folder / "log.db", folder / "bare.db"))


async def _rabbitmq(broker: str) -> None:
    engine = RabbitMQEngine(RabbitMQSettings(urls=(broker,), namespace="bench-log"))
    await engine.declare([], [])
    connection = await aiormq.connect(broker)
    try:
        channel = await connection.channel()
        await channel.queue_declare(STREAM, durable=True, arguments={"x-queue-type": "stream"})
        bare = {"append": lambda: _bare_publish(channel), "read": lambda: _bare_consume(connection)}
        await _compare("rabbitmq", "bare aiormq", engine, bare)
    finally:
        await connection.close()
        await engine.close()


async def _bare_publish(channel: Any) -> None:
    bodies = [event.to_json() for event in _events()]
    properties = Basic.Properties(delivery_mode=2)
    for start in range(0, EVENTS, BATCH):
        batch = bodies[start : start + BATCH]
        await asyncio.gather(
            *(channel.basic_publish(body, routing_key=STREAM, properties=properties) for body in batch)
        )


async def _bare_consume(connection: Any) -> None:
    """The same many messages, acknowledged in hundreds, as plain JSON."""
    channel = await connection.channel()
    came: asyncio.Queue[Any] = asyncio.Queue()
    await channel.basic_qos(prefetch_count=2 * BATCH)
    await channel.basic_consume(STREAM, came.put, arguments={"x-stream-offset": "first"})
    for number in range(1, EVENTS + 1):
        message = await came.get()
        json.loads(message.body)
        if number % BATCH == 0:
            await channel.basic_ack(message.delivery_tag, multiple=True)
    await channel.close()


async def _sqlite(path: Path, bare_path: Path) -> None:
    engine = SQLiteEngine(path)
    with closing(sqlite3.connect(bare_path, isolation_level=None)) as db:
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE log (id INTEGER PRIMARY KEY, body)"
        )
        bare = {"append": lambda: _bare_insert(db), "read": lambda: _bare_select(db)}
        try:
            await _compare("sqlite", "bare sqlite3", engine, bare)
        finally:
            await engine.close()


async def _bare_insert(db: sqlite3.Connection) -> None:
    bodies = [event.to_json() for event in _events()]
    for start in range(0, EVENTS, BATCH):
        db.execute("BEGIN")
        db.executemany("INSERT INTO log (body) VALUES (?)", [(body,) for body in bodies[start : start + BATCH]])
        db.execute("COMMIT")


async def _bare_select(db: sqlite3.Connection) -> None:
    for start in range(0, EVENTS, BATCH):
        for _, body in db.execute(
            "SELECT id, body FROM log WHERE id > ? ORDER BY id LIMIT ?", (start, BATCH)
        ).fetchall():
            json.loads(body)


async def _compare(name: str, neighbour: str, engine: Engine, bare: dict[str, Timed]) -> None:
    own: dict[str, Timed] = {"append": lambda: _append(engine), "read": lambda: _read(engine)}
    for what in ("append", "read"):
        pairs = [(await _seconds(own[what]), await _seconds(bare[what])) for _ in range(ROUNDS)]
        rate = EVENTS / statistics.median(mine for mine, _ in pairs)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        print(f"  {name:<8} {what:<6} {rate:9.0f} events/s  {ratio:5.2f} times the time of {neighbour}")


async def _append(engine: Engine) -> None:
    events = _events()
    for start in range(0, EVENTS, BATCH):
        await engine.append(events[start : start + BATCH])


async def _read(engine: Engine) -> None:
    """As many events as the bare client reads, from the start of the log, parsed."""
    read = 0
    async with aclosing(engine.read()) as pages:
        async for page in pages:
            read += len(page.events)
            if read >= EVENTS:
                return
    raise AssertionError(f"only {read} events came")


async def _seconds(run: Timed) -> float:
    began = time.perf_counter()
    await run()
    return time.perf_counter() - began


def _events() -> list[Event]:
    return [
        Event(
            id=f"task-{n}/completed", kind="completed", at=utc_now(), task_id=f"task-{n}", agent="worker", attempt=1,
            data={"to": "coordinator", "summary": "Implemented and tested the scoped change.", "verified": True},
        )
        for n in range(EVENTS)
    ]  # fmt: skip
