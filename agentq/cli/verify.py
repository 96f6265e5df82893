"""`agentq verify`."""

from typing import TYPE_CHECKING

import typer

from agentq.cli.terms import AsJson, Store, TaskId, command, echo, echo_json, one_line
from agentq.errors import ExitCode

if TYPE_CHECKING:
    from agentq.verify import Chain

app = command()


@app.command()
def verify(task_id: TaskId, json: AsJson = False, store: Store = None) -> None:
    """Check the whole chain from the request to the result, one line a link.

    Exit code 11 when a link is broken, 12 while there is no result, 0 when everything holds.
    """
    from agentq.app import App
    from agentq.verify import Verifier

    app = App.load(store=store)
    chain = Verifier(app.records, app.answers).chain(task_id)
    if json:
        echo_json({"task_id": task_id, "holds": not chain.broken, **chain.model_dump(mode="json")})
    else:
        _print(chain)
    raise typer.Exit(ExitCode.EVIDENCE if chain.broken else ExitCode.OK if chain.ended else ExitCode.NOTHING_YET)


def _print(chain: "Chain") -> None:
    for link in chain.links:
        echo(f"{one_line(link.name):<12} {link.state:<7} {one_line(link.what)}")
        if link.next:
            echo(f"{'':<20} → {one_line(link.next)}")
