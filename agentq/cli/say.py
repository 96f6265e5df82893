"""`agentq say`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import AllowSecrets, command
from agentq.errors import Invalid

app = command()


@app.command(context_settings={"ignore_unknown_options": True})  # a paragraph may begin with a dash
def say(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A paragraph; - for standard input.", show_default=False)],
    allow_secrets: AllowSecrets = False,
) -> None:
    """Add to your answer, inside a running agent: whoever waits for it reads it as you write.

    The answer is answer.md in $AGENTQ_OUTPUT. TEXT is a paragraph of it; what comes from standard input is added as it
    is, and as it comes.
    """
    from agentq.credentials import refuse
    from agentq.telling.answer import append, words_of
    from agentq.telling.output import CONTEXT

    output = os.environ.get("AGENTQ_OUTPUT")
    if not output:
        raise Invalid("there is no attempt to answer in", hint="It is for agents that a worker started.")
    if not text.strip():
        raise Invalid("the paragraph is empty", hint='Say something: agentq say "It is the cache."')
    if text != "-":
        refuse({"the answer": text}, allowed=allow_secrets)
        return append(Path(output), f"{text}\n\n".encode(errors="replace"))
    before = b""
    for words in words_of(sys.stdin.fileno()):
        refuse({"the answer": before + words}, allowed=allow_secrets)
        append(Path(output), words)
        before = (before + words)[-CONTEXT:]
