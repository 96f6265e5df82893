"""What `agentq metrics serve` tells Prometheus of one broker and namespace: read from the ledger at each scrape."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agentq import __version__
from agentq.engine import Engine
from agentq.errors import AgentqError, EngineUnavailable
from agentq.ledger import Ledger, catch_up
from agentq.observing.figures import BOUNDS, NOBODY, OPEN, OUTCOMES
from agentq.observing.queues import Queues, count
from agentq.observing.tally import Tally, Totals

log = logging.getLogger("agentq")

PATIENCE = 5.0
"""Seconds that a scrape gives the engine to tell what is new."""
AGENTS = 100
OTHER = "other"
"""The label of the agents beyond so many: the number of series is bounded."""
STANDS = ("queued", "delayed", "dependencies", "approval", "lease", "running")
WORKER_STATES = ("up", "draining", "silent")
FORGOTTEN_SECONDS = 3600.0
"""After how long a silent worker is not counted any more."""

EngineOpened = Callable[[], AbstractAsyncContextManager[Engine]]
LedgerOpened = Callable[[Callable[[str], object]], Ledger]
"""Opens the ledger, and says when it had to be made anew."""


class Stand(NamedTuple):
    """How many tasks of an agent stand somewhere, since when the first does, and the attempts that they have had."""

    tasks: int
    since: float
    attempts: int


class Seen(NamedTuple):
    """What one look at ledger and engine found."""

    at: float
    as_of: float | None
    has_gap: bool
    totals: Totals
    stands: dict[tuple[str, str], Stand]
    refused: int
    workers: Counter[tuple[str, str]]
    queues: Queues
    is_up: bool


class Exporter(Collector):
    """The collector: each scrape catches the ledger up, in bounded time, and tells all of it; of the queues those of
    `agents`, who have one.

    While the engine is away it tells what the ledger holds, and while that cannot be read, what it told last; then
    `agentq_up` is 0.
    """

    def __init__(
        self, ledger: LedgerOpened, engine: EngineOpened, agents: Iterable[str], patience: float = PATIENCE
    ) -> None:
        self._ledger, self._engine, self._patience = ledger, engine, patience
        self._agents = sorted(agents)
        self._tally, self._labels = Tally(), Labels(self._agents)
        self._turn = threading.Lock()
        self._last: Seen | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is to tell is known when it is collected."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now or as of the last time that the ledger could be read."""
        with self._turn:
            seen = self._look()
        yield InfoMetricFamily("agentq_build", "The version of the exporter.", {"version": __version__})
        up = "Whether the engine told, within this scrape, all that is new."
        yield GaugeMetricFamily("agentq_up", up, float(seen is not None and seen.is_up))
        if seen:
            yield from told(seen, self._labels)

    def _look(self) -> Seen | None:
        try:
            with self._ledger(log.warning) as ledger:
                queues = self._catch_up(ledger)
                self._last = look(ledger, self._tally, queues or Queues(), is_up=queues is not None)
        except AgentqError as error:
            log.warning("the ledger could not be read for a scrape: %s", error)
            self._last = self._last and self._last._replace(is_up=False)
        return self._last

    def _catch_up(self, ledger: Ledger) -> Queues | None:
        """What waits in the engine, None when it did not tell, in time, all that is new."""
        try:
            return asyncio.run(self._ask(ledger))
        except (EngineUnavailable, TimeoutError) as error:
            log.warning("the log could not be read for a scrape: %s", error or f"not within {self._patience:g} s")
            return None

    async def _ask(self, ledger: Ledger) -> Queues:
        async with asyncio.timeout(self._patience), self._engine() as engine:
            await catch_up(ledger, engine)
            return await count(engine, self._agents)


