"""`agentq demo`."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import Broker, command
from agentq.errors import Invalid

app = command()


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to do it; must be new or empty.")] = None,
    broker: Broker = None,
) -> None:
    """Do the whole walk-through with a scripted agent: submit, worker, evidence, result, review."""
    from agentq.demo.walk import Walk

    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="agentq-demo-"))
    elif folder.exists() and any(folder.iterdir()):
        raise Invalid(f"{folder} is not empty", hint="Give an empty or a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no daemon is left behind
    Walk(folder.resolve(), broker).run()
