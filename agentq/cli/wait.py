"""`agentq wait`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.result import OUTCOME_CODES
from agentq.cli.terms import AsJson, Store, TaskIds, command, echo, echo_json, one_line, outcome, seconds
from agentq.errors import WaitTimeout
from agentq.messages import Completion

if TYPE_CHECKING:
    from agentq.coordinator import Coordinator

app = command()


@app.command()
def wait(
    ids: TaskIds,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Give up after: 90, 10m, 2h.")] = None,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Wait for tasks to end. Exit code 7 after the time-out; 8 failed, 9 cancelled, 10 expired, else 0."""
    from agentq.app import App

    patience = None if timeout is None else seconds("--timeout", timeout)
    coordinator = App.load(store=store).coordinator
    for task_id in ids:
        coordinator.envelope(task_id)
    ended, late = _wait(coordinator, ids, patience)
    if json and (len(ids) > 1 or ended):
        echo_json(ended if len(ids) > 1 else ended[0])
    for manifest in () if json else ended:
        why = f"  {one_line(manifest.reason)}" if manifest.reason else ""
        echo(f"{manifest.task_id}  {outcome(manifest)}{why}")
    if late:
        raise late
    raise typer.Exit(min((code for m in ended if (code := OUTCOME_CODES[m.status])), default=0))


def _wait(
    coordinator: "Coordinator", ids: list[str], patience: float | None
) -> tuple[list[Completion], WaitTimeout | None]:
    """What ended in time, and the first task's time-out."""
    began, ended, late = time.monotonic(), [], None
    for task_id in ids:
        left = None if patience is None else max(0.0, began + patience - time.monotonic())
        try:
            ended.append(coordinator.wait(task_id, left))
        except WaitTimeout as error:
            late = late or error
    return ended, late
