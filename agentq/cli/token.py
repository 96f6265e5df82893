"""`agentq token`: the tokens with which people, agents and workers come to the gateway."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentq.cli.terms import AsJson, Store, Who, checked_name, command, echo, echo_json, one_line, say, seconds
from agentq.errors import Invalid

if TYPE_CHECKING:
    from agentq.tokens import Role, Token, Tokens

app = command()

Roles = Annotated[
    list[str],
    typer.Option(
        "--role", metavar="ROLE", help="observer, coordinator, approver or worker. Repeatable.", show_default=False
    ),
]
Agent = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose tasks a worker takes; else NAME.", callback=checked_name)
]
Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="It counts for so long: 12h, 30d.", show_default=False)
]


@app.callback()
def token() -> None:
    """Make, list and revoke the tokens with which one comes to the gateway (`agentq serve`)."""


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who comes with it; papers say so.", callback=checked_name)
    ],
    role: Roles,
    agent: Agent = None,
    expires: Expires = None,
    by: Who = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Make a token and print it, this once: only its digest is kept."""
    tokens, coordinator = _tokens(store)
    roles = _roles(role)
    if agent is not None and "worker" not in roles:
        raise Invalid("--agent is for workers", hint="Add --role worker, or leave --agent out.")
    whose = (agent or name) if "worker" in roles else None
    until = datetime.now(UTC) + timedelta(seconds=seconds("--expires", expires)) if expires else None
    text, token = tokens.new(name, roles, whose, until, by=by or coordinator)
    if json:
        echo_json(_plain(token) | {"token": text})
    else:
        echo(text)
    say(f"{token.name}: {_what(token)}")
    say("  → It is shown this once. Keep it in a file that only its user reads (AGENTQ_GATEWAY_TOKEN_FILE).")


@app.command("list")
def list_(store: Store = None, json: AsJson = False) -> None:
    """List the tokens: whose they are and what they grant, never a token itself."""
    known = _tokens(store)[0].list()
    if json:
        echo_json([_plain(token) for token in known])
        return
    for token in known:
        echo(one_line(f"{token.id}  {token.name}  {_what(token)}"))
    if not known:
        say("no tokens: a gateway serves everybody on its own machine, and nobody else")


@app.command()
def revoke(
    what: Annotated[str, typer.Argument(metavar="ID|NAME", help="A token's id, or a name: all tokens of that name.")],
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Let a token count no more; gateways that run notice within two seconds."""
    tokens, _ = _tokens(store)
    revoked = tokens.revoke(what)
    if json:
        echo_json({"revoked": list(revoked)})
    for token_id in () if json else revoked:
        echo(f"{token_id}  revoked")
    if not tokens.list():
        say("  → No token is left: a gateway that is started now serves everybody on its own machine")


def _tokens(store: str | None) -> "tuple[Tokens, str]":
    """The tokens of the store, and who acts when nobody is named."""
    from agentq.app import App
    from agentq.tokens import Tokens

    app = App.load(store=store)
    return Tokens(app.store), app.settings.coordinator


def _roles(texts: list[str]) -> "list[Role]":
    from agentq.tokens import ROLES

    for text in texts:
        if text not in ROLES:
            raise Invalid(f"there is no role {text!r}", hint=f"One of: {', '.join(ROLES)}")
    return cast("list[Role]", texts)


def _what(token: "Token") -> str:
    """What a token grants, in words."""
    words = ", ".join(f"worker of {token.agent}" if role == "worker" else role for role in token.roles)
    if token.expires_at is None:
        return words
    return f"{words}, {'expired' if token.has_expired else 'until'} {token.expires_at:%Y-%m-%d %H:%M:%SZ}"


def _plain(token: "Token") -> dict[str, Any]:
    """A token as it may be told: without the digest of its secret."""
    return token.model_dump(mode="json", exclude={"sha256"}) | {"expired": token.has_expired}
