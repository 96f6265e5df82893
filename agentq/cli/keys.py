"""`agentq keys`: the keys that sign, and those that are trusted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import AsJson, checked_name, command, echo, echo_json, say
from agentq.errors import Invalid

if TYPE_CHECKING:
    from agentq.keyring import Key, Keyring

app = command()

LARGEST = 1024 * 1024
"""How many bytes of a file with keys are read."""


@app.callback()
def keys() -> None:
    """Make and list keys, and say whose signatures count."""


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who signs with it: a coordinator, an agent.", callback=checked_name)
    ],
    json: AsJson = False,
) -> None:
    """Make a key, trust it here, and print the line to hand over to those who shall trust it; safe to repeat."""
    ring = _keyring()
    key, made = ring.make(name)
    if json:
        echo_json(_plain(key, own=True))
    else:
        echo(key.line)
    if made:
        say(f"  → Whoever shall believe {name} runs: agentq keys trust '{key.line}'")
    else:
        say(f"{name} had a key already; to make another, first: agentq keys revoke {name}")


@app.command()
def trust(
    what: Annotated[
        list[str],
        typer.Argument(metavar="LINE|FILE|-", help="What `keys new` printed, or a file of such lines; - is stdin."),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose key it is, whatever the line says.", callback=checked_name)
    ] = None,
    json: AsJson = False,
) -> None:
    """Let the signatures of a key count here; safe to repeat."""
    from agentq.keyring import read_lines

    ring = _keyring()
    trusted = [ring.trust(key) for key in read_lines(_text(what), name)]
    if json:
        echo_json([_plain(key, own=ring.holds(key.name)) for key, _ in trusted])
    for key, is_new in () if json else trusted:
        echo(f"{key.name}  {key.id}  {'trusted' if is_new else 'was trusted before'}")
    for key, is_new in trusted:
        if is_new and (others := _others(ring, key)):
            say(f"{key.name} has other trusted keys, which count as well: {', '.join(others)}")
            say("  → When they are not used any more: agentq keys revoke ID")


@app.command("list")
def list_(json: AsJson = False) -> None:
    """List one's own keys, those that are trusted, and those that are revoked."""
    ring = _keyring()
    own = {key.id: key for key in ring.own()}
    found = {key.id: key for key in ring}
    everything = [*found.values(), *(key for key in own.values() if key.id not in found)]
    if json:
        echo_json([_plain(key, own=key.id in own, trusted=key.id in found) for key in everything])
        return
    for key in everything:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M:%SZ}" if key.revoked_at else "trusted"
        echo(f"{key.name}  {key.id}  {state if key.id in found else 'not trusted'}{', own' if key.id in own else ''}")
    if not everything:
        say(f"no keys in {ring.folder}")


@app.command()
def revoke(
    what: Annotated[str, typer.Argument(metavar="NAME|ID", help="A key's id, or a name: all keys of that name.")],
    json: AsJson = False,
) -> None:
    """Let signatures of a key count here no more, whenever they were made; an own one signs no more."""
    revoked = _keyring().revoke(what)
    if json:
        echo_json([_plain(key) for key in revoked])
    for key in () if json else revoked:
        echo(f"{key.name}  {key.id}  revoked {key.revoked_at:%Y-%m-%d %H:%M:%SZ}")
    say("  → Other machines that trust it have to be told: run the same there")


def _keyring() -> "Keyring":
    from agentq.app import App

    return App.load().keyring


def _others(ring: "Keyring", key: "Key") -> list[str]:
    return [other.id for other in ring if other.name == key.name and other.id != key.id and not other.revoked_at]


def _text(what: list[str]) -> str:
    from agentq.keyring import PREFIX

    text = " ".join(what)
    if text.startswith(f"{PREFIX} "):
        return text
    try:
        if text == "-":
            return sys.stdin.buffer.read(LARGEST).decode()
        with Path(text).open("rb") as stream:
            return stream.read(LARGEST).decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Invalid(
            f"{text!r} is neither a key nor a file that can be read: {why}",
            hint=f"Give the line that `agentq keys new` printed: {PREFIX} BASE64 NAME",
        ) from error


def _plain(key: "Key", *, own: bool = False, trusted: bool = True) -> dict[str, Any]:
    shown = key.model_dump(mode="json")
    return {"name": key.name, "id": key.id, "line": key.line, "own": own, "trusted": trusted and not key.revoked_at} | {
        "added": shown["added"],
        "revoked_at": shown["revoked_at"],
    }
