"""What `agentq mcp install` writes for Claude Code and Codex: enough to start the server from any folder, no
secret, and nothing else is changed in their files."""

import asyncio
import json
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.cli.clients import Client, put, read
from agentq.cli.mcp_install import _changed
from agentq.errors import Conflict, ExitCode, Invalid
from tests.desk import Desk

PROGRAM = str(Path(sys.executable).with_name("agentq"))
PASSWORD = "hunter2-hunter2"
PLACES = {
    ("claude", "user"): "home/.claude.json",
    ("claude", "project"): "project/.mcp.json",
    ("codex", "user"): "home/.codex/config.toml",
    ("codex", "project"): "project/.codex/config.toml",
}
everywhere = pytest.mark.parametrize(("client", "scope"), PLACES, ids="-".join)
both = pytest.mark.parametrize("client", ["claude", "codex"])


def place(desk: Desk, client: str, scope: str = "user") -> Path:
    """The file that is written."""
    return desk.folder / PLACES[client, scope]


def servers(text: str) -> dict[str, Any]:
    """The servers that a client's file names."""
    found = json.loads(text)["mcpServers"] if text.lstrip().startswith("{") else tomllib.loads(text)["mcp_servers"]
    assert isinstance(found, dict)
    return found


def entry(desk: Desk, client: str, scope: str = "user", name: str = "agentq") -> dict[str, Any]:
    """What stands there of the server."""
    found = servers(place(desk, client, scope).read_text())[name]
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------------- what is written


@everywhere
def test_it_tells_a_client_how_to_start_the_server(desk: Desk, client: str, scope: str) -> None:
    path = place(desk, client, scope)
    assert desk.ok("mcp", "install", client, "--scope", scope) == f"wrote  {path}"
    start = {"command": PROGRAM, "args": ["mcp"], "env": {"AGENTQ_STORE": str(desk.shared)}}
    more = {"type": "stdio", "timeout": 660_000} if client == "claude" else {"tool_timeout_sec": 660}
    assert entry(desk, client, scope) == start | more
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if scope == "user" else 0o644)
    before = path.read_bytes()
    assert desk.ok("mcp", "install", client, "--scope", scope) == f"found  {path}"
    assert path.read_bytes() == before


@both
def test_the_clients_own_folders_are_found(desk: Desk, client: str) -> None:
    own, variable = desk.folder / "own", {"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME"}[client]
    path = own / {"claude": ".claude.json", "codex": "config.toml"}[client]
    assert desk.ok("mcp", "install", client, **{variable: str(own)}) == f"wrote  {path}"
    if client == "claude":  # where its older versions kept it
        (own / ".config.json").write_text("{}")
        assert desk.ok("mcp", "install", client, **{variable: str(own)}) == f"wrote  {own}/.config.json"
    assert not place(desk, client).exists()


@everywhere
def test_print_writes_nothing(desk: Desk, client: str, scope: str) -> None:
    before = sorted(desk.folder.rglob("*"))
    done = desk.run("mcp", "install", client, "--scope", scope, "--print")
    assert (done.code, done.err) == (0, f"# {place(desk, client, scope)}\n")
    assert servers(done.out)["agentq"]["command"] == PROGRAM
    assert sorted(desk.folder.rglob("*")) == before


@both
@pytest.mark.promise("mcp-configured")
def test_the_settings_in_force_go_along(desk: Desk, client: str) -> None:
    file = desk.project / "agentq.toml"
    file.write_text('coordinator = "chat"\n')
    environment = {
        "AGENTQ_STORE": "a store",
        "AGENTQ_WORKERS": "the workers",
        "AGENTQ_NAMESPACE": "here",
        "XDG_DATA_HOME": str(desk.folder / "data"),
        "XDG_CONFIG_HOME": str(desk.folder / "configured"),
    }
    desk.ok("mcp", "install", client, **environment)
    assert entry(desk, client)["env"] == {
        "AGENTQ_CONFIG": str(file),
        "AGENTQ_STORE": str(desk.project / "a store"),
        "AGENTQ_WORKERS": str(desk.project / "the workers"),
        "AGENTQ_NAMESPACE": "here",
        "AGENTQ_DATA": str(desk.folder / "data" / "agentq"),
        "AGENTQ_KEYS": str(desk.folder / "configured" / "agentq" / "keys"),
    }
    file.unlink()
    del desk.environment["AGENTQ_STORE"]
    desk.ok("mcp", "install", client)
    assert entry(desk, client).get("env", {}) == {}, "what is not in force any more is gone"


