"""`agentq renew`."""

import typer

from agentq.cli.hand import holder_of
from agentq.cli.terms import AsJson, Store, TaskId, command, echo, echo_json, hand_over
from agentq.errors import ExitCode
from agentq.messages import Completion

app = command()


@app.command()
def renew(task_id: TaskId, json: AsJson = False, store: Store = None) -> None:
    """Keep a task that you claimed for another lease.

    Exit code 5 when it is no longer yours, 9 when it was cancelled: then stop working on it.
    """
    from agentq.app import App

    app = App.load(store=store)
    found = holder_of(app, task_id).renew()
    if isinstance(found, Completion):
        app.puller.let_go(task_id)
        hand_over(app)
        state: str = found.status
        until, said = None, f"{found.reason}; stop working on it"
    else:
        state, until, said = "processing", found.isoformat(), f"yours until {found:%H:%M:%SZ}"
    if json:
        echo_json({"task_id": task_id, "state": state, "lease_until": until})
    else:
        echo(f"{task_id}  {said}")
    raise typer.Exit(ExitCode.TASK_CANCELLED if isinstance(found, Completion) else ExitCode.OK)
