"""What an agent leaves in a repository to be run by the worker's own git, or to hide its work: nothing comes of it."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agentq.errors import Invalid
from agentq.workspace import Kind, Workspace, open_workspace, resume_workspace
from agentq.workspace.git import Git
from tests.repositories import applied, git, repository, tree

__all__ = ["repository"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / "work"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A program that says that it ran; it passes on what it reads, as a filter would."""
    path = tmp_path / "trap"
    path.write_text(f"#!/bin/sh\n(tr '\\0' ' ' < /proc/$PPID/cmdline; pwd) >> '{tmp_path}/ran'\nexec timeout 2 cat\n")
    path.chmod(0o755)
    return path


def opened(kind: Kind, repository: Path, folder: Path, attempt: int = 1) -> Workspace:
    return open_workspace(kind, folder=folder, task_id="task-1", attempt=attempt, repository=repository)


def hooks(git_dir: Path, trap: Path) -> None:
    (git_dir / "hooks").mkdir(exist_ok=True)
    names = ("post-checkout", "pre-commit", "post-index-change", "reference-transaction", "fsmonitor-watchman")
    for name in (*names, "post-commit", "pre-auto-gc", "post-rewrite", "update"):
        (git_dir / "hooks" / name).unlink(missing_ok=True)
        (git_dir / "hooks" / name).symlink_to(trap)


def hooks_elsewhere(git_dir: Path, trap: Path) -> None:
    (git_dir / "elsewhere").mkdir()
    (git_dir / "elsewhere/post-checkout").symlink_to(trap)
    (git_dir / "elsewhere/post-index-change").symlink_to(trap)
    config(git_dir, "core.hooksPath", str(git_dir / "elsewhere"))


def config(git_dir: Path, key: str, value: str) -> None:
    subprocess.run(["git", "config", "--file", str(git_dir / "config"), key, value], check=True)


def filters(git_dir: Path, trap: Path) -> None:
    for what in ("clean", "smudge", "process"):
        if what != "process":
            config(git_dir, f"filter.trap.{what}", str(trap))
    config(git_dir, "filter.trap.required", "true")
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info/attributes").write_text("* filter=trap\n")


def process_filter(git_dir: Path, trap: Path) -> None:
    config(git_dir, "filter.trap.process", str(trap))
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info/attributes").write_text("* filter=trap\n")


def differs(git_dir: Path, trap: Path) -> None:
    config(git_dir, "diff.external", str(trap))
    config(git_dir, "diff.trap.textconv", str(trap))
    config(git_dir, "diff.trap.command", str(trap))
    (git_dir / "info/attributes").write_text("* diff=trap\n")


def monitors(git_dir: Path, trap: Path) -> None:
    config(git_dir, "core.fsmonitor", str(trap))


def monitors_by_include(git_dir: Path, trap: Path) -> None:
    (git_dir / "more").write_text(f"[core]\n\tfsmonitor = {trap}\n\thooksPath = {git_dir}/hooks\n")
    hooks(git_dir, trap)
    config(git_dir, "include.path", str(git_dir / "more"))


def promisor(git_dir: Path, trap: Path, url: str = "") -> None:
    """The objects that are missing would be fetched, by a program that the config names."""
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": url or str(git_dir),
        "remote.origin.uploadpack": str(trap),
        "remote.origin.fetch": "+refs/heads/*:refs/remotes/origin/*",
    }.items():
        config(git_dir, key, value)
    blob = git(git_dir.parent, "rev-parse", "HEAD:data.bin").strip()
    (git_dir / "objects" / blob[:2] / blob[2:]).unlink()


def promisor_ext(git_dir: Path, trap: Path) -> None:
    promisor(git_dir, trap, f"ext::{trap} %S")
    config(git_dir, "protocol.ext.allow", "always")


def promisor_ssh(git_dir: Path, trap: Path) -> None:
    promisor(git_dir, trap, "ssh://host.invalid/x")
    config(git_dir, "core.sshCommand", str(trap))


def everything_else(git_dir: Path, trap: Path) -> None:
    for key in (
        *("core.pager", "core.editor", "core.askPass", "core.gitProxy", "core.alternateRefsCommand", "core.sshCommand"),
        *("sequence.editor", "gpg.program", "credential.helper", "pager.diff-tree", "uploadpack.packObjectsHook"),
        *("interactive.diffFilter", "merge.trap.driver", "alias.add", "alias.read-tree", "trace2.eventTarget"),
    ):
        config(git_dir, key, str(trap))
    config(git_dir, "merge.default", "trap")


