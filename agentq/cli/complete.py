"""`agentq complete`."""

from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.hand import end
from agentq.cli.terms import AllowSecrets, AsJson, Broker, By, Store, TakeOver, TaskId, command
from agentq.errors import Invalid
from agentq.messages import is_key

app = command()


@app.command()
def complete(
    task_id: TaskId,
    sender: By,
    result_file: Annotated[Path | None, typer.Option(metavar="PATH", help="The report.", show_default=False)] = None,
    summary: Annotated[
        str, typer.Option(metavar="TEXT", help="What was done, in a sentence or two.", show_default=False)
    ] = "",
    artifact: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A piece of evidence, of a task that you claimed. Repeatable."),
    ] = None,
    allow_secrets: AllowSecrets = False,
    take_over: TakeOver = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Say that a task is done.

    Inside a running agent this is a proposal, which its worker checks. What you claimed it ends with your evidence;
    by hand it ends the task. Both are unverified.
    """
    from agentq.context import read_file
    from agentq.hands import Hand

    pieces, report = [_piece(text) for text in artifact or ()], None
    if result_file:
        report = read_file(result_file)
        pieces.insert(0, ("report", result_file))
    if not (summary.strip() or pieces):
        raise Invalid("a completion needs evidence", hint="Give --result-file, --summary, or both.")
    hand = Hand(by=sender, status="completed", summary=summary, report=report, allow_secrets=allow_secrets)
    end(task_id, hand, pieces, take_over=take_over, json=json, broker=broker, store=store)


def _piece(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (equals and is_key(name, 64) and path):
        raise Invalid(f"--artifact {text!r} is no piece of evidence", hint="Write --artifact patch=fix.diff.")
    if not Path(path).is_file():
        raise Invalid(f"--artifact {name}: there is no file {path}", hint="Check the path.")
    return name, Path(path)
