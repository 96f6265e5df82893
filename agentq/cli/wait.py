"""`agentq wait`."""

from typing import Annotated

import typer

from agentq.cli.result import OUTCOME_CODES
from agentq.cli.terms import (
    AsJson,
    Patience,
    Store,
    TaskIds,
    command,
    echo,
    echo_json,
    hand_over,
    one_line,
    outcome,
    patience,
)
from agentq.errors import Invalid, WaitTimeout
from agentq.messages import Completion, utc_now
from agentq.standing import NAMED, line

app = command()


@app.command()
def wait(
    ids: TaskIds,
    everything: Annotated[bool, typer.Option("--all", help="Until all have ended (the default).")] = False,
    any_: Annotated[bool, typer.Option("--any", help="Until one has ended.")] = False,
    timeout: Patience = None,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Wait for tasks and plans to end, from the papers alone; one line for each that has.

    Exit code 7 after the time-out; 8 failed, 9 cancelled, 10 expired (the lowest of them), else 0.
    """
    from agentq.app import App

    if any_ and everything:
        raise Invalid("--any and --all exclude each other", hint="Give one of them.")
    seconds = patience(timeout)
    app = App.load(store=store)
    for task_id in ids:
        app.coordinator.envelope(task_id)
    began = utc_now()
    ended = app.coordinator.wait(ids, seconds, enough=1 if any_ else None, between=lambda: hand_over(app))
    app.tracing.received(ended, began)
    show(ended, json=json, several=len(ids) > 1)
    left = [task_id for task_id in ids if task_id not in {m.task_id for m in ended}]
    if left and not (any_ and ended):
        where = [line(app.coordinator.status(task_id)) for task_id in left[:NAMED]]
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        raise WaitTimeout(
            f"not ended after {seconds or 0:g} s: {'; '.join(where)}{more}",
            hint="Go on with other work; completions will be in: agentq inbox",
        )
    raise typer.Exit(code_of(ended))


def show(ended: list[Completion], *, json: bool, several: bool) -> None:
    """One line for each task that has ended."""
    if json and (several or ended):
        echo_json(ended if several else ended[0])
    for manifest in () if json else ended:
        why = f"  {one_line(manifest.reason)}" if manifest.reason else ""
        echo(f"{manifest.task_id}  {outcome(manifest)}{why}")


def code_of(ended: list[Completion]) -> int:
    """The lowest exit code of those that did not complete, else 0."""
    return min((code for m in ended if (code := OUTCOME_CODES[m.status])), default=0)
