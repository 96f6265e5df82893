"""Figures are what the log says, no more: each number is known beforehand, or counted in another way."""

import math
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.events import Event
from agentq.gateway.api.figures import over_time
from agentq.ledger import Ledger, Shelf
from agentq.observing.figures import Figures, Now, Spread, Used, Window, figures
from tests.desk import Desk
from tests.tales import START, at, attempt_ended, claimed, ended, event, life, submitted

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.on(Shelf(tmp_path, "figures")) as ledger:
        yield ledger


def window(now: float, back: float = DAY, agent: str | None = None) -> Window:
    """The time until `now`, which is counted as in the tales."""
    return Window(START + now - back, START + now, agent)


def whole(ledger: Ledger, now: float, back: float = DAY, agent: str | None = None) -> Figures:
    """The figures of all."""
    return figures(ledger, window(now, back, agent))[0]


def standing(ledger: Ledger, now: float) -> Now:
    """Where the tasks stand."""
    found = whole(ledger, now).now
    assert found
    return found


# ---------------------------------------------------------------------- now


@pytest.mark.promise("figures")
def test_only_what_a_worker_alone_is_missing_for_is_queued(ledger: Ledger) -> None:
    ledger.tell(
        [
            submitted("queued", 60),
            submitted("delayed", 0, not_before=500),
            submitted("needed", 80),
            submitted("blocked", 0, depends_on=["needed"]),
            submitted("unapproved", 0, requires_approval=True),
            submitted("plan", 0, tasks=3),
            submitted("running", 0),
            claimed("running", 10),
            *life("over", 0, 1, 2),
        ]
    )
    found = standing(ledger, 100)
    assert found == Now(queued=2, oldest_seconds=40, delayed=1, dependencies=1, approval=1, running=1)


@pytest.mark.promise("figures")
def test_a_task_is_queued_since_the_last_thing_that_held_it_up(ledger: Ledger) -> None:
    ledger.tell([submitted("after-its-time", 0, not_before=500)])
    assert standing(ledger, 600).oldest_seconds == 100
    ledger.tell([submitted("released", 0, depends_on=["x"]), event("released", "released", 450)])
    assert standing(ledger, 600).oldest_seconds == 150
    ledger.tell([submitted("retried", 0), claimed("retried", 5), *attempt_ended("retried", 10, retry_at=400)])
    assert standing(ledger, 600).oldest_seconds == 200
    assert standing(ledger, 399).delayed == 2
    ledger.tell([submitted("drained", 0), claimed("drained", 5), *attempt_ended("drained", 300, counts=False)])
    assert standing(ledger, 600).oldest_seconds == 300


def test_what_runs_on_a_silent_worker_does_not_count_as_running(ledger: Ledger) -> None:
    beat = Event(id="worker@host:1/heartbeat/1/1", kind="worker_heartbeat", at=at(10), worker="worker@host:1")
    ledger.tell([submitted("lost", 0), claimed("lost", 5), beat])
    assert standing(ledger, 20) == Now(running=1)
    assert standing(ledger, 200) == Now(lease=1)


# ---------------------------------------------------------------------- what ended


@pytest.mark.promise("figures")
def test_times_rates_and_outcomes_are_those_of_what_ended_in_the_window(ledger: Ledger) -> None:
    ledger.tell(
        [
            *life("before", -2 * DAY, -2 * DAY, -1.5 * DAY, "failed"),
            *life("quick", 0, 10, 30),
            *life("slow", 0, 20, 120),
            *life("broken", 0, 30, 90, "failed"),
            *life("stopped", 0, None, 50, "cancelled"),
            *life("late", 0, None, 60, "expired"),
        ]
    )
    found = whole(ledger, HOUR, back=HOUR)
    assert (found.ended, found.completed, found.failed, found.cancelled, found.expired) == (5, 2, 1, 1, 1)
    assert found.per_hour == 5
    assert found.failure_rate == pytest.approx(1 / 3)
    assert found.started == 3
    assert found.wait_seconds == Spread(3, 20, 30, 30, 30)
    assert found.run_seconds == Spread(3, 60, 100, 100, 100)


