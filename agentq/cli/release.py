"""`agentq release`."""

from typing import Annotated

import typer

from agentq.cli.hand import holder_of, inside, propose
from agentq.cli.terms import (
    AllowSecrets,
    AsJson,
    Broker,
    Store,
    TaskId,
    command,
    echo,
    echo_json,
    hand_over,
    not_before,
    one_line,
)
from agentq.errors import ExitCode

app = command()


@app.command()
def release(
    task_id: TaskId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the next one is told.")] = "given back",
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="Not again before: 10m.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not again before that time.")] = None,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Give back a task that you claimed, or whose agent you are, for another try; the attempt does not count."""
    from agentq.app import App
    from agentq.hands import Hand

    when = not_before(delay, at)
    own = inside(task_id)
    hand = Hand(
        by=own.agent if own else "", status="released", reason=reason, not_before=when, allow_secrets=allow_secrets
    )
    if own:
        propose(task_id, hand, own, json=json)
        return
    app = App.load(broker=broker, store=store)
    manifest = holder_of(app, task_id).release(hand)
    app.puller.let_go(task_id)
    hand_over(app)
    if json:
        echo_json(app.coordinator.status(task_id))
    elif manifest:
        echo(f"{task_id}  {one_line(manifest.reason)}")
    else:
        echo(f"{task_id}  released")
    raise typer.Exit(ExitCode.TASK_CANCELLED if manifest else ExitCode.OK)
