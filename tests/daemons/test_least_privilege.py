"""The whole walk on brokers where everybody may do only what their role needs, and forgers among the workers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentq.engine import Engine, Guard
from agentq.engines.rabbitmq import RabbitMQEngine, RabbitMQSettings
from agentq.engines.topology import parse_version
from agentq.messages import Envelope, parse_envelope
from tests.brokers.node import Node
from tests.conformance.engines import RabbitMQUnderTest
from tests.daemons.conftest import running
from tests.daemons.harness import Deployment, Nursery, Process, foreign, script, until

BUILDER, CHECKER = "builder", "checker"
SWEEP = 60
"""Seconds until a sweep would publish what nobody published: longer than a test lasts."""
NOISE = ("unavailable", "does not permit", "ACCESS_REFUSED", "Traceback")


class Restricted(Deployment):
    """A deployment whose commands log in as the coordinator, and each of whose workers as itself."""

    def __init__(self, home: Path, nursery: Nursery, node: Node, namespace: str) -> None:
        system = RabbitMQUnderTest(node.url, namespace)
        system.agent = CHECKER
        self._node, self._passwords = node, dict[str, str]()
        super().__init__(home, nursery, system, {"AGENTQ_NAMESPACE": namespace, "AGENTQ_BROKER": node.url})
        checker = home / "workers" / "worker"
        builder = home / "workers" / "builder"
        checker.rename(home / "workers" / "checker")
        system.agent = self.agent = BUILDER
        self.profile()
        (home / "workers" / "worker").rename(builder)
        self._admit()

    def profile(self, irreversible: Sequence[str] = (), **sections: Mapping[str, Any]) -> None:
        """The same, without the help of a sweep."""
        super().profile(irreversible, **{"limits": {"sweep_seconds": SWEEP}, **sections})

    def _admit(self) -> None:
        """Make everything, and the users, as an administrator would."""
        assert self.cli("init").returncode == 0
        passwords = self.home / "passwords"
        exported = self.cli("access", "export", "--generate", str(passwords))
        assert exported.returncode == 0, exported
        self._node.load(exported.stdout)
        self._passwords = dict(line.split() for line in passwords.read_text().splitlines())
        self._log_in("coordinator.coordinator")

    def _log_in(self, role: str) -> None:
        user = f"{self._settings['AGENTQ_NAMESPACE']}.{role}"
        url = f"amqp://127.0.0.1:{self._node.port}/"
        login = {"AGENTQ_BROKER_USER": user, "AGENTQ_BROKER_PASSWORD": self._passwords[user]}
        self._settings = {**self._settings, "AGENTQ_BROKER": url, **login}

    def start_as(self, agent: str, *arguments: str) -> Process:
        """Start a command with that worker's login."""
        self._log_in(f"worker.{agent}")
        try:
            return self.start(*arguments)
        finally:
            self._log_in("coordinator.coordinator")

    def cli_as(self, agent: str, *arguments: str) -> tuple[int, str, str]:
        """Run one to its end: the exit code, and what it printed."""
        process = self.start_as(agent, *arguments)
        return process.wait(), process.stdout.read_text(), process.said()

    def employ(self, agent: str = BUILDER) -> Process:
        """Start a worker with its own login."""
        worker = self.start_as(agent, "worker", "run", agent)
        self.workers.append(worker)
        worker.says(f"{agent}: ready")
        return worker

    def forge(self, envelope: Envelope, *guards: Guard) -> None:
        """Publish it as the other worker: through the shortest delay, since it may publish no tasks."""
        user = f"{self._settings['AGENTQ_NAMESPACE']}.worker.{CHECKER}"
        url = f"amqp://{user}:{self._passwords[user]}@127.0.0.1:{self._node.port}/"

        async def act(engine: Engine) -> None:
            for guard in guards or (None,):
                await engine.publish(envelope, delay=1, guard=guard)

        honest, self.system.make = self.system.make, lambda: self._engine(url)  # type: ignore[method-assign]
        try:
            self.with_engine(act)
        finally:
            self.system.make = honest  # type: ignore[method-assign]

    def _engine(self, url: str) -> RabbitMQEngine:
        return RabbitMQEngine(RabbitMQSettings(urls=(url,), namespace=self._settings["AGENTQ_NAMESPACE"]))

    def rest(self) -> None:
        """The same, and no worker said a word of what it may not do."""
        super().rest()
        for worker in self.workers:
            assert [word for word in NOISE if word in worker.said()] == []


@pytest.fixture
def restricted(rabbitmq: Node, tmp_path: Path, nursery: Nursery) -> Iterator[Restricted]:
    """Such a deployment."""
    deployment = Restricted(tmp_path, nursery, rabbitmq, f"least-{tmp_path.name}")
    for one in running(deployment):
        assert isinstance(one, Restricted)
        yield one


