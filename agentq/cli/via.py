"""Where a gateway is and the token for it, as flags."""

import os
from pathlib import Path
from typing import Annotated

import typer

Via = Annotated[
    str | None,
    typer.Option("--via", metavar="URL", help="A gateway: the engine and the store behind it.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="PATH", help="The token for the gateway, in a file.", show_default=False),
]


def gateway(via: str | None, token_file: Path | None) -> dict[str, str | None]:
    """The flags for the settings; a token in a file holds over one in the environment."""
    if token_file:
        os.environ.pop("AGENTQ_GATEWAY_TOKEN", None)
        os.environ["AGENTQ_GATEWAY_TOKEN_FILE"] = str(token_file.absolute())
    return {"via": via}
