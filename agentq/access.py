"""Who may do what on the broker: the roles of these settings, and giving them to a RabbitMQ."""

import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from agentq.config import Settings
from agentq.engines import logins
from agentq.engines.logins import Change, Place
from agentq.engines.management import Address, Management
from agentq.engines.roles import roles
from agentq.engines.tls import client_context
from agentq.errors import Conflict, Invalid

OBSERVER = "observer"
PASSWORD_BYTES = 24

_LINE = re.compile(r"(\S+)[ \t]+(\S.*)")


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` changed, and the users that stand for no role any more and are still there."""

    changes: tuple[Change, ...]
    unneeded: tuple[str, ...]


class Access:
    """The roles of one deployment on its RabbitMQ; raises Invalid for an engine that has no users."""

    def __init__(
        self,
        settings: Settings,
        agents: Iterable[str],
        coordinators: Sequence[str] = (),
        observers: Sequence[str] = (),
        gateways: Sequence[str] = (),
    ) -> None:
        if settings.broker[0].startswith("sqlite:"):
            raise Invalid(
                "the SQLite engine has no users: whoever may write to its file may do everything",
                hint="Set the owner and the mode of the file and of its folder; RabbitMQ has roles (--broker amqp://…).",
            )
        self._settings = settings
        self.place = Place(_vhost(settings), settings.namespace)
        self.roles = roles(
            settings.namespace, coordinators or (settings.coordinator,), agents, observers or (OBSERVER,), gateways
        )

    @property
    def users(self) -> list[str]:
        """The users' names, in the order of the roles."""
        return [role.user for role in self.roles]

    def definitions(self, passwords: Mapping[str, str]) -> dict[str, Any]:
        """Definitions that RabbitMQ imports; users without a password here are left out and must exist."""
        return logins.definitions(self.place, self.roles, passwords)

    def management(self, url: str, user: str, password: str) -> Management:
        """The management API at a URL, with the authorities that the settings trust; raises Invalid for no URL."""
        section = self._settings.rabbitmq
        tls = client_context(section.ca_file, verify=section.verify)
        return Management(Address.parse(url), user, password, tls, section.timeout)

    def strangers(self, api: Management) -> list[str]:
        """The users that the broker does not know yet; raises EngineUnavailable when `init` was not run there."""
        logins.check_exchanges(api, self.place, self.roles)
        return logins.strangers(api, self.roles)

    def apply(self, api: Management, passwords: Mapping[str, str], *, prune: bool = False) -> Applied:
        """Make the users and what they may do as they should be, repeatable; with `prune` remove who is gone.

        A user gets the password given for it here, else keeps its own. Raises Invalid, before anything is changed, for
        one that does not exist and has none.
        """
        missing = [user for user in self.strangers(api) if user not in passwords]
        if missing:
            hint = "Give --generate FILE and passwords are made for them, or --passwords FILE."
            raise Invalid(f"there is no password for {', '.join(missing)}", hint=hint)
        gone = logins.gone(api, self.place, self.roles)
        changes = list(logins.apply(api, self.place, self.roles, passwords))
        if prune:
            changes += [logins.remove(api, self.place, user) for user in gone]
        return Applied(tuple(changes), () if prune else tuple(gone))


def read_passwords(path: Path) -> dict[str, str]:
    """The passwords by user, a line for each: `user password`; raises Invalid for a file that others may read."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Invalid(f"others may read {path}", hint=f"Keep passwords to yourself: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the passwords in {path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        raise Invalid(what, hint="Make it with --generate FILE, or write a line `user password` for each.") from error
    found = [(number, _LINE.fullmatch(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if bad := [number for number, match in found if match is None]:
        raise Invalid(f"{path}, line {bad[0]}: there is no user and password", hint="Write `user password`.")
    return {match[1]: match[2] for _, match in found if match}


def generate_passwords(path: Path, users: Sequence[str]) -> dict[str, str]:
    """New passwords for these users, written to a new file that its owner alone may read; Conflict when it exists."""
    passwords = {user: secrets.token_urlsafe(PASSWORD_BYTES) for user in users}
    text = "".join(f"{user} {password}\n" for user, password in passwords.items())
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        hint = "Name another file, or read this one with --passwords."
        raise Conflict(f"{path} exists and is not overwritten", hint=hint) from error
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="Name another file.") from error
    return passwords


def _vhost(settings: Settings) -> str:
    named = settings.rabbitmq.vhost
    return named if named is not None else unquote(urlsplit(settings.broker[0]).path[1:]) or "/"
