"""Every role connects to real brokers: what it does not need is refused, what it needs works."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import aiormq.exceptions
import pamqp.encode
import pytest
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from agentq.engine import Log
from agentq.engines.rabbitmq import RabbitMQEngine
from agentq.engines.rabbitmq_link import NotPermitted
from agentq.engines.topology import parse_version
from agentq.messages import Completion, Envelope, utc_now
from tests.conformance.engines import an_event
from tests.party import AGENTS, OTHER, WORKER, Party, party

__all__ = ["party"]


def envelope(task_id: str = "t", **fields: Any) -> Envelope:
    return Envelope(**{"task_id": task_id, "to": WORKER, "type": "x", "instructions": "do it", **fields})


def completion(to: str = "coordinator") -> Completion:
    fields = {"from": WORKER, "to": to, "attempt": 1, "finished_at": utc_now()}
    return Completion.model_validate({"task_id": "t", "status": "completed", **fields})


# --- what each role may do --------------------------------------------------------------------------------------------

Act = Callable[[AbstractChannel, str], Awaitable[Any]]


def send(exchange: str, key: str = WORKER) -> Act:
    return lambda channel, ns: channel.basic_publish(b"x", exchange=exchange.format(ns), routing_key=key.format(ns))


def read_stream(name: str) -> Act:
    async def read(channel: AbstractChannel, ns: str) -> None:
        await channel.basic_qos(prefetch_count=1)
        seen: asyncio.Queue[Any] = asyncio.Queue()
        await channel.basic_consume(name.format(ns), seen.put, arguments={"x-stream-offset": "first"})

    return read


def consume(name: str) -> Act:
    return lambda channel, ns: channel.basic_consume(name.format(ns), ignore)


async def ignore(_: Any) -> None:
    """A consumer."""


def get(name: str) -> Act:
    return lambda channel, ns: channel.basic_get(name.format(ns))


def bind(queue: str, exchange: str, key: str) -> Act:
    return lambda channel, ns: channel.queue_bind(queue.format(ns), exchange.format(ns), key)


def bind_exchange(to: str, source: str, key: str) -> Act:
    return lambda channel, ns: channel.exchange_bind(to.format(ns), source.format(ns), routing_key=key)


OWN, ANOTHERS = f"{{}}.tasks.{WORKER}", f"{{}}.tasks.{OTHER}"
DEAD, RESULTS, EVENTS, OUTPUT, DELAY = (
    "{}.dead-letters",
    "{}.results.coordinator",
    "{}.events",
    "{}.output",
    "{}.delay.1",
)
QUEUES = (OWN, ANOTHERS, DEAD, RESULTS, DELAY)
LOOKER = "{}.dead-letters.looker"


def declare(name: str, **how: Any) -> Act:
    return lambda channel, ns: channel.queue_declare(name.format(ns), **how)


def delete(name: str) -> Act:
    return lambda channel, ns: channel.queue_delete(name.format(ns))


def unbind(queue: str, exchange: str, key: str) -> Act:
    return lambda channel, ns: channel.queue_unbind(queue.format(ns), exchange.format(ns), key)


def purge(name: str) -> Act:
    return lambda channel, ns: channel.queue_purge(name.format(ns))


def taking(*names: str) -> dict[str, Act]:
    """Every way to get at a queue's messages."""
    ways = {"get from": get, "consume": consume, "purge": purge}
    return {f"{word} {name}": way(name) for name in names for word, way in ways.items()}


def changing(name: str) -> dict[str, Act]:
    """Every way to change a queue."""
    keys = ("", "event.#", "#")
    return {
        f"declare {name}": declare(name, durable=True, arguments={"x-queue-type": "quorum"}),
        f"delete {name}": delete(name),
        f"bind {name} to the tasks": bind(name, "{}.tasks", WORKER),
        **{f"bind {name} to {key!r} of the events": bind(name, EVENTS, key) for key in keys},
        **{f"unbind {name} from {key!r} of the events": unbind(name, EVENTS, key) for key in keys},
        f"unbind {name} from the tasks": unbind(name, "{}.tasks", WORKER),
    }