def look(ledger: Ledger, tally: Tally, queues: Queues, *, is_up: bool) -> Seen:
    """What the ledger says at one moment; raises Unavailable."""
    now = time.time()
    with ledger.one_moment():
        as_of = ledger.as_of
        return Seen(
            at=now,
            as_of=as_of.timestamp() if as_of else None,
            has_gap=ledger.has_gap,
            totals=tally.read(ledger, now),
            stands=_stands(ledger, now),
            refused=int(ledger.query("SELECT count(*) FROM refused")[0][0]),
            workers=_workers(ledger, now),
            queues=queues,
            is_up=is_up,
        )


def _stands(ledger: Ledger, now: float) -> dict[tuple[str, str], Stand]:
    sql = f"SELECT ifnull(agent, '{NOBODY}'), stand, count(*), min(since), sum(claimed) FROM ({OPEN}) GROUP BY 1, 2"
    return {(agent, stand): Stand(*known) for agent, stand, *known in map(tuple, ledger.query(sql, {"now": now}))}


def _workers(ledger: Ledger, now: float) -> Counter[tuple[str, str]]:
    known = [worker for worker in ledger.workers() if worker.state != "down"]
    return Counter(
        (worker.agent or NOBODY, "silent" if worker.silent else worker.state)
        for worker in known
        if not worker.silent or worker.heard_at > now - FORGOTTEN_SECONDS
    )


class Labels:
    """The agents that have a label of their own: the first hundred that were seen."""

    def __init__(self, agents: Iterable[str]) -> None:
        self.names: list[str] = []
        self.see(agents)

    def see(self, agents: Iterable[str]) -> None:
        """Take note of agents."""
        new = sorted({*agents} - {*self.names})
        self.names += new[: max(0, AGENTS - len(self.names))]

    def of(self, agent: str) -> str:
        """An agent's label."""
        return agent if agent in self.names else OTHER

    @property
    def all(self) -> list[str]:
        """All labels that there are by now."""
        return self.names if len(self.names) < AGENTS else [*self.names, OTHER]


# ---------------------------------------------------------------------- what was seen, as metrics


def told(seen: Seen, labels: Labels) -> Iterator[Metric]:
    """Everything that was seen; the label `agent` is the task's."""
    labels.see({agent for agent, _ in (*seen.totals, *seen.stands, *seen.workers)})
    yield from _counters(seen, labels)
    yield from _histograms(seen, labels)
    yield from _gauges(seen, labels)


def _counters(seen: Seen, labels: Labels) -> Iterator[Metric]:
    by_agent, by_outcome = _summed(seen, labels)
    for name, help, sums in _COUNTERS:
        family = CounterMetricFamily(f"agentq_{name}", help, labels=["agent"])
        for agent in labels.all:
            family.add_metric([agent], sum(by_agent[agent][one] for one in sums))
        yield family
    ended = CounterMetricFamily("agentq_tasks_ended", "Tasks that ended, by outcome.", labels=["agent", "outcome"])
    tokens = CounterMetricFamily("agentq_tokens", "Tokens that agents told.", labels=["agent", "direction"])
    for agent in labels.all:
        for outcome in OUTCOMES:
            ended.add_metric([agent, outcome], by_outcome[agent, outcome])
        for direction in ("input", "output"):
            tokens.add_metric([agent, direction], by_agent[agent][f"{direction}_tokens"])
    yield ended
    yield tokens
    yield CounterMetricFamily("agentq_messages_refused", "Messages refused that name no task.", seen.refused)


_COUNTERS = (
    ("tasks_submitted", "Tasks that were submitted.", ("ended", "open")),
    ("task_attempts", "Attempts that were begun.", ("attempts",)),
    ("tasks_retried", "Tasks that ended after more than one counted attempt.", ("retried",)),
    ("tasks_dead_lettered", "Tasks that ended as dead letters.", ("dead_lettered",)),
    ("tasks_tokens_unknown", "Tasks that ended without telling all tokens that they used.", ("tokens_unknown",)),
    ("cost_dollars", "What agents told that their tasks cost.", ("cost",)),
    ("tasks_cost_unknown", "Tasks that ended without telling all that they cost.", ("cost_unknown",)),
)


