"""`agentq inbox`."""

import sys
from typing import Annotated

import typer

from agentq.cli.terms import (
    AsJson,
    SomeIds,
    Store,
    Whose,
    ago,
    command,
    echo,
    echo_json,
    hand_over,
    one_line,
    outcome,
    say,
)
from agentq.errors import NotFound
from agentq.messages import Completion

app = command()


@app.command()
def inbox(
    ids: SomeIds = None,
    ack: Annotated[bool, typer.Option("--ack", help="Mark what is printed as read.")] = False,
    coordinator: Whose = None,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """List unread completions, oldest first. Looking changes nothing; --ack marks what is printed as read."""
    from agentq.app import App

    app = App.load(store=store, coordinator=coordinator)
    name = app.settings.coordinator
    unread = [m for m in app.coordinator.inbox(name) if not ids or m.task_id in ids]
    missing = set(ids or ()) - {m.task_id for m in unread}
    if missing:
        raise NotFound(f"not in the inbox of {name}: {', '.join(sorted(missing))}", hint="See: agentq inbox")
    if json:
        echo_json(unread)
    else:
        _print(unread, name)
    sys.stdout.flush()  # what nobody could read is not marked as read
    for manifest in unread if ack else ():
        app.coordinator.acknowledge(name, manifest.task_id)
        app.tracing.received([manifest])
    hand_over(app)


def _print(unread: list[Completion], name: str) -> None:
    for manifest in unread:
        text = one_line((manifest.status != "completed" and manifest.reason) or manifest.summary)
        echo(f"{manifest.task_id}  {outcome(manifest)}  {ago(manifest.finished_at)}  {text}".rstrip())
    if not unread:
        say(f"no unread completions for {name}")
