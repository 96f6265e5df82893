"""The unit that `agentq bridge install` writes, and the command without LangGraph."""

import sys
from pathlib import Path

import pytest

from agentq.errors import ExitCode
from agentq.units import is_ours
from tests.desk import Desk

INSTALL = ("bridge", "install", "--graph", "app.chat:graph", "--user")


def parts(out: str) -> dict[str, list[str]]:
    """The files that a dry run prints, by their names."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        if line.startswith("# /") and line.endswith((".service", ".conf")):
            lines = found[Path(line[2:]).name] = []
        else:
            lines.append(line)
    return found


def test_a_dry_run_prints_the_template_and_what_belongs_here(desk: Desk) -> None:
    more = ("--as", "support", "--tenant-key", "firm", "--config", "app.chat:config of %h")
    out = desk.ok(*INSTALL, *more, "--dry-run", PYTHONPATH="/srv/app:lib", AGENTQ_NAMESPACE="ours")
    files = parts(out)
    assert [*files] == ["agentq-bridge@.service", "agentq.conf"]
    assert f"# {desk.home}/.config/systemd/user/agentq-bridge@support.service.d/agentq.conf" in out
    own = files["agentq.conf"]
    words = ["bridge", "run", "--as", "support", "--graph", "app.chat:graph", "--tenant-key", "firm"]
    words += ["--config", "app.chat:config of %%h"]
    program = Path(sys.executable).with_name("agentq")
    assert f'ExecStart="{program}" ' + " ".join(f'"{word}"' for word in words) in own
    assert f"WorkingDirectory={desk.project}" in own
    assert 'Environment="PYTHONPATH=/srv/app"' in own
    assert 'Environment="AGENTQ_NAMESPACE=ours"' in own
    assert f'Environment="AGENTQ_STORE={desk.shared}"' in own
    assert not [line for line in own if line.startswith(("User=", "ReadWritePaths="))]
    assert all(is_ours("\n".join(lines).rstrip("\n") + "\n") for lines in files.values())
    assert list(desk.home.rglob("systemd")) == []


def test_what_the_graph_writes_to_is_named(desk: Desk) -> None:
    flags = ("--system", "--run-as", "root", "--writes", "chat", "--writes", "/srv/chats", "--dry-run")
    out = desk.ok("bridge", "install", "--graph", "app:graph", *flags, AGENTQ_BROKER_PASSWORD="hush")
    assert f'ReadWritePaths="-{desk.project}/chat"' in out
    assert 'ReadWritePaths="-/srv/chats"' in out
    assert "User=root" in out
    assert "hush" not in out


def test_without_langgraph_it_says_what_to_install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = desk.run("bridge", "run", "--graph", "app:graph")
    assert done.code == ExitCode.INVALID
    assert "LangGraph is not installed here\n  → pip install 'agentq[langgraph]'" in done.err


def test_where_no_systemd_runs_nothing_is_written(desk: Desk) -> None:
    done = desk.run(*INSTALL, XDG_RUNTIME_DIR=str(desk.folder))
    assert done.code == ExitCode.UNAVAILABLE
    assert "agentq bridge run" in done.err
    assert list(desk.home.rglob("systemd")) == []
