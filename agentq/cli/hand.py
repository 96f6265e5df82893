"""What `complete` and `fail` share: a proposal inside a running agent, a seal by hand."""

import os
from pathlib import Path

from agentq.cli.terms import echo
from agentq.errors import Invalid


def end(
    task_id: str,
    status: str,
    *,
    by: str,
    summary: str = "",
    reason: str | None = None,
    report: Path | None = None,
    take_over: bool = False,
    store: str | None = None,
) -> None:
    """End a task, or propose to when this process runs inside that very task's agent."""
    from agentq.app import App
    from agentq.context import read_file
    from agentq.coordinator import Hand

    if status == "completed" and not (summary.strip() or report):
        raise Invalid("a completion needs evidence", hint="Give --result-file, --summary, or both.")
    if status == "failed" and not (reason or "").strip():
        raise Invalid("a failure needs a reason", hint="Give --reason.")
    data = read_file(report) if report else None
    hand = Hand(by=by, status=status, summary=summary, reason=reason, report=data)
    coordinator = App.load(store=store).coordinator
    token = os.environ.get("AGENTQ_TOKEN")
    if token and os.environ.get("AGENTQ_TASK_ID") == task_id and not take_over:
        if data is not None:
            (Path(os.environ["AGENTQ_OUTPUT"]) / "report.md").write_bytes(data)
        coordinator.propose(task_id, int(os.environ["AGENTQ_ATTEMPT"]), token, hand)
        echo(f"{task_id}  proposed as {status}; the worker checks it when you end")
        return
    manifest = coordinator.end_by_hand(task_id, hand, take_over=take_over)
    echo(f"{task_id}  {manifest.status} by hand, unverified")
