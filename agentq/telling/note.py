"""What a running agent says that it is doing: a file in its output folder, replaced as a whole; the newest holds.

It is for whoever watches, and decides nothing. The worker looks at it from time to time.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from agentq.errors import Conflict, Invalid
from agentq.harmless import one_line
from agentq.messages import shorten

NOTE = ".doing.txt"
"""The file's name, and how the names begin under which it is written; no evidence."""
LIMIT = 200
"""Characters that are kept."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def leave(output: Path, text: str) -> str:
    """Say what the agent does now; answers with what of it is kept. Raises Conflict when its attempt is over."""
    kept, path = shorten(one_line(text), LIMIT), output / NOTE
    if not kept:
        raise Invalid("the note is empty", hint='Say in a few words what you do now: agentq note "running the tests"')
    temporary = output / f"{NOTE}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, _CREATE, 0o600), "w", encoding="utf-8") as file:
            file.write(kept)
        temporary.replace(path)
    except FileNotFoundError as error:
        raise Conflict(f"the attempt is over: {output} is gone", hint="Stop. Its worker has ended it.") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="Is AGENTQ_OUTPUT the worker's?") from error
    return kept


def read(output: Path) -> str:
    """What was left there, as one harmless line; nothing for what is no such file."""
    with suppress(OSError):
        descriptor = os.open(output / NOTE, _READ)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return shorten(one_line(file.read(8 * LIMIT).decode(errors="replace")), LIMIT)
    return ""
