"""Submodules: filled from the user's checkout, or left as they are, or refused; and whose changes they have."""

import shutil
from pathlib import Path

import pytest

from agentq.errors import Invalid
from agentq.workspace import Kind, Workspace, open_workspace, resume_workspace
from tests.repositories import git, repository, tree
from tests.test_workspace_hostile import Trap, everything_else, filters, hooks, monitors, process_filter, trap

__all__ = ["repository", "trap"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / "work"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A repository with a submodule of its own, to be a submodule."""
    for name in ("innermost", "library"):
        git(tmp_path, "init", "--quiet", name)
        (tmp_path / name / "code.py").write_text(f"of {name}\n")
        git(tmp_path / name, "add", "--all")
        git(tmp_path / name, "commit", "--quiet", "-m", name)
    add_submodule(tmp_path / "library", tmp_path / "innermost", "deep/innermost")
    return tmp_path / "library"


@pytest.fixture
def whole(repository: Path, library: Path) -> Path:
    """A checkout with its submodules."""
    add_submodule(repository, library, "vendor/the library")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
    return repository


def add_submodule(repository: Path, source: Path, path: str) -> None:
    git(repository, "stash", "--quiet") if git(repository, "diff", "--cached", "--name-only") else None
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), path)
    git(repository, "commit", "--quiet", "-m", f"add {path}")


def opened(kind: Kind, repository: Path, folder: Path) -> Workspace:
    return open_workspace(kind, folder=folder, task_id="task-1", attempt=1, repository=repository)


@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy"])
def test_submodules_are_filled_from_the_checkout_also_those_inside_others(
    whole: Path, folder: Path, kind: Kind
) -> None:
    work = opened(kind, whole, folder)
    inner = folder / "vendor/the library"
    assert (inner / "code.py").read_text() == "of library\n"
    assert (inner / "deep/innermost/code.py").read_text() == "of innermost\n"
    assert git(inner, "log", "--format=%s").splitlines()[-1] == "library"
    assert git(folder, "status", "--porcelain") == ("?? untracked\n" if kind == "copy" else "")
    assert git(inner, "status", "--porcelain") == ""
    assert work.patch() is work.undo() is None
    assert "submodules are empty" not in " ".join(work.notes)
    before = tree(whole)
    work.remove()
    assert tree(whole) == before
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy"])
@pytest.mark.parametrize("how", ["changed", "new", "deleted", "committed", "innermost", "without .git"])
def test_changes_in_a_submodule_are_not_lost_in_silence(whole: Path, folder: Path, kind: Kind, how: str) -> None:
    work = opened(kind, whole, folder)
    inner = folder / "vendor/the library"
    if how == "innermost":
        inner = inner / "deep/innermost"
    if how == "without .git":
        shutil.rmtree(inner / ".git") if (inner / ".git").is_dir() else (inner / ".git").unlink()
    if how == "deleted":
        (inner / "code.py").unlink()
    else:
        (inner / ("new.py" if how == "new" else "code.py")).write_text("the agent's\n")
    if how == "committed":
        git(inner, "commit", "--quiet", "--all", "-m", "the agent's")
    with pytest.raises(Invalid, match=r"'vendor/the library' were changed|commit of the agent's own|innermost"):
        work.undo() if kind == "read-only" else work.patch()
    if kind == "git-worktree":
        with pytest.raises(Invalid):
            resume_workspace(folder).patch()
    work.remove()


def test_a_submodule_may_be_moved_to_a_commit_that_the_checkout_has(whole: Path, library: Path, folder: Path) -> None:
    inner = whole / "vendor/the library"
    first = git(inner, "rev-parse", "HEAD~1").strip()
    work = opened("git-worktree", whole, folder)
    git(folder / "vendor/the library", "checkout", "--quiet", first)
    shutil.rmtree(folder / "vendor/the library/deep", ignore_errors=True)
    patch = work.patch() or b""
    assert f"+Subproject commit {first}".encode() in patch
    git(folder, "rm", "--quiet", "-r", "--force", "vendor/the library")
    assert b"deleted file mode 160000" in (work.patch() or b"")


def test_a_submodule_that_the_checkout_has_not_stays_empty_and_that_is_said(
    whole: Path, folder: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", str(whole), "bare of submodules")
    work = opened("git-worktree", tmp_path / "bare of submodules", folder)
    assert list((folder / "vendor/the library").iterdir()) == []
    assert [note for note in work.notes if "submodules are empty" in note and "vendor/the library" in note]
    assert work.patch() is None


def test_a_submodule_whose_commit_the_checkout_lacks_is_refused(whole: Path, library: Path, folder: Path) -> None:
    (library / "code.py").write_text("newer\n")
    git(library, "commit", "--quiet", "--all", "-m", "newer")
    newer = git(library, "rev-parse", "HEAD").strip()
    git(whole, "update-index", "--cacheinfo", f"160000,{newer},vendor/the library")
    git(whole, "commit", "--quiet", "-m", "moved on")
    with pytest.raises(Invalid, match=f"at the commit {newer[:12]}") as caught:
        opened("git-worktree", whole, folder)
    assert "submodule update --init" in caught.value.hint
    assert not folder.exists()


@pytest.mark.promise("git-runs-nothing")
@pytest.mark.parametrize("kind", ["git-worktree", "copy", "read-only"])
@pytest.mark.parametrize("trap_of", [hooks, filters, process_filter, monitors, everything_else])
def test_what_an_agent_sets_in_a_submodule_is_not_run(
    whole: Path, folder: Path, trap: Path, tmp_path: Path, trap_of: Trap, kind: Kind
) -> None:
    work = opened(kind, whole, folder)
    inner = folder / "vendor/the library"
    git_dir = Path(git(inner, "rev-parse", "--absolute-git-dir").strip())
    for place in {git_dir, whole / ".git/modules/vendor/the library"}:
        trap_of(place, trap)
    (inner / ".gitattributes").write_text("* filter=trap\n")
    (inner / "code.py").write_text("x\n")
    with pytest.raises(Invalid, match=r"'vendor/the library' were changed"):
        work.undo() if kind == "read-only" else work.patch()
    work.remove()
    opened(kind, whole, tmp_path / "second/work").remove()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_a_submodules_name_leads_nowhere_else(repository: Path, folder: Path, library: Path, tmp_path: Path) -> None:
    head = git(library, "rev-parse", "HEAD").strip()
    shutil.copytree(library / ".git", tmp_path / "elsewhere")
    (repository / ".gitmodules").write_text(f'[submodule "../../../elsewhere"]\n\tpath = sub\n\turl = {library}\n')
    git(repository, "stash", "--quiet")
    (repository / ".gitmodules").write_text(f'[submodule "../../../elsewhere"]\n\tpath = sub\n\turl = {library}\n')
    git(repository, "add", ".gitmodules")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{head},sub")
    git(repository, "commit", "--quiet", "-m", "astray")
    opened("git-worktree", repository, folder)
    assert list((folder / "sub").iterdir()) == []


@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy"])
def test_a_patch_to_begin_with_leaves_them_as_they_are(whole: Path, folder: Path, tmp_path: Path, kind: Kind) -> None:
    (whole / "untracked").unlink()
    work = opened("git-worktree", whole, tmp_path / "before" / "work")
    (work.path / "src/main.py").write_text("print(10)\n")
    patch = work.patch()
    work.remove()
    begun = open_workspace(kind, folder=folder, task_id="task-2", attempt=1, repository=whole, patch=patch)
    assert (folder / "vendor/the library/deep/innermost/code.py").read_text() == "of innermost\n"
    assert begun.patch() == (None if kind == "read-only" else patch)
    assert begun.undo() is None
    (folder / "src/main.py").write_text("print(11)\n")
    if kind == "read-only":
        assert b"-print(10)\n+print(11)\n" in (begun.undo() or b"")
        assert (folder / "src/main.py").read_text() == "print(10)\n"
        assert (folder / "vendor/the library/code.py").read_text() == "of library\n"
    begun.remove()
