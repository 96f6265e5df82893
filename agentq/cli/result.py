"""`agentq result`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.progress import watched
from agentq.cli.terms import AsJson, Store, TaskId, command, echo, echo_json, hand_over, one_line
from agentq.digest import REPORT_LIMIT, check, digest, how_made
from agentq.errors import ExitCode, NotFound
from agentq.messages import Completion

if TYPE_CHECKING:
    from datetime import datetime

    from agentq.coordinator import Coordinator

app = command()

OUTCOME_CODES = {
    "completed": ExitCode.OK,
    "failed": ExitCode.TASK_FAILED,
    "cancelled": ExitCode.TASK_CANCELLED,
    "expired": ExitCode.TASK_EXPIRED,
}


@app.command()
def result(
    task_id: TaskId,
    full: Annotated[bool, typer.Option("--full", help="Print the whole report.")] = False,
    artifact: Annotated[str | None, typer.Option(metavar="NAME", help="Print that piece of evidence.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print where it lies instead.")] = False,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Check a task's evidence and print its result: summary, report and references."""
    from agentq.app import App

    app = App.load(store=store)
    app.watch = watched
    coordinator, manifest = app.coordinator, app.coordinator.result(task_id)
    app.tracing.received([manifest])
    hand_over(app)
    if artifact is not None or path:
        _one(coordinator, manifest, "report" if artifact is None else artifact, path=path, json=json)
    else:
        _told(coordinator, manifest, full=full, json=json)
    raise typer.Exit(OUTCOME_CODES[manifest.status])


def _told(coordinator: "Coordinator", manifest: Completion, *, full: bool, json: bool) -> None:
    gone = check(coordinator, manifest, is_needed=full)
    if json:
        echo_json(_whole(manifest, gone))
        return
    for line in digest(coordinator, manifest, gone=gone, limit=None if full else REPORT_LIMIT):
        echo(line)


def _whole(manifest: Completion, gone: "datetime | None") -> dict[str, object]:
    """The manifest, and which of its evidence the worker made itself."""
    names: dict[str, list[str]] = {"checked": [], "claimed": []}
    for item in manifest.artifacts:
        names[how_made(item)].append(item.name)
    collected = {"collected_at": gone.isoformat()} if gone else {}
    return {**manifest.model_dump(mode="json", by_alias=True), **collected, **names}


def _one(coordinator: "Coordinator", manifest: Completion, name: str, *, path: bool, json: bool) -> None:
    found = manifest.artifact(name)
    if found is None:
        names = ", ".join(one_line(a.name) for a in manifest.artifacts) or "none"
        raise NotFound(f"{manifest.task_id} has no artifact {name}", hint=f"It has: {names}.")
    data = coordinator.read(found)
    if json:
        echo_json(found)
    elif path:
        echo(_where(coordinator.place(manifest.task_id, found)))
    elif sys.stdout.isatty():
        echo(data.decode(errors="replace").rstrip("\n"))
    else:
        sys.stdout.buffer.write(data)


def _where(ref: str) -> str:
    from urllib.parse import unquote

    return unquote(ref.removeprefix("file://"))