@both
@pytest.mark.promise("mcp-configured")
def test_no_secret_is_written(desk: Desk, client: str) -> None:
    environment = {
        "AGENTQ_BROKER": f"amqp://me:{PASSWORD}@localhost/,amqp://me:{PASSWORD}@127.0.0.1/",
        "AGENTQ_STORE": "s3://bucket/prefix",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
    }
    for more in ({}, {"AGENTQ_BROKER": "amqp://me@localhost", "AGENTQ_BROKER_PASSWORD": PASSWORD}):
        done = desk.run("mcp", "install", client, **(environment | more))
        assert done.code == 0
        assert "AGENTQ_BROKER_PASSWORD, AWS_SECRET_ACCESS_KEY" in done.err
        written = place(desk, client).read_text()
        assert PASSWORD not in written + done.out + done.err
        assert "amqp://me@localhost" in entry(desk, client)["env"]["AGENTQ_BROKER"]
        if client == "codex":  # it hands on no other variable
            assert entry(desk, client)["env_vars"] == ["AGENTQ_BROKER_PASSWORD", "AWS_SECRET_ACCESS_KEY"]
        else:
            assert "env_vars" not in entry(desk, client)


def test_a_password_in_a_file_of_settings_needs_no_words(desk: Desk) -> None:
    (desk.project / "agentq.toml").write_text(f'broker = "amqp://me@localhost"\n[rabbitmq]\npassword = "{PASSWORD}"\n')
    done = desk.run("mcp", "install", "codex")
    assert (done.code, done.err) == (0, "")
    assert PASSWORD not in place(desk, "codex").read_text()


@both
@pytest.mark.promise("mcp-configured")
async def test_the_server_starts_by_it_from_any_folder(desk: Desk, client: str, tmp_path: Path) -> None:
    from mcp import Client as Official
    from mcp.client.stdio import StdioServerParameters

    file = desk.project / "agentq.toml"
    file.write_text(f'store = "{desk.shared}"\ncoordinator = "chat"\ndata = "{tmp_path}/data"\n')
    del desk.environment["AGENTQ_STORE"]
    desk.ok("mcp", "install", client)
    start = entry(desk, client)
    server = StdioServerParameters(command=start["command"], args=start["args"], env=start["env"], cwd="/")
    async with asyncio.timeout(60), Official(server) as session:
        assert "submit" in {tool.name for tool in (await session.list_tools()).tools}
        given = {"id": "task-1", "to": "review-worker", "type": "review", "instructions": "Look."}
        answer = await session.call_tool("submit", given)
    assert not answer.is_error, answer
    assert desk.envelope("task-1").from_ == "chat"


def test_a_project_has_to_be_trusted(desk: Desk) -> None:
    for client in ("claude", "codex"):
        assert "trust" in desk.run("mcp", "install", client, "--scope", "project").err


# ---------------------------------------------------------------------- what stays


def test_claudes_other_settings_stay(desk: Desk) -> None:
    whole = {
        "userID": "ü",
        "numbers": [1.5, 10**30],
        "mcpServers": {"other": {"command": "x"}},
        "odd": "\ud800",
        "z": None,
    }
    path = place(desk, "claude")
    path.write_text(json.dumps(whole))
    path.chmod(0o640)
    desk.ok("mcp", "install", "claude")
    found = json.loads(path.read_text())
    del found["mcpServers"]["agentq"]
    assert (found, list(found)) == (whole, list(whole))
    assert "ü" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


CODEX = """# mine
model = "gpt-5.5"   # the best

[mcp_servers.other]
command = "x"  # of somebody else

[mcp_servers.other.env]
A = 'b'

[projects."/a b"]
trust_level = "trusted"

[[hooks]]
name = "one"
"""