NOBODYS: dict[str, Act] = {
    "publish to a queue by the default exchange": send("", ANOTHERS),
    "publish to another program's exchange": send("amq.topic"),
    "publish events under another key": send(EVENTS, "other.x"),
    "declare a queue": declare("{}.mine", durable=True),
    "declare a queue that the broker names": declare("", exclusive=True),
    "declare an exchange": lambda channel, ns: channel.exchange_declare(f"{ns}.mine", durable=True),
    "delete an exchange": lambda channel, ns: channel.exchange_delete(f"{ns}.tasks"),
    "have delayed messages copied to the tasks": bind_exchange("{}.tasks", DELAY, ""),
    "have tasks copied to a delay": bind_exchange(DELAY, "{}.tasks", WORKER),
    "have events copied to a delay": bind_exchange(DELAY, EVENTS, "event.#"),
    **{what: act for name in (*QUEUES, EVENTS, OUTPUT) for what, act in changing(name).items()},
}
TURNS = {"take turns at the dead letters": declare(LOOKER, exclusive=True)}
LOG = {f"read {name}": read_stream(name) for name in (EVENTS, OUTPUT)}
PUBLISHING = {
    f"publish to {name} with {key}": send(name, key)
    for name, key in (
        ("{}.tasks", WORKER),
        ("{}.results", "coordinator"),
        ("{}.dlx", WORKER),
        (DELAY, WORKER),
        (EVENTS, "event.x"),
        (EVENTS, "output.x"),
    )
}
FORBIDDEN: dict[str, dict[str, Act]] = {
    "coordinator": NOBODYS
    | taking(OWN, ANOTHERS, DELAY, "{}.results.somebody")
    | {"publish output": send(EVENTS, "output.x")},
    "worker": NOBODYS
    | TURNS
    | LOG
    | taking(ANOTHERS, DEAD, RESULTS, DELAY)
    | {f"publish a task to {agent}": send("{}.tasks", agent) for agent in AGENTS},
    "observer": NOBODYS | TURNS | PUBLISHING | taking(OWN, ANOTHERS, DEAD, RESULTS, DELAY),
    "gateway": NOBODYS | taking(DELAY, RESULTS),
}
ALLOWED: dict[str, dict[str, Act]] = {
    "coordinator": LOG
    | {"publish events": send(EVENTS, "event.x"), "get": get(RESULTS), "consume completions": consume(RESULTS)},
    "worker": {"publish events": send(EVENTS, "event.x"), "publish output": send(EVENTS, "output.x")},
    "observer": LOG,
    "gateway": LOG | {f"publish {key}": send(EVENTS, key) for key in ("event.x", "output.x")},
}
NAMES = {"coordinator": "coordinator", "worker": WORKER, "observer": "observer", "gateway": "gateway"}


@pytest.mark.promise("least-privilege")
@pytest.mark.parametrize("kind", FORBIDDEN)
async def test_what_a_role_does_not_need_is_refused(party: Party, kind: str) -> None:
    async with party.channels(kind, NAMES[kind]) as opened:
        done = []
        for what, act in FORBIDDEN[kind].items():
            try:
                await asyncio.wait_for(act(await opened(), party.namespace), 10)
            except aiormq.exceptions.ChannelAccessRefused:
                continue
            except aiormq.exceptions.AMQPError as error:
                done.append(f"{what}: {error!r}")
            else:
                done.append(what)
    assert done == []


@pytest.mark.promise("least-privilege")
@pytest.mark.parametrize("kind", ALLOWED)
async def test_what_a_role_needs_beyond_the_engine_is_permitted(party: Party, kind: str) -> None:
    async with party.channels(kind, NAMES[kind]) as opened:
        for act in ALLOWED[kind].values():
            await asyncio.wait_for(act(await opened(), party.namespace), 10)