Trap = Callable[[Path, Path], None]
TRAPS: tuple[Trap, ...] = (
    *(hooks, hooks_elsewhere, filters, process_filter, differs, monitors, monitors_by_include),
    *(promisor, promisor_ext, promisor_ssh, everything_else),
)
SPRINGS = {  # what an ordinary git does that springs the trap: so there is one
    hooks: ("checkout", "--quiet", "-b", "elsewhere"),
    hooks_elsewhere: ("checkout", "--quiet", "-b", "elsewhere"),
    filters: ("add", "--renormalize", "."),
    process_filter: ("add", "--renormalize", "."),
    differs: ("diff", "HEAD"),
    monitors: ("status",),
    monitors_by_include: ("status",),
    promisor: ("cat-file", "-p", "HEAD:data.bin"),
    promisor_ext: ("cat-file", "-p", "HEAD:data.bin"),
    promisor_ssh: ("cat-file", "-p", "HEAD:data.bin"),
}


@pytest.mark.parametrize("trap_of", SPRINGS, ids=lambda trap: trap.__name__)
def test_each_trap_is_one(repository: Path, trap: Path, tmp_path: Path, trap_of: Trap) -> None:
    trap_of(repository / ".git", trap)
    (repository / "src/main.py").write_text("changed\n")
    subprocess.run(["git", "-C", str(repository), *SPRINGS[trap_of]], capture_output=True, check=False, timeout=20)
    assert (tmp_path / "ran").exists()


@pytest.mark.promise("git-runs-nothing")
@pytest.mark.parametrize("kind", ["git-worktree", "copy", "read-only"])
@pytest.mark.parametrize("trap_of", TRAPS, ids=lambda trap: trap.__name__)
def test_the_workers_git_springs_no_trap(
    repository: Path, folder: Path, trap: Path, tmp_path: Path, trap_of: Trap, kind: Kind
) -> None:
    """One agent sets it, in the repository that all worktrees share; the worker looks at that one and at the next."""
    first = opened(kind, repository, folder)
    shared = repository / ".git" if kind != "copy" else folder / ".git"
    trap_of(shared, trap)
    (folder / "new").write_text("new\n")
    (folder / ".gitattributes").write_text("* filter=trap diff=trap merge=trap\n")
    look(first)
    resume_workspace(folder).remove()
    if trap_of.__name__.startswith("promisor") and kind != "copy":
        with pytest.raises(Invalid, match="not all of the base") as caught:
            opened(kind, repository, tmp_path / "second" / "work", attempt=2)
        assert "partial clone" in caught.value.hint
    else:
        second = opened(kind, repository, tmp_path / "second" / "work", attempt=2)
        (second.path / "new").write_text("new\n")
        look(second)
        second.remove()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def look(work: Workspace) -> None:
    """See its changes; those of a base that is broken cannot be seen."""
    with suppress(Invalid):
        assert b"+new" in (work.patch() or work.undo() or b"")


@pytest.mark.promise("git-runs-nothing")
@pytest.mark.parametrize("kind", ["git-worktree", "copy", "read-only"])
@pytest.mark.parametrize("trap_of", [hooks, filters, process_filter, differs, monitors, everything_else])
def test_a_repository_that_an_agent_makes_in_its_workspace_is_not_run_either(
    repository: Path, folder: Path, trap: Path, tmp_path: Path, trap_of: Trap, kind: Kind
) -> None:
    work = opened(kind, repository, folder)
    inner = folder / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    (inner / "file").write_text("x\n")
    git(inner, "add", "--all")
    git(inner, "commit", "--quiet", "-m", "inner")
    git(folder, "add", "--all")
    trap_of(inner / ".git", trap)
    (inner / "file").write_text("y\n")
    with pytest.raises(Invalid, match="repository of its own"):
        work.undo() if kind == "read-only" else work.patch()
    work.remove()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.promise("git-runs-nothing")
