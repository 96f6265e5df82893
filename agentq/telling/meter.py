"""What one worker process tells Prometheus of itself: it hears the events that the process tells the log."""

import asyncio
import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agentq import __version__
from agentq.errors import AgentqError
from agentq.events import Event
from agentq.journal import Journal
from agentq.messages import utc_now
from agentq.observing.figures import BOUNDS
from agentq.telling.presence import Presence

PATIENCE = 2.0
"""Seconds that a scrape gives the engine to answer."""
ENDS = {"completed": "completed", "failed": "failed", "cancelled": "cancelled", "attempt_ended": "no_result"}
"""How an attempt may end: without a result when its task is tried again, or is given up."""
LEFT = timedelta(minutes=1)
"""An attempt that the worker does not run for so long was ended by another hand."""


class Meter(Collector):
    """The collector of one worker, made in its event loop; `ask` asks the engine for anything."""

    def __init__(
        self, agent: str, journal: Journal, presence: Presence, ask: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        self._agent, self._journal, self._presence = agent, journal, presence
        self._ask, self._loop = ask, asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], datetime] = {}
        self._at_work: set[tuple[object, object]] = set()
        self._started = 0
        self._ended: Counter[str] = Counter()
        self._seconds, self._buckets = 0.0, [0] * (len(BOUNDS) + 1)
        journal.listeners.append(self.hear)

    def hear(self, event: Event) -> None:
        """Take note of an event that this process tells; any thread may call this."""
        attempt = (event.task_id or "", event.attempt or 0)
        with self._lock:
            if event.kind == "claimed":
                self._started += 1
                self._running[attempt] = event.at
            elif event.kind in ENDS and attempt in self._running:
                self._ended[ENDS[event.kind]] += 1
                self._observe((event.at - self._running.pop(attempt)).total_seconds())

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is to tell is known when it is collected."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        engine_up = self._look()
        with self._lock:
            yield from self._attempts()
        yield from self._process(engine_up)

    def _attempts(self) -> Iterator[Metric]:
        yield self._counter("attempts_started", "Attempts that this worker began.", self._started)
        ended = CounterMetricFamily(
            "agentq_worker_attempts_ended", "Attempts of this worker that ended, by how.", labels=["agent", "outcome"]
        )
        for outcome in ENDS.values():
            ended.add_metric([self._agent, outcome], self._ended[outcome])
        yield ended
        counts = list(itertools.accumulate(self._buckets))
        names = [*(f"{float(bound)}" for bound in BOUNDS), "+Inf"]
        seconds = HistogramMetricFamily(
            "agentq_worker_run_seconds", "From an attempt's claim to its end.", labels=["agent"]
        )
        seconds.add_metric([self._agent], list(zip(names, map(float, counts), strict=True)), self._seconds)
        yield seconds

    def _process(self, engine_up: bool) -> Iterator[Metric]:
        presence, journal = self._presence, self._journal
        yield InfoMetricFamily("agentq_build", "The version of the worker.", {"version": __version__})
        yield self._gauge("running_attempts", "Attempts that run.", len(self._at_work))
        yield self._gauge("parallel", "Attempts that may run at once.", presence.parallel)
        yield self._gauge("draining", "Whether it takes nothing new.", presence.is_draining)
        yield self._gauge("engine_up", "Whether the engine answered within this scrape.", engine_up)
        yield self._gauge("journal_events", "Events that the log has not taken yet.", len(journal))
        yield self._counter("journal_dropped_events", "Events that the log will never hear of.", journal.dropped)
        if presence.beat_at is not None:
            said = "When the log took the last heartbeat."
            yield self._gauge("heartbeat_timestamp_seconds", said, presence.beat_at.timestamp())

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"agentq_worker_{name}", help, labels=["agent"])
        family.add_metric([self._agent], float(value))
        return family

    def _counter(self, name: str, help: str, value: float) -> Metric:
        family = CounterMetricFamily(f"agentq_worker_{name}", help, labels=["agent"])
        family.add_metric([self._agent], value)
        return family

    def _observe(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        self._seconds += seconds
        self._buckets[bisect.bisect_left(BOUNDS, seconds)] += 1

    def _look(self) -> bool:
        """Ask the worker's loop what runs, and the engine for anything; answers whether that answered in time."""
        looking = asyncio.run_coroutine_threadsafe(self._look_in_loop(), self._loop)
        try:
            return looking.result(2 * PATIENCE)
        except TimeoutError:
            looking.cancel()
            return False

    async def _look_in_loop(self) -> bool:
        self._at_work = {(one["task_id"], one["attempt"]) for one in self._presence.running()}
        before = utc_now() - LEFT
        with self._lock:
            self._running = {key: at for key, at in self._running.items() if key in self._at_work or at > before}
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ask()
        except (AgentqError, TimeoutError):
            return False
        return True