@pytest.mark.promise("least-privilege")
async def test_a_coordinator_submits_looks_and_works_with_dead_letters(party: Party) -> None:
    async with party.acting("coordinator") as engine, party.acting("worker", WORKER) as worker:
        await engine.ready(WORKER)
        await engine.publish(envelope("now"))
        await engine.publish(envelope("later"), delay=0.2)
        assert await engine.depth(WORKER) == 1
        assert await engine.listeners(WORKER) == 0
        for _ in range(2):
            await (await asyncio.wait_for(worker.receive(WORKER), 10)).dead_letter("because")
        letters = [letter for letter in await engine.dead_letters() if letter.task_id in ("now", "later")]
        assert [letter.task_id for letter in letters] == ["now", "later"]
        assert await engine.remove_dead_letters([letter.id for letter in letters]) == 2
        await engine.notify(completion(), "results.coordinator")
        await engine.dead_letter(envelope(), "given up")
        health = await engine.health(AGENTS)
    assert health.missing == ()
    assert not [note for note in health.notes if "not looked at" in note]


@pytest.mark.promise("least-privilege")
async def test_a_gateway_publishes_and_looks_as_a_coordinator_and_takes_for_every_worker(party: Party) -> None:
    async with party.acting("gateway") as engine:
        for agent in AGENTS:
            await engine.ready(agent)
            await engine.publish(envelope(agent, to=agent))
            assert await engine.depth(agent) == 1
            await (await asyncio.wait_for(engine.receive(agent), 10)).dead_letter("because")
        letters = [letter for letter in await engine.dead_letters() if letter.task_id in AGENTS]
        assert await engine.remove_dead_letters([letter.id for letter in letters]) == 2
        await engine.publish(envelope("parked"), delay=1)
        await (await asyncio.wait_for(engine.receive(WORKER), 10)).ack()
        await engine.notify(completion(), "results.coordinator")
        health = await engine.health(AGENTS)
    assert health.missing == ()
    assert not [note for note in health.notes if "not looked at" in note]


@pytest.mark.promise("least-privilege")
async def test_a_worker_takes_parks_and_answers(party: Party) -> None:
    async with party.acting("worker", WORKER) as engine:
        await engine.ready(WORKER)
        await engine.publish(envelope("parked"), delay=1)
        await engine.publish(envelope("released"))
        got = []
        for _ in range(2):
            delivery = await asyncio.wait_for(engine.receive(WORKER), 10)
            got.append((Envelope.model_validate_json(delivery.body).task_id, delivery.was_delayed))
            await delivery.ack()
        assert sorted(got) == [("parked", True), ("released", True)]
        await engine.notify(completion(), "results.coordinator")
        await engine.dead_letter(envelope(), "given up")
        assert await engine.depth(WORKER) == 0
        with pytest.raises(NotPermitted) as caught:
            await engine.receive(OTHER)
        assert "agentq access show" in caught.value.hint
    async with party.acting("worker", OTHER) as engine:
        await engine.publish(envelope("for-the-other"))
    async with party.acting("worker", WORKER) as engine:
        delivery = await asyncio.wait_for(engine.receive(WORKER), 10)
        assert Envelope.model_validate_json(delivery.body).task_id == "for-the-other"
        await delivery.ack()


@pytest.mark.promise("least-privilege")
async def test_an_observer_counts_and_publishes_nothing(party: Party) -> None:
    async with party.acting("observer") as engine:
        assert await engine.depth(OTHER) == 0
        assert (await engine.health(AGENTS)).missing == ()
        for refused in (engine.ready(WORKER), engine.publish(envelope()), engine.publish(envelope(), delay=1)):
            with pytest.raises(NotPermitted):
                await refused


