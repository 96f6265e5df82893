"""`agentq note`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import AllowSecrets, command, echo
from agentq.errors import Invalid

app = command()


@app.command()
def note(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A few words.", show_default=False)],
    allow_secrets: AllowSecrets = False,
) -> None:
    """Say what you are doing now, inside a running agent: whoever watches sees the newest note."""
    from agentq.credentials import refuse
    from agentq.telling.note import leave

    output = os.environ.get("AGENTQ_OUTPUT")
    if not output:
        raise Invalid("there is no attempt to note anything for", hint="It is for agents that a worker started.")
    refuse({"the note": text}, allowed=allow_secrets)
    echo(leave(Path(output), text))
