"""What a supervisor hears of a daemon, over a socket such as systemd's."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from signal import SIGTERM

import pytest

from tests.daemons.harness import PATIENCE, Deployment, until

WATCHDOG = 0.6


class Ear:
    """A notification socket, and what came of each datagram with the moment it came."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.heard: list[str] = []

    def listen(self, seconds: float) -> str | None:
        """The next datagram, None when there is none for so many seconds."""
        self._socket.settimeout(seconds)
        try:
            said = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        self.heard.append(said)
        return said

    def hears(self, what: str) -> str:
        """Wait for a datagram with that in it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if what in (said := self.listen(PATIENCE) or ""):
                return said
        raise AssertionError(f"no {what!r} in {self.heard}")

    def close(self) -> None:
        self._socket.close()


Supervise = Callable[..., Ear]


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """Have the daemons of a deployment believe that systemd started them."""
    with ExitStack() as stack:

        def start(deployment: Deployment, address: str | None = None, watchdog: float | None = WATCHDOG) -> Ear:
            address = address or f"@agentq-{secrets.token_hex(8)}"
            ear = Ear(address)
            stack.callback(ear.close)
            more = {"WATCHDOG_USEC": str(int(watchdog * 1e6))} if watchdog else {}
            deployment._settings = {**deployment._settings, "NOTIFY_SOCKET": address, **more}
            return ear

        yield start


@pytest.mark.promise("supervised")
def test_what_systemd_hears_from_start_to_end(deployment: Deployment, supervise: Supervise) -> None:
    ear = supervise(deployment)
    worker = deployment.start_worker()
    ear.hears("READY=1")
    ear.hears("STATUS=working: 0 of 1 running")
    task = deployment.submit("env | grep -c -e NOTIFY -e WATCHDOG > $AGENTQ_OUTPUT/told", "hold go", "report done")
    ear.hears("STATUS=working: 1 of 1 running")
    for _ in range(4):
        ear.hears("WATCHDOG=1")
    worker.send(SIGTERM)
    ear.hears("STOPPING=1")
    assert "WATCHDOG=1" in ear.hears("STATUS=draining: 1 of 1 running")
    ear.hears("WATCHDOG=1")
    deployment.open_gate("go")
    assert worker.wait() == 0
    assert deployment.evidence(task, 1)["told"] == "0\n", "an agent has no ear of the supervisor"
    assert not [said for said in ear.heard if said.startswith("READY=1")][1:]


@pytest.mark.promise("supervised")
def test_a_daemon_whose_loop_hangs_does_not_say_that_it_lives(
    on_sqlite_alone: Deployment, supervise: Supervise
) -> None:
    ear = supervise(on_sqlite_alone)
    on_sqlite_alone.start_worker("hang before ack")
    ear.hears("WATCHDOG=1")
    on_sqlite_alone.submit("report done")
    on_sqlite_alone.see_flag("hangs")
    while ear.listen(0.01):
        """What it said before."""
    assert ear.listen(2 * WATCHDOG) is None


@pytest.mark.promise("supervised")
def test_one_that_waits_for_its_store_is_not_given_up(on_sqlite_alone: Deployment, supervise: Supervise) -> None:
    """It asks for more time, again and again, and is not ready before it can work."""
    ear = supervise(on_sqlite_alone)
    on_sqlite_alone.raise_flag("away")
    worker = on_sqlite_alone.start_worker("refuse before put_new probes/*", ready=False)
    for _ in range(4):
        assert f"EXTEND_TIMEOUT_USEC={int(WATCHDOG * 1e6)}" in ear.hears("WATCHDOG=1")
    assert "STATUS=starting" in ear.heard[0]
    assert not worker.ended.is_set()
    assert "READY=1" not in "".join(ear.heard)
    on_sqlite_alone.lower_flag("away")
    ear.hears("READY=1")
    assert "EXTEND" not in ear.hears("WATCHDOG=1")


def test_a_socket_in_the_file_system_and_no_watchdog(on_sqlite_alone: Deployment, supervise: Supervise) -> None:
    ear = supervise(on_sqlite_alone, str(on_sqlite_alone.home / "n"), watchdog=None)
    on_sqlite_alone.start_worker()
    ear.hears("READY=1")
    assert "WATCHDOG" not in "".join(ear.heard)


def test_a_supervisor_that_does_not_listen_hinders_nothing(on_sqlite_alone: Deployment, supervise: Supervise) -> None:
    """Its socket is full."""
    ear = supervise(on_sqlite_alone, watchdog=0.01)
    on_sqlite_alone.start_worker()
    task = on_sqlite_alone.submit("report done")
    on_sqlite_alone.check(task, starts=[1], attempt=1)
    on_sqlite_alone.rest()
    assert len(list(iter(lambda: ear.listen(0.01), None))) < 1000


@pytest.mark.promise("orphans-first")
def test_what_a_killed_daemon_left_running_is_ended_before_anything_is_taken(on_sqlite_alone: Deployment) -> None:
    """The next daemon stalls while it looks for it, with another task in its queue; that one finds nothing alive."""
    deployment = on_sqlite_alone
    worker = deployment.start_worker()
    first = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }",
        "setsid sleep 300 & echo $! > $DESK/child",
        "note child",
        "hold never",
    )
    deployment.noted(first, "child")
    deployment.has_guard(first)
    worker.kill()
    child = (deployment.desk / "child").read_text().strip()
    assert "sleep" in deployment.left_processes()[int(child)]
    second = deployment.submit(f"[ -d /proc/{child} ] && note alive || note gone", "report done", priority="urgent")
    deployment.start_worker(f"stall before keys attempts/{first}*", ready=False)
    deployment.see_flag("stalled")
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: deployment.starts(second), seconds=1.0)
    deployment.raise_flag("go")
    deployment.noted(second, "gone")
