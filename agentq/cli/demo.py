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
    agent: Annotated[
        str | None, typer.Option(metavar="TOOL", help="Your own claude, codex, gemini, qwen or opencode. Costs money.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to do it; must be new or empty.")] = None,
    broker: Broker = None,
) -> None:
    """Do the whole walk-through with a scripted agent, or with yours: submit, worker, evidence, result, review."""
    from agentq.demo.cast import played_by, scripted
    from agentq.demo.walk import Walk

    cast = scripted() if agent is None else played_by(agent)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="agentq-demo-"))
    elif folder.exists() and any(folder.iterdir()):
        raise Invalid(f"{folder} is not empty", hint="Give an empty or a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no daemon is left behind
    Walk(folder.resolve(), broker, cast).run()