@pytest.mark.promise("least-privilege")
@pytest.mark.parametrize("kind", ["coordinator", "observer", "gateway"])
@pytest.mark.parametrize("log", ["events", "output"])
async def test_who_looks_reads_both_logs_to_the_end_and_counts_dead_letters(party: Party, kind: str, log: Log) -> None:
    """Whether it may put a marker there or not; nothing is left out, and nothing comes twice."""
    kinds: dict[Log, str] = {"events": "progress", "output": "output"}
    name = f"{kind}-{log}"
    async with party.acting("worker", WORKER) as teller, party.acting(kind) as engine:
        empty = [page async for page in engine.read(log)]
        position = empty[-1].position
        for part in range(2):
            await teller.append([an_event(f"{name}-{part}-{n}", kinds[log]) for n in range(700)])
            pages = [page async for page in engine.read(log, after=position)]
            came = [event.id for page in pages for event in page.events if event.id.startswith(f"{name}-{part}")]
            assert came == [f"{name}-{part}-{n}" for n in range(700)]
            assert [page.caught_up for page in pages] == [False] * (len(pages) - 1) + [True]
            assert not any(page.gap for page in pages)
            position = pages[-1].position
        last = [page async for page in engine.read(log, after=position)]
        assert [event for page in last for event in page.events] == []
        assert last[-1].caught_up
        async with aclosing(engine.read(log, after=position, follow=True)) as following:
            assert (await anext(following)).caught_up
            await teller.append([an_event(f"{name}-last", kinds[log])])
            page = await asyncio.wait_for(anext(following), 10)
            assert [event.id for event in page.events] == [f"{name}-last"]
        assert await engine.count_dead_letters() >= 0
        assert (await engine.health(AGENTS)).unbounded == ()


@pytest.mark.promise("least-privilege")
async def test_a_worker_tells_and_does_not_read_and_an_observer_does_not_tell(party: Party) -> None:
    async with party.acting("worker", WORKER) as engine:
        with pytest.raises(NotPermitted):
            _ = [page async for page in engine.read()]
        await engine.append([an_event("told")])
    for event in (an_event("told"), an_event("told", "output")):
        async with party.acting("observer") as engine:
            with pytest.raises(NotPermitted):
                await engine.append([event])
    async with party.acting("coordinator") as engine:
        await engine.append([an_event("told")])
        with pytest.raises(NotPermitted):
            await engine.append([an_event("told", "output")])
        await engine.append([an_event("told")])


@pytest.mark.promise("least-privilege")
@pytest.mark.parametrize("kind", ["worker", "observer"])
async def test_health_says_what_a_user_may_not_see_and_raises_no_alarm(party: Party, kind: str) -> None:
    async with party.acting(kind, NAMES[kind]) as engine:
        health = await engine.health([*AGENTS])
    hidden = [note for note in health.notes if "not looked at, because this user may not" in note]
    assert health.missing == ()
    assert len(hidden) == (parse_version(party.node.version) >= (4, 3))
    for note in hidden:
        assert f"exchange {party.namespace}.tasks" in note
        assert f".tasks.{WORKER}" not in note


async def test_a_refusal_touches_nothing_else(party: Party) -> None:
    """A refused publish ends its channel; what others publish meanwhile goes through, and nobody asks again."""

    async def publish(engine: RabbitMQEngine, number: int) -> None:
        await asyncio.sleep(number * 0.0005)  # before, while and after the first one is refused
        await engine.publish(envelope(f"direct-{number}"))
        await engine.notify(completion("nobody"), "results.nobody")

    for _ in range(5):
        async with party.acting("worker", WORKER) as engine:
            await asyncio.gather(*(publish(engine, number) for number in range(30)))
            refusals = party.node.log(100_000).count("access_refused")
            await engine.publish(envelope("direct-30"))
            assert party.node.log(100_000).count("access_refused") == refusals > 0
    async with party.acting("worker", WORKER) as engine:
        for _ in range(5 * 31):
            await (await asyncio.wait_for(engine.receive(WORKER), 10)).ack()


