"""`agentq fail`."""

from typing import Annotated

import typer

from agentq.cli.hand import end
from agentq.cli.terms import AllowSecrets, AsJson, Broker, By, Store, TakeOver, TaskId, command
from agentq.errors import Invalid

app = command()


@app.command()
def fail(
    task_id: TaskId,
    sender: By,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it cannot be done.", show_default=False)],
    allow_secrets: AllowSecrets = False,
    take_over: TakeOver = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Say that a task cannot be done.

    Inside a running agent this is a proposal, which its worker commits; by hand it ends the task.
    """
    from agentq.hands import Hand

    if not reason.strip():
        raise Invalid("a failure needs a reason", hint="Say in --reason what stood in the way.")
    end(
        task_id,
        Hand(by=sender, status="failed", reason=reason, allow_secrets=allow_secrets),
        take_over=take_over,
        json=json,
        broker=broker,
        store=store,
    )
