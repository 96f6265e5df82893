"""`agentq status`."""

from typing import TYPE_CHECKING

from agentq.cli.terms import AsJson, Store, TaskIds, ago, command, echo, echo_json, one_line

if TYPE_CHECKING:
    from agentq.lifecycle import Status

app = command()


@app.command()
def status(
    ids: TaskIds,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Tell where tasks stand, from their papers alone: also with the broker down."""
    from agentq.app import App

    coordinator = App.load(store=store).coordinator
    found = [coordinator.status(task_id) for task_id in ids]
    if json:
        echo_json(found[0] if len(found) == 1 else found)
        return
    for one in found:
        echo(line(one))


def line(status: "Status") -> str:
    """A status as one line."""
    head = f"{status.task_id}  {status.state}"
    if status.state == "processing":
        return f"{head}  {status.worker} on {status.host}, attempt {status.attempt}, started {ago(status.since)}"
    if status.state == "pending":
        return f"{head}  {_waiting(status)}{_earlier(status)}"
    by = f"by {status.worker}" if status.worker else ""
    verified = "" if status.state != "completed" else (", verified" if status.verified else ", unverified")
    why = f": {one_line(status.reason)}" if status.reason else ""
    return f"{head}  {by}{verified}{why}".rstrip()


def _waiting(status: "Status") -> str:
    if status.waits_for == "lease":
        return (
            f"waits for: lease; {status.worker} on {status.host} has been silent since {ago(status.renewed_at)},"
            f" attempt {status.attempt} is taken over next"
        )
    if status.waits_for == "delayed" and status.until:
        return f"waits for: {status.agent}, delayed until {status.until:%Y-%m-%d %H:%M:%SZ}"
    return f"waits for: {status.agent}, {status.waits_for}"


def _earlier(status: "Status") -> str:
    if not status.reason:
        return ""
    return f"; {status.attempts_counted} tried, last: {one_line(status.reason)}"
