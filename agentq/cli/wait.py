"""`agentq wait`."""

import time
from typing import Annotated

import typer

from agentq.cli.result import OUTCOME_CODES
from agentq.cli.terms import AsJson, Store, checked, command, echo, echo_json, seconds

app = command()


@app.command()
def wait(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks' ids.", show_default=False)],
    timeout: Annotated[str | None, typer.Option(help="Give up after: 90, 10m, 2h.")] = None,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Wait for tasks to end. Exit code 7 after the time-out; 8 failed, 9 cancelled, 10 expired, else 0."""
    from agentq.app import App

    coordinator = App.load(store=store).coordinator
    deadline = time.monotonic() + seconds(timeout) if timeout else None
    ended = [coordinator.wait(i, None if deadline is None else max(0.0, deadline - time.monotonic())) for i in ids]
    if json:
        echo_json(ended[0] if len(ended) == 1 else ended)
    else:
        for manifest in ended:
            why = f": {manifest.reason}" if manifest.reason else ""
            echo(f"{manifest.task_id}  {manifest.status}  {checked(manifest)}{why}")
    raise typer.Exit(min((code for m in ended if (code := OUTCOME_CODES[m.status])), default=0))
