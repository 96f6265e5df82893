"""`agentq plan`: tasks that wait for each other, submitted and ended as one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import AllowSecrets, AsJson, Broker, NewId, Sender, Store, command, echo, echo_json, say

app = command()


@app.callback()
def plan() -> None:
    """Submit a plan: tasks that wait for each other."""


@app.command()
def submit(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A YAML, JSON or TOML file; - is stdin.")],
    plan_id: NewId = None,
    sender: Sender = None,
    check: Annotated[bool, typer.Option("--check", help="Only check it, and print its tasks in order.")] = False,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Check a plan, register it as one, and hand over the tasks that may start; prints its id."""
    import asyncio

    from agentq.app import App
    from agentq.gates import check_needs
    from agentq.plans import read_plan

    app = App.load(broker=broker, store=store, coordinator=sender)
    planned = read_plan(
        app.store,
        sys.stdin.buffer.read() if path == "-" else Path(path),
        allow_secrets=allow_secrets,
        coordinator=app.settings.coordinator,
        check_target=app.agents.check_target,
        plan_id=plan_id,
    )
    if check:
        check_needs(app.records, planned.request)
        if json:
            echo_json(planned.request)
        for task in () if json else planned.request.plan:
            after = f"  after {', '.join(task.depends_on)}" if task.depends_on else ""
            echo(f"{task.task_id}  {task.to}{after}")
        return
    registered = asyncio.run(app.submit_plan(planned.request, planned.contexts, allow_secrets=allow_secrets))
    if json:
        echo_json(registered.envelope)
    else:
        echo(registered.envelope.task_id)
    if not registered.new:
        say(f"{registered.envelope.task_id} was registered before, with the same content")
