"""`agentq list`."""

import sys
from itertools import repeat
from typing import Annotated

import typer

from agentq.cli.reading import Cached, ledger_of, plain
from agentq.cli.terms import (
    AsJson,
    Broker,
    checked_id,
    checked_name,
    command,
    echo,
    echo_json,
    past,
    say,
)
from agentq.standing import fields

app = command()

LONGEST = 10_000


Agent = Annotated[str | None, typer.Option(metavar="NAME", help="Of this agent.", callback=checked_name)]
Type = Annotated[str | None, typer.Option("--type", metavar="NAME", help="Of this type.", callback=checked_name)]
Sender = Annotated[str | None, typer.Option("--from", metavar="NAME", help="Asked for by.", callback=checked_name)]
Plan = Annotated[str | None, typer.Option("--plan", metavar="ID", help="Tasks of this plan.", callback=checked_id)]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY[=VALUE]", help="With this label. Repeatable.")
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="A state, open, ended, queued, delayed, dependencies, approval or lease. Repeatable: one of them.",
    ),
]
Before = Annotated[str | None, typer.Option(metavar="ID", help="Go on below this task.", callback=checked_id)]


@app.command(name="list")
def list_(
    state: States = None,
    agent: Agent = None,
    type_: Type = None,
    label: Labels = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Created since: 24h, 2030-01-31T18:00.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Created before that.")] = None,
    text: Annotated[str | None, typer.Option(metavar="WORDS", help="In id, title, summary or reason.")] = None,
    sender: Sender = None,
    plan: Plan = None,
    plans: Annotated[bool, typer.Option("--plans", help="Plans only.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=LONGEST, help="How many at the most.")] = 20,
    before: Before = None,
    cached: Cached = False,
    json: AsJson = False,
    broker: Broker = None,
) -> None:
    """List tasks, newest first, one line each, as the log tells them. The truth about one is `agentq status`."""
    from agentq.ledger import Filter
    from agentq.observer import Observer

    asked = Filter(
        states=tuple(word for words in state or () for word in words.split(",")),
        agent=agent,
        type=type_,
        sender=sender,
        group=plan,
        labels=tuple(label or ()),
        since=_seconds("--since", since),
        until=_seconds("--until", until),
        text=text,
        plans=plans,
    )
    with ledger_of(Observer.load(broker=broker), cached=cached) as ledger:
        found = ledger.tasks(asked, limit + 1, before)
        as_of = ledger.as_of and ledger.as_of.isoformat()
    shown, more = found[:limit], len(found) > limit
    if json:
        echo_json({"tasks": [plain(row) for row in shown], "next": shown[-1].task_id if more else None, "as_of": as_of})
        return
    for one in aligned([fields(row) for row in shown]):
        echo(one)
    if more:
        say(f"there are more: add --before {shown[-1].task_id}")
    if not shown:
        say("no such tasks" if asked != Filter() or before else "no tasks")


def _seconds(flag: str, text: str | None) -> float | None:
    return None if text is None else past(flag, text).timestamp()


def aligned(lines: "list[tuple[str, ...]]") -> "list[str]":
    """Lines of fields, in columns for a person at a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)] if sys.stdout.isatty() else repeat(0)
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=False)] for line in lines)
    return ["  ".join(line).rstrip() for line in padded]
