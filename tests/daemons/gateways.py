"""A gateway of a deployment, and workers that have nothing but its URL and a token."""

import os
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.daemons.harness import Deployment, Nursery, Process

ALONE = 'exec 8> "$HOME/busy"; flock -n 8 || note two'
"""Notes `two` when another agent of this host runs."""
OTHER = "other"
"""Whose token is of another agent than the tasks."""
LIMITS = {"lease_seconds": 1.0, "renew_seconds": 0.1, "sweep_seconds": 0.25, "timeout_seconds": 30, "away_seconds": 2.0}


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks the processes of these tests, which find the gateway and what speaks to it imported."""
    nursery = Nursery("agentq.gateway.server", "agentq.engines.gateway", "agentq.stores.gateway", "agentq.cli.serve")
    yield nursery
    nursery.close()


class Gateway:
    """`agentq serve` for a deployment, at one port for as long as the test runs."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serve, at the same port as before; returns once it does."""
        self.process = self.deployment.start("serve", "--listen", f"127.0.0.1:{self.port}")
        self.deployment.workers.append(self.process)
        self.process.says("serving http")
        found = re.search(r"serving http://127\.0\.0\.1:(\d+)", self.process.said())
        assert found, self.process.said()
        self.port = int(found[1])

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def keeps_nothing_out(self) -> None:
        """Check that all that its agent's workers told the log since it serves went into it."""
        left_out = [line for line in self.process.said().splitlines() if "may not tell" in line]
        assert not [line for line in left_out if f"that {OTHER} may" not in line], self.process.said()

    def token(self, name: str, role: str = "worker", agent: str | None = None) -> str:
        """A new token of that role; a worker's is of the deployment's agent unless another is named."""
        of = ["--agent", agent or self.deployment.agent] if role == "worker" else []
        done = self.deployment.cli("token", "new", name, "--role", role, *of)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def place(self, name: str, token: str | None = None, port: int | None = None) -> "Place":
        """A host with a token, that of a new worker of the deployment's agent unless another is given; it reaches the
        gateway through another port if that is a line's."""
        return Place(self, name, self.token(name) if token is None else token, port or self.port)


class Place:
    """A host that has nothing but the URL and a token: its data are its own, and its processes nobody else's."""

    def __init__(self, gateway: Gateway, name: str, token: str, port: int) -> None:
        self.deployment, self.name, self.port = gateway.deployment, name, port
        self.home = self.deployment.home / name
        self.home.mkdir()
        self.token_file = self.home / "token"
        self.give(token)
        (self.home / "agentq.toml").write_text("[gateway]\ntimeout = 2.0\nretry_seconds = 1.0\n")

    def give(self, token: str) -> None:
        """Put another token into its file."""
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(token)

    @property
    def url(self) -> str:
        """Where it finds the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What its processes find in their environment: nothing of the engine or the store."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AGENTQ_DATA": str(self.home / "data"),
            "AGENTQ_WORKERS": str(self.deployment.home / "workers"),
            "AGENTQ_DEBUG": "1",
        }

    def start(self, *arguments: str, faults: Sequence[str] = ()) -> Process:
        """Start `agentq` here, through the gateway."""
        via = ("--via", self.url, "--token-file", str(self.token_file))
        here = (f"be on {self.name}", *faults)
        return self.deployment.start(*arguments, *via, faults=here, environment=self.environment, folder=self.home)

    def worker(self, *faults: str, ready: bool = True) -> Process:
        """Start a worker, and wait until it says that it is ready."""
        worker = self.start("worker", "run", self.deployment.agent, faults=faults)
        self.deployment.workers.append(worker)
        if ready:
            worker.says(f"{self.deployment.agent}: ready")
        return worker

    def rests(self) -> bool:
        """Whether no attempt left anything here."""
        return not list((self.home / "data").glob("scratch/*/*/*"))


def gateway_of(deployment: Deployment) -> Gateway:
    """A gateway of a deployment whose workers may be away for a while; it ends with that."""
    deployment.profile(limits=LIMITS)
    return Gateway(deployment)
