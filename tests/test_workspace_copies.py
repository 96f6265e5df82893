"""Copies of folders, and workspaces that are only for reading."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from agentq.errors import Invalid, Unavailable
from agentq.workspace import Workspace, open_workspace, resume_workspace
from tests.repositories import git, repository, tree

__all__ = ["repository"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch ä" / "work"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder that is no repository."""
    path = tmp_path / "plain\nfolder"
    (path / "deep/er").mkdir(parents=True)
    (path / "a.txt").write_text("a\n")
    (path / "deep/er/program").write_text("#!/bin/sh\n")
    (path / "deep/er/program").chmod(0o750)
    (path / "deep/link").symlink_to("../a.txt")
    (path / "nowhere").symlink_to("not/there")
    (path / "empty").mkdir()
    (path / "private").write_text("x")
    (path / "private").chmod(0o600)
    return path


def copy(source: Path, folder: Path, **more: str) -> Workspace:
    return open_workspace("copy", folder=folder, task_id="task-1", attempt=1, repository=source, **more)


def reading(source: Path | None, folder: Path, base: str | None = None) -> Workspace:
    return open_workspace("read-only", folder=folder, task_id="task-1", attempt=1, repository=source, base=base)


def patched(folder: Path, patch: bytes | None) -> None:
    """Apply a patch to the files of a folder, in no repository."""
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(command, cwd=folder, input=patch or b"", check=True, capture_output=True, env=environment)


# ---------------------------------------------------------------------- copies


def test_a_copy_has_all_that_is_there_with_links_and_permissions(plain: Path, folder: Path) -> None:
    work = copy(plain, folder)
    assert tree(folder) == tree(plain)
    assert (folder / "empty").is_dir()
    assert (folder / "deep/er/program").stat().st_mode & 0o777 == 0o750
    assert (folder / "private").stat().st_mode & 0o777 == 0o600
    assert (folder / "nowhere").readlink() == Path("not/there")
    assert work.patch() is None
    work.remove()
    assert list(folder.parent.iterdir()) == []


def test_a_copys_patch_makes_of_the_original_what_the_agent_made(plain: Path, folder: Path) -> None:
    work = copy(plain, folder)
    (folder / "a.txt").write_text("b\n")
    (folder / "deep/link").unlink()
    (folder / "new").write_bytes(bytes(range(256)))
    (folder / "deep/er/program").chmod(0o644)
    before = tree(plain)
    patch = work.patch()
    assert tree(plain) == before
    patched(plain, patch)
    assert tree(plain) == tree(folder)


def test_a_copied_checkout_is_copied_with_what_no_commit_has(repository: Path, folder: Path) -> None:
    (repository / "build").mkdir()
    (repository / "build/out").write_text("ignored\n")
    work = copy(repository, folder)
    assert tree(folder) == tree(repository)
    assert git(folder, "status", "--porcelain") == git(repository, "status", "--porcelain")
    (folder / "build/out").write_text("changed\n")
    assert work.patch() is None
    (folder / "src/main.py").write_text("the agent's\n")
    (folder / "tracked.log").write_text("the agent's\n")
    git(folder, "commit", "--quiet", "--all", "-m", "the agent's")
    patch = work.patch() or b""
    assert b"-the user's own work\n+the agent's" in patch
    patched(repository, patch)
    (repository / "build/out").write_text("changed\n")
    assert tree(repository) == tree(folder)


