"""The roles as RabbitMQ keeps them: definitions to import, and the changes that the management API makes."""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentq.engines.management import Management
from agentq.engines.roles import Role
from agentq.errors import EngineUnavailable

Did = Literal["created", "password set", "tag set", "permissions set", "topic permissions set", "removed"]
HASHING = "rabbit_password_hashing_sha256"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the roles hold: one virtual host, and the tag of the users that agentq made for its namespace."""

    vhost: str
    namespace: str

    @property
    def tag(self) -> str:
        """The mark of a user that was made here."""
        return f"agentq:{self.namespace}"


@dataclass(frozen=True, slots=True)
class Change:
    """What was done about one user."""

    user: str
    did: Did


def definitions(place: Place, roles: Sequence[Role], passwords: Mapping[str, str]) -> dict[str, Any]:
    """What `rabbitmqctl import_definitions` reads; a user without a password here is left out, and must exist."""
    named = [role for role in roles if role.user in passwords]
    return {
        "vhosts": [{"name": place.vhost}],
        "users": [{"name": role.user, **_login(passwords[role.user], place)} for role in named],
        "permissions": [{"user": role.user, "vhost": place.vhost, **_permissions(role)} for role in roles],
        "topic_permissions": [{"user": role.user, "vhost": place.vhost, **_topics(role)} for role in roles],
    }


def strangers(api: Management, roles: Iterable[Role]) -> list[str]:
    """The users of these roles that the broker does not know yet."""
    return [role.user for role in roles if api.get("users", role.user) is None]


def check_exchanges(api: Management, place: Place, roles: Iterable[Role]) -> None:
    """Raise EngineUnavailable unless the exchanges exist: 4.3 allows every routing key of one that does not."""
    for exchange in dict.fromkeys(role.topics.exchange for role in roles):
        found = api.get("exchanges", place.vhost, exchange)
        if found is None or found.get("type") != "topic":
            what = f"there is no topic exchange {exchange} in the virtual host {place.vhost!r} of {api.address}"
            raise EngineUnavailable(what, hint="run `agentq init` with an administrator's login first, then this again")


def apply(api: Management, place: Place, roles: Sequence[Role], passwords: Mapping[str, str]) -> Iterator[Change]:
    """Make each user as it should be, and say what that took; one that exists keeps its password unless one is given.

    A new user is allowed nothing before it is bound to its routing keys.
    """
    for role in roles:
        yield from _apply_login(api, place, role.user, passwords.get(role.user))
        yield from _apply_topics(api, place, role)
        yield from _apply_permissions(api, place, role)


def gone(api: Management, place: Place, roles: Iterable[Role]) -> list[str]:
    """The users that agentq made for this namespace and that stand for no role any more."""
    needed = {role.user for role in roles}
    allowed = {found["user"] for found in api.get("vhosts", place.vhost, "permissions") or ()}
    made = {user["name"] for user in api.get("users") or () if place.tag in _tags(user)}
    return sorted((allowed & made) - needed)


def remove(api: Management, place: Place, user: str) -> Change:
    """Take a user's permissions here, and the user itself unless it may do something in another virtual host."""
    api.delete("topic-permissions", place.vhost, user)
    api.delete("permissions", place.vhost, user)
    if not api.get("users", user, "permissions"):
        api.delete("users", user)
    return Change(user, "removed")


def password_hash(password: str, salt: bytes | None = None) -> str:
    """A password as RabbitMQ keeps it: four random bytes, and the SHA-256 of these and the password."""
    salt = salt or secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _apply_login(api: Management, place: Place, user: str, password: str | None) -> Iterator[Change]:
    found = api.get("users", user)
    if password is not None:
        api.put("users", user, **_login(password, place))
        yield Change(user, "password set" if found else "created")
    elif found is None:
        raise EngineUnavailable(f"the user {user} was removed meanwhile", hint="run it again")
    elif _tags(found) != [place.tag]:
        kept = {key: found[key] for key in ("password_hash", "hashing_algorithm") if key in found}
        api.put("users", user, tags=place.tag, **kept)
        yield Change(user, "tag set")


def _apply_topics(api: Management, place: Place, role: Role) -> Iterator[Change]:
    wanted = _topics(role)
    if not _holds(wanted, api.get("topic-permissions", place.vhost, role.user)):
        api.put("topic-permissions", place.vhost, role.user, **wanted)
        yield Change(role.user, "topic permissions set")


def _apply_permissions(api: Management, place: Place, role: Role) -> Iterator[Change]:
    wanted = _permissions(role)
    if not _holds(wanted, [api.get("permissions", place.vhost, role.user)]):
        api.put("permissions", place.vhost, role.user, **wanted)
        yield Change(role.user, "permissions set")


def _holds(wanted: Mapping[str, str], found: Sequence[Mapping[str, Any] | None] | None) -> bool:
    return any(one is not None and wanted.items() <= one.items() for one in found or ())


def _login(password: str, place: Place) -> dict[str, Any]:
    return {"password_hash": password_hash(password), "hashing_algorithm": HASHING, "tags": place.tag}


def _permissions(role: Role) -> dict[str, str]:
    return {"configure": role.configure, "write": role.write, "read": role.read}


def _topics(role: Role) -> dict[str, str]:
    return {"exchange": role.topics.exchange, "write": role.topics.write, "read": role.topics.read}


def _tags(user: Mapping[str, Any]) -> list[str]:
    """A user's tags: a list, of older brokers a text."""
    tags = user.get("tags") or []
    return [tag for tag in tags.split(",") if tag] if isinstance(tags, str) else list(tags)
