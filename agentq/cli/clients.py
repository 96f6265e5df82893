"""What is written for coding agents, Claude Code and Codex: for whom, where, and whole or not at all."""

import os
import stat
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentq.config import absolute
from agentq.errors import Conflict, Invalid


class Client(StrEnum):
    """A coding agent that something is written for."""

    CLAUDE = "claude"
    CODEX = "codex"


class Scope(StrEnum):
    """For all of a user's projects, or for the one in the working folder."""

    USER = "user"
    PROJECT = "project"


ForWhom = Annotated[Client, typer.Argument(help="Claude Code or Codex.", show_default=False)]
Where = Annotated[Scope, typer.Option("--scope", help="For all your projects, or in this folder.")]
OnlyPrint = Annotated[bool, typer.Option("--print", help="Print it and write nothing.")]


def home_of(client: Client) -> Path:
    """The folder of a client's own settings."""
    variable, otherwise = ("CLAUDE_CONFIG_DIR", "~/.claude") if client is Client.CLAUDE else ("CODEX_HOME", "~/.codex")
    return absolute(os.environ.get(variable) or otherwise)


def read(path: Path) -> str | None:
    """The text of a file as it is, None when there is none; raises Invalid for one that cannot be read."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", hint="Look at what it is, and its rights.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 (byte {error.start})", hint="Write it again as UTF-8.") from error


def put(path: Path, text: str, *, instead_of: str | None, mode: int = 0o600) -> None:
    """Write a file that had that text, or None; a link stays one, and the file keeps its rights, a new one gets `mode`.

    Raises Conflict when somebody else changed it meanwhile, and Invalid when it cannot be written.
    """
    target = Path(os.path.realpath(path))
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.touch(mode=0o600)
            new.write_bytes(text.encode())
            new.chmod(mode if instead_of is None else stat.S_IMODE(target.stat().st_mode))
            if read(target) != instead_of:
                raise Conflict(f"{path} was changed by somebody else just now", hint="Repeat the command.")
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise Invalid(
            f"{path} cannot be written: {error.strerror}", hint="Look at its folder and its rights."
        ) from error
