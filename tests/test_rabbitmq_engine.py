"""What is RabbitMQ's own: the topology, the broker's moods, foreign messages. The shared suite proves the rest."""

import asyncio
import inspect
import random
import secrets
import shutil
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import aiormq.exceptions
import pamqp.encode
import pamqp.exceptions
import pytest
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from agentq.engine import Guard
from agentq.engines import rabbitmq_link, topology
from agentq.engines.rabbitmq import RabbitMQDelivery, RabbitMQEngine, RabbitMQSettings
from agentq.errors import AgentqError, Conflict, EngineUnavailable, Invalid
from agentq.messages import PRIORITIES, Completion, Envelope, utc_now
from tests.brokers.node import Installation, Node
from tests.desk import Desk, on

NewEngine = Callable[..., RabbitMQEngine]


@pytest.fixture
def node(rabbitmq: Node) -> Node:
    """The shared node."""
    return rabbitmq


@pytest.fixture(scope="module")
def own_node(rabbitmq_installation: Installation) -> Iterator[Node]:
    """A node to stop, start and alarm; whoever does leaves it running and well."""
    with rabbitmq_installation.new() as node:
        yield node


@pytest.fixture
def namespace() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def new_engine(namespace: str) -> AsyncIterator[NewEngine]:
    """Makes engines in this test's own namespace and closes them."""
    made: list[RabbitMQEngine] = []

    def new(*urls: str, **settings: Any) -> RabbitMQEngine:
        made.append(RabbitMQEngine(RabbitMQSettings(**{"urls": urls, "namespace": namespace, **settings})))
        return made[-1]

    yield new
    await asyncio.gather(*(engine.close() for engine in made))


@pytest.fixture
async def engine(node: Node, new_engine: NewEngine) -> RabbitMQEngine:
    """An engine with a queue for `worker` on a shared node."""
    engine = new_engine(node.url)
    await engine.declare(["worker"], ["coordinator"])
    return engine


def envelope(task_id: str = "t", **fields: Any) -> Envelope:
    return Envelope(**{"task_id": task_id, "to": "worker", "type": "x", "instructions": "do it", **fields})


def completion() -> Completion:
    fields = {"from": "worker", "to": "coordinator", "attempt": 1, "finished_at": utc_now()}
    return Completion.model_validate({"task_id": "t", "status": "completed", **fields})


async def take(engine: RabbitMQEngine, seconds: float = 10) -> RabbitMQDelivery:
    return await asyncio.wait_for(engine.receive("worker"), seconds)


async def take_body(engine: RabbitMQEngine) -> bytes:
    delivery = await take(engine)
    await delivery.ack()
    return delivery.body


