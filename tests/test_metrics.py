"""What Prometheus is told: exact, bounded, never going down, and there also when the engine is not."""

import asyncio
import json
import random
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agentq.engine import Engine, Page
from agentq.errors import EngineUnavailable, Unavailable
from agentq.events import Event
from agentq.journal import Journal
from agentq.ledger import Ledger, Shelf
from agentq.observing.exposition import serving
from agentq.observing.metrics import AGENTS, OTHER, Exporter
from agentq.observing.tally import SETTLED_SECONDS, Tally
from tests.desk import Desk
from tests.tales import START, attempt_ended, claimed, ended, event, life, submitted
from tests.test_imports import imported

MONITORING = Path(__file__).parents[1] / "docs" / "monitoring"
LABELS = {"agent", "state", "outcome", "direction", "le", "version"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(collector: Collector) -> Samples:
    """All samples, as Prometheus would read them."""
    registry = CollectorRegistry()
    registry.register(collector)
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> Samples:
    """The samples in an exposition; none comes twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample."""
    return samples[f"agentq_{name}", tuple(sorted(labels.items()))]


def names(samples: Samples) -> set[str]:
    """The names of all samples."""
    return {name for name, _ in samples}


@asynccontextmanager
async def away() -> AsyncIterator[Engine]:
    """An engine that cannot be reached."""
    raise EngineUnavailable("the broker is down")
    yield


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.on(Shelf(tmp_path, "metrics")) as ledger:
        yield ledger


@pytest.fixture
def exporter(desk: Desk) -> Exporter:
    """The exporter of a desk whose ledger was told a tale."""
    with desk.app().ledger(print) as ledger:
        ledger.tell(tale())
    return desk.app().exporter()


def tale() -> Iterator[Event]:
    """Something of everything."""
    yield from life("done", 0, 10, 100, cost_usd=0.5, input_tokens=700, output_tokens=30)
    yield from life("failed", 0, 20, 2000, "failed")
    yield from life("dropped", 0, None, 30, "cancelled")
    yield from life("late", 0, None, 30, "expired")
    yield from (submitted("twice"), claimed("twice", 1), *attempt_ended("twice", 2), claimed("twice", 3, 2))
    yield ended("twice", 4, attempt=2, cost_usd=1.0, at_least=True)
    yield from (submitted("up"), claimed("up", 1), *attempt_ended("up", 2), ended("up", 5, "failed", attempt=2))
    yield event("up", "dead_lettered", 5)
    yield from (submitted("waits"), submitted("runs"), claimed("runs", 5), submitted("plan", tasks=2))
    yield submitted("blocked", depends_on=["waits"])
    yield Event(id="message/dead_lettered/1", kind="dead_lettered", at=event("x", "settled", 0).at)


# ---------------------------------------------------------------------- the exporter


@pytest.mark.promise("metrics")
def test_the_counters_are_what_the_log_told(exporter: Exporter) -> None:
    found = scraped(exporter)
    outcomes = {o: value(found, "tasks_ended_total", agent="worker", outcome=o) for o in ("completed", "failed")}
    assert outcomes == {"completed": 2, "failed": 2}
    assert value(found, "tasks_ended_total", agent="worker", outcome="cancelled") == 1
    assert value(found, "tasks_ended_total", agent="worker", outcome="expired") == 1
    told = {
        "tasks_submitted_total": 9,
        "task_attempts_total": 6,
        "tasks_retried_total": 1,
        "tasks_dead_lettered_total": 1,
        "cost_dollars_total": 1.5,
        "tasks_cost_unknown_total": 3,
        "tasks_tokens_unknown_total": 3,
        "task_wait_seconds_count": 4,
        "task_wait_seconds_sum": 32,
        "task_run_seconds_count": 4,
        "task_run_seconds_sum": 90 + 1980 + 3 + 4,
    }
    assert {name: value(found, name, agent="worker") for name in told} == told
    assert value(found, "tokens_total", agent="worker", direction="input") == 700
    assert value(found, "messages_refused_total") == 1
    buckets = {b: value(found, "task_run_seconds_bucket", agent="worker", le=b) for b in ("5.0", "300.0", "+Inf")}
    assert buckets == {"5.0": 2, "300.0": 3, "+Inf": 4}


def test_the_gauges_are_what_is_now(exporter: Exporter) -> None:
    found = scraped(exporter)
    stands = {s: value(found, "tasks", agent="worker", state=s) for s in ("queued", "dependencies", "running")}
    assert stands == {"queued": 1, "dependencies": 1, "running": 1}
    age = value(found, "queued_task_oldest_age_seconds", agent="worker")
    assert age == pytest.approx(max(0.0, time.time() - START), abs=60)
    assert value(found, "up") == 1
    assert value(found, "dead_letters") == 0
    assert value(found, "queue_messages", agent="review-worker") == 0
    assert value(found, "ledger_age_seconds") < 60


def test_no_label_names_a_task_a_process_or_a_host(exporter: Exporter) -> None:
    assert {label for _, labels in scraped(exporter) for label, _ in labels} <= LABELS


def test_more_agents_than_a_hundred_share_a_label(exporter: Exporter, desk: Desk) -> None:
    before = scraped(exporter)
    with desk.app().ledger(print) as ledger:
        for n in range(150):
            ledger.tell(life(f"of-{n}", 0, 1, 2, agent=f"agent-{n:03}"))
    found = scraped(exporter)
    agents = {dict(labels).get("agent") for _, labels in found} - {None}
    assert len(agents) == AGENTS + 1
    assert OTHER in agents
    ended_by = {labels: n for (name, labels), n in found.items() if name == "agentq_tasks_ended_total"}
    assert sum(ended_by.values()) == 6 + 150
    assert all(found[key] >= n for key, n in before.items() if key[0].endswith("_total"))


@pytest.mark.promise("metrics-away")
def test_without_the_engine_it_tells_what_the_ledger_holds(exporter: Exporter, desk: Desk) -> None:
    scraped(exporter)
    found = scraped(Exporter(desk.app().ledger, away, ["worker"]))
    assert value(found, "up") == 0
    assert value(found, "tasks_ended_total", agent="worker", outcome="completed") == 2
    assert not {"agentq_dead_letters", "agentq_queue_messages"} & names(found)


@pytest.mark.promise("metrics-away")
def test_without_the_ledger_it_tells_what_it_told_last(exporter: Exporter, desk: Desk) -> None:
    is_away = False

    def ledger(say: Callable[[str], object]) -> Ledger:
        if is_away:
            raise Unavailable("the disk is full")
        return desk.app().ledger(say)

    exporter = Exporter(ledger, desk.app().engine, ["worker"])
    before = scraped(exporter)
    is_away = True
    found = scraped(exporter)
    assert value(found, "up") == 0
    assert names(found) == names(before)
    assert value(found, "tasks_submitted_total", agent="worker") == 9
    assert names(scraped(Exporter(ledger, desk.app().engine, []))) == {"agentq_up", "agentq_build_info"}


@pytest.mark.promise("metrics-away")
def test_an_engine_that_does_not_answer_is_not_waited_for(desk: Desk) -> None:
    class Silent:
        async def read(self, *_: object, **__: object) -> AsyncIterator[Page]:
            await asyncio.sleep(3600)
            yield Page((), "")

    @asynccontextmanager
    async def engine() -> AsyncIterator[Any]:
        yield Silent()

    began = time.monotonic()
    found = scraped(Exporter(desk.app().ledger, engine, ["worker"], patience=0.2))
    assert value(found, "up") == 0
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------------- totals that never go down


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_totals_read_bit_by_bit_are_those_of_all(
    tmp_path: Path, steps: list[tuple[int, int, bool]], chance: random.Random
) -> None:
    tally, now, held = Tally(), 0.0, list[Event]()
    with Ledger.on(Shelf(tmp_path, f"tally-{time.time_ns()}")) as ledger:
        for n, (hours, wait, is_late) in enumerate(steps):
            now += hours * SETTLED_SECONDS / 2
            tales = [
                *life(f"task-{n}", now - 9, now - 9 + wait, now, chance.choice(("completed", "failed")), cost_usd=n)
            ]
            held += tales if is_late else []
            ledger.tell([] if is_late else tales)
            if chance.random() < 0.3:
                ledger.tell(held)
                held.clear()
            assert tally.read(ledger, START + now) == Tally().read(ledger, START + now)


def test_totals_do_not_go_down_when_the_ledger_is_made_anew(tmp_path: Path) -> None:
    tally, later = Tally(), START + 5 * SETTLED_SECONDS
    with Ledger.on(Shelf(tmp_path, "old")) as ledger:
        ledger.tell([*life("a", 0, 1, 2), *life("b", 0, 1, 2)])
        assert tally.read(ledger, later)["worker", "completed"]["ended"] == 2
    with Ledger.on(Shelf(tmp_path, "new")) as ledger:
        ledger.tell(life("b", 0, 1, 2))
        assert tally.read(ledger, later)["worker", "completed"]["ended"] == 2
        ledger.tell([*life("c", 0, 1, 2), *life("d", 0, 1, 2)])
        assert tally.read(ledger, later)["worker", "completed"]["ended"] == 3


def test_what_ended_long_ago_is_not_read_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    tally, later, starts = Tally(), START + 10 * SETTLED_SECONDS, list[float]()
    ledger.tell(life("old", 0, 1, 2))
    tally.read(ledger, later)
    ask = Ledger.query

    def asked(self: Ledger, sql: str, arguments: Any = ()) -> Any:
        starts.extend([arguments[0]] if "finished_at >= ?" in sql else [])
        return ask(self, sql, arguments)

    monkeypatch.setattr(Ledger, "query", asked)
    assert tally.read(ledger, later + 1)["worker", "completed"]["ended"] == 1
    assert starts == [later - SETTLED_SECONDS]


# ---------------------------------------------------------------------- a worker's own


class Quiet:
    """A worker's presence that runs what a test says."""

    parallel, is_draining, beat_at = 2, False, None

    def __init__(self) -> None:
        self.at_work: list[dict[str, object]] = []

    def running(self) -> Iterable[dict[str, object]]:
        """What runs."""
        return self.at_work


async def test_a_worker_counts_what_it_tells_the_log() -> None:
    from agentq.telling.meter import Meter

    journal, presence = Journal(), Quiet()

    async def ask() -> int:
        return 0

    meter = Meter("worker", journal, presence, ask)  # type: ignore[arg-type]
    told = [*life("a", 0, 1, 21), *life("b", 0, 1, 601, "failed"), claimed("c", 5), *life("of-another", 0, None, 3)]
    journal.tell(*told, *told[:1], claimed("d", 0), *attempt_ended("d", 2), ended("a", 21))
    presence.at_work = [{"task_id": "c", "attempt": 1}]
    found = await asyncio.to_thread(scraped, meter)
    worker = {"agent": "worker"}
    outcomes = {o: value(found, "worker_attempts_ended_total", **worker, outcome=o) for o in ("completed", "failed")}
    assert outcomes == {"completed": 1, "failed": 1}
    assert value(found, "worker_attempts_ended_total", **worker, outcome="no_result") == 1
    assert value(found, "worker_attempts_started_total", **worker) == 4
    assert value(found, "worker_running_attempts", **worker) == 1
    assert value(found, "worker_run_seconds_sum", **worker) == 20 + 600 + 2
    assert value(found, "worker_run_seconds_bucket", **worker, le="60.0") == 2
    assert value(found, "worker_journal_events", **worker) == len(journal)
    assert value(found, "worker_engine_up", **worker) == 1


async def test_a_worker_whose_engine_is_away_says_so_in_time() -> None:
    from agentq.telling.meter import Meter

    async def refuse() -> None:
        raise EngineUnavailable("away")

    meter = Meter("worker", Journal(), Quiet(), refuse)  # type: ignore[arg-type]
    assert value(await asyncio.to_thread(scraped, meter), "worker_engine_up", agent="worker") == 0
    meter = Meter("worker", Journal(), Quiet(), lambda: asyncio.sleep(3600))  # type: ignore[arg-type]
    assert value(await asyncio.to_thread(scraped, meter), "worker_engine_up", agent="worker") == 0


# ---------------------------------------------------------------------- what is shown and alerted on


async def test_dashboard_and_rules_use_what_is_exposed_and_all_of_it(exporter: Exporter) -> None:
    from agentq.telling.meter import Meter

    presence = Quiet()
    presence.beat_at = event("x", "settled", 0).at  # type: ignore[assignment]
    meter = Meter("worker", Journal(), presence, lambda: asyncio.sleep(0))  # type: ignore[arg-type]
    exposed = names(await asyncio.to_thread(scraped, exporter)) | names(await asyncio.to_thread(scraped, meter))
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(MONITORING.iterdir()))
    used = set(re.findall(r"\bagentq_[a-z_]+", text))
    assert used - exposed == set(), "used and not exposed"
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    guide = (MONITORING.parent / "observing.md").read_text(encoding="utf-8")
    assert [name for name in sorted(families) if name not in guide] == [], "exposed and not documented"


