"""Workspaces, with real git repositories."""

# mypy: disable-error-code="func-returns-value"

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentq.errors import Invalid, Unavailable
from agentq.workspace import Workspace, branch_of, open_workspace, resume_workspace
from agentq.workspace import git as workspace_git
from agentq.workspace.source import Source
from tests.repositories import BINARY, applied, git, repository, tree

__all__ = ["repository"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scratch ä" / "work"


def worktree(repository: Path, folder: Path, attempt: int = 1, base: str | None = None) -> Workspace:
    return open_workspace(
        "git-worktree", folder=folder, task_id="task-1", attempt=attempt, repository=repository, base=base
    )


# ---------------------------------------------------------------------- an empty folder


def test_a_scratch_folder_is_empty_and_has_no_patch(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "left by an earlier try").touch()
    scratch = open_workspace("none", folder=folder, task_id="task-1", attempt=1)
    assert scratch.path == folder
    assert list(folder.iterdir()) == []
    (folder / "new").touch()
    assert scratch.patch() is None
    scratch.remove()
    scratch.remove()
    assert not folder.exists()


def test_a_folder_is_removed_though_parts_of_it_are_read_only(folder: Path) -> None:
    scratch = open_workspace("none", folder=folder, task_id="task-1", attempt=1)
    deep = folder / "cache" / "deep"
    deep.mkdir(parents=True)
    (deep / "file").touch(mode=0o400)
    deep.chmod(0o500)
    deep.parent.chmod(0o000)
    scratch.remove()
    assert not folder.exists()


def test_removing_follows_no_link(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    scratch = open_workspace("none", folder=folder, task_id="task-1", attempt=1)
    (folder / "link").symlink_to(precious)
    scratch.remove()
    folder.symlink_to(precious)
    scratch.remove()
    assert (precious / "file").exists()
    assert not folder.is_symlink()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be made"):
        open_workspace("none", folder=tmp_path / "file" / "work", task_id="task-1", attempt=1)


# ---------------------------------------------------------------------- a worktree


def test_a_worktree_is_the_base_on_a_branch_of_its_own(repository: Path, folder: Path) -> None:
    work = worktree(repository, folder, attempt=3)
    assert work.path == folder
    assert (folder / "src/main.py").read_bytes() == b"print(1)\n"
    assert not (folder / "untracked").exists()
    assert git(folder, "branch", "--show-current").strip() == "agentq/task-1/3"


@pytest.mark.promise("checkout-untouched")
def test_the_users_checkout_is_not_touched(repository: Path, folder: Path) -> None:
    def state() -> tuple[str, ...]:
        return (git(repository, "status", "--porcelain", "--branch"), git(repository, "diff", "HEAD"), config)

    config = (repository / ".git/config").read_text()
    before = state()
    work = worktree(repository, folder)
    (folder / "src/main.py").write_bytes(b"the agent's\n")
    work.patch()
    assert state() == before
    work.remove()
    assert state() == before
    assert (repository / ".git/config").read_text() == config
    assert git(repository, "branch", "--list", "agentq/*") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_nothing_changed_is_no_patch(repository: Path, folder: Path) -> None:
    work = worktree(repository, folder)
    assert work.patch() is None
    (folder / "debug.log").write_bytes(b"ignored")
    assert work.patch() is None


Change = Callable[[Path], object]


def commit_all(where: Path) -> None:
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "--allow-empty", "-m", "the agent's")


CHANGES: dict[str, Change] = {
    "edited": lambda at: (at / "src/main.py").write_bytes(b"print(3)\n"),
    "edited at once, with the same size": lambda at: (at / "src/main.py").write_bytes(b"print(9)\n"),
    "new": lambda at: (at / "new ünd nested").mkdir() or (at / "new ünd nested/a\tb").write_bytes(b"x"),
    "new and empty": lambda at: (at / "nothing").touch(),
    "deleted": lambda at: (at / "src/gone.py").unlink(),
    "all deleted": lambda at: [shutil.rmtree(at / "src"), (at / "data.bin").unlink(), (at / "empty").unlink()],
    "renamed": lambda at: (at / "src/with space ä.txt").rename(at / "moved.txt"),
    "binary": lambda at: (at / "data.bin").write_bytes(BINARY[::-1]),
    "new binary": lambda at: (at / "more.bin").write_bytes(BINARY),
    "carriage returns": lambda at: (at / "crlf.txt").write_bytes(b"one\r\nthree\r\n \t\r\n"),
    "no newline at the end": lambda at: (at / "no-newline").write_bytes(b"the end"),
    "made executable": lambda at: (at / "src/main.py").chmod(0o755),
    "link turned": lambda at: [(at / "link").unlink(), (at / "link").symlink_to("data.bin")],
    "link made a file": lambda at: [(at / "link").unlink(), (at / "link").write_bytes(b"x")],
    "file made a folder": lambda at: [(at / "empty").unlink(), (at / "empty").mkdir(), (at / "empty/a").touch()],
    "looks like a patch": lambda at: (at / "p").write_bytes(b"diff --git a/x b/x\n--- a/x\nnew file mode 160000\n"),
    "ignored but added": lambda at: [(at / "a.log").write_bytes(b"x"), git(at, "add", "--force", "a.log")],
    "no longer tracked": lambda at: git(at, "rm", "--quiet", "src/gone.py"),
}


@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_patch_makes_of_the_base_what_the_agent_made(
    repository: Path, folder: Path, tmp_path: Path, change: Change, commits: bool
) -> None:
    work = worktree(repository, folder)
    change(folder)
    if commits:
        commit_all(folder)
    assert applied(repository, work.patch(), tmp_path / "clone") == tree(folder)


def test_everything_at_once_committed_and_not_on_other_branches_and_half_staged(
    repository: Path, folder: Path, tmp_path: Path
) -> None:
    work = worktree(repository, folder)
    CHANGES["binary"](folder)
    commit_all(folder)
    git(folder, "checkout", "--quiet", "-b", "my-own-branch")
    CHANGES["deleted"](folder)
    commit_all(folder)
    git(folder, "checkout", "--quiet", "--detach")
    CHANGES["new"](folder)
    git(folder, "add", "--all")
    CHANGES["edited"](folder)
    patch = work.patch()
    assert git(folder, "diff", "--name-only").split() == ["src/main.py"]
    assert work.patch() == patch
    assert applied(repository, patch, tmp_path / "clone") == tree(folder)


def test_a_change_that_looks_like_none_is_in_the_patch(repository: Path, folder: Path) -> None:
    """Same size, same time: git looks inside only because its index is no younger than the file."""
    for name, value in {"core.trustctime": "false", "core.checkStat": "minimal"}.items():
        git(repository, "config", name, value)
    work = worktree(repository, folder)
    index = Path(git(folder, "rev-parse", "--absolute-git-dir").strip(), "index")
    long_ago = (1_000_000_000, 1_000_000_000)
    os.utime(folder / "src/main.py", long_ago)
    git(folder, "update-index", "--refresh")
    os.utime(index, long_ago)
    (folder / "src/main.py").write_bytes(b"print(9)\n")
    os.utime(folder / "src/main.py", long_ago)
    assert b"print(9)" in (work.patch() or b"")


def test_what_git_ignores_is_not_in_the_patch(repository: Path, folder: Path) -> None:
    work = worktree(repository, folder)
    (folder / "build").mkdir()
    (folder / "build/big").write_bytes(BINARY)
    (folder / "debug.log").write_bytes(b"x")
    (folder / "kept.txt").write_bytes(b"x")
    patch = work.patch() or b""
    assert b"kept.txt" in patch
    assert b"build" not in patch
    assert b"debug.log" not in patch


def test_the_users_taste_in_diffs_does_not_matter(repository: Path, folder: Path, tmp_path: Path) -> None:
    for name, value in {
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "diff.external": "false",
        "diff.renames": "copies",
        "color.ui": "always",
        "color.diff": "always",
        "diff.context": "0",
        "core.quotePath": "false",
        "diff.*.textconv": "false",
        "core.pager": "false",
    }.items():
        git(repository, "config", name, value)
    work = worktree(repository, folder)
    for name in ("renamed", "edited", "carriage returns"):
        CHANGES[name](folder)
    assert applied(repository, work.patch(), tmp_path / "clone") == tree(folder)


@pytest.mark.parametrize("breaking", ["no .git", "another repository", "no index", "broken merge"])
def test_a_worktree_that_the_agent_broke_still_gives_its_patch(
    repository: Path, folder: Path, tmp_path: Path, breaking: str
) -> None:
    work = worktree(repository, folder)
    CHANGES["edited"](folder)
    if breaking == "no .git":
        (folder / ".git").unlink()
    elif breaking == "another repository":
        (folder / ".git").unlink()
        git(folder, "init", "--quiet")
        commit_all(folder)
    elif breaking == "no index":
        Path(git(folder, "rev-parse", "--absolute-git-dir").strip(), "index").unlink()
    else:
        commit_all(folder)
        git(folder, "checkout", "--quiet", "-b", "other", "HEAD~1")
        (folder / "src/main.py").write_bytes(b"conflict\n")
        commit_all(folder)
        with pytest.raises(subprocess.CalledProcessError):
            git(folder, "merge", "agentq/task-1/1")
    assert applied(repository, work.patch(), tmp_path / "clone") == tree(folder)
    work.remove()
    assert not folder.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("committed", [False, True])
def test_work_in_a_repository_of_its_own_is_not_lost_in_silence(
    repository: Path, folder: Path, committed: bool
) -> None:
    work = worktree(repository, folder)
    inner = folder / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    (inner / "file").write_bytes(b"x")
    if committed:
        commit_all(inner)
    with pytest.raises(Invalid, match=r"inner|repository of its own"):
        work.patch()
    shutil.rmtree(inner / ".git")
    assert b"inner/file" in (work.patch() or b"")


def test_a_patch_of_a_worktree_that_is_gone_is_refused(repository: Path, folder: Path) -> None:
    work = worktree(repository, folder)
    shutil.rmtree(folder)
    with pytest.raises(Invalid, match="cannot be listed"):
        work.patch()


# ---------------------------------------------------------------------- bases


def test_a_base_may_be_a_branch_a_tag_or_a_commit_and_is_resolved_once(
    repository: Path, folder: Path, tmp_path: Path
) -> None:
    first = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "tag", "-a", "-m", "tagged", "v1")
    git(repository, "branch", "stable")
    for number, base in enumerate(("v1", "stable", first, first[:10], "HEAD", None), start=1):
        work = worktree(repository, folder / str(number), attempt=number, base=base)
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "moves on")
        if base not in ("HEAD", None):
            assert git(work.path, "rev-parse", "HEAD").strip() == first
        assert work.patch() is None


