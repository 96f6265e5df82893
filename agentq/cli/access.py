"""`agentq access`: who may do what on the broker."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import AgentNames, AsJson, Broker, checked_names, command, echo, echo_json, say
from agentq.errors import Invalid

if TYPE_CHECKING:
    from agentq.access import Access, Applied
    from agentq.engines.management import Management
    from agentq.engines.roles import Role

app = command()

Coordinators = Annotated[
    list[str] | None,
    typer.Option("--coordinator", metavar="NAME", help="Else the settings' one. Repeatable.", callback=checked_names),
]
Observers = Annotated[
    list[str] | None,
    typer.Option("--observer", metavar="NAME", help="Else `observer`. Repeatable.", callback=checked_names),
]
Gateways = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway", metavar="NAME", help="A gateway (`agentq serve`); else none. Repeatable.", callback=checked_names
    ),
]
Passwords = Annotated[
    Path | None,
    typer.Option("--passwords", metavar="FILE", help="The users' passwords, a line `user password` for each."),
]
Generate = Annotated[
    Path | None,
    typer.Option("--generate", metavar="FILE", help="Make passwords, and write them to this new file of yours alone."),
]
LOGIN = {"user": "AGENTQ_MANAGEMENT_USER", "password": "AGENTQ_MANAGEMENT_PASSWORD"}


@app.callback()
def access() -> None:
    """Tell and set who may do what on RabbitMQ: a coordinator, each worker, a read-only observer, a gateway."""


@app.command()
def show(
    agent: AgentNames = None,
    coordinator: Coordinators = None,
    observer: Observers = None,
    gateway: Gateways = None,
    json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Print the roles: the users, and the names that each may configure, write to and read."""
    access = _access(broker, agent, coordinator, observer, gateway)
    if json:
        echo_json({"vhost": access.place.vhost, "roles": [asdict(role) for role in access.roles]})
        return
    echo(f"vhost       {access.place.vhost}")
    for role in access.roles:
        _print(role)


@app.command()
def export(
    passwords: Passwords = None,
    generate: Generate = None,
    agent: AgentNames = None,
    coordinator: Coordinators = None,
    observer: Observers = None,
    gateway: Gateways = None,
    broker: Broker = None,
) -> None:
    """Print definitions for `rabbitmqctl import_definitions`, to be run after `agentq init`.

    The users are in them with the hashes of the passwords given; without any, only what they may do.
    """
    access = _access(broker, agent, coordinator, observer, gateway)
    _check_one(passwords, generate)
    definitions = access.definitions(_given(access.users, passwords, generate))
    echo_json(definitions)
    named = {user["name"] for user in definitions["users"]}
    if absent := [user for user in access.users if user not in named]:
        say(f"without a password, and so to exist already: {', '.join(absent)}")


@app.command()
def apply(
    management: Annotated[str, typer.Option("--management", metavar="URL", help="http(s)://host:port of the API.")],
    passwords: Passwords = None,
    generate: Generate = None,
    reset: Annotated[bool, typer.Option("--reset-passwords", help="Also of users that exist.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the users of agents that are gone.")] = False,
    agent: AgentNames = None,
    coordinator: Coordinators = None,
    observer: Observers = None,
    gateway: Gateways = None,
    json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Make the users and what they may do by the management API; safe to repeat. Prints what it changed.

    The administrator is AGENTQ_MANAGEMENT_USER with AGENTQ_MANAGEMENT_PASSWORD, or is asked for. A user that exists
    keeps its password.
    """
    access = _access(broker, agent, coordinator, observer, gateway)
    _check_one(passwords, generate)
    if reset and not (passwords or generate):
        raise Invalid("--reset-passwords needs passwords", hint="Give --generate FILE or --passwords FILE.")
    api = _management(access, management)
    strangers = access.strangers(api)
    given = _given(access.users if reset else strangers, passwords, generate)
    applied = access.apply(api, given, prune=prune)
    if json:
        echo_json(asdict(applied))
    else:
        _tell(applied)


def _access(
    broker: str | None,
    agents: list[str] | None,
    coordinators: list[str] | None,
    observers: list[str] | None,
    gateways: list[str] | None,
) -> "Access":
    from agentq.access import Access
    from agentq.app import App

    app = App.load(broker=broker)
    known = dict.fromkeys((*app.agents.names, *(agents or ())))
    return Access(app.settings, known, coordinators or (), observers or (), gateways or ())


def _check_one(passwords: Path | None, generate: Path | None) -> None:
    if passwords and generate:
        raise Invalid("--passwords and --generate both name passwords", hint="Give one of them.")


def _given(users: list[str], passwords: Path | None, generate: Path | None) -> dict[str, str]:
    """The passwords for these users, read or made; none is made when there is nobody to make one for."""
    from agentq.access import generate_passwords, read_passwords

    if passwords:
        found = read_passwords(passwords)
        return {user: found[user] for user in users if user in found}
    if generate and users:
        made = generate_passwords(generate, users)
        say(f"the passwords are in {generate}: give each user's to whoever logs in as it")
        return made
    return {}


def _management(access: "Access", url: str) -> "Management":
    api = access.management(url, _login("user"), _login("password"))
    if api.address.is_overheard:
        say(f"the administrator's password goes to {api.address.host} in the clear: https:// is better")
    return api


def _login(part: str) -> str:
    """A part of the administrator's login: from the environment, else from whoever sits at the terminal."""
    if found := os.environ.get(LOGIN[part]):
        return found
    if not sys.stdin.isatty():
        raise Invalid(f"{LOGIN[part]} is not set", hint=f"Set {LOGIN['user']} and {LOGIN['password']}.")
    return str(typer.prompt(f"administrator's {part}", hide_input=part == "password", err=True))


def _print(role: "Role") -> None:
    echo(f"\n{role.kind:<11} {role.name}\nuser        {role.user}")
    for what, pattern in (("configure", role.configure), ("write", role.write), ("read", role.read)):
        echo(f"{what:<11} {pattern}")
    echo(f"topics      {role.topics.exchange}: write {role.topics.write} read {role.topics.read}")


def _tell(applied: "Applied") -> None:
    for change in applied.changes:
        echo(f"{change.user}  {change.did}")
    if not applied.changes:
        echo("nothing to change")
    for user in applied.unneeded:
        echo(f"{user}  is not needed any more: --prune removes it")
