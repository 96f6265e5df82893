"""`agentq tree`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.reading import Cached, known_task, ledger_of
from agentq.cli.terms import AsJson, Broker, Store, TaskId, command, echo, echo_json
from agentq.standing import fields

if TYPE_CHECKING:
    from agentq.ledger.tree import Node

app = command()


@app.command()
def tree(
    task_id: TaskId,
    depth: Annotated[int, typer.Option(min=1, max=100, help="How many steps away at the most.")] = 5,
    width: Annotated[int, typer.Option(min=1, max=1000, help="How many of a kind below one at the most.")] = 20,
    cached: Cached = False,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Show what a task belongs to: its plan, what it needs and who needs it, and its retries, with their states."""
    from agentq.ledger.tree import tree
    from agentq.observer import Observer

    app = Observer.load(broker=broker, store=store)
    with ledger_of(app, cached=cached, partly=True) as ledger:
        known_task(app, ledger, task_id)
        root = tree(ledger, task_id, depth=depth, width=width)
    if json:
        echo_json(_plain(root))
        return
    for line in _lines(root):
        echo(line)


def _lines(node: "Node") -> Iterator[str]:
    yield _line(node)
    ends: list[list[str]] = [list(_lines(below)) for below in node.below]
    if node.more:
        ends.append([f"and {node.more if node.more > 0 else ''} more".replace("  ", " ")])
    for number, (first, *rest) in enumerate(ends, start=1):
        is_last = number == len(ends)
        yield f"{'└─' if is_last else '├─'} {first}"
        yield from (f"{'  ' if is_last else '│ '} {line}" for line in rest)


def _line(node: "Node") -> str:
    relation = f"{node.relation}: " if node.relation not in ("", "task") else ""
    if node.row is None:
        return f"{relation}{node.task_id}  unknown to the ledger"
    task_id, state, agent, age, about = fields(node.row)
    needs = f"after {', '.join(node.row.depends_on[:3])}" if node.relation == "task" and node.row.depends_on else ""
    more = f" and {len(node.row.depends_on) - 3} more" if needs and len(node.row.depends_on) > 3 else ""
    again = "(see above)" if node.again else ""
    parts = (f"{relation}{task_id}", state, agent, age, needs + more, again, "" if needs or again else about)
    return "  ".join(filter(None, parts))


def _plain(node: "Node") -> dict[str, Any]:
    row = node.row
    return {
        "task_id": node.task_id,
        "relation": node.relation or None,
        "state": row.state if row else None,
        "waits_for": row.waits_for if row else None,
        "agent": row.agent if row else None,
        "depends_on": row.depends_on if row else [],
        "below": [_plain(below) for below in node.below],
        "more": None if node.more < 0 else node.more,
        "again": node.again,
    }
