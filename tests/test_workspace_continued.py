"""A workspace that begins with somebody's patch: the next one's is the whole, and what is for reading keeps it."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agentq.errors import Invalid
from agentq.workspace import Kind, Workspace, open_workspace, resume_workspace
from tests.repositories import git, repository, tree
from tests.test_workspace_patches import EDITS, TREE, applied_to, kept, put, scene

__all__ = ["repository"]

Edit = tuple[str, tuple[str, bytes] | None]
KINDS: tuple[Kind, ...] = ("git-worktree", "copy", "read-only")


def opened(
    tmp_path: Path, kind: Kind, repository: Path | None, patch: bytes | None = None, attempt: int = 1
) -> Workspace:
    folder = tmp_path / f"attempt {attempt}" / "work"
    return open_workspace(kind, folder=folder, task_id="t", attempt=attempt, repository=repository, patch=patch)


@pytest.fixture
def patch(tmp_path: Path, repository: Path) -> bytes:
    """All sorts of changes, as the worker of the round before has made them a patch."""
    work = opened(tmp_path, "git-worktree", repository)
    (work.path / "src/main.py").write_text("print(10)\n")
    (work.path / "src/gone.py").unlink()
    (work.path / "new.bin").write_bytes(bytes(range(256)) * 3)
    (work.path / "crlf.txt").write_bytes(b"one\r\nzwei\r\n")
    (work.path / "link").unlink()
    (work.path / "link").symlink_to("empty")
    (work.path / "no-newline").chmod(0o755)
    found = work.patch()
    work.remove()
    assert found
    return found


@pytest.fixture
def clean(repository: Path) -> Path:
    """The repository without what its user was about."""
    git(repository, "reset", "--quiet", "--hard")
    (repository / "untracked").unlink()
    return repository


@pytest.mark.promise("review-cannot-change")
@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_what_the_patch_makes_of_the_base(tmp_path: Path, clean: Path, patch: bytes, kind: Kind) -> None:
    before = tree(clean)
    work = opened(tmp_path, kind, clean, patch, attempt=2)
    held = tree(work.path)
    assert (tree(clean), git(clean, "status", "--porcelain")) == (before, "")
    subprocess.run(["git", "-C", clean, "apply", "--index", "--whitespace=nowarn", "-"], input=patch, check=True)
    assert held == tree(clean)
    if kind != "read-only":
        assert work.patch() == patch
    work.remove()
    assert [path.name for path in (tmp_path / "attempt 2").iterdir()] == []


@pytest.mark.parametrize("kind", ["git-worktree", "copy"])
def test_the_next_patch_is_the_whole(tmp_path: Path, clean: Path, patch: bytes, kind: Kind) -> None:
    work = opened(tmp_path, kind, clean, patch, attempt=2)
    (work.path / "new.bin").unlink()
    (work.path / "more").write_text("more\n")
    whole = work.patch()
    assert whole
    assert b"new.bin" not in whole
    held = tree(work.path)
    subprocess.run(["git", "-C", clean, "apply", "--whitespace=nowarn", "-"], input=whole, check=True)
    assert tree(clean) == held


@pytest.mark.promise("review-cannot-change")
@pytest.mark.parametrize("resumed", [False, True])
def test_only_the_readers_own_changes_are_undone(tmp_path: Path, clean: Path, patch: bytes, resumed: bool) -> None:
    work = opened(tmp_path, "read-only", clean, patch, attempt=2)
    held = tree(work.path)
    assert work.undo() is None
    (work.path / "src/main.py").write_text("print(11)\n")
    git(work.path, "add", "--all")
    git(work.path, "commit", "--quiet", "-m", "mine")
    work = resume_workspace(work.path) if resumed else work
    undone = (work.undo() or b"").decode()
    assert undone.count("diff --git") == 1
    assert "-print(10)\n+print(11)\n" in undone
    assert tree(work.path) == held
    assert work.patch() is None
    assert work.undo() is None
    work.remove()
    assert list((tmp_path / "attempt 2").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_does_not_apply_is_refused(tmp_path: Path, clean: Path, patch: bytes, kind: Kind) -> None:
    (clean / "src/main.py").write_text("print('moved on')\n")
    git(clean, "commit", "--quiet", "--all", "-m", "moved on")
    with pytest.raises(Invalid, match=r"does not apply to the base .*src/main\.py"):
        opened(tmp_path, kind, clean, patch, attempt=2)
    opened(tmp_path, kind, clean, attempt=2).remove()


@pytest.mark.parametrize("name", ["../out", ".git/hooks/post-checkout", "link-out/x"])
def test_a_patch_cannot_lead_out_of_the_workspace(tmp_path: Path, clean: Path, name: str) -> None:
    (clean / "link-out").symlink_to(tmp_path)
    git(clean, "add", "--all")
    git(clean, "commit", "--quiet", "-m", "a link")
    hostile = f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(Invalid, match="does not apply"):
        opened(tmp_path, "git-worktree", clean, hostile.encode(), attempt=2)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["none", "read-only"])
def test_there_must_be_a_repository(tmp_path: Path, patch: bytes, kind: Kind) -> None:
    with pytest.raises(Invalid, match="no repository to apply it to"):
        opened(tmp_path, kind, None, patch, attempt=3)


@pytest.mark.promise("review-cannot-change")
@pytest.mark.parametrize("kind", ["git-worktree", "read-only", "copy of a plain folder"])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=TREE, edits=EDITS, more=EDITS)
def test_any_patch_is_taken_up_as_its_author_left_it(
    kind: str, base: dict[str, tuple[str, bytes]], edits: list[Edit], more: list[Edit]
) -> None:
    plain = kind.endswith("folder")
    of_kind: Kind = "copy" if plain else "read-only" if kind == "read-only" else "git-worktree"
    base = {path: entry for path, entry in base.items() if "x.ignored" not in path}  # no patch tells what it is beside
    with scene(base, versioned=not plain) as (origin, folder):
        authors: Kind = "copy" if plain else "git-worktree"
        author = open_workspace(authors, folder=folder, task_id="a", attempt=1, repository=origin)
        for name, entry in edits:
            put(folder, name, entry)
        patch, left = author.patch(), kept(folder)
        author.remove()
        work = open_workspace(of_kind, folder=folder, task_id="b", attempt=1, repository=origin, patch=patch)
        assert kept(folder) == left
        for name, entry in more:
            put(folder, name, entry)
        if of_kind == "read-only":
            changed = kept(folder) != left
            assert bool(work.undo()) == changed
            assert kept(folder) == left
            assert work.undo() is None
        else:
            assert applied_to(origin, work.patch(), folder.parent / "applied") == kept(folder)
        work.remove()