# --- what a worker may forge ------------------------------------------------------------------------------------------

DELAYED = "{}.delay.1"
HIDING: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a death of its own": {"x-death": [{"queue": "mine", "reason": "expired", "count": 1}]},
    "the same death, long ago": {"x-death": [{"queue": DELAYED, "reason": "expired", "count": 7}]},
    "a death without a count": {"x-death": [{"queue": DELAYED, "reason": "expired"}]},
    "that death thrice": {"x-death": [{"queue": DELAYED, "reason": "expired", "count": 1}] * 3},
    "a queue that is none": {"x-death": [{"queue": 5, "reason": "expired", "count": 1}]},
    "no list": {"x-death": "no"},
    "an empty list": {"x-death": []},
    "a table": {"x-death": {"queue": "mine"}},
    "another first death": {"x-first-death-queue": "mine", "x-first-death-reason": "rejected"},
    "another address": {"CC": [WORKER]},
}


def named(value: Any, namespace: str) -> Any:
    """The headers with the names of that namespace in them."""
    if isinstance(value, dict):
        return {key: named(one, namespace) for key, one in value.items()}
    if isinstance(value, list):
        return [named(one, namespace) for one in value]
    return value.format(namespace) if isinstance(value, str) else value


@pytest.mark.promise("forged-copy")
async def test_nobody_can_hide_that_a_message_came_through_a_delay(party: Party) -> None:
    exchange = DELAYED.format(party.namespace)
    async with party.channels("worker", OTHER) as opened:
        channel = await opened()
        for what, headers in HIDING.items():
            properties = Basic.Properties(headers=named(headers, party.namespace), delivery_mode=2)
            key = "nobody" if "CC" in headers else WORKER
            await channel.basic_publish(what.encode(), exchange=exchange, routing_key=key, properties=properties)
        at_once = Basic.Properties(expiration="0", delivery_mode=2)
        await channel.basic_publish(b"at once", exchange=exchange, routing_key=WORKER, properties=at_once)
    seen = await deliveries(party, len(HIDING) + 1)
    assert seen == dict.fromkeys([*HIDING, "at once"], True)


@pytest.mark.promise("forged-copy")
async def test_unreadable_headers_hide_nothing(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library cannot read them; then nobody can say that it did not come through a delay."""
    usual = pamqp.encode.short_string

    def odd(text: str) -> bytes:
        return b"\x02\xff\xfe" if text == "odd" else usual(text)

    async with party.channels("worker", OTHER) as opened:
        channel = await opened()
        properties = Basic.Properties(headers={"odd": 1}, delivery_mode=2)
        with monkeypatch.context() as patch:
            patch.setattr(pamqp.encode, "short_string", odd)
            await channel.basic_publish(
                b"odd", exchange=DELAYED.format(party.namespace), routing_key=WORKER, properties=properties
            )
    assert await deliveries(party, 1) == {"odd": True}


async def test_a_death_elsewhere_is_no_delay(party: Party) -> None:
    """What another program dead-lettered into the tasks is served like any other message."""
    death: dict[str, Any] = {"x-death": [{"queue": "another-program", "reason": "expired", "count": 1}]}
    async with party.channels("coordinator") as opened:
        channel = await opened()
        properties = Basic.Properties(headers=death)
        exchange = f"{party.namespace}.tasks"
        await channel.basic_publish(b"theirs", exchange=exchange, routing_key=WORKER, properties=properties)
    assert await deliveries(party, 1) == {"theirs": False}


async def deliveries(party: Party, count: int) -> dict[str, bool]:
    """The bodies of the next messages, and whether they were delayed."""
    found = {}
    async with party.acting("worker", WORKER) as engine:
        for _ in range(count):
            delivery = await asyncio.wait_for(engine.receive(WORKER), 10)
            found[delivery.body.decode()] = delivery.was_delayed
            await delivery.ack()
    return found
