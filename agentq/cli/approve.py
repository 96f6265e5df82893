"""`agentq approve`."""

from typing import Annotated

import typer

from agentq.cli.terms import AsJson, Broker, Store, TaskId, checked_name, command, echo, echo_json, hand_over

app = command()


@app.command()
def approve(
    task_id: TaskId,
    by: Annotated[str, typer.Option(metavar="WHO", help="Who approves it.", show_default=False, callback=checked_name)],
    digest: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="What you saw, as `agentq why` shows it: another is refused."),
    ] = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Let a task start that waits for an approval: exactly this envelope, context and results that it needs."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    approval = app.hands.approve(task_id, by, digest)
    hand_over(app)
    if json:
        echo_json({"task_id": task_id, **approval.model_dump(mode="json", exclude={"token"})})
    else:
        echo(f"{task_id}  approved by {approval.by}  {approval.digest[:12]}")
