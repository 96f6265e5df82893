"""`agentq status`."""

from typing import TYPE_CHECKING

from agentq.cli.terms import AsJson, Store, TaskIds, ago, command, echo, echo_json, hand_over, one_line

if TYPE_CHECKING:
    from agentq.lifecycle import Status

app = command()

STATES = ("completed", "failed", "cancelled", "expired", "processing", "pending")
NAMED = 5
"""How many of the tasks that one waits for are named."""


@app.command()
def status(
    ids: TaskIds,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Tell where tasks stand, from their papers alone: also with the broker down."""
    from agentq.app import App

    app = App.load(store=store)
    found = [app.coordinator.status(task_id) for task_id in ids]
    if json:
        echo_json(found[0] if len(found) == 1 else found)
    for one in () if json else found:
        echo(line(one))
        for member in app.coordinator.members(one.task_id) if one.tasks else ():
            echo(f"  {line(app.coordinator.status(member))}")
    hand_over(app)


def line(status: "Status") -> str:
    """A status as one line."""
    head = f"{status.task_id}  {status.state}"
    if status.tasks and status.state in ("pending", "processing"):
        counts = ", ".join(f"{status.tasks[s]} {s}" for s in STATES if s in status.tasks)
        return f"{head}  {counts}{_cancel(status)}"
    if status.state == "processing":
        where = f"{_who(status)}, attempt {status.attempt}, started {ago(status.since)}"
        return f"{head}  {where}{_cancel(status)}"
    if status.state == "pending":
        return f"{head}  {_waiting(status)}{_earlier(status)}{_cancel(status)}"
    by = f"by {status.worker}" if status.worker else ""
    verified = "" if status.state != "completed" else (", verified" if status.verified else ", unverified")
    if status.unverified_because:
        verified = f", unverified ({one_line(status.unverified_because)})"
    why = f": {one_line(status.reason)}" if status.reason else ""
    gone = f"; its evidence was collected on {status.collected_at:%Y-%m-%d}" if status.collected_at else ""
    return f"{head}  {by}{verified}{why}{gone}".rstrip()


def _who(status: "Status") -> str:
    """The worker and its host; an attempt that was pulled has none."""
    return f"{status.worker} on {status.host}" if status.host else f"{status.worker}"


def _cancel(status: "Status") -> str:
    return "; is being cancelled" if status.cancel_asked else ""


def _waiting(status: "Status") -> str:
    if status.waits_for == "lease":
        return (
            f"waits for: lease; {_who(status)} is silent or gone (last heard of {ago(status.renewed_at)}),"
            f" attempt {status.attempt} is taken over next"
        )
    if status.waits_for == "delayed" and status.until:
        return f"waits for: {status.agent}, delayed until {status.until:%Y-%m-%d %H:%M:%SZ}"
    if status.waits_for == "dependencies":
        named, more = status.needs[:NAMED], len(status.needs) - NAMED
        return f"waits for: dependencies {', '.join(named)}{f' and {more} more' if more > 0 else ''}"
    if status.waits_for == "moved":
        return f"moved to {status.moved_to}"
    if status.waits_for == "approval":
        return f"waits for: approval; agentq approve {status.task_id} --by YOU --digest {(status.digest or '')[:12]}"
    return f"waits for: {status.agent}, {status.waits_for}"


def _earlier(status: "Status") -> str:
    if not status.reason:
        return ""
    if status.attempt is None:
        return f"; {one_line(status.reason)}"
    tried = f"{status.attempts_counted} tried, " if status.attempts_counted else ""
    return f"; {tried}last: {one_line(status.reason)}"
