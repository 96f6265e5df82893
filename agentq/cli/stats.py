"""`agentq stats`."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentq.cli.reading import iso, ledger_of
from agentq.cli.terms import AsJson, Broker, checked_name, command, echo, echo_json, one_line, past, span
from agentq.errors import Invalid

if TYPE_CHECKING:
    from datetime import datetime

    from agentq.app import App
    from agentq.observing.figures import By, Figures, Now, Spread, Used, Window
    from agentq.observing.queues import Queues

app = command()

BY = ("agent", "type", "day")
WIDTH = 80
SHORTEST = 8
"""Characters of a name that are left in the table, to fit it into that width."""
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@app.command()
def stats(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Of what ended since: 90m, 24h, 2030-01-31T18:00.")
    ] = "24h",
    by: Annotated[str | None, typer.Option(metavar="agent|type|day", help="Also for each.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Of this agent.", callback=checked_name)] = None,
    json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Tell what waits and since when, and how what ended went: times, failures, dead letters, tokens and cost."""
    from agentq.app import App
    from agentq.observing.figures import Window, figures

    if by is not None and by not in BY:
        raise Invalid(f"there are no figures by {by!r}", hint=f"One of: {', '.join(BY)}.")
    window = Window(past("--since", since).timestamp(), time.time(), agent)
    if window.since > window.now:
        raise Invalid(f"--since {since} is in the future", hint="Write how long ago, such as 24h.")
    app = App.load(broker=broker)
    with ledger_of(app) as ledger:
        whole, parts = figures(ledger, window, cast("By | None", by))
        queues = _queues(app, window, ledger.as_of)
        as_of = ledger.as_of and ledger.as_of.isoformat()
    if json:
        head = {"since": iso(window.since), "until": iso(window.now), "agent": agent, "as_of": as_of}
        echo_json({**head, "total": whole.plain(), "by": by, "parts": [one.plain() for one in parts], **_plain(queues)})
        return
    span_of = f"since {since}" if "-" in since else f"in the last {since}"
    echo("\n".join([*_block(whole, queues, span_of), *(_table(by, parts) if by and parts else [])]))


def _queues(app: "App", window: "Window", as_of: "datetime | None") -> "Queues | None":
    """What waits in the engine, None when it was just away."""
    is_up = as_of is not None and as_of.timestamp() >= window.now
    return app.queues([window.agent] if window.agent else app.agents.names) if is_up else None


def _plain(queues: "Queues | None") -> dict[str, Any]:
    return {"queues": queues and queues.messages, "dead_letters_now": queues and queues.dead_letters}


# ---------------------------------------------------------------------- the block


def _block(whole: "Figures", queues: "Queues | None", span_of: str) -> Iterator[str]:
    """Lines of a word and what it is about."""
    assert whole.now
    yield f"now      {_now(whole.now)}"
    yield f"queues   {_waiting(queues)}"
    if whole.is_empty:
        yield f"ended    nothing {span_of}"
        return
    yield f"ended    {whole.ended} {span_of}, {_short(whole.per_hour)} an hour: {_outcomes(whole)}"
    yield f"wait     {_spread(whole.wait_seconds)}"
    yield f"run      {_spread(whole.run_seconds)}"
    yield (
        f"failed   {_percent(whole.failure_rate)}   retried {_percent(whole.retry_rate)}"
        f"   dead letters {whole.dead_letters}"
    )
    yield f"tokens   in {_tokens(whole.input_tokens)}; out {_tokens(whole.output_tokens)}"
    yield f"cost     {_cost(whole.cost_usd)}"
    if whole.skewed:
        yield f"clocks   {whole.skewed} times were below zero and count as 0s: the hosts' clocks differ"


def _now(now: "Now") -> str:
    oldest = f", oldest {span(now.oldest_seconds)}" if now.oldest_seconds is not None else ""
    rest = {"delayed": now.delayed, "blocked": now.dependencies, "for approval": now.approval, "silent": now.lease}
    others = "".join(f", {name} {count}" for name, count in rest.items() if count)
    return f"queued {now.queued}{oldest}; running {now.running}{others}"


def _waiting(queues: "Queues | None") -> str:
    if queues is None:
        return "unknown"
    known = [count for count in queues.messages.values() if count is not None]
    said = f"messages {sum(known)}" if known or not queues.messages else "unknown"
    lacking = len(queues.messages) - len(known)
    left = f" ({lacking} agents without a queue)" if known and lacking else ""
    return f"{said}{left}, dead letters {queues.dead_letters}"


def _outcomes(figures: "Figures") -> str:
    counts = {name: getattr(figures, name) for name in ("completed", "failed", "cancelled", "expired")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _spread(spread: "Spread | None") -> str:
    if spread is None:
        return "none"
    values = {"p50": spread.p50, "p90": spread.p90, "p99": spread.p99, "max": spread.max}
    return "  ".join(f"{name} {span(value):<6}" for name, value in values.items()).rstrip()


def _tokens(used: "Used") -> str:
    if used.sum is None:
        return "unknown" if used.unknown else "none"
    return f"{_at_least(used)}{_short(used.sum)}{_unknown(used)}"


def _cost(used: "Used") -> str:
    if used.sum is None:
        return f"unknown ({used.unknown} tasks did not tell)" if used.unknown else "none"
    return f"{_at_least(used)}${used.sum:.2f}{_unknown(used)}, ${used.mean:.2f} a task"


def _at_least(used: "Used") -> str:
    return "at least " if used.unknown else ""


def _unknown(used: "Used") -> str:
    return f", {used.unknown} unknown" if used.unknown else ""


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}%"


def _short(number: float | None) -> str:
    """A number in a few characters."""
    if number is None:
        return "-"
    for size, unit in UNITS:
        if number >= 0.9995 * size:  # 999.9 would be 1e+03
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


# ---------------------------------------------------------------------- the table

HEADS = ("queued", "oldest", "runs", "ended", "failed", "retried", "wait50", "run50", "cost")


def _table(by: str, parts: "Sequence[Figures]") -> Iterator[str]:
    """One line for each agent, type or day; what belongs to no day is left out there."""
    rows = [(by, *HEADS), *(_row(one) for one in parts)]
    if by == "day":
        rows = [(row[0], *row[4:]) for row in rows]
    width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    width = min(width, max(SHORTEST, WIDTH - sum(widths) - len(widths)))
    yield ""
    for key, *cells in rows:
        name = key if len(key) <= width else f"{key[: width - 1]}…"
        yield " ".join((name.ljust(width), *map(str.rjust, cells, widths)))


def _row(one: "Figures") -> tuple[str, ...]:
    now = one.now
    return (
        one_line(one.key),
        str(now.queued) if now else "",
        span(now.oldest_seconds) if now and now.oldest_seconds is not None else "-",
        str(now.running) if now else "",
        str(one.ended),
        _percent(one.failure_rate),
        _percent(one.retry_rate),
        span(one.wait_seconds.p50) if one.wait_seconds else "-",
        span(one.run_seconds.p50) if one.run_seconds else "-",
        _cell(one.cost_usd),
    )


def _cell(cost: "Used") -> str:
    if cost.sum is None:
        return "unknown" if cost.unknown else "-"
    return f"{'≥' if cost.unknown else ''}${cost.sum:.2f}"
