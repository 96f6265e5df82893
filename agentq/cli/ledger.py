"""`agentq ledger`: the read model that list, history, tree and the figures are answered from."""

import time
from typing import Annotated

import typer

from agentq.cli.reading import counting
from agentq.cli.terms import AsJson, Broker, Store, ago, command, echo, echo_json, one_line, say, size
from agentq.errors import EngineUnavailable

app = command()

FromPapers = Annotated[bool, typer.Option("--from-papers", help="From the papers alone, without the engine.")]
NAMED = 5
"""How many damaged papers are named."""


@app.command()
def show(json: AsJson = False, broker: Broker = None) -> None:
    """Tell where the ledger is, what is in it, and up to when it knows the log. Reads nothing but the ledger."""
    from agentq.observer import Observer

    with Observer.load(broker=broker).ledger(say) as ledger:
        counts, as_of, has_gap = ledger.counts(), ledger.as_of, ledger.has_gap
        path, files = ledger.path, ledger.bytes
    known = {"path": str(path), "bytes": files, **counts, "as_of": as_of, "gap": has_gap}
    if json:
        echo_json(known | {"as_of": as_of and as_of.isoformat()})
        return
    echo(f"{path}  {size(files)}")
    echo(", ".join(f"{count} {name}" for name, count in counts.items()))
    echo(f"caught up with the log {ago(as_of)}" if as_of else "it has never caught up with the log")
    if has_gap:
        say("part of the log was gone before it was read; to fill it in: agentq ledger rebuild")


@app.command()
def rebuild(from_papers: FromPapers = False, json: AsJson = False, broker: Broker = None, store: Store = None) -> None:
    """Make the ledger anew: from the log, and from the papers what the log does not tell; safe to break off."""
    from agentq.app import App

    app, began = App.load(broker=broker, store=store), time.monotonic()
    with counting("making the ledger anew", "read") as progress:
        try:
            done = app.rebuild_ledger(lambda _, count: progress(count), from_log=not from_papers)
        except EngineUnavailable as error:
            raise EngineUnavailable(str(error), hint="Without the log: agentq ledger rebuild --from-papers") from error
    took = time.monotonic() - began
    if json:
        echo_json(
            {
                "events": done.events,
                "tasks": done.tasks,
                "from_papers": done.missing,
                "damaged": done.damaged,
                "seconds": took,
                "path": str(app.ledger_path),
            }
        )
        return
    for damage in done.damaged[:NAMED]:
        say(one_line(damage))
    if len(done.damaged) > NAMED:
        say(f"and {len(done.damaged) - NAMED} more damaged papers")
    echo(f"{done.events} events in the log, {done.tasks} tasks in the store, {done.missing} told by their papers")
