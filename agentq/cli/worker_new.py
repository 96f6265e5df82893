"""`agentq worker new`."""

from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import Runner, checked_name, echo, say, words

Name = Annotated[str, typer.Argument(metavar="NAME", help="The new agent.", show_default=False, callback=checked_name)]


def new(
    name: Name,
    model: Annotated[
        str, typer.Option("--from", metavar="NAME", help="implementation, review or mention.")
    ] = "implementation",
    runner: Runner = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where profiles are.", show_default="./workers")
    ] = None,
) -> None:
    """Write a new worker's profile: workers/NAME with worker.toml and prompt.md."""
    from agentq.config import load_settings
    from agentq.draft import write_profile

    where = folder or load_settings().workers or Path("workers")
    profile = write_profile(where / name, name, model, words(runner))
    for path in sorted(profile.folder.iterdir()):
        echo(str(path))
    say(f"  → Say in {profile.folder}/prompt.md what it does, then: agentq init")
    say(f"  → agentq worker check {name}, and: agentq worker run {name}")
    if folder:
        say(f"  → It is found there with AGENTQ_WORKERS={folder.absolute()}, or workers = … in agentq.toml")