@pytest.mark.parametrize("base", ["nowhere", "--help", "-b", "HEAD:src", "HEAD:src/main.py", "main..HEAD", "a b"])
def test_an_unknown_base_is_refused_and_nothing_is_made(repository: Path, folder: Path, base: str) -> None:
    with pytest.raises(Invalid, match="is no commit of the repository"):
        worktree(repository, folder, base=base)
    assert not folder.exists()
    assert git(repository, "branch", "--list", "agentq/*") == ""


def test_a_repository_without_a_commit_is_refused(tmp_path: Path, folder: Path) -> None:
    git(tmp_path, "init", "--quiet", "new")
    with pytest.raises(Invalid) as caught:
        worktree(tmp_path / "new", folder)
    assert "first commit" in caught.value.hint


# ---------------------------------------------------------------------- what is refused


def test_a_folder_that_is_no_repository_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    with pytest.raises(Invalid, match="is not a git repository"):
        worktree(tmp_path / "plain", folder)


def test_a_repository_that_does_not_exist_is_refused(tmp_path: Path, folder: Path) -> None:
    for path in (tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(Invalid, match="does not exist"):
            worktree(path, folder)


def test_a_worktree_needs_a_repository(folder: Path) -> None:
    with pytest.raises(Invalid, match="needs a repository"):
        open_workspace("git-worktree", folder=folder, task_id="task-1", attempt=1)


def test_git_that_is_not_installed_is_said(
    repository: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match="git is not installed"):
        worktree(repository, folder)


def test_git_that_does_not_end_is_said(repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_git, "SECONDS", 1e-9)
    with pytest.raises(Unavailable, match="did not end"):
        worktree(repository, folder)


def test_a_repository_of_another_user_is_refused_with_the_way_out(
    repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho \"fatal: detected dubious ownership in repository at 'x'\" >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(Invalid, match="belongs to another user") as caught:
        worktree(repository, folder)
    assert "safe.directory" in caught.value.hint


def test_a_worktree_that_cannot_be_made_may_be_tried_again(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be made"):
        worktree(repository, tmp_path / "file" / "work")


# ---------------------------------------------------------------------- surroundings and leftovers


def test_what_the_caller_set_for_git_does_not_leak(
    repository: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_EXTERNAL_DIFF"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    work = worktree(repository, folder)
    CHANGES["edited"](folder)
    assert b"print(3)" in (work.patch() or b"")
    work.remove()
    assert not (tmp_path / "elsewhere").exists()


def test_no_hook_of_the_repository_is_run(repository: Path, folder: Path, tmp_path: Path) -> None:
    hooks = repository / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
        (hooks / name).chmod(0o755)
    work = worktree(repository, folder)
    CHANGES["new"](folder)
    work.patch()
    work.remove()
    assert not (tmp_path / "ran").exists()


@pytest.mark.promise("checkout-untouched")
def test_several_at_once(repository: Path, tmp_path: Path) -> None:
    """Without a lock of ours, two `git worktree add` at once fail now and then."""

    def one(number: int) -> tuple[str, bytes]:
        work = worktree(repository, tmp_path / f"work {number}", attempt=number)
        (work.path / "mine").write_text(f"of {number}\n")
        patch = work.patch() or b""
        branch = git(work.path, "branch", "--show-current").strip()
        work.remove()
        return branch, patch

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(24)))
    for number, (branch, patch) in enumerate(results):
        assert branch == f"agentq/task-1/{number}"
        assert f"+of {number}\n".encode() in patch
    assert git(repository, "branch", "--list", "agentq/*") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_worktrees_of_a_repository_are_made_one_after_the_other(repository: Path, folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Source(repository, "x").alone():
            waiting = pool.submit(worktree, repository, folder)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            assert not folder.exists()
        assert waiting.result(30).path == folder


@pytest.mark.parametrize("left", ["all", "no folder", "no record", "only a folder", "locked"])
def test_an_attempts_workspace_is_made_afresh_over_what_a_dead_one_left(
    repository: Path, folder: Path, left: str
) -> None:
    worktree(repository, folder)
    (folder / "half").write_bytes(b"x")
    if left == "no folder":
        shutil.rmtree(folder)
    elif left == "no record":
        shutil.rmtree(repository / ".git/worktrees")
    elif left == "only a folder":
        shutil.rmtree(repository / ".git/worktrees")
        git(repository, "branch", "--quiet", "-D", "agentq/task-1/1")
    elif left == "locked":
        git(repository, "worktree", "lock", str(folder))
    again = worktree(repository, folder)
    assert again.patch() is None
    assert not (folder / "half").exists()


def test_what_a_dead_attempt_left_can_be_removed_by_another_process(repository: Path, folder: Path) -> None:
    worktree(repository, folder)
    for _ in range(2):
        resume_workspace(folder).remove()
        assert not folder.exists()
        assert git(repository, "branch", "--list", "agentq/*") == ""


def test_a_workspace_is_removed_even_when_its_repository_is_gone(repository: Path, folder: Path) -> None:
    work = worktree(repository, folder)
    shutil.rmtree(repository)
    work.remove()
    assert not folder.exists()


@pytest.mark.parametrize("task_id", ["task-1", "a..b", "x.lock", "x.", "a...", "A_b.c-d", "x.lock.lock", "1.locked"])
def test_every_task_id_makes_a_branch(repository: Path, folder: Path, task_id: str) -> None:
    branch = branch_of(task_id, 2)
    git(repository, "check-ref-format", "--branch", branch)
    open_workspace("git-worktree", folder=folder, task_id=task_id, attempt=2, repository=repository).remove()


def test_different_tasks_have_different_branches() -> None:
    ids = ["a..b", "a-.b", "a--b", "a.-b", "x.", "x-", "x.lock", "x-lock"]
    assert len({branch_of(task_id, 1) for task_id in ids}) == len(ids)
    assert branch_of("task-1", 7) == "agentq/task-1/7"


def test_what_a_dead_attempt_changed_is_found_again(repository: Path, folder: Path) -> None:
    first = worktree(repository, folder)
    (first.path / "new").write_text("new\n")
    patch = first.patch()
    assert patch
    assert b"+new" in patch
    again = resume_workspace(folder)
    assert again.patch() == patch
    again.remove()
    assert resume_workspace(folder).patch() is None
