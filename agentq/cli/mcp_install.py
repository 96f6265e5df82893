"""`agentq mcp install`."""

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.clients import Client, ForWhom, OnlyPrint, Scope, Where, home_of, put, read
from agentq.cli.login import VARIABLE
from agentq.cli.terms import echo, say
from agentq.errors import Conflict, Invalid

if TYPE_CHECKING:
    from agentq.app import App

TOOL_SECONDS = 660
"""How long a client lets a tool take: the longest wait, and a minute for what comes around it."""
OURS = re.compile(r"AGENTQ_(CONFIG|BROKER|BROKER_USER|BROKER_VHOST|STORE|NAMESPACE|COORDINATOR|WORKERS|DATA|KEYS)")
"""The variables that are of no use any more when other settings are in force."""
LIMITS = ("timeout", "tool_timeout_sec")
"""What somebody may have chosen otherwise than we would."""
KEY = {Client.CLAUDE: "mcpServers", Client.CODEX: "mcp_servers"}
"""What the servers' table is called in a client's configuration."""


def install(
    client: ForWhom,
    scope: Where = Scope.USER,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the server is called.")] = "agentq",
    only_print: OnlyPrint = False,
    force: Annotated[bool, typer.Option("--force", help="Replace another server of that name.")] = False,
) -> None:
    """Tell Claude Code or Codex of this server, with the settings of here."""
    from agentq.app import App

    if not (find_spec("mcp") and find_spec("tomlkit")):
        raise Invalid("the MCP server is not installed", hint="pip install 'agentq[mcp]'")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise Invalid(f"{name!r} is no name of a server", hint="Use letters, digits, '_' and '-', at most 64.")
    app = App.load()
    path, entry = _file(client, scope), _entry(client, app)
    _tell_what_lacks(client, app)
    if only_print:
        say(f"# {path}")
        return echo(_changed(client, path, "", name, entry, force=True).rstrip())
    found = read(path)
    text = _changed(client, path, found or "", name, entry, force=force)
    if text != found:
        put(path, text, instead_of=found, mode=0o644 if scope is Scope.PROJECT else 0o600)
    echo(f"{'found' if text == found else 'wrote'}  {path}")
    if scope is Scope.PROJECT:
        say(f"  → {_APPROVAL[client]}")


_APPROVAL = {
    Client.CLAUDE: "Claude Code asks you at its next start in this folder whether you trust it.",
    Client.CODEX: "Codex reads it in folders that you trust: it asks you at its next start here.",
}


def _file(client: Client, scope: Scope) -> Path:
    """The file that tells a client of its servers."""
    if client is Client.CODEX:
        return (Path.cwd() / ".codex" if scope is Scope.PROJECT else home_of(client)) / "config.toml"
    if scope is Scope.PROJECT:
        return Path.cwd() / ".mcp.json"
    older, own = home_of(client) / ".config.json", os.environ.get("CLAUDE_CONFIG_DIR")
    return older if older.exists() else (Path(own).absolute() if own else home_of(client).parent) / ".claude.json"


# ---------------------------------------------------------------------- what is said of the server


def _entry(client: Client, app: "App") -> dict[str, Any]:
    """The server as a client starts it, from any folder; nothing in it is secret."""
    from agentq.units import program

    start: dict[str, Any] = {"command": program(), "args": ["mcp"]}
    if client is Client.CLAUDE:
        return {"type": "stdio", **start, "env": _unexpanded(_environment(app)), "timeout": TOOL_SECONDS * 1000}
    secrets = {"env_vars": names} if (names := _secrets(app)) else {}
    return {**start, **secrets, "tool_timeout_sec": TOOL_SECONDS, "env": _environment(app)}


def _environment(app: "App") -> dict[str, str]:
    """What makes the server come to the settings of here; a client hands on little, or nothing, of its environment."""
    from agentq.units import in_force

    settings = app.settings.model_copy(update={"broker": app.passwordless_broker})
    said = in_force(settings, os.environ)
    if os.environ.get("XDG_DATA_HOME"):
        said["AGENTQ_DATA"] = str(settings.data)
    if os.environ.get("XDG_CONFIG_HOME") and settings.keys:
        said["AGENTQ_KEYS"] = str(settings.keys)
    return said