def test_a_retry_is_a_second_attempt_that_counts(ledger: Ledger) -> None:
    def tale(name: str, *, counts: bool) -> Iterable[Event]:
        yield from (submitted(name), claimed(name, 1), *attempt_ended(name, 2, counts=counts), claimed(name, 3, 2))
        yield ended(name, 4, attempt=2)

    given_up = [submitted("up"), claimed("up", 1), *attempt_ended("up", 2), claimed("up", 3, 2)]
    given_up += [*attempt_ended("up", 4, 2), ended("up", 5, "failed", attempt=3), event("up", "dead_lettered", 5)]
    ledger.tell([*tale("retried", counts=True), *tale("drained", counts=False), *given_up, *life("once", 0, 1, 2)])
    found = whole(ledger, HOUR)
    assert (found.started, found.retried, found.retry_rate, found.dead_letters) == (4, 2, 0.5, 1)


def test_refused_messages_are_dead_letters_too(ledger: Ledger) -> None:
    ledger.tell([Event(id=f"message/dead_lettered/{n}", kind="dead_lettered", at=at(n * DAY)) for n in (-2, 0, 0.5)])
    total, parts = figures(ledger, window(DAY, back=DAY), "agent")
    assert total.dead_letters == 2
    assert [(one.key, one.dead_letters) for one in parts] == [("unknown", 2)]


@pytest.mark.promise("figures-money")
def test_money_is_never_invented(ledger: Ledger) -> None:
    ledger.tell(
        [
            *life("told", 0, 1, 2, input_tokens=1000, output_tokens=10, cost_usd=0.5),
            *life("told-too", 0, 1, 2, "failed", cost_usd=1.5),
            *life("silent", 0, 1, 2),
            *life("by-hand", 0, None, 2),
            *life("never-ran", 0, None, 2, "cancelled"),
        ]
    )
    found = whole(ledger, HOUR)
    assert found.cost_usd == Used(sum=2.0, mean=1.0, known=2, unknown=2)
    assert found.input_tokens == Used(sum=1000, mean=1000, known=1, unknown=3)
    twice = [submitted("twice"), claimed("twice", 1), *attempt_ended("twice", 2), claimed("twice", 3, 2)]
    ledger.tell([*twice, ended("twice", 4, attempt=2, cost_usd=1.0, at_least=True)])
    assert whole(ledger, HOUR).cost_usd == Used(sum=3.0, mean=1.0, known=3, unknown=3)


@pytest.mark.promise("figures-money")
def test_cost_that_nobody_told_is_unknown_and_not_zero(ledger: Ledger) -> None:
    assert whole(ledger, HOUR).cost_usd == Used()
    ledger.tell(life("silent", 0, 1, 2))
    assert whole(ledger, HOUR).cost_usd == Used(unknown=1)


def test_clocks_that_differ_make_no_negative_times(ledger: Ledger) -> None:
    ledger.tell([*life("early", 100, 90, 80), *life("right", 0, 1, 3), submitted("tomorrow", 2 * DAY)])
    found = whole(ledger, HOUR)
    assert found.skewed == 2
    assert found.wait_seconds == Spread(2, 0, 1, 1, 1)
    assert found.run_seconds == Spread(2, 0, 2, 2, 2)
    assert found.now
    assert found.now.oldest_seconds == 0


def test_parts_add_up_and_a_day_is_as_long_as_the_window_leaves_it(ledger: Ledger) -> None:
    for n in range(40):
        kind = {"agent": f"agent-{n % 3}", "type": f"type-{n % 2}"}
        ledger.tell(
            life(f"task-{n}", n * HOUR, n * HOUR + 1, n * HOUR + 2, "failed" if n % 5 == 0 else "completed", **kind)
        )
    total, by_agent = figures(ledger, window(41 * HOUR, back=48 * HOUR), "agent")
    _, by_type = figures(ledger, window(41 * HOUR, back=48 * HOUR), "type")
    _, by_day = figures(ledger, window(41 * HOUR, back=48 * HOUR), "day")
    assert [one.key for one in by_agent] == ["agent-0", "agent-1", "agent-2"]
    assert [one.key for one in by_type] == ["type-0", "type-1"]
    assert [(one.key, one.ended, one.hours) for one in by_day] == [("2027-01-15", 16, 23), ("2027-01-16", 24, 24)]
    for parts in (by_agent, by_type, by_day):
        assert sum(one.ended for one in parts) == total.ended == 40
        assert sum(one.failed for one in parts) == total.failed == 8
    assert all(one.now is None for one in by_day)
    (only,) = figures(ledger, window(41 * HOUR, 48 * HOUR, "agent-1"), "agent")[1]
    assert only == by_agent[1]


# ---------------------------------------------------------------------- against another way of counting


def nearest_rank(values: list[float], percent: int) -> float:
    """The percentile as its definition says it."""
    return next(v for v in sorted(values) if sum(w <= v for w in values) >= percent / 100 * len(values))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(-3, 50), st.integers(-3, 50)), min_size=1, max_size=130), st.randoms())
