"""`agentq cancel`."""

from typing import Annotated

import typer

from agentq.cli.terms import (
    AllowSecrets,
    AsJson,
    Broker,
    Patience,
    Store,
    TaskId,
    Who,
    command,
    echo,
    echo_json,
    hand_over,
    patience,
    say,
)
from agentq.errors import WaitTimeout

app = command()


@app.command()
def cancel(
    task_id: TaskId,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.", show_default=False)] = None,
    by: Who = None,
    allow_secrets: AllowSecrets = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing of it runs any more.")] = False,
    timeout: Patience = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Cancel a task, or a plan with all its tasks: final at once unless it runs, then its worker stops it.

    Exit code 5 when it ended before, otherwise than cancelled; 7 when --wait timed out.
    """
    from agentq.app import App

    seconds = patience(timeout)
    app = App.load(broker=broker, store=store)
    manifest = app.hands.cancel(task_id, by or app.settings.coordinator, reason, allow_secrets=allow_secrets)
    hand_over(app)
    if manifest is None and (wait or seconds is not None):
        ended = app.coordinator.wait([task_id], seconds, between=lambda: hand_over(app))
        if not ended:
            raise WaitTimeout(
                f"{task_id} is still being stopped after {seconds:g} s", hint=f"It goes on: agentq status {task_id}"
            )
        manifest = app.hands.cancel(task_id, by or app.settings.coordinator, reason, allow_secrets=allow_secrets)
    if json:
        stop = {name: getattr(manifest, name, None) for name in ("stopped", "stop_seconds")}
        echo_json(app.coordinator.status(task_id).model_dump(mode="json") | stop)
    elif manifest is None:
        echo(f"{task_id}  is being stopped by its worker")
        say(f"  → To block until it is: agentq cancel {task_id} --wait")
    else:
        took = "" if manifest.stop_seconds is None else f"  stopped in {manifest.stop_seconds:.1f} s"
        proof = f", {manifest.stopped}" if took and manifest.stopped else ""
        echo(f"{task_id}  cancelled{took}{proof}")