def _unexpanded(environment: dict[str, str]) -> dict[str, str]:
    """The same; Claude Code would fill in something else for `${…}`."""
    for name, value in environment.items():
        if "${" in value:
            raise Invalid(f"{name} is {value!r}, which Claude Code would expand", hint="Choose a place without '${'.")
    return environment


def _secrets(app: "App") -> list[str]:
    """The variables set here that a server needs and that no file is to hold."""
    aws = [name for name in os.environ if name.startswith("AWS_")] if app.settings.store.startswith("s3:") else []
    return sorted([*aws, *([VARIABLE] if _has_secret_login(app) else ())])


def _has_secret_login(app: "App") -> bool:
    """Whether the broker's password is known from the environment alone: one in a file of settings is found there."""
    return bool(os.environ.get(VARIABLE)) or (
        bool(os.environ.get("AGENTQ_BROKER")) and app.passwordless_broker != app.settings.broker
    )


def _tell_what_lacks(client: Client, app: "App") -> None:
    if names := _secrets(app):
        say(
            f"  → Not written, for it is secret: {', '.join(names)}. Have it set where {client.value} is started"
            + (f", or write the password into {app.settings.source}" if app.settings.source != "defaults" else "")
        )


# ---------------------------------------------------------------------- what becomes of a file


def _changed(client: Client, path: Path, text: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    """A client's configuration with the server in it, everything else in it as it was."""
    change = _changed_json if client is Client.CLAUDE else _changed_toml
    return change(path, text, name, entry, force=force)


def _changed_json(path: Path, text: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    try:
        whole = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{path} is not JSON: {error}", hint="Correct it; nothing was written.") from error
    before = json.dumps(whole)
    servers = _table(whole, path).setdefault(KEY[Client.CLAUDE], {})
    table = _table(servers, path, KEY[Client.CLAUDE])
    table[name] = _merged(path, name, table.get(name), entry, force=force)
    if json.dumps(whole) == before:
        return text
    written = json.dumps(whole, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return written if text and not text.endswith("\n") else f"{written}\n"


def _changed_toml(path: Path, text: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    """The same for TOML, whose comments and order stay; proven by what the standard library reads in it."""
    import tomllib

    import tomlkit
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import InlineTable

    from agentq.tomlfile import values_of

    whole, key = values_of(text, path), KEY[Client.CODEX]
    table = _table(whole.setdefault(key, {}), path, key)
    entry = table[name] = _merged(path, name, table.get(name), entry, force=force)
    if not entry["env"]:
        del table[name]["env"]
    try:
        document = tomlkit.parse(text)
        servers = document.setdefault(key, tomlkit.table(is_super_table=True))
        is_inline = isinstance(servers, InlineTable)
        _update(servers.setdefault(name, tomlkit.inline_table() if is_inline else tomlkit.table()), entry)
        written = tomlkit.dumps(document)
        if tomllib.loads(written) != whole:
            raise ValueError("something else would change")
    except (TOMLKitError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Invalid(
            f"{path} is written in a way that cannot be changed safely ({error}); nothing was",
            hint="Put in by hand what --print shows.",
        ) from error
    return written


def _update(known: Any, wanted: Mapping[str, Any]) -> None:
    """Make a table of a document say what is wanted; what is right already stays as it is written."""
    for gone in [key for key in known if key not in wanted]:
        del known[gone]
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            _update(known[key], value)
        elif known.get(key) != value:
            known[key] = value


def _table(value: Any, path: Path, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise Invalid(f"{path}{f': {key}' if key else ''} is no table", hint="Correct it; nothing was written.")


def _merged(path: Path, name: str, found: Any, entry: Mapping[str, Any], *, force: bool) -> dict[str, Any]:
    """A server's entry as it is to be: what somebody added to ours is kept."""
    if found is None or force:
        return dict(entry)
    is_ours = isinstance(found, dict) and Path(str(found.get("command"))).name == "agentq" and "url" not in found
    if not is_ours:
        raise Conflict(
            f"{path} has another server called {name}", hint="Choose another --name, or replace it with --force."
        )
    chosen = {key: found[key] for key in LIMITS if key in found}
    own = {key: value for key, value in (found.get("env") or {}).items() if not OURS.fullmatch(key)}
    named = {"env_vars": sorted({*found["env_vars"], *entry.get("env_vars", ())})} if "env_vars" in found else {}
    return {**found, **entry, **chosen, **named, "env": own | entry["env"]}
