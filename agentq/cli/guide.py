"""`agentq guide`."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.clients import Client, ForWhom, OnlyPrint, Scope, Where, home_of, put, read
from agentq.cli.terms import command, echo, say
from agentq.config import absolute
from agentq.errors import Conflict

app = command()

ABOUT = (
    "Hand tasks to other agents over the agentq queue, and read their checked results later. Use for work that takes "
    "minutes to hours, can run side by side or unattended, or needs another agent's review; and when the user speaks "
    "of agentq, a queue, delegating or background work."
)
"""By what a coding agent decides to load the skill; it is in its context all the time."""
_MARK = '  sha256: "'


def text() -> str:
    """How a coordinator agent uses agentq well."""
    return files("agentq.cli").joinpath("guide.md").read_text(encoding="utf-8")


def skill() -> str:
    """The same as a skill's SKILL.md, with the digest of all else in it."""
    head = f'---\nname: agentq\ndescription: {ABOUT}\nmetadata:\n  written-by: agentq guide install\n{_MARK}"\n---\n\n'
    whole = head + text()
    return whole.replace(_MARK, _MARK + _digest(whole), 1)


def is_ours(found: str) -> bool:
    """Whether agentq wrote a skill, in this version or another one, and nobody has changed it since."""
    before, mark, rest = found.partition(_MARK)
    digest, quote, after = rest.partition('"')
    return bool(mark) and digest == _digest(before + mark + quote + after)


def _digest(of: str) -> str:
    from hashlib import sha256

    return sha256(of.encode()).hexdigest()


@app.callback(invoke_without_command=True)
def guide(context: typer.Context) -> None:
    """Print how a coordinator agent uses agentq well, or install it as a skill."""
    if context.invoked_subcommand is None:
        echo(text().rstrip())


@app.command()
def install(
    client: ForWhom,
    scope: Where = Scope.USER,
    only_print: OnlyPrint = False,
    force: Annotated[bool, typer.Option("--force", help="Replace one that somebody changed.")] = False,
) -> None:
    """Write the guide as a skill, which a coding agent loads when it needs it."""
    path, new = _folder(client, scope) / "agentq" / "SKILL.md", skill()
    if only_print:
        say(f"# {path}")
        return echo(new.rstrip())
    found = read(path)
    if found != new:
        if found is not None and not force and not is_ours(found):
            raise Conflict(f"{path} is not as agentq wrote it", hint="Compare it with --print; --force replaces it.")
        put(path, new, instead_of=found, mode=0o644)
    echo(f"{'found' if found == new else 'wrote'}  {path}")


def _folder(client: Client, scope: Scope) -> Path:
    """Where a client looks for skills; `.agents` is shared by Codex and others."""
    if scope is Scope.PROJECT:
        return Path.cwd() / (".claude" if client is Client.CLAUDE else ".agents") / "skills"
    return (home_of(client) if client is Client.CLAUDE else absolute("~/.agents")) / "skills"
