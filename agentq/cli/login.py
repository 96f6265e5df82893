"""A password on the command line, which every user of the machine could read there for as long as the command runs."""

import os
import sys
from urllib.parse import unquote, urlsplit

from agentq.errors import Invalid

VARIABLE = "AGENTQ_BROKER_PASSWORD"


def passwordless(url: str | None) -> str | None:
    """The broker's URL itself when it holds no password; else this process starts anew, with it in its environment.

    Raises Invalid for several passwords, and for a URL of which no place on the command line is known.
    """
    urls = [part.strip() for part in (url or "").split(",")]
    passwords = {password for part in urls if (password := _password(part))}
    if not passwords:
        return url
    shown = ",".join(map(_without, urls))
    instead = {url: shown, f"--broker={url}": f"--broker={shown}"}
    line = [instead.get(word, word) for word in sys.orig_argv]
    if len(passwords) > 1 or line == sys.orig_argv:
        raise Invalid(
            "--broker holds a password, and every user of this machine can read it in the process list",
            hint=f"Set AGENTQ_BROKER instead, or {VARIABLE} beside it.",
        )
    os.execve(sys.executable, line, {VARIABLE: passwords.pop(), **os.environ})


def _password(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:  # the settings say what is wrong with it
        return None
    return unquote(password) if password else None


def _without(url: str) -> str:
    from agentq.adapters import without_password

    return without_password(url)
