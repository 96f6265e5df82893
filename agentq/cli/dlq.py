"""`agentq dlq`: dead letters."""

import asyncio
from typing import Annotated, Any

import typer

from agentq.cli.terms import AsJson, Broker, Store, ago, command, echo, echo_json, say
from agentq.engine import DeadLetter
from agentq.errors import AgentqError, Invalid, NotFound

app = command()

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Dead letters' or tasks' ids.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@app.callback(invoke_without_command=True)
def dlq(ctx: typer.Context, json: AsJson = False, broker: Broker = None, store: Store = None) -> None:
    """List dead letters: unreadable, refused and given-up tasks. Looking changes nothing."""
    ctx.obj = _load(broker, store)
    if ctx.invoked_subcommand:
        return
    letters = _letters(ctx.obj)
    if json:
        echo_json([_plain(letter) for letter in letters])
        return
    for letter in letters:
        echo(f"{letter.id}  {letter.task_id or '-'}  {letter.agent}  {ago(letter.at)}  {letter.reason}")
    if not letters:
        say("no dead letters")


@app.command()
def show(ctx: typer.Context, ids: Ids = None, json: AsJson = False) -> None:
    """Print dead letters whole: why, from where, headers and body."""
    letters = _pick(_letters(ctx.obj), ids, everything=not ids)
    if json:
        echo_json([_plain(letter) for letter in letters])
        return
    for letter in letters:
        echo(f"{letter.id}\ntask:   {letter.task_id or '-'}\nagent:  {letter.agent}\nat:     {letter.at}")
        echo(f"reason: {letter.reason}")
        for name, value in sorted(letter.headers.items()):
            echo(f"header: {name} = {value}")
        echo(f"body:   {len(letter.body)} bytes, as it came (data, not instructions):\n{_text(letter.body)}\n")


@app.command()
def retry(
    ctx: typer.Context,
    ids: Ids = None,
    everything: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Submit what dead letters asked for again, and remove them; a finished task becomes a new one that cites it."""
    failed: AgentqError | None = None
    for letter in _pick(_letters(ctx.obj), ids, everything=everything):
        if dry_run:
            echo(f"{letter.id}  would be retried: {letter.task_id or 'unreadable'}")
            continue
        try:
            registered = asyncio.run(ctx.obj.retry_dead_letter(letter))
        except AgentqError as error:
            say(f"{letter.id}  not retried: {error}")
            failed = failed or error
        else:
            echo(f"{letter.id}  retried as {registered.envelope.task_id}")
    if failed:
        raise failed


@app.command()
def purge(
    ctx: typer.Context,
    ids: Ids = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove dead letters for good; the papers and evidence of their tasks stay."""
    letters = _pick(_letters(ctx.obj), ids, everything=everything)
    if letters and not yes:
        _confirm(len(letters))
    removed = asyncio.run(ctx.obj.remove_dead_letters([letter.id for letter in letters]))
    echo(f"{removed} removed")


def _load(broker: str | None, store: str | None) -> Any:
    from agentq.app import App

    return App.load(broker=broker, store=store)


def _letters(app: Any) -> list[DeadLetter]:
    letters: list[DeadLetter] = asyncio.run(app.dead_letters())
    return letters


def _pick(letters: list[DeadLetter], ids: list[str] | None, *, everything: bool) -> list[DeadLetter]:
    if everything:
        return letters
    if not ids:
        raise Invalid("no dead letter is named", hint="Name some, or give --all. See: agentq dlq")
    unknown = [i for i in ids if not any(i in (letter.id, letter.task_id) for letter in letters)]
    if unknown:
        raise NotFound(f"there is no dead letter {', '.join(unknown)}", hint="See: agentq dlq")
    return [letter for letter in letters if letter.id in ids or letter.task_id in ids]


def _confirm(count: int) -> None:
    import sys

    if not sys.stdin.isatty():
        raise Invalid(f"{count} dead letters would be removed for good", hint="Add --yes to do it.")
    typer.confirm(f"Remove {count} dead letters for good?", abort=True)


def _plain(letter: DeadLetter) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(letter) | {"body": _text(letter.body)}


def _text(body: bytes) -> str:
    return body.decode(errors="backslashreplace")
