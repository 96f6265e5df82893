"""`agentq inbox`."""

from typing import Annotated

import typer

from agentq.cli.terms import AsJson, Store, ago, checked, command, echo, echo_json, say
from agentq.errors import NotFound

app = command()


@app.command()
def inbox(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Only these.", show_default=False)] = None,
    ack: Annotated[bool, typer.Option("--ack", help="Mark what is printed as read.")] = False,
    coordinator: Annotated[str | None, typer.Option("--for", help="Whose inbox.", show_default=False)] = None,
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
    for manifest in () if json else unread:
        what = manifest.summary or manifest.reason or ""
        echo(
            f"{manifest.task_id}  {manifest.status}  {checked(manifest)}  {ago(manifest.finished_at)}  {what}".rstrip()
        )
    if not unread:
        say(f"no unread completions for {name}")
    for manifest in unread if ack else ():
        app.coordinator.acknowledge(name, manifest.task_id)
