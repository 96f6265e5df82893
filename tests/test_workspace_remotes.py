"""Repositories on other hosts: here, git's own servers on the loopback interface."""

import base64
import http.server
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentq.errors import AgentqError, Invalid, Unavailable
from agentq.request import is_url
from agentq.workspace import Kind, Workspace, open_workspace
from tests.repositories import applied, git, repository, tree

__all__ = ["repository"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / "work"


@pytest.fixture
def served(repository: Path, tmp_path: Path) -> Iterator[str]:
    """The repository behind `git daemon`."""
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--verbose"]
    with subprocess.Popen([*command, f"--base-path={tmp_path}"], stderr=subprocess.PIPE, process_group=0) as daemon:
        assert daemon.stderr
        assert b"Ready to rumble" in daemon.stderr.readline()
        drain = threading.Thread(target=daemon.stderr.read)
        drain.start()
        yield f"git://127.0.0.1:{port}/a répository"
        os.killpg(daemon.pid, 15)
        daemon.wait()
        drain.join()


@pytest.fixture
def locked() -> Iterator[tuple[str, list[str]]]:
    """A host that lets nobody in, and what was sent to it."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization") or "")
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def opened(url: str, folder: Path, base: str | None = None, kind: Kind = "git-worktree", attempt: int = 1) -> Workspace:
    cache = folder.parents[1] / "repositories"
    return open_workspace(
        kind, folder=folder, task_id="task-1", attempt=attempt, repository=url, base=base, cache=cache
    )


def commit(repository: Path, name: str) -> str:
    (repository / name).write_text(f"{name}\n")
    git(repository, "add", name)
    git(repository, "commit", "--quiet", "-m", name)
    return git(repository, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("kind", ["git-worktree", "copy", "read-only"])
def test_a_url_is_cloned(repository: Path, served: str, folder: Path, tmp_path: Path, kind: Kind) -> None:
    work = opened(served, folder, kind=kind)
    assert (folder / "src/main.py").read_bytes() == b"print(1)\n"
    assert git(folder, "branch", "--show-current").strip() == "agentq/task-1/1"
    assert git(folder, "rev-parse", "origin/main") == git(repository, "rev-parse", "main")
    assert git(folder, "remote") == ""
    (folder / "new").write_text("new\n")
    changed = work.undo() if kind == "read-only" else work.patch()
    if kind != "read-only":
        git(folder, "commit", "--quiet", "--allow-empty", "-m", "the agent's")
        assert applied(repository, changed, tmp_path / "clone") == tree(folder)
    work.remove()
    assert list(folder.parent.iterdir()) == []


def test_it_is_fetched_again_each_time_with_what_changed_or_went(repository: Path, served: str, folder: Path) -> None:
    git(repository, "branch", "old/name")
    opened(served, folder, "old/name")
    git(repository, "branch", "-D", "old/name")
    git(repository, "stash", "--quiet")
    git(repository, "checkout", "--quiet", "-b", "old")
    commit(repository, "second")
    opened(served, folder, "old")
    assert (folder / "second").exists()
    opened(served, folder)
    assert (folder / "second").exists(), "the branch that is checked out there"
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    git(repository, "tag", "v1")
    opened(served, folder, "old")
    assert not (folder / "second").exists()
    opened(served, folder, "v1")
    with pytest.raises(Invalid, match="'old/name' is no commit"):
        opened(served, folder, "old/name")


def test_a_base_that_is_a_commit_and_there_already_needs_no_host(repository: Path, folder: Path) -> None:
    url = repository.as_uri()
    head = git(repository, "rev-parse", "HEAD").strip()
    opened(url, folder)
    moved = repository.rename(repository.with_name("moved"))
    opened(url, folder, head)
    assert (folder / "src/main.py").exists()
    with pytest.raises(Invalid, match="cannot be fetched") as caught:
        opened(url, folder, "main")
    assert caught.value.hint
    moved.rename(repository)
    opened(url, folder, "main")


def test_several_at_once_and_none_sees_another(repository: Path, served: str, tmp_path: Path) -> None:
    def one(number: int) -> bytes:
        work = opened(served, tmp_path / f"scratch/{number}/work", attempt=number)
        (work.path / "mine").write_text(f"of {number}\n")
        git(work.path, "add", "--all")
        git(work.path, "commit", "--quiet", "-m", "mine")
        git(work.path, "branch", "--force", "main")
        git(work.path, "config", "core.sshCommand", "/nowhere")
        return work.patch() or b""

    def opened(url: str, folder: Path, attempt: int) -> Workspace:
        cache = tmp_path / "repositories"
        where = {"folder": folder, "repository": url, "cache": cache}
        return open_workspace("git-worktree", task_id="task-1", attempt=attempt, **where)

    with ThreadPoolExecutor(6) as pool:
        patches = list(pool.map(one, range(12)))
    for number, patch in enumerate(patches):
        assert f"+of {number}\n".encode() in patch
    (cache,) = (tmp_path / "repositories").iterdir()
    assert b"sshCommand" not in (cache / "config").read_bytes()
    refs = git(cache, "for-each-ref", "--format=%(refname)").split()
    assert sorted(refs) == ["refs/agentq/head", "refs/remotes/origin/main"]


def test_what_was_written_into_the_cache_is_not_run(repository: Path, folder: Path, tmp_path: Path) -> None:
    url = repository.as_uri()
    opened(url, folder)
    (cache,) = (tmp_path / "repositories").iterdir()
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.alternateRefsCommand", "uploadpack.packObjectsHook"):
        git(cache, "config", key, str(trap))
    git(cache, "config", f"url.ext::{trap} .insteadOf", "file://")
    (cache / "hooks").mkdir()
    for name in ("post-fetch", "reference-transaction", "pre-auto-gc", "post-checkout"):
        (cache / "hooks" / name).symlink_to(trap)
    (repository / "src/main.py").write_text("newer\n")
    git(repository, "commit", "--quiet", "--all", "-m", "newer")
    opened(url, folder)
    assert (folder / "src/main.py").read_text() == "newer\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ext::sh -c touch% /tmp/agentq-ran", "transport 'ext' not allowed"),
        ("fd::17", "transport 'fd' not allowed"),
        ("ftp://127.0.0.1/x", "transport 'ftp' not allowed"),
        ("file:///nowhere/at/all", "does not appear to be a git repository|not found|does not exist"),
        ("ssh://-oProxyCommand=touch/x", "strange hostname|blocked"),
    ],
)
def test_what_is_no_repository_elsewhere_is_refused(folder: Path, url: str, complaint: str) -> None:
    with pytest.raises(AgentqError, match=complaint) as caught:
        opened(url, folder)
    assert isinstance(caught.value, Invalid)
    assert caught.value.hint
    assert not folder.exists()
    assert not Path("/tmp/agentq-ran").exists()


def test_a_host_that_is_away_is_tried_again(folder: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be fetched"):
        opened(f"git://127.0.0.1:{free_port()}/x", folder)


def test_an_empty_repository_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "new")
    with pytest.raises(Invalid, match="cannot be fetched") as caught:
        opened((tmp_path / "new").as_uri(), folder)
    assert "first commit" in caught.value.hint


def test_a_host_that_wants_a_password_is_not_asked_for_one(folder: Path, locked: tuple[str, list[str]]) -> None:
    with pytest.raises(Invalid, match="could not read Username") as caught:
        opened(f"http://{locked[0]}/x.git", folder)
    assert "credential helper" in caught.value.hint


def test_a_credential_is_the_users_helpers_and_is_told_nobody(
    folder: Path, locked: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = "a-hidden-word"
    (tmp_path / ".gitconfig").write_text(
        f'[credential]\n\thelper = "!f() {{ echo username=me; echo password={secret}; }}; f"\n'
    )
    with pytest.raises(Invalid, match="Authentication failed") as caught:
        opened(f"http://{locked[0]}/x.git", folder)
    sent = f"Basic {base64.b64encode(f'me:{secret}'.encode()).decode()}"
    assert sent in locked[1]
    assert secret not in str(caught.value) + caught.value.hint
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".gitconfig"]
    assert not any(secret.encode() in path.read_bytes() for path in left)


def test_a_password_in_a_url_is_refused_and_not_repeated(folder: Path) -> None:
    with pytest.raises(Invalid, match="has a password in it") as caught:
        opened("https://me:a-hidden-word@127.0.0.1/x.git", folder)
    assert "a-hidden-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("https://host/x.git", True),
        ("ssh://git@host:22/x", True),
        ("git@host:team/x.git", True),
        ("file:///srv/x", True),
        ("ext::sh -c x", True),
        ("/srv/x", False),
        ("./x", False),
        ("relative/with:colon", False),
        ("/srv/me@host:x", False),
        ("x", False),
    ],
)
def test_what_a_url_is(text: str, answer: bool) -> None:
    assert is_url(text) is answer


def test_a_shallow_clone_is_worked_in(repository: Path, folder: Path, tmp_path: Path) -> None:
    git(repository, "stash", "--quiet")
    commit(repository, "second")
    git(tmp_path, "clone", "--quiet", "--depth=1", repository.as_uri(), "shallow")
    for kind in ("git-worktree", "read-only", "copy"):
        work = open_workspace(kind, folder=folder, task_id="t", attempt=1, repository=tmp_path / "shallow")
        assert git(folder, "log", "--format=%s").split() == ["second"]
        (folder / "new").write_text("new\n")
        assert b"+new" in ((work.undo() if kind == "read-only" else work.patch()) or b"")
        work.remove()
    assert re.fullmatch(r"\* \(no branch\)|\* main\n", git(tmp_path / "shallow", "branch", "--list"))


def test_a_bare_repository_is_worked_in(repository: Path, folder: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
    for kind in ("git-worktree", "read-only"):
        work = open_workspace(kind, folder=folder, task_id="t", attempt=1, repository=tmp_path / "bare")
        (folder / "new").write_text("new\n")
        assert b"+new" in (work.patch() or work.undo() or b"")
        work.remove()
    assert git(tmp_path / "bare", "for-each-ref", "refs/heads/agentq") == ""
