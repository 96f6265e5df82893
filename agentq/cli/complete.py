"""`agentq complete`."""

from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.hand import end
from agentq.cli.terms import AsJson, Broker, By, Store, TakeOver, TaskId, command
from agentq.errors import Invalid

app = command()


@app.command()
def complete(
    task_id: TaskId,
    sender: By,
    result_file: Annotated[Path | None, typer.Option(metavar="PATH", help="The report.", show_default=False)] = None,
    summary: Annotated[
        str, typer.Option(metavar="TEXT", help="What was done, in a sentence or two.", show_default=False)
    ] = "",
    take_over: TakeOver = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Say that a task is done.

    Inside a running agent this is a proposal, which its worker checks; by hand it ends the task, unverified.
    """
    from agentq.context import read_file
    from agentq.hands import Hand

    if not (summary.strip() or result_file):
        raise Invalid("a completion needs evidence", hint="Give --result-file, --summary, or both.")
    report = read_file(result_file) if result_file else None
    hand = Hand(by=sender, status="completed", summary=summary, report=report)
    end(task_id, hand, take_over=take_over, json=json, broker=broker, store=store)
