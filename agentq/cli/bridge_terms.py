"""The options that say which graph's threads a bridge tells, and of whose jobs."""

from typing import Annotated

import typer

from agentq.cli.terms import checked_name

Graph = Annotated[
    str,
    typer.Option("--graph", metavar="MODULE:NAME", help="The compiled graph, or what makes it.", show_default=False),
]
As = Annotated[
    str, typer.Option("--as", metavar="NAME", help="The coordinator whose jobs it tells of.", callback=checked_name)
]
MessagesKey = Annotated[str, typer.Option(metavar="KEY", help="Where the graph's state holds the messages.")]
TenantKey = Annotated[str, typer.Option(metavar="KEY", help="What a run's configuration calls the tenant.")]
RunConfig = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="MODULE:NAME", help="A function: what a thread's run is given.", show_default=False
    ),
]
