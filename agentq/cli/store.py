"""`agentq store`: bringing tasks from one store to another, and removing the evidence of old ones."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.progress import showing
from agentq.cli.terms import AsJson, SomeIds, Store, Who, command, echo, echo_json, one_line, say, seconds, size
from agentq.errors import AgentqError, Invalid

if TYPE_CHECKING:
    from agentq.retention import Gathered
    from agentq.transfer import Copied

app = command()

To = Annotated[str, typer.Option("--to", metavar="URL", help="The store that gets them.", show_default=False)]
From = Annotated[
    str | None, typer.Option("--from", metavar="URL", help="The store that has them; else the one in force.")
]
All = Annotated[bool, typer.Option("--all", help="Every task of the store.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
OlderThan = Annotated[
    str, typer.Option("--older-than", metavar="TIME", help="Only what ended that long ago: 30d.", show_default=False)
]
Unread = Annotated[bool, typer.Option("--unread", help="Also what its coordinator has not read.")]

KEPT = {
    "young": "ended later",
    "unread": "not read by their coordinators (--unread takes them too)",
    "needed": "needed by tasks that have not ended",
    "damaged": "with a damaged result (agentq doctor)",
}


@app.callback()
def store() -> None:
    """Bring tasks from one store to another, and remove the evidence of old ones."""


@app.command()
def copy(
    to: To,
    ids: SomeIds = None,
    from_: From = None,
    everything: All = False,
    dry_run: DryRun = False,
    by: Who = None,
    json: AsJson = False,
) -> None:
    """Copy finished tasks to another store, checked; unfinished ones move there for good. Safe to repeat.

    One that cannot be brought stays, and the others go on; the exit code is the highest of what went wrong.
    """
    from agentq.app import App

    if bool(ids) == everything:
        raise Invalid("name the tasks, or say --all", hint="agentq store copy --to URL ID…")
    app = App.load(store=from_)
    chosen = list(app.records.registered_ids()) if everything else ids or []
    done: list[Copied] = []
    failed: list[AgentqError] = []
    with showing(f"copying to {to}") as moved:
        transfer = app.transfer(to, by, moved, dry_run=dry_run)
        for task_id in dict.fromkeys(chosen):
            try:
                app.coordinator.status(task_id)  # ends what is overdue
                done += transfer.bring(task_id, dry_run=dry_run)
            except AgentqError as error:
                failed.append(error)
                say(f"{task_id}  not brought: {one_line(str(error))}" + (f"\n  → {error.hint}" if error.hint else ""))
    _print(done, to, dry_run=dry_run, json=json)
    if failed:
        raise typer.Exit(max(error.exit_code for error in failed))


def _print(done: "list[Copied]", to: str, *, dry_run: bool, json: bool) -> None:
    if json:
        echo_json(done)
        return
    would = "would be " if dry_run else ""
    for one in done:
        what = f"{would}{'moved' if one.moved else 'copied'} to {to}"
        echo(f"{one.task_id}  {what}: {one.objects} objects, {size(one.bytes)} of evidence; {one.there} were there")


@app.command()
def gc(
    older_than: OlderThan, unread: Unread = False, dry_run: DryRun = False, json: AsJson = False, store: Store = None
) -> None:
    """Remove the evidence of tasks that ended long ago, as a whole; their envelopes and results are kept.

    Nothing of a task that has not ended is touched, nor what one needs. Safe to repeat, and to run beside anything.
    """
    from agentq.app import App
    from agentq.retention import Retention

    limit = timedelta(seconds=seconds("--older-than", older_than))
    app = App.load(store=store)
    gathered = Retention(app.records, limit, unread=unread).collect(dry_run=dry_run)
    if json:
        echo_json(gathered)
        return
    for task_id in gathered.tasks if dry_run else ():
        echo(f"{task_id}  would be collected")
    for line in _lines(gathered, dry_run=dry_run):
        echo(line)


def _lines(gathered: "Gathered", *, dry_run: bool) -> Iterator[str]:
    would = "would be " if dry_run else ""
    tasks = "1 task" if len(gathered.tasks) == 1 else f"{len(gathered.tasks)} tasks"
    yield f"{tasks} {would}collected, {size(gathered.bytes)} of evidence {would}freed"
    if gathered.unowned:
        yield f"{gathered.unowned} marks of no task {would}removed"
    if gathered.temporaries:
        yield f"{gathered.temporaries} unfinished files of dead writers removed"
    for why, count in gathered.kept.items():
        yield f"{count} kept: {KEPT[why]}"