def test_nothing_leads_from_a_copy_back_into_the_original(repository: Path, folder: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--quiet", str(repository / ".worktrees/mine"))
    git(repository, "worktree", "add", "--quiet", str(tmp_path / "another"))
    (repository / ".git/index.lock").touch()
    refs, config = git(repository, "for-each-ref"), (repository / ".git/config").read_text()
    copy(repository, folder)
    git(folder, "worktree", "prune")
    git(folder, "commit", "--quiet", "--all", "-m", "the agent's")
    git(folder, "config", "user.name", "Agent")
    git(folder, "branch", "--force", "another", "HEAD")
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    assert not (folder / ".worktrees/mine/.git").exists()
    assert (folder / ".worktrees/mine/src/main.py").exists()
    assert git(repository, "for-each-ref") == refs
    assert (repository / ".git/config").read_text() == config
    assert len(git(repository, "worktree", "list").splitlines()) == 3
    assert git(repository / ".worktrees/mine", "branch", "--show-current") == "mine\n"


def test_a_copy_needs_no_objects_that_its_agent_could_lose(repository: Path, folder: Path) -> None:
    work = copy(repository, folder)
    shutil.rmtree(folder / ".git")
    (folder / "new").write_text("new\n")
    assert b"+new" in (work.patch() or b"")
    assert resume_workspace(folder).patch() == work.patch()


def test_a_repository_inside_a_copied_folder_may_be_read_but_not_changed(
    plain: Path, repository: Path, folder: Path
) -> None:
    shutil.move(repository, plain / "inner")
    work = copy(plain, folder)
    assert work.patch() is None
    (folder / "a.txt").write_text("changed\n")
    assert b"+changed" in (work.patch() or b"")
    (folder / "inner/new").write_text("x")
    with pytest.raises(Invalid, match="'inner' were changed") as caught:
        work.patch()
    assert "in that repository" in caught.value.hint
    git(folder / "inner", "add", "--all")
    git(folder / "inner", "commit", "--quiet", "-m", "mine")
    with pytest.raises(Invalid, match="commit of the agent's own"):
        work.patch()


def test_sockets_and_pipes_do_not_hold_up_a_copy(plain: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(plain / "pipe")
    monkeypatch.chdir(plain)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        work = copy(plain, folder)
        assert work.patch() is None
        work.remove()


def test_what_cannot_be_copied_is_refused_with_a_way_out(plain: Path, repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scratch/work"
    git(repository, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    git(repository, "clone", "--quiet", "--bare", str(repository), str(tmp_path / "bare"))
    git(tmp_path, "init", "--quiet", "astray")
    git(tmp_path / "astray", "config", "core.worktree", str(repository))
    git(tmp_path, "init", "--quiet", str(plain / "deep/no commits"))
    for source, complaint in {
        tmp_path / "missing": "does not exist",
        plain / "a.txt": "does not exist",
        tmp_path: "holds the worker's own data",
        tmp_path / "tree": "is a worktree or submodule",
        tmp_path / "bare": "bare repository",
        tmp_path / "astray": "its files are in",
        plain: "does not have a commit checked out",
    }.items():
        with pytest.raises(Invalid, match=complaint) as caught:
            copy(source, folder)
        assert caught.value.hint
    with pytest.raises(Invalid, match="it has no base 'main'"):
        copy(repository, folder, base="main")
    with pytest.raises(Invalid, match="copy needs a repository"):
        open_workspace("copy", folder=folder, task_id="t", attempt=1)


def test_a_copy_that_fails_half_way_may_be_tried_again(
    plain: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin/cp"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "cp: error writing: No space left on device" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(Unavailable, match="No space left"):
        copy(plain, folder)
    fake.write_text("#!/bin/sh\necho \"cp: cannot open 'x' for reading: Permission denied\" >&2\nexit 1\n")
    with pytest.raises(Invalid, match="Permission denied"):
        copy(plain, folder)


# ---------------------------------------------------------------------- for reading


@pytest.mark.promise("read-only-undone")
@pytest.mark.parametrize("source", ["repository", "plain folder"])
def test_what_a_reviewer_changes_is_undone_and_told(repository: Path, plain: Path, folder: Path, source: str) -> None:
    work = reading(repository if source == "repository" else plain, folder)
    before = tree(folder)
    assert any("undone" in note for note in work.notes)
    assert work.patch() is None
    assert work.undo() is None
    name = "src/main.py" if source == "repository" else "a.txt"
    (folder / name).write_text("better\n")
    (folder / "new").write_text("new\n")
    undone = work.undo() or b""
    assert b"+better" in undone
    assert b"+new" in undone
    assert tree(folder) == before
    assert work.patch() is None
    assert work.undo() is None
    work.remove()
    assert list(folder.parent.iterdir()) == []


@pytest.mark.promise("read-only-undone")
def test_a_reviewer_cannot_change_the_work_through_its_repository(repository: Path, folder: Path) -> None:
    def state() -> tuple[object, ...]:
        files = ("config", "HEAD", "index", "packed-refs", "ORIG_HEAD", "info/exclude")
        found = {name: path.read_bytes() for name in files if (path := repository / ".git" / name).exists()}
        hooks = sorted(path.name for path in (repository / ".git/hooks").glob("*"))
        objects = sorted(path.name for path in (repository / ".git/objects").rglob("*"))
        return (git(repository, "for-each-ref"), git(repository, "reflog"), found, hooks, objects, tree(repository))

    git(repository, "tag", "v1")
    git(repository, "branch", "other")
    before = state()
    work = reading(repository, folder)
    assert git(folder, "remote") == ""
    assert git(folder, "log", "--format=%s", "other").strip() == "first"
    git(folder, "tag", "--force", "v1", "HEAD")
    git(folder, "config", "core.hooksPath", "/tmp/x")
    (folder / ".git/hooks").mkdir(exist_ok=True)
    (folder / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (folder / "src/main.py").write_text("mine\n")
    git(folder, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--all", "-m", "mine")
    git(folder, "branch", "--force", "main", "HEAD")
    git(folder, "stash", "list")
    git(folder, "branch", "-D", "other")
    git(folder, "gc", "--quiet", "--prune=now")
    git(folder, "worktree", "prune")
    with pytest.raises(subprocess.CalledProcessError):
        git(folder, "push", "origin", "main")
    assert b"+mine" in (work.undo() or b"")
    assert git(folder, "log", "--format=%s", "other").strip() == "first"
    work.remove()
    assert state() == before


def test_a_reviewer_that_makes_its_workspace_unreadable_leaves_it_as_it_was(repository: Path, folder: Path) -> None:
    work = reading(repository, folder)
    before = tree(folder)
    shutil.rmtree(folder)
    with pytest.raises(Invalid, match="folder is gone"):
        work.undo()
    assert tree(folder) == before


def test_reading_may_be_of_any_commit_or_of_no_repository(repository: Path, folder: Path) -> None:
    git(repository, "stash", "--quiet")
    git(repository, "rm", "--quiet", "data.bin")
    git(repository, "commit", "--quiet", "-m", "second")
    assert not (reading(repository, folder).path / "data.bin").exists()
    assert (reading(repository, folder, "HEAD~1").path / "data.bin").exists()
    work = reading(None, folder)
    assert list(folder.iterdir()) == []
    (folder / "x").touch()
    assert work.undo() is None
    with pytest.raises(Invalid, match="does not exist"):
        reading(repository / "missing", folder)
    with pytest.raises(Invalid, match="is not a git repository"):
        reading(repository.parent / "scratch ä", folder, "main")


def test_what_a_dead_reviewer_changed_is_told_by_who_comes_later(repository: Path, folder: Path) -> None:
    reading(repository, folder)
    (folder / "new").write_text("new\n")
    left = resume_workspace(folder)
    assert left.patch() is None
    assert b"+new" in (left.undo() or b"")
    left.remove()
    assert list(folder.parent.iterdir()) == []