def test_codexs_other_settings_and_remarks_stay(desk: Desk) -> None:
    path = place(desk, "codex")
    path.parent.mkdir()
    path.write_text(CODEX)
    desk.ok("mcp", "install", "codex")
    text = path.read_text()
    for line in CODEX.splitlines():
        assert line in text.splitlines()
    assert set(text.splitlines()) - set(CODEX.splitlines()) == {
        "[mcp_servers.agentq]",
        f'command = "{PROGRAM}"',
        'args = ["mcp"]',
        "tool_timeout_sec = 660",
        "[mcp_servers.agentq.env]",
        f'AGENTQ_STORE = "{desk.shared}"',
    }
    found = tomllib.loads(text)
    del found["mcp_servers"]["agentq"]
    assert found == tomllib.loads(CODEX)


@both
def test_what_somebody_added_to_the_server_stays(desk: Desk, client: str) -> None:
    desk.ok("mcp", "install", client)
    path = place(desk, client)
    if client == "claude":
        whole = json.loads(path.read_text())
        whole["mcpServers"]["agentq"] |= {
            "alwaysLoad": True,
            "timeout": 5000,
            "env": {"MINE": "1", "AGENTQ_STORE": "old"},
        }
        path.write_text(json.dumps(whole))
        wanted = {"alwaysLoad": True, "timeout": 5000}
    else:
        text = path.read_text().replace("660", "5 # mine\ndefault_tools_approval_mode = 'approve'")
        text = text.replace(str(desk.shared), "old") + "MINE = '1'\n[mcp_servers.agentq.tools.list]\nenabled = false\n"
        path.write_text(text)
        wanted = {
            "default_tools_approval_mode": "approve",
            "tool_timeout_sec": 5,
            "tools": {"list": {"enabled": False}},
        }
    desk.ok("mcp", "install", client)
    found = entry(desk, client)
    assert found["env"] == {"MINE": "1", "AGENTQ_STORE": str(desk.shared)}
    assert wanted.items() <= found.items()
    assert ("# mine" in path.read_text()) == (client == "codex")


@pytest.mark.promise("guide-kept")
@both
def test_another_server_of_that_name_stays(desk: Desk, client: str) -> None:
    path = place(desk, client)
    path.parent.mkdir(exist_ok=True)
    text = {
        "claude": '{"mcpServers": {"agentq": {"type": "http", "url": "http://localhost/mcp"}}}',
        "codex": '[mcp_servers.agentq]\nurl = "http://localhost/mcp"\n',
    }[client]
    path.write_text(text)
    done = desk.run("mcp", "install", client)
    assert (done.code, path.read_text()) == (ExitCode.CONFLICT, text)
    assert "--force" in done.err
    desk.ok("mcp", "install", client, "--name", "queue")
    assert entry(desk, client) == {**servers(text)["agentq"]}
    assert entry(desk, client, name="queue")["command"] == PROGRAM
    desk.ok("mcp", "install", client, "--force")
    assert "url" not in entry(desk, client)


def test_a_link_stays_one(desk: Desk) -> None:
    kept = desk.folder / "dotfiles.json"
    kept.write_text("{}")
    place(desk, "claude").symlink_to(kept)
    desk.ok("mcp", "install", "claude")
    assert place(desk, "claude").is_symlink()
    assert servers(kept.read_text())["agentq"]["command"] == PROGRAM


# ---------------------------------------------------------------------- what is refused

BROKEN = {
    "claude": ["{", "[1]", "7", '{"mcpServers": []}', '{"mcpServers": {"agentq": 7}}', "[" * 100_000, "\ufeff{}"],
    "codex": ["a = ", "[a]\n[a]", "mcp_servers = 3", "[[mcp_servers]]", "mcp_servers.agentq = 3", "a = 1\na = 2"],
}


