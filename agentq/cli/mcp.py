"""`agentq mcp`."""

import logging
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from agentq.cli.mcp_install import install
from agentq.cli.terms import Broker, Sender, Store, command, say
from agentq.errors import Invalid, Unavailable

app = command()

HTTP = Annotated[
    str | None,
    typer.Option(
        "--http", metavar="HOST:PORT", help="Serve streamable HTTP there; port 0 chooses one.", show_default=False
    ),
]
TokenFile = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="The token that clients must bring; or AGENTQ_MCP_TOKEN.", show_default=False),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="A name that clients reach it by. Repeatable.", show_default=False
    ),
]


@app.callback(invoke_without_command=True)
def mcp(
    context: typer.Context,
    http: HTTP = None,
    token_file: TokenFile = None,
    allow_host: AllowHosts = None,
    sender: Sender = None,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Serve agentq's tools to an agent over MCP, on standard input and output unless --http is given."""
    if context.invoked_subcommand is not None:
        return
    if find_spec("mcp") is None:
        raise Invalid("this needs the MCP SDK, which is not installed", hint="pip install 'agentq[mcp]'")
    from agentq.desk import Desk
    from agentq.logs import set_up

    set_up()
    for talkative in ("mcp", "uvicorn"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    desk = Desk.load(broker=broker, store=store, coordinator=sender)
    with suppress(Unavailable):  # which it may be again
        desk.app.store  # noqa: B018 - one that can be none is told now
    try:
        if http is None:
            if token_file is not None or allow_host:
                raise Invalid("--token-file and --allow-host are about --http", hint="Give --http HOST:PORT as well.")
            if sys.stdin and sys.stdin.isatty():
                say("serving on standard input, which a client should be: agentq mcp install")
            from agentq.integrations.mcp.stdio import serve

            serve(desk)
        else:
            from agentq.door import names_in
            from agentq.integrations.mcp.door import Door

            door, names = Door.at(http, token_file), names_in("--allow-host", allow_host)
            listening = door.listen()  # what cannot be had is told before all else is imported
            from agentq.integrations.mcp.http import serve as serve_http

            serve_http(desk, door, listening, names=names, say=say)
    finally:
        desk.close()


app.command()(install)