def test_percentiles_are_those_of_their_definition(
    tmp_path: Path, times: list[tuple[int, int]], chance: random.Random
) -> None:
    tales = [one for n, (wait, run) in enumerate(times) for one in life(f"task-{n}", 0, wait, wait + run)]
    tales += chance.sample(tales, len(tales) // 2)
    chance.shuffle(tales)
    with Ledger.on(Shelf(tmp_path, token_hex(8))) as ledger:
        ledger.tell(tales)
        found = whole(ledger, HOUR)
    for spread, values in (
        (found.wait_seconds, [max(0, wait) for wait, _ in times]),
        (found.run_seconds, [max(0, run) for _, run in times]),
    ):
        assert spread
        ranks = [nearest_rank([float(v) for v in values], percent) for percent in (50, 90, 99)]
        assert [spread.count, spread.p50, spread.p90, spread.p99, spread.max] == [len(values), *ranks, max(values)]
    assert found.skewed == sum((wait < 0) + (run < 0) for wait, run in times)


def test_a_queue_shows_that_was_there_for_a_moment_only(ledger: Ledger) -> None:
    ledger.tell([one for n in range(3) for one in life(f"brief-{n}", 100, 160 + n, 1000)])
    ledger.tell([*life("before", -90, -10, 1000), *life("across", 500, 950, 1000)])
    found = over_time(ledger, START, START + 1200, 4)
    assert found["depth"] == [3, 1, 1, 1]
    assert found["oldest_seconds"] == [62, 100, 400, 450]
    assert found["completed"] == [0, 0, 0, 5]
    later = over_time(ledger, START + 1000, START + 1200, 2)
    assert (later["depth"], later["oldest_seconds"], later["completed"]) == ([0, 0], [None, None], [5, 0])


def test_what_cannot_start_yet_waits_in_no_queue(ledger: Ledger) -> None:
    needs_first: dict[str, Any] = {"depends_on": ["first"]}
    ledger.tell([*life("first", 0, 600, 1100), submitted("of-another", 0, depends_on=["never-ended"])])
    ledger.tell([submitted("unapproved", 0, requires_approval=True), submitted("approved", 0, requires_approval=True)])
    ledger.tell([submitted("given-up", 0, **needs_first), ended("given-up", 500, "cancelled")])
    ledger.tell([submitted("let-go", 0, **needs_first), submitted("came-later", 1150, **needs_first)])
    ledger.tell([event("let-go", "released", 1150), event("approved", "approved", 1150)])
    found = over_time(ledger, START, START + 1200, 2)
    assert found["depth"] == [1, 3]
    assert found["oldest_seconds"] == [600, 50]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 60)), max_size=12))
def test_depth_and_age_over_time_are_the_most_of_every_moment(tmp_path: Path, waits: list[tuple[int, int]]) -> None:
    with Ledger.on(Shelf(tmp_path, token_hex(8))) as ledger:
        for number, (begin, wait) in enumerate(waits):
            tale = [submitted(f"task-{number}", begin), claimed(f"task-{number}", begin + wait)]
            ledger.tell(tale[: 1 if wait > 50 else 2])
        found = over_time(ledger, START + 10, START + 50, 4)
    spans = [(begin, 1000 if wait > 50 else begin + wait) for begin, wait in waits]
    for number, after in enumerate((10, 20, 30, 40)):
        moments = [after + step / 2 for step in range(1, 21)]  # all begin and end at whole seconds
        at_once = [[(begin, end) for begin, end in spans if begin <= one < end] for one in moments]
        present = [(begin, end) for begin, end in spans if after < end and begin <= after + 10 and begin < end]
        assert found["depth"][number] == max(map(len, at_once))
        ages = [min(end, after + 10) - begin for begin, end in present]
        assert found["oldest_seconds"][number] == max(ages, default=None)