@pytest.mark.promise("guide-kept")
@pytest.mark.parametrize(("client", "text"), [(client, text) for client, texts in BROKEN.items() for text in texts])
def test_a_file_that_is_not_understood_stays_as_it_is(desk: Desk, client: str, text: str) -> None:
    path = place(desk, client)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    done = desk.run("mcp", "install", client)
    assert done.code in (ExitCode.INVALID, ExitCode.CONFLICT), done
    assert str(path) in done.err
    assert "→" in done.err
    assert path.read_text() == text


@both
def test_a_file_that_cannot_be_used_is_told(desk: Desk, client: str) -> None:
    path = place(desk, client)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff")
    assert f"{path} is not UTF-8" in desk.run("mcp", "install", client).err
    path.unlink()
    path.mkdir()
    done = desk.run("mcp", "install", client)
    assert (done.code, f"{path} cannot be read" in done.err) == (ExitCode.INVALID, True)


def test_a_name_that_is_none_is_refused(desk: Desk) -> None:
    for name in ("", "a b", 'a"]\n', "ä", "a" * 65):
        assert desk.run("mcp", "install", "codex", "--name", name).code == ExitCode.INVALID
    assert not place(desk, "codex").exists()


def test_what_claude_would_expand_is_refused(desk: Desk) -> None:
    done = desk.run("mcp", "install", "claude", AGENTQ_STORE="/a/${HOME}/b")
    assert (done.code, "AGENTQ_STORE" in done.err) == (ExitCode.INVALID, True)


@pytest.mark.promise("guide-kept")
def test_what_changes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("newer")
    with pytest.raises(Conflict, match="just now"):
        put(path, "ours", instead_of="older")
    with pytest.raises(Conflict, match="just now"):
        put(path, "ours", instead_of=None)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("config", "newer")]
    put(path, "ours", instead_of="newer")
    assert read(path) == "ours"


# ---------------------------------------------------------------------- any file

WORDS = st.text(st.sampled_from("ab.'\"\\ #=[]é\n"), min_size=1, max_size=4)
VALUES = st.recursive(
    st.integers(-9, 9) | WORDS | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(WORDS | st.sampled_from(["mcp_servers", "env"]), VALUES, max_size=4)
ENTRY = {"command": "/a/agentq", "args": ["mcp"], "env": {"A": "b"}}


@given(whole=TABLES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_of_codex_gains_the_server_and_nothing_else(whole: dict[str, Any]) -> None:
    import tomlkit

    text = tomlkit.dumps(whole)
    try:
        changed = _changed(Client.CODEX, Path("a"), text, "agentq", ENTRY, force=False)
    except (Invalid, Conflict):
        assert not isinstance(whole.get("mcp_servers", {}), dict) or "agentq" in whole["mcp_servers"]
        return
    assert tomllib.loads(changed) == whole | {"mcp_servers": {**whole.get("mcp_servers", {}), "agentq": ENTRY}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a = 1",
        "# only a remark",
        "mcp_servers = {}\n",
        'mcp_servers = { other = { command = "x" } }\n',
        'mcp_servers.other.command = "x"\n',
        '[mcp_servers]\nother = { command = "x" }\n[z]\n',
        '[mcp_servers.a]\ncommand = "x"\n[z]\nb = 1\n[mcp_servers.c]\ncommand = "y"\n[[w]]\n[[w]]\n',
        '[mcp_servers.agentq]\ncommand = "old/agentq"\n[z]\n[mcp_servers.agentq.env]\nA = "c"\n',
        'mcp_servers.agentq.command = "old/agentq"\n',
        '["mcp_servers"."agentq"]\ncommand = "old/agentq"\nenv.A = "c"\n',
        'a = """\n[mcp_servers.agentq]\n"""\r\n[b]\r\nc = 1\r\n',
    ],
)
def test_files_of_many_shapes_gain_the_server(text: str) -> None:
    changed = _changed(Client.CODEX, Path("a"), text, "agentq", ENTRY, force=False)
    before, after = tomllib.loads(text), tomllib.loads(changed)
    assert after["mcp_servers"]["agentq"] == ENTRY
    for found in (before, after):
        found.get("mcp_servers", {}).pop("agentq", None)
    assert (before or {}) | {"mcp_servers": before.get("mcp_servers", {})} == after
    assert changed.count("\r\n") >= text.count("\r\n")
