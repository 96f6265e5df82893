"""`agentq fail`."""

from typing import Annotated

import typer

from agentq.cli.hand import end
from agentq.cli.terms import Store, TaskId, command

app = command()


@app.command()
def fail(
    task_id: TaskId,
    sender: Annotated[str, typer.Option("--from", help="Who says so.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why it cannot be done.", show_default=False)],
    take_over: Annotated[bool, typer.Option("--take-over", help="End a running attempt too.")] = False,
    store: Store = None,
) -> None:
    """Say that a task cannot be done.

    Inside a running agent this is a proposal, which its worker commits; by hand it ends the task.
    """
    end(task_id, "failed", by=sender, reason=reason, take_over=take_over, store=store)
