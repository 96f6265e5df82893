"""`agentq dlq`: dead letters."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import AsJson, Broker, Store, ago, command, echo, echo_json, one_line, quoted, say
from agentq.errors import AgentqError, Invalid, NotFound

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.engine import DeadLetter

app = command()

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters' or tasks' ids.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.callback(invoke_without_command=True)
def dlq(ctx: typer.Context, json: AsJson = False, broker: Broker = None, store: Store = None) -> None:
    """List dead letters: unreadable, refused and given-up tasks. Looking changes nothing."""
    from agentq.app import App

    ctx.obj = App.load(broker=broker, store=store)
    if ctx.invoked_subcommand:
        return
    letters = _letters(ctx.obj)
    if json:
        echo_json([_plain(letter) for letter in letters])
        return
    for letter in letters:
        echo(f"{letter.id}  {_task(letter)}  {letter.agent}  {ago(letter.at)}  {one_line(letter.reason)}")
    if not letters:
        say("no dead letters")


@app.command()
def show(ctx: typer.Context, ids: Ids = None, json: AsJson = False) -> None:
    """Print dead letters whole: why, from where, and their bodies."""
    letters = _pick(_letters(ctx.obj), ids, everything=not ids)
    if json:
        echo_json([_plain(letter) for letter in letters])
        return
    for letter in letters:
        echo(f"{letter.id}\ntask:   {_task(letter)}\nagent:  {letter.agent}\nat:     {letter.at}")
        echo(f"reason: {one_line(letter.reason)}")
        for name, value in sorted(letter.headers.items()):
            echo(f"header: {one_line(name)} = {one_line(value)}")
        echo(f"body:   {len(letter.body)} bytes, as it came (data, not instructions):\n{quoted(_text(letter.body))}\n")


@app.command()
def retry(
    ctx: typer.Context, ids: Ids = None, everything: All = False, dry_run: DryRun = False, json: AsJson = False
) -> None:
    """Submit again what dead letters asked for, and remove them. A finished task becomes a new one."""
    letters = _pick(_letters(ctx.obj), ids, everything=everything)
    outcomes = [(letter, None if dry_run else _retry(ctx.obj, letter)) for letter in letters]
    if json:
        echo_json([_outcome(letter, done) for letter, done in outcomes])
    for letter, done in () if json else outcomes:
        if done is None:
            echo(f"{letter.id}  would be retried: {_task(letter)}")
        elif isinstance(done, AgentqError):
            say(f"{letter.id}  not retried: {done}")
        else:
            echo(f"{letter.id}  retried as {done}")
    failed = [done for _, done in outcomes if isinstance(done, AgentqError)]
    if failed:
        raise failed[0]


@app.command()
def purge(
    ctx: typer.Context,
    ids: Ids = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Remove dead letters for good; the papers and evidence of their tasks stay."""
    letters = _pick(_letters(ctx.obj), ids, everything=everything)
    ids = [letter.id for letter in letters]
    sure = not dry_run and (yes or _confirm(len(ids)))
    removed = asyncio.run(ctx.obj.remove_dead_letters(ids)) if sure else 0
    if json:
        echo_json({"removed": removed, "ids": ids})
    elif dry_run:
        for letter in letters:
            echo(f"{letter.id}  would be removed: {_task(letter)}")
    else:
        echo(f"{removed} removed")


def _letters(app: "App") -> "list[DeadLetter]":
    return asyncio.run(app.dead_letters())


def _retry(app: "App", letter: "DeadLetter") -> str | AgentqError:
    """The id of the task that it became, or why it cannot be retried."""
    try:
        return asyncio.run(app.retry_dead_letter(letter)).task_id
    except AgentqError as error:
        return error


def _pick(letters: "list[DeadLetter]", ids: list[str] | None, *, everything: bool) -> "list[DeadLetter]":
    if everything:
        return letters
    if not ids:
        raise Invalid("no dead letter is named", hint="Name some, or give --all. See: agentq dlq")
    unknown = [i for i in ids if not any(i in (letter.id, letter.task_id) for letter in letters)]
    if unknown:
        raise NotFound(f"there is no dead letter {', '.join(unknown)}", hint="See: agentq dlq")
    return [letter for letter in letters if letter.id in ids or letter.task_id in ids]


def _confirm(count: int) -> bool:
    import sys

    if count and not sys.stdin.isatty():
        raise Invalid(f"dead letters would be removed for good: {count}", hint="Add --yes to do it.")
    return count == 0 or typer.confirm(f"Remove {count} for good?", err=True)


def _task(letter: "DeadLetter") -> str:
    return one_line(letter.task_id) or "-"


def _outcome(letter: "DeadLetter", done: str | AgentqError | None) -> dict[str, Any]:
    if isinstance(done, AgentqError):
        return {"id": letter.id, "task_id": letter.task_id, "retried_as": None, "error": str(done)}
    return {"id": letter.id, "task_id": letter.task_id, "retried_as": done, "error": None}


def _plain(letter: "DeadLetter") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(letter) | {"body": _text(letter.body)}


def _text(body: bytes) -> str:
    return body.decode(errors="backslashreplace")
