"""What `complete` and `fail` share: a proposal inside a running agent, a seal by hand."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Exit

from agentq.cli.progress import watched
from agentq.cli.terms import echo, echo_json, hand_over
from agentq.errors import Conflict, ExitCode, Invalid

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.hands import Hand
    from agentq.pull import Holder


@dataclass(frozen=True, slots=True)
class Inside:
    """The attempt whose agent this process runs in."""

    attempt: int
    token: str
    output: Path
    agent: str


def end(
    task_id: str,
    hand: "Hand",
    pieces: Sequence[tuple[str, Path]] = (),
    *,
    take_over: bool,
    json: bool,
    broker: str | None,
    store: str | None,
) -> None:
    """End a task: propose to inside its agent, finish what was claimed with `agentq claim`, else by hand."""
    from agentq.app import App

    if own := None if take_over else inside(task_id):
        propose(task_id, hand, own, json=json, pieces=pieces)
        return
    app = App.load(broker=broker, store=store)
    app.watch = watched
    holder = None if take_over else app.puller.holder(task_id, hand.by, proof=_proof(task_id))
    if holder:
        manifest = holder.finish(hand, pieces)
        app.puller.let_go(task_id)
    else:
        if len(pieces) > (hand.report is not None):
            raise Invalid(
                f"{task_id} is not yours to bring evidence for", hint="Claim it first: agentq claim --as NAME"
            )
        manifest = app.hands.end_by_hand(task_id, hand, take_over=take_over)
    hand_over(app)
    if json:
        echo_json(manifest)
    else:
        how = "" if holder else " by hand"
        echo(f"{task_id}  {manifest.status}{how}{', unverified' if manifest.status == 'completed' else ''}")
    if holder and manifest.status == "cancelled":
        raise Exit(ExitCode.TASK_CANCELLED)


def holder_of(app: "App", task_id: str) -> "Holder":
    """Who acts for a claim, by the environment or on this host; raises Conflict when there is none."""
    holder = app.puller.holder(task_id, proof=_proof(task_id))
    if holder is None:
        status = app.coordinator.status(task_id)  # an unknown task is told as such
        raise Conflict(
            f"{task_id} was not claimed here: it is {status.state}", hint="Claim a task: agentq claim --as NAME"
        )
    return holder


def inside(task_id: str) -> Inside | None:
    """The attempt in whose agent this process runs, if it is that task's."""
    proof, output = _proof(task_id), os.environ.get("AGENTQ_OUTPUT")
    if not (proof and output):
        return None
    return Inside(*proof, Path(output), os.environ.get("AGENTQ_AGENT", "agent"))


def _proof(task_id: str) -> tuple[int, str] | None:
    """The attempt and the token that the environment holds for a task, None when it holds none."""
    token, attempt = os.environ.get("AGENTQ_TOKEN"), os.environ.get("AGENTQ_ATTEMPT", "")
    if not token or os.environ.get("AGENTQ_TASK_ID") != task_id:
        return None
    if not attempt.isdecimal():
        raise Invalid(
            f"AGENTQ_TOKEN is set for {task_id}, but AGENTQ_ATTEMPT is no number",
            hint="Inside an agent leave AGENTQ_* as they are; elsewhere unset AGENTQ_TOKEN.",
        )
    return int(attempt), token


def propose(
    task_id: str,
    hand: "Hand",
    own: Inside,
    *,
    json: bool,
    pieces: Sequence[tuple[str, Path]] = (),
) -> None:
    """Leave the word of a running agent on its own attempt, and its files where the worker collects them."""
    from agentq import proposal

    hand.refuse_credentials()
    for name, path in pieces:
        _leave(path, own.output / f"{name}{'.md' if name == 'report' else path.suffix}")
    held = proposal.propose(own.output, task_id, own.attempt, own.token, hand)
    if json:
        echo_json(held.model_dump(mode="json", exclude={"token"}))
    else:
        echo(f"{task_id}  proposed as {hand.status}; the worker checks it when you end")


def _leave(source: Path, target: Path) -> None:
    try:
        if not (target.exists() and source.samefile(target)):
            target.write_bytes(source.read_bytes())
    except OSError as error:
        raise Invalid(f"{target} cannot be written: {error.strerror}", hint="Is AGENTQ_OUTPUT the worker's?") from error