def test_no_statement_reads_more_than_its_window(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[str] = []
    ask = Ledger.query

    def explained(self: Ledger, sql: str, arguments: Any = ()) -> Any:
        plans.extend(row["detail"] for row in ask(self, f"EXPLAIN QUERY PLAN {sql}", arguments))
        return ask(self, sql, arguments)

    monkeypatch.setattr(Ledger, "query", explained)
    for by in (None, "agent", "type", "day"):
        figures(ledger, window(0), by)  # type: ignore[arg-type]
        figures(ledger, window(0, agent="worker"), by)  # type: ignore[arg-type]
    assert any("by_end" in plan for plan in plans)
    assert not [plan for plan in plans if re.match(r"SCAN (tasks|t)\b", plan)]


# ---------------------------------------------------------------------- as the command prints them


@pytest.fixture
def told(desk: Desk) -> Desk:
    """A desk whose ledger has been told a day's work until now."""
    import time

    shift = time.time() - START - HOUR
    with desk.app().ledger(print) as ledger:
        ledger.tell(
            [
                *life("a", shift, shift + 10, shift + 70, cost_usd=0.25, input_tokens=1_200_000, output_tokens=3000),
                *life("b", shift, shift + 20, shift + 1000, "failed", agent="implementation-worker-of-the-north"),
                *life("c", shift, None, shift + 1000, "expired"),
                submitted("d", shift),
                submitted("e", shift, depends_on=["d"]),
            ]
        )
    return desk


def test_the_block_fits_and_says_what_is_unknown(told: Desk) -> None:
    for by in ("agent", "type", "day"):
        lines = told.ok("stats", "--by", by).splitlines()
        assert max(map(len, lines)) <= 80
    block = told.ok("stats").splitlines()
    assert block == [
        "now      queued 1, oldest 1h00m; running 0, blocked 1",
        "queues   messages 0, dead letters 0",
        "ended    3 in the last 24h, 0.125 an hour: 1 completed, 1 failed, 1 expired",
        "wait     p50 10s     p90 20s     p99 20s     max 20s",
        "run      p50 1m      p90 16m     p99 16m     max 16m",
        "failed   50.0%   retried 0.0%   dead letters 0",
        "tokens   in at least 1.2M, 1 unknown; out at least 3k, 1 unknown",
        "cost     at least $0.25, 1 unknown, $0.25 a task",
    ]


def test_the_table_has_a_line_for_each(told: Desk) -> None:
    lines = told.ok("stats", "--by", "agent").splitlines()[-3:]
    assert lines == [
        "agent               queued oldest runs ended failed retried wait50 run50    cost",
        "implementation-wor…      0      -    0     1 100.0%    0.0%    20s   16m unknown",
        "worker                   1  1h00m    0     2   0.0%    0.0%    10s    1m   $0.25",
    ]


def test_json_has_everything(told: Desk) -> None:
    found = told.json("stats", "--by", "agent", "--since", "2h")
    assert set(found) == {
        "since", "until", "agent", "as_of", "total", "by", "parts", "queues", "dead_letters_now"
    }  # fmt: skip
    assert found["queues"] == {"implementation-worker": 0, "mention-worker": 0, "review-worker": 0}
    assert found["total"]["cost_usd"] == {"sum": 0.25, "mean": 0.25, "known": 1, "unknown": 1}
    assert found["total"]["per_hour"] == pytest.approx(1.5)
    assert math.isclose(found["total"]["now"]["oldest_seconds"], HOUR, abs_tol=60)
    assert [one["key"] for one in found["parts"]] == ["implementation-worker-of-the-north", "worker"]


def test_an_empty_window_says_so(desk: Desk) -> None:
    assert desk.ok("stats", "--since", "90m").splitlines()[-1] == "ended    nothing in the last 90m"
    assert (
        desk.ok("stats", "--since", "2026-01-01T00:00Z").splitlines()[-1] == "ended    nothing since 2026-01-01T00:00Z"
    )


def test_what_senders_call_their_types_steers_no_terminal(desk: Desk) -> None:
    with desk.app().ledger(print) as ledger:
        ledger.tell([submitted("hostile", type="\x1b[2J\nworker 9 \u202e")])
    done = desk.run("stats", "--by", "type")
    assert len(done.out.splitlines()) == 6
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", done.out + desk.ok("stats", "--by", "type", "--json"))


def test_numbers_are_short(desk: Desk) -> None:
    from agentq.cli.stats import _short

    numbers = (0, 0.125, 5, 999.4, 999.9, 1200, 999_900, 1_250_000, 3e12)
    assert [_short(n) for n in numbers] == ["0", "0.125", "5", "999", "1k", "1.2k", "1M", "1.25M", "3e+03G"]


@pytest.mark.parametrize(
    "flags",
    [("--by", "week"), ("--since", "soon"), ("--since", "2100-01-01"), ("--since", "-1h"), ("--agent", "no body")],
)
def test_what_cannot_be_asked_ends_in_words(desk: Desk, flags: tuple[str, str]) -> None:
    done = desk.run("stats", *flags)
    assert (done.code, done.out) == (3, "")
    assert "→" in done.err
