"""`agentq reject`."""

from typing import Annotated

import typer

from agentq.cli.terms import (
    AllowSecrets,
    AsJson,
    Broker,
    Store,
    TaskId,
    Who,
    command,
    echo,
    echo_json,
    hand_over,
    one_line,
)
from agentq.errors import Invalid

app = command()


@app.command()
def reject(
    task_id: TaskId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it must not be done.", show_default=False)],
    by: Who = None,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """End a task that waits for an approval as cancelled."""
    from agentq.app import App

    if not reason.strip():
        raise Invalid("a rejection needs a reason", hint="Say in --reason what is wrong with it.")
    app = App.load(broker=broker, store=store)
    manifest = app.hands.reject(task_id, by or app.settings.coordinator, reason, allow_secrets=allow_secrets)
    hand_over(app)
    if json:
        echo_json(manifest)
    else:
        echo(f"{task_id}  {manifest.status}: {one_line(manifest.reason)}")
