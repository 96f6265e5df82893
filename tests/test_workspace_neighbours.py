"""Several workspaces of one repository at once, in processes of their own, while its user and git are busy in it."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from agentq.workspace import Kind, open_workspace, resume_workspace
from tests.repositories import applied, git, repository, tree

__all__ = ["repository"]

ATTEMPT = """
import subprocess, sys
from pathlib import Path
from agentq.workspace import open_workspace
repository, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for attempt in (number, number + 100):
    work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=attempt, repository=repository)
    (folder / "src/main.py").write_text(f"by {attempt}\\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(folder)]
    while subprocess.run([*git, "commit", "--quiet", "--all", "-m", f"by {attempt}"], stderr=-3).returncode:
        pass  # the agent's own git may meet a lock of the garbage collector
    (folder / f"new {attempt}").write_text("new\\n")
    sys.stdout.buffer.write(work.patch() or b"")
    work.remove()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / "work"


def attempt_in_a_process(repository: Path, folder: Path, number: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", ATTEMPT, str(repository), str(folder), str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.promise("checkout-untouched")
def test_processes_at_work_in_one_repository_while_its_user_and_git_are(repository: Path, tmp_path: Path) -> None:
    """The user has changes and holds the index; git collects garbage and prunes worktrees all the time."""
    git(repository, "branch", "other")
    git(repository, "pack-refs", "--all")
    before = (git(repository, "for-each-ref"), git(repository, "diff", "HEAD"), tree(repository))
    config, index = ((repository / ".git" / name).read_bytes() for name in ("config", "index"))
    (repository / ".git/index.lock").touch()
    over = Event()

    def busy() -> int:
        rounds = 0
        while not over.is_set():
            collect_garbage(repository)
            git(repository, "worktree", "prune")
            git(repository, "pack-refs", "--all", "--prune")
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        busily = pool.submit(busy)
        running = [attempt_in_a_process(repository, tmp_path / f"s/{n}/work", n) for n in range(6)]
        ended = [(process.communicate(), process.returncode) for process in running]
        over.set()
        assert busily.result() > 1
    for number, ((stdout, stderr), code) in enumerate(ended):
        assert (code, stderr) == (0, b"")
        for attempt in (number, number + 100):
            assert f"+by {attempt}\n".encode() in stdout
            assert f"b/new {attempt}\n".encode() in stdout
    (repository / ".git/index.lock").unlink()
    assert (git(repository, "for-each-ref"), git(repository, "diff", "HEAD"), tree(repository)) == before
    assert [(repository / ".git" / name).read_bytes() for name in ("config", "index")] == [config, index]
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    git(repository, "fsck", "--strict")


def collect_garbage(repository: Path) -> None:
    """As its user does; a `gc` in the moment in which a worktree is made or removed fails, and has to be repeated."""
    done = subprocess.run(["git", "-C", str(repository), "gc", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or re.search(r"worktrees/work\d*/", done.stderr), done.stderr


@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy"])
@pytest.mark.parametrize("odd", ["with space", "ünïcode", "new\nline", "'quoted\"", "-dash", "back\\slash", "co:lon"])
def test_paths_of_every_kind(repository: Path, tmp_path: Path, odd: str, kind: Kind) -> None:
    place = tmp_path / odd
    place.mkdir()
    shutil.move(repository, place / odd)
    repository = place / odd
    git(repository, "stash", "--quiet")
    (repository / "untracked").unlink()
    folder = place / "scratch" / odd
    work = open_workspace(kind, folder=folder, task_id="t", attempt=1, repository=repository)
    (folder / odd).write_text("new\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "mine")
    (folder / "src/main.py").write_text("changed\n")
    now = tree(folder)
    changed = work.undo() if kind == "read-only" else resume_workspace(folder).patch()
    assert applied(repository, changed, tmp_path / "clone") == now
    work.remove()
    assert list(folder.parent.iterdir()) == []
    assert git(repository, "branch", "--list", "agentq/*") == ""


def test_a_dirty_checkout_is_said_once_and_only_when_it_is(repository: Path, folder: Path) -> None:
    def notes() -> str:
        work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=1, repository=repository)
        return " ".join(work.notes)

    assert notes().count("uncommitted changes") == 1
    assert git(repository, "rev-parse", "HEAD")[:12] in notes()
    git(repository, "stash", "--quiet")
    assert "uncommitted" in notes(), "a file that git does not know"
    (repository / "untracked").unlink()
    (repository / "debug.log").touch()
    assert notes() == ""
    (repository / "src/main.py").touch()
    os.utime(repository / "src/main.py", (1, 1))
    assert notes() == "", "touched, but not changed"
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/exclude").write_text("mine\n")
    (repository / "mine").touch()
    assert notes() == ""


def test_what_the_user_ignores_is_not_in_the_patch(
    repository: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".config/git").mkdir(parents=True)
    (tmp_path / ".config/git/ignore").write_text("*.swp\n")
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/exclude").write_text("*.mine\n")
    for ignored, seen in (("a.swp", "a.other"), ("a.other", "a.swp")):
        work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=1, repository=repository)
        for name in ("a.swp", "a.mine", "a.other", "a.txt"):
            (folder / name).write_text("x\n")
        patch = work.patch() or b""
        assert b"b/a.txt" in patch
        assert f"b/{seen}".encode() in patch
        assert ignored.encode() not in patch
        assert b"a.mine" not in patch
        (tmp_path / "other").write_text("*.other\n")
        (tmp_path / ".gitconfig").write_text("[core]\n\texcludesFile = ~/other\n")


def test_pointers_of_large_files_are_left_alone(repository: Path, folder: Path, tmp_path: Path) -> None:
    """No filter is run, so what `git lfs` would fetch is a pointer here, and no change."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 12345\n"
    git(repository, "stash", "--quiet")
    (repository / ".gitattributes").write_text("*.psd filter=lfs diff=lfs merge=lfs -text\n")
    (repository / "big.psd").write_text(pointer)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "large")
    for what in ("clean", "smudge"):
        git(repository, "config", f"filter.lfs.{what}", f"false {what} %f")
    git(repository, "config", "filter.lfs.required", "true")
    work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=1, repository=repository)
    assert (folder / "big.psd").read_text() == pointer
    assert work.patch() is None
    (folder / "other.psd").write_bytes(b"\0" * 1000)
    assert b"GIT binary patch" in (work.patch() or b"")


def test_line_ends_are_those_that_the_project_wants(repository: Path, folder: Path, tmp_path: Path) -> None:
    git(repository, "stash", "--quiet")
    (repository / ".gitattributes").write_text("*.bat text eol=crlf\n*.txt text\n")
    (repository / "run.bat").write_bytes(b"one\r\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "ends")
    work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=1, repository=repository)
    assert (folder / "run.bat").read_bytes() == b"one\r\n"
    assert work.patch() is None
    (folder / "run.bat").write_bytes(b"one\r\ntwo\r\n")
    (folder / "new.txt").write_bytes(b"new\r\n")
    made = applied(repository, work.patch(), tmp_path / "clone")
    assert made["run.bat"] == tree(folder)["run.bat"]
    assert made["new.txt"][1] == b"new\n", "as a commit would have it"


@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy"])
def test_what_a_commit_would_write_otherwise_is_no_change(repository: Path, folder: Path, kind: Kind) -> None:
    git(repository, "stash", "--quiet")
    (repository / ".gitattributes").write_text("*.txt text\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "--quiet", "-m", "crlf.txt stays as it is until somebody touches it")
    assert (
        b"\r\n"
        in subprocess.run(
            ["git", "-C", str(repository), "show", "HEAD:crlf.txt"], capture_output=True, check=True
        ).stdout
    )
    work = open_workspace(kind, folder=folder, task_id="t", attempt=1, repository=repository)
    changes = work.undo if kind == "read-only" else work.patch
    assert not changes()
    (folder / "src/main.py").write_text("another\n")
    assert b"crlf.txt" not in (found := changes() or b"")
    assert b"src/main.py" in found
    if kind == "git-worktree":
        (folder / "crlf.txt").write_bytes(b"three\r\n")
        assert b"+three\n" in (work.patch() or b"")


def test_a_repository_of_sha256(tmp_path: Path, folder: Path) -> None:
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "new")
    (tmp_path / "new/file").write_text("x\n")
    git(tmp_path / "new", "add", "--all")
    git(tmp_path / "new", "commit", "--quiet", "-m", "first")
    for kind in ("git-worktree", "read-only", "copy"):
        work = open_workspace(kind, folder=folder, task_id="t", attempt=1, repository=tmp_path / "new")
        (folder / "file").write_text("y\n")
        assert b"+y" in (work.patch() or work.undo() or b"")
        work.remove()


def test_a_git_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentq.errors import Unavailable
    from agentq.workspace.git import Git

    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\n(sleep 300 & echo $! > '{tmp_path}/child'; wait)\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not end within 1 s"):
        Git(seconds=1).run("status")
    assert time.monotonic() - began < 10
    stat = Path(f"/proc/{int((tmp_path / 'child').read_text())}/stat")
    while _runs(stat):
        assert time.monotonic() - began < 10
        time.sleep(0.01)


def _runs(stat: Path) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return stat.read_text().split()[2] != "Z"
    return False
