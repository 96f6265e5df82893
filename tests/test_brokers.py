import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aio_pika
import pytest

from tests.brokers.node import Installation, Node, NodeFailed, release

NewNode = Callable[[], Node]


async def publish(node: Node, queue: str, body: bytes) -> None:
    async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue, timeout=10)


async def fetch(node: Node, queue: str) -> bytes:
    async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
        message = await (await channel.get_queue(queue)).get(timeout=10)
        assert message is not None
        await message.ack()
        return message.body


def processes(marks: set[str]) -> dict[int, str]:
    """The processes that were started for a node, by what only its environment contains."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marks & set(process.joinpath("environ").read_text(errors="replace").split("\0")):
                found[int(process.name)] = process.joinpath("comm").read_text().strip()
        except OSError:
            continue
    return found


def assert_gone(marks: set[str], within: float = 10) -> None:
    deadline = time.monotonic() + within
    while left := processes(marks):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def marks_of(node: Node) -> set[str]:
    """What names the processes of a node; containers are the engine's to clean up."""
    if not hasattr(node, "_epmd_port"):
        pytest.skip("the processes of this node are a container's")
    return {f"ERL_EPMD_PORT={node._epmd_port}"}


async def test_the_newest_or_oldest_serves_a_confirmed_publish(
    rabbitmq: Node, rabbitmq_installations: dict[str, Installation]
) -> None:
    versions = sorted(map(release, rabbitmq_installations))
    assert release(rabbitmq.version) == versions[0 if os.environ.get("TEST_BROKER") == "oldest" else -1]
    await publish(rabbitmq, "hello", b"hello")
    assert await fetch(rabbitmq, "hello") == b"hello"


async def test_a_killed_node_keeps_what_it_confirmed(broker_of_my_own: NewNode) -> None:
    node = broker_of_my_own()
    await publish(node, "kept", b"kept")
    node.flush()
    node.kill()
    assert not node.running
    node.start()
    assert await fetch(node, "kept") == b"kept"


async def test_a_stopped_node_keeps_its_data_and_leaves_no_process(broker_of_my_own: NewNode) -> None:
    node = broker_of_my_own()
    marks = marks_of(node)
    assert {"beam.smp", "epmd"} <= set(processes(marks).values())
    await publish(node, "kept", b"kept")
    node.stop()
    node.stop()
    assert_gone(marks)
    assert "[error]" not in node.log(1000)
    node.start()
    assert await fetch(node, "kept") == b"kept"
    node.close()
    node.close()
    assert_gone(marks)


async def test_ctl_reads_and_alarms(broker_of_my_own: NewNode) -> None:
    node = broker_of_my_own()
    await publish(node, "listed", b"1")
    assert node.ctl("list_queues", "name").split()[-1] == "listed"
    node.ctl("set_vm_memory_high_watermark", "absolute", "1")
    assert "memory" in node.ctl("eval", "rabbit_alarm:get_alarms().")
    with pytest.raises(NodeFailed, match="no_such_command"):
        node.ctl("no_such_command")


def test_two_nodes_at_once_are_strangers(rabbitmq: Node, broker_of_my_own: NewNode) -> None:
    node = broker_of_my_own()
    node.ctl("add_vhost", "mine")
    assert "mine" in node.ctl("list_vhosts")
    assert "mine" not in rabbitmq.ctl("list_vhosts")


def test_a_node_that_cannot_start_says_why(broker_of_my_own: NewNode) -> None:
    node = broker_of_my_own()
    marks_of(node)
    node.stop()
    taken = node._distribution_port  # type: ignore[attr-defined]  # the one for clients is retried for ten seconds
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(NodeFailed, match=f"distribution port {taken}"):
        node.start()
    assert not node.running


def test_a_killed_test_process_takes_its_node_along(rabbitmq: Node, tmp_path: Path) -> None:
    marks_of(rabbitmq)
    script = (
        "import sys, time; from tests.brokers.node import Node;"
        f"node = Node.find('{rabbitmq.version}').start(); print(node._epmd_port, flush=True); time.sleep(100)"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        marks = {f"ERL_EPMD_PORT={doomed.stdout.readline().strip()}"}
        assert {"beam.smp", "epmd"} <= set(processes(marks).values())
        os.kill(doomed.pid, signal.SIGKILL)
    assert_gone(marks)
