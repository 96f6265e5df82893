"""What `complete` and `fail` share: a proposal inside a running agent, a seal by hand."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentq.cli.terms import echo, echo_json, hand_over
from agentq.errors import Invalid

if TYPE_CHECKING:
    from agentq.hands import Hand, Hands


@dataclass(frozen=True, slots=True)
class Inside:
    """The attempt whose agent this process runs in."""

    attempt: int
    token: str
    output: Path


def end(task_id: str, hand: "Hand", *, take_over: bool, json: bool, broker: str | None, store: str | None) -> None:
    """End a task, or propose to when this process runs inside that very task's agent."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    inside = None if take_over else _inside(task_id)
    if inside:
        _propose(app.hands, task_id, hand, inside, json=json)
        return
    manifest = app.hands.end_by_hand(task_id, hand, take_over=take_over)
    hand_over(app)
    if json:
        echo_json(manifest)
    else:
        echo(f"{task_id}  {manifest.status} by hand{', unverified' if manifest.status == 'completed' else ''}")


def _inside(task_id: str) -> Inside | None:
    token, attempt, output = (os.environ.get(f"AGENTQ_{name}") for name in ("TOKEN", "ATTEMPT", "OUTPUT"))
    if not token or os.environ.get("AGENTQ_TASK_ID") != task_id:
        return None
    if not (attempt and attempt.isdecimal() and output):
        raise Invalid(
            "AGENTQ_TOKEN is set, but AGENTQ_ATTEMPT or AGENTQ_OUTPUT is not what the worker set",
            hint="Inside an agent leave AGENTQ_* as they are; elsewhere unset AGENTQ_TOKEN.",
        )
    return Inside(int(attempt), token, Path(output))


def _propose(hands: "Hands", task_id: str, hand: "Hand", inside: Inside, *, json: bool) -> None:
    if hand.report is not None:
        _leave(inside.output / "report.md", hand.report)
    proposal = hands.propose(task_id, inside.attempt, inside.token, hand)
    if json:
        echo_json(proposal.model_dump(mode="json", exclude={"token"}))
    else:
        echo(f"{task_id}  proposed as {hand.status}; the worker checks it when you end")


def _leave(path: Path, report: bytes) -> None:
    try:
        path.write_bytes(report)
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="Is AGENTQ_OUTPUT the worker's?") from error