@pytest.mark.promise("least-privilege")
def test_the_whole_walk_with_a_restricted_coordinator_and_worker(restricted: Restricted) -> None:
    restricted.employ()
    done = restricted.submit("report done")
    again = restricted.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "exit 1")
    later = restricted.submit("report later", delay="1")
    long = restricted.submit("hold go", "report never")
    wrong = restricted.submit("[ -e $DESK/gates/mended ] || exit 1", "report mended", max_attempts="1")
    restricted.check(done, starts=[1], attempt=1)
    restricted.has_guard(long)
    restricted.is_renewed(long, times=15)  # longer than a lease: its guard was there and back
    assert restricted.starts(long) == [1]
    assert restricted.cli("cancel", long, "--wait").returncode == 0
    restricted.check(long, "cancelled", starts=[1], attempt=1)
    restricted.check(again, starts=[1, 2], attempt=2)
    restricted.check(later, starts=[1], attempt=1)
    restricted.check(wrong, "failed", starts=[1], attempt=2)
    (letter,) = restricted.json("dlq")
    assert letter["task_id"] == wrong
    restricted.open_gate("mended")
    assert restricted.cli("dlq", "retry", wrong).returncode == 0
    restricted.check(f"{wrong}.retry-1", starts=[1], attempt=1)
    assert restricted.json("dlq") == []
    restricted.rest()


@pytest.mark.promise("least-privilege")
def test_a_worker_releases_tasks_of_another_one(restricted: Restricted) -> None:
    """It may not publish them, so they come through the shortest delay: no sweep is needed, and nothing is said."""
    restricted.employ(BUILDER)
    restricted.employ(CHECKER)
    work = {"type": "work", "instructions": script("report done")}
    tasks = {"build": {"to": BUILDER, **work}, "check": {"to": CHECKER, "needs": ["build"], **work}}
    file = restricted.home / "plan.json"
    file.write_text(json.dumps({"plan": "both", "tasks": tasks}))
    assert restricted.cli("plan", "submit", str(file)).returncode == 0
    built = restricted.ended("both.build")
    restricted.ended("both")
    (checked,) = restricted.papers("both.check").attempts
    assert (checked.paper.at - built.finished_at).total_seconds() < SWEEP
    assert (restricted.starts("both.build"), restricted.starts("both.check")) == ([1], [1])
    restricted.rest()


@pytest.mark.promise("least-privilege")
def test_a_killed_restricted_worker_is_taken_over(restricted: Restricted) -> None:
    worker = restricted.employ()
    task = restricted.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "hold go")
    restricted.has_guard(task)
    worker.kill()
    restricted.employ()
    restricted.check(task, starts=[1, 2], attempt=2)
    restricted.rest()


@pytest.mark.promise("least-privilege")
def test_a_restricted_worker_claims_by_hand_and_its_doctor_raises_no_alarm(restricted: Restricted) -> None:
    task = restricted.submit("anything")
    code, out, _ = restricted.cli_as(BUILDER, "claim", "--as", BUILDER, "--json")
    assert (code, json.loads(out)["task"]["task_id"]) == (0, task)
    code, _, said = restricted.cli_as(CHECKER, "claim", "--as", BUILDER, "--wait", "5")
    assert (code, "agentq access show" in said) == (6, True)
    report = restricted.home / "report.md"
    report.write_text("by hand\n")
    assert restricted.cli_as(BUILDER, "complete", task, "--from", BUILDER, "--result-file", str(report))[0] == 0
    restricted.ended(task)
    for code, out, _ in (restricted.cli_as(BUILDER, "doctor"), restricted.cli_as(CHECKER, "doctor", "--repair")):
        assert code == 0, out
        assert ("not looked at" in out) == (parse_version(restricted._node.version) >= (4, 3))
    done = restricted.cli("doctor")
    assert (done.returncode, "not looked at" in done.stdout) == (0, False)


@pytest.mark.promise("forged-copy")
def test_what_was_not_registered_and_came_through_a_delay_is_never_run(restricted: Restricted) -> None:
    forged = parse_envelope(json.dumps(foreign(BUILDER, task_id="forged")).encode())
    restricted.forge(forged)
    restricted.employ()
    (letter,) = restricted.dead_letters(1)
    assert (letter.task_id, "not registered, and came through a delay" in letter.reason) == ("forged", True)
    assert restricted.keys("tasks/") == restricted.keys("open/") == []
    honest = foreign(BUILDER, task_id="honest")
    restricted.publish_raw(json.dumps(honest).encode())
    until(lambda: restricted.records.manifest("honest"), "the honest one")
    restricted.check("honest", starts=[1], attempt=1)
    assert restricted.starts("forged") == []
    restricted.rest()


@pytest.mark.promise("forged-copy")
def test_a_forged_copy_is_refused_and_a_forged_guard_starts_and_stops_nothing(restricted: Restricted) -> None:
    restricted.employ()
    restricted.employ()
    task = restricted.submit("hold go", "report done")
    registered = restricted.papers(task).envelope
    restricted.agent_runs(task)
    restricted.has_guard(task)
    restricted.forge(registered.model_copy(update={"instructions": script("report forged")}))
    (letter,) = restricted.dead_letters(1)
    assert "another task is registered" in letter.reason
    lease = restricted.records.lease(task, 1)
    assert lease is not None
    counters = range(lease.counter, lease.counter + 60)
    restricted.forge(registered, *(Guard(1, counter, "forged") for counter in counters), Guard(2, 0, "forged"))
    last = restricted.submit("report last", delay="2")
    restricted.check(last, starts=[1], attempt=1)  # by then all of them came, and were looked at again
    assert restricted.starts(task) == [1]
    assert restricted.records.ended(task, 1) is None
    restricted.open_gate("go")
    restricted.check(task, starts=[1], attempt=1)
    restricted.rest()
