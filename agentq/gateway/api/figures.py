"""Figures of what ended, and how it went over time, for charts."""

import bisect
import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import median_low
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from agentq.errors import Invalid
from agentq.gateway.api.shapes import Given, Moment, Row, Told
from agentq.gateway.api.tasks import as_of, seconds_of
from agentq.gateway.operations import Call, Operation
from agentq.ledger import Ledger
from agentq.observing.figures import OUTCOMES, STARTABLE, Window, figures
from agentq.observing.plain import iso
from agentq.observing.queues import Queues, count


class WhichFigures(Given):
    """Of what ended since then; also for each agent, type or day."""

    since: Moment = "24h"
    by: Literal["agent", "type", "day"] | None = None
    agent: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class WhichSeries(Given):
    """Since when, at how many moments."""

    since: Moment = "24h"
    points: Annotated[int, Field(ge=2, le=1000)] = 60


class Stats(Row):
    """Figures as `agentq stats --json` prints them."""

    since: str
    until: str
    as_of: str | None
    total: dict[str, Any]
    parts: list[dict[str, Any]]


class Series(Told):
    """At each moment: what ended since the one before it, and what waited just then. Null is where nothing was."""

    at: list[str]
    completed: list[int]
    failed: list[int]
    cancelled: list[int]
    expired: list[int]
    cost_usd: list[float | None]
    wait_p50: list[float | None]
    run_p50: list[float | None]
    depth: list[int]
    oldest_seconds: list[float | None]
    as_of: str | None


async def _stats(call: Call) -> dict[str, Any]:
    asked: WhichFigures = call.query
    window = Window(_begin(asked.since), time.time(), asked.agent)

    def told(ledger: Ledger) -> dict[str, Any]:
        whole, parts = figures(ledger, window, asked.by)
        return {"as_of": as_of(ledger), "total": whole.plain(), "parts": [one.plain() for one in parts]}

    head = {"since": iso(window.since), "until": iso(window.now), "agent": asked.agent, "by": asked.by}
    found = await call.gateway.books.read(told)
    queues = None if call.gateway.books.trouble else await _queues(call, window)
    return head | found | {"queues": queues and queues.messages, "dead_letters_now": queues and queues.dead_letters}


async def _queues(call: Call, window: Window) -> Queues:
    desk = call.gateway.desk
    names = [window.agent] if window.agent else await desk.call(lambda app: app.agents.names)

    async def ask() -> Queues:
        return await count(await desk.engine(), names)

    return await desk.run(ask)


def _begin(since: str) -> float:
    begin = seconds_of("since", since) or 0.0
    if begin > time.time():
        raise Invalid(f"since {since} is in the future", hint="Write how long ago, such as 24h.")
    return begin


# ---------------------------------------------------------------------- over time


class Ended(NamedTuple):
    """A task that ended, or None for what is not known of it; moments are unix seconds."""

    at: float
    outcome: str
    wait: float | None
    run: float | None
    cost: float | None


class Wait(NamedTuple):
    """From when a task could have been started until it was, far ahead for one that still waits; unix seconds."""

    begin: float
    end: float


_ENDED = f"""SELECT finished_at, outcome, max(first_claimed_at - {STARTABLE}, 0.0),
    max(finished_at - first_claimed_at, 0.0), cost_usd
  FROM tasks INDEXED BY by_end WHERE finished_at >= :since AND members = 0 ORDER BY finished_at"""
_NEVER_RELEASED = """released_at IS NULL AND first_claimed_at IS NULL AND depends_on IS NOT NULL AND EXISTS (
  SELECT 1 FROM json_each(t.depends_on) d LEFT JOIN tasks n ON n.task_id = d.value
  WHERE n.outcome IS NULL OR n.finished_at > t.finished_at)"""
_WAITED = f"""SELECT begin, end FROM (
  SELECT max({STARTABLE}, ifnull(approved_at, created_at)) AS begin,
    coalesce(first_claimed_at, finished_at, 9e99) AS end
  FROM tasks t WHERE (finished_at IS NULL OR finished_at >= :since) AND members = 0 AND created_at IS NOT NULL
  AND (requires_approval = 0 OR approved_at IS NOT NULL) AND NOT ({_NEVER_RELEASED})) WHERE end > max(begin, :since)"""


async def _series(call: Call) -> dict[str, Any]:
    begin, points = _begin(call.query.since), call.query.points

    def told(ledger: Ledger) -> dict[str, Any]:
        return over_time(ledger, begin, time.time(), points) | {"as_of": as_of(ledger)}

    return await call.gateway.books.read(told)


def over_time(ledger: Ledger, begin: float, now: float, points: int) -> dict[str, Any]:
    """The fields of Series between two moments (unix seconds), `as_of` aside; raises Unavailable."""
    with ledger.one_moment():
        ended = [Ended(*row) for row in ledger.query(_ENDED, {"since": begin})]
        waits = [Wait(*row) for row in ledger.query(_WAITED, {"since": begin})]
    moments = [begin + (now - begin) * (number + 1) / points for number in range(points)]
    spans, stands = _by_moment(moments, ended), list(_standing(moments, waits))
    return {
        "at": [iso(moment) for moment in moments],
        **{name: [sum(one.outcome == name for one in span) for span in spans] for name in OUTCOMES},
        "cost_usd": [_sum([one.cost for one in span]) for span in spans],
        "wait_p50": [_median([one.wait for one in span]) for span in spans],
        "run_p50": [_median([one.run for one in span]) for span in spans],
        "depth": [depth for depth, _ in stands],
        "oldest_seconds": [oldest for _, oldest in stands],
    }


def _by_moment(moments: Sequence[float], ended: Sequence[Ended]) -> list[list[Ended]]:
    spans: list[list[Ended]] = [[] for _ in moments]
    for one in ended:
        spans[min(bisect.bisect_left(moments, one.at), len(moments) - 1)].append(one)
    return spans


def _standing(moments: Sequence[float], waits: Sequence[Wait]) -> Iterator[tuple[int, float | None]]:
    """Up to each moment since the one before: how many waited at most, and for how long the one that had longest.

    Every wait ends after it begins, and after the time that is asked about does.
    """
    coming, ends = sorted(waits), sorted(one.end for one in waits)
    begun = ended = first = 0
    for moment in moments:
        most, oldest = begun - ended, 0.0
        while begun < len(coming) and (begin := coming[begun].begin) <= moment:
            while ends[ended] <= begin:
                ended += 1
            begun += 1
            if begun - ended > most:
                most = begun - ended
        while ended < begun and ends[ended] <= moment:
            ended += 1
        while first < begun and coming[first].end <= moment:  # whoever came later and left sooner never was the oldest
            oldest = max(oldest, coming[first].end - coming[first].begin)
            first += 1
        if first < begun:
            oldest = max(oldest, moment - coming[first].begin)
        yield most, oldest if most else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median_low(known) if known else None


OPERATIONS = (
    Operation(
        "GET",
        "/api/stats",
        "Figures of what ended, and of what waits",
        _stats,
        query=WhichFigures,
        answer=Stats,
        tag="figures",
    ),
    Operation("GET", "/api/series", "How it went over time", _series, query=WhichSeries, answer=Series, tag="figures"),
)
