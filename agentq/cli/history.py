"""`agentq history`."""

from typing import TYPE_CHECKING, Any

from agentq.cli.reading import Cached, known_task, ledger_of, plain
from agentq.cli.terms import AsJson, Broker, Store, TaskId, command, echo, echo_json, one_line, span
from agentq.messages import utc_now
from agentq.standing import fields

if TYPE_CHECKING:
    from datetime import datetime

    from agentq.events import Event
    from agentq.ledger.timeline import Timeline

app = command()


@app.command()
def history(
    task_id: TaskId, cached: Cached = False, json: AsJson = False, broker: Broker = None, store: Store = None
) -> None:
    """Tell what happened to a task, step by step, and what its time went into."""
    from agentq.ledger.timeline import Timeline
    from agentq.observer import Observer

    app = Observer.load(broker=broker, store=store)
    with ledger_of(app, cached=cached, partly=True) as ledger:
        row, timeline, as_of = known_task(app, ledger, task_id), Timeline.of(ledger.events(task_id)), ledger.as_of
    if json:
        echo_json({"task": plain(row), **_plain(timeline), "as_of": as_of and as_of.isoformat()})
        return
    echo("  ".join(filter(None, fields(row))))
    last = None
    for event in timeline.events:
        if event.kind != "settled":  # nobody waits for that but agentq
            echo(_line(event, last))
            last = event.at
    echo(_totals(timeline))


def _line(event: "Event", last: "datetime | None") -> str:
    """A step: when (below its day, where that is another one), how long after the one before, and what."""
    from agentq.cli.lines import what

    after = "" if last is None else f"+{span(event.at - last)}"
    day = "" if last and last.date() == event.at.date() else f"  {event.at:%Y-%m-%d}\n"
    return f"{day}  {event.at:%H:%M:%SZ}  {after:<6}  {one_line(what(event))}"


def _totals(timeline: "Timeline") -> str:
    now = utc_now()
    whole, waited = timeline.whole(now), timeline.waited(now)
    of_runs = ", ".join(f"attempt {run.attempt} {span(run.seconds(now))}" for run in timeline.runs)
    parts = [
        f"waited {span(waited)}" if waited is not None else "",
        f"ran {span(timeline.ran(now))}{f' ({of_runs})' if len(timeline.runs) > 1 else ''}" if timeline.runs else "",
        f"in all {span(whole)}" if whole is not None else "",
    ]
    return f"  {', '.join(filter(None, parts))}{'' if timeline.over else ' so far'}"


def _plain(timeline: "Timeline") -> dict[str, Any]:
    now = utc_now()
    return {
        "events": [event.model_dump(mode="json", exclude={"task_id"}) for event in timeline.events],
        "attempts": [
            {
                "attempt": run.attempt,
                "by": run.by,
                "began_at": run.began.isoformat(),
                "ended_at": run.ended.isoformat() if run.ended else None,
                "outcome": run.outcome,
                "seconds": run.seconds(now),
            }
            for run in timeline.runs
        ],
        "waited_seconds": timeline.waited(now),
        "ran_seconds": timeline.ran(now),
        "whole_seconds": timeline.whole(now),
    }