async def eventually(attempt: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """What the attempt returns, as soon as the engine can be reached."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await attempt()
        except EngineUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


@asynccontextmanager
async def foreign(node: Node) -> AsyncIterator[AbstractChannel]:
    """A channel of a client that knows nothing about agentq."""
    connection = await aio_pika.connect(node.url)
    async with connection, connection.channel() as channel:
        yield await channel.get_underlay_channel()


# --- topology -------------------------------------------------------------------------------------------------------


async def test_declaring_twice_changes_nothing(engine: RabbitMQEngine) -> None:
    again = await engine.declare(["worker"], ["coordinator"])
    assert again.created == ()
    more = await engine.declare(["worker", "another"], ["coordinator"])
    assert [label.rpartition(".")[2] for label in more.created] == ["another"]
    assert set(again.found) == set(more.found)


async def test_notes_say_what_this_version_gives(node: Node, engine: RabbitMQEngine) -> None:
    declared = await engine.declare(["worker"], [])
    health = await engine.health(["worker", "nobody"])
    assert health.version == node.version
    assert health.notes == declared.notes
    assert ("not replicated" in " ".join(declared.notes)) == (topology.parse_version(node.version) < (4, 3))
    assert [label.rpartition(".")[2] for label in health.missing] == ["nobody"]


def test_init_and_doctor_say_which_queues_there_are_and_what_is_lost(node: Node, tmp_path: Path) -> None:
    desk = Desk(tmp_path, on(node))
    said = {command: desk.ok(command) for command in ("init", "doctor")}
    queues = dict(line.split() for line in node.ctl("list_queues", "name", "type", "--no-table-headers").splitlines())
    kind = queues[f"{desk.environment['AGENTQ_NAMESPACE']}.tasks.review-worker"]
    lost = ["not replicated", "no delivery limit", "dead-lettered at most once"]
    for words in said.values():
        assert f"task queues are {kind} queues" in words
        assert "priorities are strict" in words
        assert [loss for loss in lost if loss in words] == (lost if kind == "classic" else [])
        assert (f"RabbitMQ {'.'.join(node.version.split('.')[:2])} has no strict" in words) == (kind == "classic")
    assert (kind == "quorum") == (topology.parse_version(node.version) >= (4, 3))


async def test_a_conflict_leaves_nothing_half_declared(node: Node, new_engine: NewEngine, namespace: str) -> None:
    planned = topology.topology(topology.parse_version(node.version), namespace, ["worker"], [])
    delay = f"{namespace}.delay.86400"
    [arguments] = [queue.arguments for queue in planned.queues if queue.name == delay]
    async with foreign(node) as channel:
        await channel.queue_declare(delay, durable=True, arguments={**arguments, "x-message-ttl": 5})
    engine = new_engine(node.url)
    with pytest.raises(Conflict) as caught:
        await engine.declare(["worker"], ["coordinator"])
    assert f"{delay!r} at" in str(caught.value)
    assert "another x-message-ttl: it has '5', agentq needs '86400000'" in str(caught.value)
    assert "namespace" in caught.value.hint
    health = await engine.health(["worker"])
    assert len(health.missing) == len(list(planned)) - 1


async def test_a_queue_of_the_other_type_is_a_conflict(node: Node, new_engine: NewEngine, namespace: str) -> None:
    other = "classic" if topology.parse_version(node.version) >= (4, 3) else "quorum"
    async with foreign(node) as channel:
        await channel.queue_declare(f"{namespace}.tasks.worker", durable=True, arguments={"x-queue-type": other})
    with pytest.raises(Conflict, match=r"tasks\.worker"):
        await new_engine(node.url).declare(["worker"], [])


async def test_no_queue_no_publish(engine: RabbitMQEngine) -> None:
    requests: list[Callable[[], Awaitable[Any]]] = [
        lambda: engine.publish(envelope(to="nobody")),
        lambda: engine.publish(envelope(to="nobody"), delay=20),
        lambda: engine.receive("nobody"),
        lambda: engine.ready("nobody"),
        lambda: engine.depth("nobody"),
    ]
    for request in requests:
        with pytest.raises(EngineUnavailable, match="nobody") as caught:
            await request()
        assert "agentq init" in caught.value.hint
    await engine.ready("worker")
    await engine.publish(envelope())
    assert await engine.depth("worker") == 1


async def test_nothing_is_declared_but_by_declare(node: Node, new_engine: NewEngine) -> None:
    engine = new_engine(node.url)
    for request in (engine.publish(envelope()), engine.notify(completion(), "results.coordinator")):
        with pytest.raises(EngineUnavailable) as caught:
            await request
        assert "agentq init" in caught.value.hint


async def test_output_goes_to_its_own_stream(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    async with foreign(node) as channel:
        for key in (f"{topology.EVENT_KEY}.claimed", f"{topology.OUTPUT_KEY}.t"):
            await channel.basic_publish(key.encode(), exchange=f"{namespace}.events", routing_key=key)
        await channel.basic_qos(prefetch_count=10)
        for stream, body in (("events", b"event.claimed"), ("output", b"output.t")):
            seen: asyncio.Queue[Any] = asyncio.Queue()
            tag = await channel.basic_consume(f"{namespace}.{stream}", seen.put, arguments={"x-stream-offset": "first"})
            assert (await asyncio.wait_for(seen.get(), 10)).body == body
            await channel.basic_cancel(str(tag.consumer_tag))
            assert seen.empty()


# --- where the broker is, and what cannot be said aloud --------------------------------------------------------------


async def test_errors_say_where_and_never_the_password(node: Node, new_engine: NewEngine) -> None:
    port = node.port
    cases: list[tuple[dict[str, Any], str]] = [
        ({"urls": (f"amqp://guest:s3cret@127.0.0.1:{port}/",)}, "refused the login"),
        ({"urls": (node.url,), "user": "guest", "password": "s3cret"}, "refused the login"),
        ({"urls": (f"amqp://guest:guest@127.0.0.1:{port}/s3cretless",)}, "no such virtual host"),
        ({"urls": (node.url,), "vhost": "a/b"}, "no such virtual host"),
        ({"urls": ("amqp://guest:s3cret@127.0.0.1:1/",)}, "cannot be reached"),
        ({"urls": ("amqp://guest:s3cret@no-such-host.invalid/",)}, "cannot be reached"),
        ({"urls": ("amqp://guest:s3cret@127.0.0.1:1/", "amqp://guest:s3cret@127.0.0.1:2/")}, "127.0.0.1:2"),
    ]
    for settings, words in cases:
        engine = new_engine(**settings)
        with pytest.raises(EngineUnavailable) as caught:
            await engine.publish(envelope())
        told = f"{caught.value!r} {caught.value.hint} {engine.url} {RabbitMQSettings(**settings)}"
        assert words in told
        assert "127.0.0.1" in told or "no-such-host" in told
        assert "s3cret@" not in told
        assert "'s3cret'" not in told


@pytest.mark.parametrize("url", ["", "localhost", "http://u:s3cret@h/", "amqp:///", "amqp://u:s3cret@h:1,h:2/"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        RabbitMQEngine(RabbitMQSettings(urls=(url,)))
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


async def test_settings_override_the_url(node: Node, new_engine: NewEngine) -> None:
    wrong = f"amqp://nobody:wrong@127.0.0.1:{node.port}/wrong"
    engine = new_engine(wrong, user="guest", password="guest", vhost="/")
    assert (await engine.health([])).version == node.version


async def test_the_first_url_that_answers_is_taken(node: Node, new_engine: NewEngine) -> None:
    engine = new_engine("amqp://guest:guest@127.0.0.1:1/", node.url)
    await engine.declare(["worker"], [])
    await engine.publish(envelope())
    assert (await take(engine)).body == envelope().to_json()


async def test_a_server_that_says_nothing_is_unavailable_in_time(new_engine: NewEngine) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        engine = new_engine(f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=0.5)
        with pytest.raises(EngineUnavailable, match="did not answer"):
            await asyncio.wait_for(engine.publish(envelope()), 2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    asked = ["-subj", "/CN=agentq", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *asked, "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def tls_in_front_of(node: Node, certificate: Path, key: Path) -> AsyncIterator[str]:
    """The URL of a proxy that asks its clients for that same certificate."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_node, to_node = await asyncio.open_connection("127.0.0.1", node.port)
        await asyncio.gather(pump(reader, to_node), pump(from_node, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        yield f"amqps://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_tls_with_a_ca_and_a_client_certificate(
    rabbitmq: Node, new_engine: NewEngine, certificate: tuple[Path, Path]
) -> None:
    async with tls_in_front_of(rabbitmq, *certificate) as url:
        mine = {"cert_file": certificate[0], "key_file": certificate[1]}
        for right in ({"ca_file": certificate[0]}, {"verify": False}):
            engine = new_engine(url, **mine, **right)
            assert (await engine.health([])).version == rabbitmq.version
            await engine.close()
        for wrong in (mine, {"ca_file": certificate[0]}):
            with pytest.raises(EngineUnavailable):
                await new_engine(url, **wrong, timeout=3).health([])
        with pytest.raises(Invalid, match="TLS file"):
            await new_engine(url, ca_file=Path("missing.pem")).health([])


def test_every_exception_of_the_client_library_is_mapped() -> None:
    """A new kind of failure must be given its words, not fall to the last line of the table."""
    unmapped = []
    for module in (aio_pika.exceptions, aiormq.exceptions):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and not issubclass(kind, rabbitmq_link.FOREIGN):
                unmapped.append(name)
    assert not unmapped
    for kind in rabbitmq_link.FOREIGN:
        assert isinstance(rabbitmq_link.translate(kind("x"), "test", "there"), AgentqError)


# --- the broker's moods -----------------------------------------------------------------------------------------------


async def test_a_memory_alarm_is_an_error_in_time(own_node: Node, new_engine: NewEngine) -> None:
    engine = new_engine(own_node.url, timeout=1.0)
    await engine.declare(["worker"], [])
    await engine.publish(envelope("before"))

    async def publish_for_ever() -> None:
        while True:
            await engine.publish(envelope("until-it-is-heard"))

    own_node.ctl("set_vm_memory_high_watermark", "absolute", "1")
    try:
        with pytest.raises(EngineUnavailable, match="blocks publishers"):
            await asyncio.wait_for(publish_for_ever(), 30)
        for request in (engine.publish(envelope("during")), engine.ready("worker")):
            start = time.monotonic()
            with pytest.raises(EngineUnavailable, match="blocks publishers"):
                await request
            assert time.monotonic() - start < 2
        delivery = await take(engine)
        await delivery.ack()
        start = time.monotonic()
        await engine.close()
        assert time.monotonic() - start < 3
    finally:
        own_node.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")
    await engine.publish(envelope("after"))
    assert await engine.depth("worker") >= 1


async def test_a_restart_is_survived(own_node: Node, new_engine: NewEngine) -> None:
    engine = new_engine(own_node.url)
    await engine.declare(["worker"], [])
    await engine.publish(envelope("held"))
    held = await take(engine)
    waiting = asyncio.create_task(engine.receive("worker"))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own_node.stop)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(EngineUnavailable):
        await engine.receive("worker")
    await held.ack()
    await asyncio.to_thread(own_node.start)
    await engine.publish(envelope("later"))
    first = await eventually(lambda: take(engine))
    assert first.body == held.body
    await held.ack()
    await first.ack()
    assert await take_body(engine) == envelope("later").to_json()


async def test_a_publish_on_a_broken_connection_is_repeated(own_node: Node, new_engine: NewEngine) -> None:
    engine = new_engine(own_node.url)
    await engine.declare(["worker"], [])
    await engine.publish(envelope("one"))
    await asyncio.to_thread(own_node.stop)
    await asyncio.to_thread(own_node.start)
    await engine.publish(envelope("two"))
    own_node.ctl("close_all_connections", "test")
    await engine.publish(envelope("three"))
    assert await engine.depth("worker") == 3


async def test_a_deleted_queue_ends_receive(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    waiting = asyncio.create_task(engine.receive("worker"))
    await asyncio.sleep(0.2)
    async with foreign(node) as channel:
        await channel.queue_delete(f"{namespace}.tasks.worker")
    with pytest.raises(EngineUnavailable, match="queue was deleted"):
        await asyncio.wait_for(waiting, 5)
    await engine.declare(["worker"], [])
    await engine.publish(envelope())
    await (await take(engine)).ack()


async def test_closing_ends_receive(engine: RabbitMQEngine) -> None:
    waiting = asyncio.create_task(engine.receive("worker"))
    await asyncio.sleep(0.2)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, 5)


# --- deliveries -------------------------------------------------------------------------------------------------------


async def test_priorities_are_strict_and_a_guard_is_above_them(engine: RabbitMQEngine) -> None:
    order = ["low", "normal", "high", "urgent"] * 5
    random.Random(1).shuffle(order)
    for number, priority in enumerate(order):
        await engine.publish(envelope(f"{priority}-{number:02}", priority=priority))
    await engine.publish(envelope("guard", priority="low"), guard=Guard(1, 2, "g"))
    got = [Envelope.model_validate_json(await take_body(engine)).task_id for _ in range(21)]
    numbers = {str(name): number for name, number in topology.PRIORITY.items()}
    ranks = [(-numbers[name], int(number)) for name, number in (one.split("-") for one in got[1:])]
    assert got[0] == "guard"
    assert ranks == sorted(ranks)


@pytest.mark.promise("strict-priority")
async def test_order_is_kept_where_messages_expire_find_no_queue_or_a_full_one(
    node: Node, engine: RabbitMQEngine, namespace: str
) -> None:
    limit = '{"max-length": 20, "overflow": "reject-publish"}'
    await asyncio.to_thread(node.ctl, "set_policy", namespace, f"^{namespace}.tasks", limit, "--apply-to", "queues")
    dice, accepted = random.Random(2), ["urgent-0"]
    await engine.publish(envelope("urgent-0", priority="urgent"))
    async with foreign(node) as channel:
        expiring = Basic.Properties(priority=topology.PRIORITY["urgent"], expiration="1")
        await channel.basic_publish(
            b"expired", exchange=f"{namespace}.tasks", routing_key="worker", properties=expiring
        )
    with pytest.raises(EngineUnavailable, match="nobody"):
        await engine.publish(envelope("lost", to="nobody", priority="urgent"))

    async def fill() -> None:
        for number in range(1, 1000):
            level = dice.choice(PRIORITIES)
            await engine.publish(envelope(f"{level}-{number}", priority=level))
            accepted.append(f"{level}-{number}")

    with pytest.raises(EngineUnavailable, match="did not accept"):
        await fill()
    accepted.sort(key=lambda task_id: -PRIORITIES.index(task_id.split("-")[0]))
    half = len(accepted) // 2
    got = [await take_body(engine) for _ in range(half)]
    await eventually(lambda: engine.publish(envelope("late", priority="urgent")))
    got += [await take_body(engine) for _ in range(half, len(accepted) + 1)]
    expected = [*accepted[:half], "late", *accepted[half:]]
    assert [Envelope.model_validate_json(body).task_id for body in got] == expected
    async with asyncio.timeout(30):
        while not (letters := await engine.dead_letters()):
            pass
    assert [(letter.body, "expired" in letter.reason) for letter in letters] == [(b"expired", True)]
    await asyncio.to_thread(node.ctl, "clear_policy", namespace)


async def test_a_busy_slot_leaves_the_next_message_to_others(
    node: Node, engine: RabbitMQEngine, namespace: str
) -> None:
    for task_id in ("one", "two", "three"):
        await engine.publish(envelope(task_id))
    first, second = await take(engine), await take(engine)
    async with foreign(node) as channel:
        third = await channel.basic_get(f"{namespace}.tasks.worker")
    bodies = [first.body, second.body, third.body]
    assert bodies == [envelope(task_id).to_json() for task_id in ("one", "two", "three")]
    await second.ack()
    await first.ack()
    await first.ack()


@pytest.mark.parametrize("delay", [0.4, 1, 1.5, 2.3])
async def test_a_delay_is_kept_and_hardly_exceeded(engine: RabbitMQEngine, delay: float) -> None:
    start = time.time()
    await engine.publish(envelope(), delay=delay, guard=Guard(3, 4, "g"))
    assert await engine.depth("worker") == 0
    delivery = await take(engine)
    assert delay <= time.time() - start < max(1, delay) + 0.5
    assert delivery.guard == Guard(3, 4, "g")
    assert delivery.body == envelope().to_json()


async def test_delays_do_not_wait_for_one_another(engine: RabbitMQEngine) -> None:
    start = time.time()
    for count in range(40):
        await engine.publish(envelope(f"t{count}", priority=["low", "urgent"][count % 2]), delay=1)
        await asyncio.sleep(0.05)
    took = []
    for _ in range(40):
        delivery = await take(engine)
        number = int(Envelope.model_validate_json(delivery.body).task_id[1:])
        took.append(time.time() - start - number * 0.05)
        await delivery.ack()
    assert max(took) < 10  # one after another would be 40


async def test_cancelling_receive_loses_nothing(node: Node, new_engine: NewEngine, engine: RabbitMQEngine) -> None:
    dice, seen = random.Random(7), set()
    publisher = new_engine(node.url)
    for count in range(60):
        waiting = asyncio.create_task(engine.receive("worker"))
        publishing = asyncio.create_task(publisher.publish(envelope(f"t{count}")))
        await asyncio.sleep(dice.random() * 0.008)
        waiting.cancel()
        try:
            delivery = await waiting
        except asyncio.CancelledError:
            pass
        else:
            await delivery.ack()
            seen.add(delivery.body)
        await publishing
    while len(seen) < 60:
        seen.add(await take_body(engine))


async def test_many_publish_while_many_receive(engine: RabbitMQEngine) -> None:
    async def work() -> list[bytes]:
        return [await take_body(engine) for _ in range(25)]

    workers = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.gather(*(engine.publish(envelope(f"t{count // 2}")) for count in range(100)))
    bodies = [body for worker in workers for body in await worker]
    assert len(bodies) == 100
    assert len(set(bodies)) == 50


# --- messages of others -----------------------------------------------------------------------------------------------


ODD: list[dict[str, Any]] = [
    {},
    {"priority": 0},
    {"priority": 255, "content_type": "text/odd", "delivery_mode": 2},
    {
        "headers": {
            "agentq-guard-attempt": "x",
            "agentq-due": "soon",
            "agentq-left": None,
            "deep": {"a": [1, bytearray(b"\xff")]},
        }
    },
    {"headers": {"agentq-due": 2**62, "agentq-left": -5}, "reply_to": "amq.gen-1", "app_id": "x", "user_id": "guest"},
    {"timestamp": datetime(2020, 1, 1, tzinfo=UTC), "expiration": "60000", "message_type": "t", "correlation_id": "c"},
]


@pytest.mark.parametrize("properties", ODD, ids=str)
async def test_a_foreign_message_is_delivered(
    node: Node, engine: RabbitMQEngine, namespace: str, properties: dict[str, Any]
) -> None:
    async with foreign(node) as channel:
        await channel.basic_publish(
            b"\xff\x00", exchange=f"{namespace}.tasks", routing_key="worker", properties=Basic.Properties(**properties)
        )
    delivery = await take(engine)
    assert delivery.body == b"\xff\x00"
    assert delivery.guard is None
    assert delivery.published_at == properties.get("timestamp")
    await delivery.dead_letter("unreadable")
    [letter] = await engine.dead_letters()
    assert (letter.agent, letter.reason, letter.body) == ("worker", "unreadable", b"\xff\x00")
    assert await engine.depth("worker") == 0


async def test_what_the_client_library_cannot_decode_is_delivered(
    node: Node, engine: RabbitMQEngine, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, odd in (("timestamp", struct.pack(">Q", 2**64 - 1)), ("shortstr", b"\x02\xff\xfe")):
        with monkeypatch.context() as patch:
            async with foreign(node) as channel:
                if kind == "timestamp":
                    patch.setitem(pamqp.encode.METHODS, kind, lambda _, odd=odd: odd)
                    properties = Basic.Properties(timestamp=utc_now(), message_id="kept")
                else:
                    usual = pamqp.encode.METHODS[kind]
                    patch.setitem(
                        pamqp.encode.METHODS, kind, lambda v, odd=odd, usual=usual: odd if v == "odd" else usual(v)
                    )
                    properties = Basic.Properties(content_type="odd", message_id="kept")
                await channel.basic_publish(
                    b"odd", exchange=f"{namespace}.tasks", routing_key="worker", properties=properties
                )
        delivery = await take(engine)
        assert delivery.body == b"odd"
        assert delivery.properties.message_id == "kept"
        await delivery.dead_letter("odd")
    assert len(await engine.dead_letters()) == 2


# --- dead letters -----------------------------------------------------------------------------------------------------


async def test_a_thousand_looks_change_nothing(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    for count in range(5):
        await engine.dead_letter(envelope(f"t{count}"), f"reason {count}")
    first = await engine.dead_letters()
    assert [letter.task_id for letter in first] == [f"t{count}" for count in range(5)]
    async with foreign(node) as channel:
        for _ in range(980):
            taken = [await channel.basic_get(f"{namespace}.dead-letters") for _ in range(5)]
            await channel.basic_reject(taken[0].delivery_tag or 0)
            await channel.basic_nack(taken[-1].delivery_tag or 0, multiple=True)
    for _ in range(20):
        assert await engine.dead_letters() == first


async def test_lookers_see_all_and_remove_each_once(node: Node, new_engine: NewEngine, engine: RabbitMQEngine) -> None:
    for count in range(20):
        await engine.dead_letter(envelope(f"t{count}"), "why")
    engines = [new_engine(node.url) for _ in range(4)]
    looks = await asyncio.gather(*(one.dead_letters() for one in engines))
    assert [len(look) for look in looks] == [20] * 4
    ids = [letter.id for letter in looks[0]]
    removed = await asyncio.gather(*(one.remove_dead_letters(ids[7:9]) for one in engines))
    assert sorted(removed) == [0, 0, 0, 2]
    assert [letter.id for letter in await engine.dead_letters()] == ids[:7] + ids[9:]


async def test_what_the_broker_gave_up_is_named(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    async with foreign(node) as channel:
        await channel.basic_publish(
            b'{"task_id": "late"}',
            exchange=f"{namespace}.tasks",
            routing_key="worker",
            properties=Basic.Properties(expiration="1", delivery_mode=2),
        )
    for _ in range(100):
        if letters := await engine.dead_letters():
            break
    [letter] = letters
    assert (letter.agent, letter.task_id) == ("worker", "late")
    assert "expired" in letter.reason
    assert letter.at is not None
    assert abs((utc_now() - letter.at).total_seconds()) < 30
    assert [one.id for one in await engine.dead_letters()] == [letter.id]
    assert await engine.remove_dead_letters([letter.id]) == 1


async def test_a_dead_delivery_keeps_its_headers_as_texts(engine: RabbitMQEngine) -> None:
    await engine.publish(envelope(), guard=Guard(1, 2, "g"))
    await (await take(engine)).dead_letter("because")
    [letter] = await engine.dead_letters()
    assert letter.headers == {"agentq-guard-attempt": "1", "agentq-guard-counter": "2", "agentq-guard-id": "g"}


# --- notices ----------------------------------------------------------------------------------------------------------


async def test_a_notice_reaches_the_results_queue(node: Node, engine: RabbitMQEngine, namespace: str) -> None:
    await engine.notify(completion(), "results.coordinator")
    await engine.notify(completion(), "results.nobody")
    async with foreign(node) as channel:
        message = await channel.basic_get(f"{namespace}.results.coordinator", no_ack=True)
    assert Completion.model_validate_json(message.body).task_id == "t"
    assert message.header.properties.delivery_mode == 2


async def test_a_cancellation_stays_one_when_the_library_makes_another_error_of_it() -> None:
    """Else a loop that tries again would go on, and whoever cancelled it would wait for ever."""
    waiting = asyncio.Event()

    async def like_the_library() -> None:
        async with rabbitmq_link.translated("wait", "here", None):
            try:
                waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("closed") from None

    task = asyncio.create_task(like_the_library())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
