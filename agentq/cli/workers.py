"""`agentq workers`."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.reading import ledger_of
from agentq.cli.terms import AsJson, Broker, checked_name, command, echo, echo_json, one_line, say, span
from agentq.observing.plain import plain_worker

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.ledger import Ledger
    from agentq.observing.roster import Member, Work

app = command()

All = Annotated[bool, typer.Option("--all", help="Also who ended in order, or has been silent for an hour.")]
Agent = Annotated[str | None, typer.Option(metavar="NAME", help="Of this agent.", callback=checked_name)]


@app.command()
def workers(agent: Agent = None, all_: All = False, json: AsJson = False, broker: Broker = None) -> None:
    """List who is up, on which host, and what each works on; then who went silent, and what that one worked on.

    Who was not heard of for three of its heartbeats is silent. By the hosts' clocks.
    """
    from agentq.app import App
    from agentq.observing.roster import Roster

    app, began = App.load(broker=broker), time.time()
    with ledger_of(app) as ledger:
        at = _moment(ledger, began)
        roster, as_of = Roster.of(ledger, at), ledger.as_of
    shown = [one for one in (roster.members if all_ else roster.present()) if agent in (None, one.row.agent)]
    if json:
        echo_json({"workers": [plain_worker(one) for one in shown], "as_of": as_of})
    else:
        for line in (line for one in shown for line in _lines(one, at)):
            echo(line)
    if not roster.at_work(agent):
        _say_nobody(app, agent)


def _moment(ledger: "Ledger", began: float) -> float:
    """The moment as of which it is told: now, or when the log could be read last."""
    as_of = ledger.as_of.timestamp() if ledger.as_of else None
    return as_of if as_of is not None and as_of < began else time.time()


def _say_nobody(app: "App", agent: str | None) -> None:
    say(f"no worker{f' of {agent}' if agent else ''} is up")
    say(f"  → agentq worker run {agent or next(iter(app.agents.names), 'NAME')}")


def _lines(one: "Member", at: float) -> Iterator[str]:
    """A worker as a line, and one for each attempt of it."""
    row = one.row
    slots = f"{len(one.work)}/{row.parallel or 1}" if one.is_at_work else "-"
    heard = "heard" if one.is_at_work or one.standing == "down" else "last heard"
    why = f"  {one_line(row.reason)}" if row.reason else ""
    up = f"up {span(at - row.up_at)}" if row.up_at and one.is_at_work else ""
    version = f"v{one_line(row.version)}" if row.version else ""
    parts = (one_line(row.worker), one.standing, slots, f"{heard} {span(at - row.heard_at)} ago", up, version)
    yield "  ".join(part for part in parts if part) + why
    for work in one.work:
        yield f"  {_at_work(work, at) if one.is_at_work else _was_at_work(work)}"


def _at_work(work: "Work", at: float) -> str:
    since = f", for {span(at - work.since)}" if work.since is not None else ""
    doing = f": {one_line(work.doing)}" if work.doing else ""
    return f"on {one_line(work.task_id)}, attempt {work.attempt}{since}{doing}"


def _was_at_work(work: "Work") -> str:
    return f"was on {one_line(work.task_id)}, attempt {work.attempt}"
