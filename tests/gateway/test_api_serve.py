"""`agentq serve` as a process: how it begins, how it ends, and what it does while its broker is away."""

import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.brokers.node import Node
from tests.desk import Desk, on
from tests.gateway.serving import started

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}


def test_it_says_where_it_serves_and_ends_in_order(desk: Desk) -> None:
    with started(desk) as gateway:
        assert gateway.get("/api/health").ok()["status"] == "ok"
        assert gateway.said == [f"serving {gateway.url}"]
        assert gateway.end()[0] == 0


def test_it_says_nothing_more_in_json(desk: Desk) -> None:
    with started(desk, "--log-format", "json") as gateway:
        assert '"message": "serving http://127.0.0.1:' in gateway.said[0]
        assert gateway.end(signal.SIGINT)[0] == 130


@pytest.mark.promise("gateway-ends")
def test_who_is_connected_is_told_that_it_restarts(desk: Desk) -> None:
    with started(desk) as gateway, connect(f"{gateway.ws}/ws") as line:
        line.send('{"op": "hello"}')
        assert '"welcome"' in str(line.recv(10))

        code, seconds = gateway.end()

        with pytest.raises(ConnectionClosed) as closed:
            _read_on(line)
        assert closed.value.rcvd
        assert (code, closed.value.rcvd.code) == (0, 1012)
        assert seconds < 5


@pytest.mark.promise("gateway-ends")
def test_who_is_still_sending_is_told_that_it_ends(desk: Desk) -> None:
    parts = (
        b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with started(desk) as gateway:
        assert gateway.get("/api/health").ok()
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 10) as connection:
            connection.sendall(parts)
            assert gateway.get("/api/health").ok()
            gateway.process.send_signal(signal.SIGTERM)
            with connection.makefile("rb") as answer:
                said = answer.read()
        assert gateway.end()[0] == 0
    assert said.startswith(b"HTTP/1.1 503")
    assert b"\r\ncontent-type: application/problem+json\r\n" in said
    assert b"it may have been done, or not" in said


def _read_on(line: ClientConnection) -> None:
    while True:
        line.recv(10)


def test_it_serves_tls(desk: Desk, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    with started(desk, "--cert", str(cert), "--key", str(key), tls=context) as gateway:
        assert gateway.url.startswith("https://")
        assert gateway.get("/api/health").ok()["status"] == "ok"
        with connect(f"{gateway.ws}/ws", ssl=context) as line:
            line.send('{"op": "hello"}')
            assert '"welcome"' in str(line.recv(10))


@pytest.mark.promise("gateway-roles")
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--listen", "0.0.0.0:0"), 3, "agentq token new"),
        (("--allow-host", "gate.example.com"), 3, "agentq token new"),
        (("--allow-host", "http://gate.example.com"), 3, "is no host name"),
        (("--listen", "8420"), 3, "HOST:PORT, such as 127.0.0.1:8420."),
        (("--cert", "cert.pem"), 3, "--key"),
        (("--cert", "none.pem", "--key", "none.pem"), 3, "PEM"),
        (("--store", "ftp://x"), 3, "store"),
    ],
)
def test_what_cannot_be_served_is_said(desk: Desk, flags: tuple[str, ...], code: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentq", "serve", "--listen", "127.0.0.1:0", *flags],
        cwd=desk.project,
        env=desk.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == code, done
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(desk: Desk) -> None:
    with started(desk) as gateway:
        done = desk.start("serve", "--listen", gateway.url.removeprefix("http://"))
        _, said = done.communicate(timeout=60)
        assert done.returncode == 6
        assert b"Choose another port" in said


@pytest.mark.promise("gateway-roles")
def test_off_this_machine_everybody_brings_a_token(desk: Desk) -> None:
    token = desk.ok("token", "new", "ann", "--role", "observer").splitlines()[-1].strip()
    with started(desk, "--allow-host", "gate.example.com") as gateway:
        assert gateway.get("/api/me").problem(401)
        assert gateway.bringing(token).get("/api/me", Host="gate.example.com").ok()["name"] == "ann"


@pytest.mark.promise("gateway-away")
def test_without_its_broker_the_papers_are_read_and_tasks_refused(
    tmp_path: Path, broker_of_my_own: Callable[[], Node]
) -> None:
    node = broker_of_my_own()
    desk = Desk(tmp_path, on(node))
    desk.ok("init")
    desk.finish(desk.task("--id", "fix-17"))
    node.stop()

    with started(desk) as gateway:
        health = gateway.get("/api/health").ok()
        assert (health["status"], health["engine"]["ok"], health["store"]["ok"]) == ("degraded", False, True)
        assert gateway.get("/api/tasks/fix-17").ok()["state"] == "completed"
        assert gateway.get("/api/tasks/fix-17/artifacts/report").body == b"All done.\n"
        for unknown in ("tasks", "agents", "workers", "stats", "series"):
            assert "never knew all tasks" in gateway.get(f"/api/{unknown}").problem(503)["detail"]
        refused = gateway.post("/api/tasks", TASK | {"id": "fix-18"})
        assert refused.problem(503)["hint"]
        assert refused.headers["retry-after"] == "5"
        assert gateway.get("/api/tasks/fix-18").problem(404)

        node.start()

        deadline = time.monotonic() + 60
        while gateway.get("/api/health").ok()["status"] != "ok":
            assert time.monotonic() < deadline, gateway.get("/api/health").json
            time.sleep(0.2)
        assert gateway.post("/api/tasks", TASK | {"id": "fix-18"}).ok(201)["new"]
        assert [row["task_id"] for row in gateway.get("/api/tasks").ok()["tasks"]] == ["fix-18", "fix-17"]
        assert gateway.end()[0] == 0


def test_its_supervisor_hears_when_it_serves_and_when_it_ends(desk: Desk, tmp_path: Path) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(place)
        ear.settimeout(30)
        desk.environment |= {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "300000"}
        with started(desk) as gateway:
            assert "WATCHDOG=1" in _heard_until(ear, "READY=1")
            assert gateway.end()[0] == 0
        assert "STOPPING=1" in _heard_until(ear, "STOPPING=1")


def _heard_until(ear: socket.socket, words: str) -> str:
    """All that is heard until these words were."""
    heard = ""
    while words not in heard:
        heard += f"{ear.recv(4096).decode()}\n"
    return heard