def test_the_dashboard_is_one() -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24


# ---------------------------------------------------------------------- serving


def get(port: int, host: str = "127.0.0.1") -> str:
    """What is answered there."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_a_port_that_is_taken_is_told(desk: Desk) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        done = desk.run("metrics", "serve", "--port", str(taken.getsockname()[1]))
    assert done.code == 6
    assert "the port is taken" in done.err


@pytest.mark.parametrize("address", ["203.0.113.1", "no.such.host.invalid", "::g"])
def test_an_address_of_another_machine_is_told(desk: Desk, address: str) -> None:
    done = desk.run("metrics", "serve", "--address", address, "--port", "0")
    assert (done.code, done.out) == (3, "")
    assert "→" in done.err


@pytest.mark.parametrize(("what", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_stopped(desk: Desk, what: signal.Signals, code: int) -> None:
    task_id = desk.task()
    process = desk.start("metrics", "serve", "--port", "0")
    assert process.stderr
    line = process.stderr.readline().decode()
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/metrics", line)[0])
    found = parsed(get(port))
    assert value(found, "tasks_submitted_total", agent="implementation-worker") == 1
    assert value(found, "queue_messages", agent="implementation-worker") == 1
    desk.ok("cancel", task_id)
    found = parsed(get(port))
    assert value(found, "tasks_ended_total", agent="implementation-worker", outcome="cancelled") == 1
    process.send_signal(what)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, b"", b"")


def test_two_who_ask_at_once_and_one_who_never_ends_asking_are_served(exporter: Exporter) -> None:
    registry = CollectorRegistry()
    registry.register(exporter)
    with serving(registry, "127.0.0.1", 0) as port, closing(socket.create_connection(("127.0.0.1", port))):
        answers: list[str] = []
        asking = [threading.Thread(target=lambda: answers.append(get(port))) for _ in range(4)]
        for one in asking:
            one.start()
        for one in asking:
            one.join(30)
        assert len([text for text in answers if "agentq_up 1.0" in text]) == 4


def test_what_tells_figures_imports_no_prometheus(desk: Desk) -> None:
    assert not imported(desk, "stats") & {"prometheus_client", "rich", "aio_pika", "boto3"}