@pytest.mark.parametrize("kind", ["git-worktree", "read-only"])
@pytest.mark.parametrize("what", ["filter", "core"])
def test_what_an_agent_sets_for_all_of_its_users_gits_is_not_run(
    repository: Path, folder: Path, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, kind: Kind
) -> None:
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (home / ".config/git/attributes").write_text("* filter=trap\n")
    config_of = {
        "filter": f'[filter "trap"]\n\tclean = {trap}\n\tsmudge = {trap}\n\trequired\n',
        "core": f"[core]\n\tfsmonitor = {trap}\n\thooksPath = {home}/hooks\n",
    }
    (home / ".gitconfig").write_text(config_of[what])
    hooks(home, trap)
    work = opened(kind, repository, folder)
    (folder / "new").write_text("new\n")
    look(work)
    work.remove()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def assume_unchanged(folder: Path) -> None:
    git(folder, "update-index", "--assume-unchanged", "src/main.py")


def skip_worktree(folder: Path) -> None:
    git(folder, "update-index", "--skip-worktree", "src/main.py")


def replaced(folder: Path) -> None:
    """The base is made to look like what the agent made."""
    head = git(folder, "rev-parse", "HEAD").strip()
    git(folder, "commit", "--quiet", "--all", "-m", "mine")
    git(folder, "replace", head, "HEAD")


def sparse(folder: Path) -> None:
    git(folder, "sparse-checkout", "set", "--no-cone", "/data.bin")
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src/main.py").write_text("hidden\n")


def grafted(folder: Path) -> None:
    common = Path(git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    (common / "info/grafts").write_text(git(folder, "rev-parse", "HEAD"))


def excluded(folder: Path) -> None:
    common = Path(git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    (common / "info").mkdir(exist_ok=True)
    (common / "info/exclude").write_text("*\n")
    config(common, "core.excludesFile", str(common / "info/exclude"))


def attributed(folder: Path) -> None:
    common = Path(git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    (common / "info").mkdir(exist_ok=True)
    (common / "info/attributes").write_text("* -diff\n*.py export-ignore working-tree-encoding=UTF-16\n")


def as_if_modes_did_not_matter(folder: Path) -> None:
    git(folder, "config", "core.fileMode", "false")
    git(folder, "config", "core.symlinks", "false")
    (folder / "data.bin").chmod(0o755)


def no_objects_of_its_own(folder: Path) -> None:
    (folder / ".git").unlink() if (folder / ".git").is_file() else None


def a_split_index(folder: Path) -> None:
    git(folder, "update-index", "--split-index")
    (folder / "forced.log").write_text("x\n")
    git(folder, "add", "--force", "forced.log")


HIDING = (
    *(assume_unchanged, skip_worktree, replaced, sparse, grafted, excluded, attributed, as_if_modes_did_not_matter),
    *(no_objects_of_its_own, a_split_index),
)


@pytest.mark.promise("patch-is-the-work")
@pytest.mark.parametrize("kind", ["git-worktree", "copy"])
@pytest.mark.parametrize("hide", HIDING, ids=lambda hide: hide.__name__)
def test_no_change_can_be_hidden_from_the_patch(
    repository: Path, folder: Path, tmp_path: Path, hide: Callable[[Path], None], kind: Kind
) -> None:
    git(repository, "checkout", "--quiet", "--force")
    (repository / "untracked").unlink()
    work = opened(kind, repository, folder)
    (folder / "src/main.py").write_text("hidden\n")
    hide(folder)
    (folder / "new").write_text("new\n")
    assert applied(repository, work.patch(), tmp_path / "clone") == tree(folder)
    work.remove()


def test_a_workspace_that_became_a_link_is_not_followed(repository: Path, folder: Path, tmp_path: Path) -> None:
    work = opened("git-worktree", repository, folder)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(repository)
    with pytest.raises(Invalid, match="the folder is gone"):
        work.patch()
    work.remove()
    assert (repository / "untracked").exists()


def test_what_the_agent_made_of_the_record_does_not_stop_the_cleaning(repository: Path, folder: Path) -> None:
    for broken in ("", "{", "[]", '{"made": "else"}', '{"made": "worktree", "source": 1}'):
        opened("git-worktree", repository, folder)
        folder.with_name("work.json").write_text(broken)
        left = resume_workspace(folder)
        assert left.patch() is None
        left.remove()
        assert not folder.exists()
        opened("git-worktree", repository, folder).remove()
        assert git(repository, "branch", "--list", "agentq/*") == ""


def test_the_workers_git_asks_nobody(tmp_path: Path, trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_ASKPASS", "GIT_ASKPASS"):
        monkeypatch.setenv(name, str(trap))
    done = Git().run("credential", "fill", stdin=b"protocol=https\nhost=host.invalid\n\n")
    assert b"terminal prompts disabled" in done.stderr
    assert not (tmp_path / "ran").exists()