def _summed(seen: Seen, labels: Labels) -> tuple[dict[str, Counter[str]], Counter[tuple[str, str]]]:
    """The totals of each agent's label, those of tasks that have not ended included, and how many ended how."""
    by_agent = {agent: Counter[str]() for agent in [*labels.all, OTHER]}
    by_outcome: Counter[tuple[str, str]] = Counter()
    for (agent, outcome), totals in seen.totals.items():
        by_agent[labels.of(agent)].update(totals)
        by_outcome[labels.of(agent), outcome] += totals["ended"]
    for (agent, _), stand in seen.stands.items():
        by_agent[labels.of(agent)].update({"open": stand.tasks, "attempts": stand.attempts})
    return by_agent, by_outcome


def _histograms(seen: Seen, labels: Labels) -> Iterator[Metric]:
    by_agent, _ = _summed(seen, labels)
    for which, help in (
        ("wait", "From when a task could start to its first claim; of those that ended."),
        ("run", "From a task's first claim to its end."),
    ):
        family = HistogramMetricFamily(f"agentq_task_{which}_seconds", help, labels=["agent"])
        for agent in labels.all:
            sums = by_agent[agent]
            buckets = [(f"{float(bound)}", float(sums[f"{which}_{bound}"])) for bound in BOUNDS]
            family.add_metric([agent], [*buckets, ("+Inf", sums[f"{which}_count"])], sums[f"{which}_sum"])
        yield family


def _gauges(seen: Seen, labels: Labels) -> Iterator[Metric]:
    tasks = {key: float(stand.tasks) for key, stand in seen.stands.items()}
    yield _filled("agentq_tasks", "Tasks that have not ended, by where they stand.", "state", STANDS, tasks, labels)
    yield _filled("agentq_workers", "Worker processes.", "state", WORKER_STATES, seen.workers, labels)
    oldest = GaugeMetricFamily(
        "agentq_queued_task_oldest_age_seconds", "For how long the oldest queued task could have run.", labels=["agent"]
    )
    ages = dict.fromkeys(labels.all, 0.0)
    for (agent, stand), known in seen.stands.items():
        if stand == "queued":
            ages[labels.of(agent)] = max(ages[labels.of(agent)], seen.at - known.since)
    for agent, age in ages.items():
        oldest.add_metric([agent], age)
    yield oldest
    yield from _of_engine(seen)


def _of_engine(seen: Seen) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("agentq_queue_messages", "Messages that wait, without delayed ones.", labels=["agent"])
    for agent, messages in seen.queues.messages.items():
        if messages is not None:
            waiting.add_metric([agent], messages)
    yield waiting
    if seen.queues.dead_letters is not None:
        yield GaugeMetricFamily("agentq_dead_letters", "Dead letters that are there.", seen.queues.dead_letters)
    if seen.as_of is not None:
        age = "How long ago the ledger had caught up with the log."
        yield GaugeMetricFamily("agentq_ledger_age_seconds", age, max(0.0, time.time() - seen.as_of))
    gap = "Whether a part of the log was gone before it was read, so that totals are too low."
    yield GaugeMetricFamily("agentq_ledger_gap", gap, float(seen.has_gap))


def _filled(
    name: str,
    help: str,
    label: str,
    values: Sequence[str],
    found: "dict[tuple[str, str], float] | Counter[tuple[str, str]]",
    labels: Labels,
) -> Metric:
    """A gauge by agent and another label, with a 0 for what was not found."""
    sums = {(agent, value): 0.0 for agent in labels.all for value in values}
    for (agent, value), number in found.items():
        key = labels.of(agent), value
        sums[key] = sums.get(key, 0.0) + number
    family = GaugeMetricFamily(name, help, labels=["agent", label])
    for key, number in sums.items():
        family.add_metric(key, number)
    return family
