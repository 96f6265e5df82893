"""`agentq complete`."""

from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.hand import end
from agentq.cli.terms import Store, TaskId, command

app = command()


@app.command()
def complete(
    task_id: TaskId,
    sender: Annotated[str, typer.Option("--from", help="Who says so.", show_default=False)],
    result_file: Annotated[Path | None, typer.Option(help="The report.", show_default=False)] = None,
    summary: Annotated[str, typer.Option(help="What was done, in a sentence or two.")] = "",
    take_over: Annotated[bool, typer.Option("--take-over", help="End a running attempt too.")] = False,
    store: Store = None,
) -> None:
    """Say that a task is done.

    Inside a running agent this is a proposal, which its worker checks; by hand it ends the task, unverified.
    """
    end(task_id, "completed", by=sender, summary=summary, report=result_file, take_over=take_over, store=store)
