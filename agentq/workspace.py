"""Where an attempt works: an empty folder, or a git worktree of its own."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from agentq.errors import Invalid, Unavailable

Kind = Literal["none", "git-worktree"]

_GIT_SECONDS = 600.0
_REASON = 500
_BASE = "agentq-base"  # beside the worktree's own index, for who takes it up after a crash
_PLAIN_PATCH = (
    *("-p", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)


class Workspace(Protocol):
    """A folder that one attempt has to itself. All methods block."""

    @property
    def path(self) -> Path:
        """The folder."""

    def patch(self) -> bytes | None:
        """All that the attempt changed, for `git apply` on its base; None when nothing was, or nothing can tell."""

    def remove(self) -> None:
        """Remove the workspace and what belongs to it; nothing happens when it is gone."""


def open_workspace(
    kind: Kind, *, folder: Path, task_id: str, attempt: int, repository: Path | None = None, base: str | None = None
) -> Workspace:
    """Make the workspace of an attempt in `folder`, clearing away what an earlier try left there.

    Raises Invalid for what no further try could mend (no git, no repository, no such base), else Unavailable.
    """
    if kind == "none":
        scratch = ScratchFolder(folder)
        scratch.create()
        return scratch
    worktree = GitWorktree(_must_be_given(repository), folder, branch_of(task_id, attempt))
    worktree.create(base or "HEAD")
    return worktree


def resume_workspace(
    kind: Kind, *, folder: Path, task_id: str, attempt: int, repository: Path | None = None
) -> Workspace:
    """What a dead attempt left of its workspace, for its patch and to be removed; takes what `open_workspace` took."""
    if kind == "none":
        return ScratchFolder(folder)
    worktree = GitWorktree(_must_be_given(repository), folder, branch_of(task_id, attempt))
    worktree.resume()
    return worktree


def branch_of(task_id: str, attempt: int) -> str:
    """The branch of an attempt: `agentq/<task>/<n>`; an id that git refuses in a branch's name gets a digest."""
    clean = re.sub(r"\.(?=\.|$|lock$)", "-", task_id)
    if clean != task_id:
        clean = f"{clean}-{hashlib.sha256(task_id.encode()).hexdigest()[:8]}"
    return f"agentq/{clean}/{attempt}"


class ScratchFolder:
    """An empty folder, without a patch."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute()

    def create(self) -> None:
        """Make the folder, empty."""
        self.remove()
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise Unavailable(f"the workspace {self.path} cannot be made: {error.strerror}") from error

    def patch(self) -> bytes | None:
        """Nothing: there is no base that a change could be seen against."""
        return None

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        _remove_folder(self.path)


class GitWorktree:
    """A worktree on a new branch; the user's own checkout is not touched, and several can be made at once."""

    def __init__(self, repository: Path, folder: Path, branch: str) -> None:
        self.path = folder.absolute()
        self.branch = branch
        self.base = ""
        self._repository = repository.absolute()
        self._git = _Git(("-C", str(self._repository)))
        self._git_dir = Path()

    def create(self, base: str) -> None:
        """Check out `base` (resolved here, once) on the new branch in the folder."""
        common = self._common_dir()
        self.base = self._resolve(base)
        self.remove()
        with _alone(common):
            self._git.must("worktree", "add", "--quiet", "--no-checkout", "-b", self.branch, str(self.path), self.base)
        inside = _Git(("-C", str(self.path)))
        inside.must("reset", "--hard", "--quiet")
        self._git_dir = _path(inside.must("rev-parse", "--absolute-git-dir"))
        (self._git_dir / _BASE).write_text(self.base)

    def resume(self) -> None:
        """Take up what a process that died had created; if it died over that, there is no patch."""
        with suppress(Unavailable, OSError):
            git_dir = _path(_Git(("-C", str(self.path))).must("rev-parse", "--absolute-git-dir"))
            self.base = (git_dir / _BASE).read_text()
            self._git_dir = git_dir

    def patch(self) -> bytes | None:
        """All changes against the base: committed or not, new, deleted, binary; without what git ignores."""
        if not self.base:
            return None
        # The folder's own `.git` is the agent's to break, so the git folder is named; its index is left as it is.
        git = _Git((f"--git-dir={self._git_dir}", f"--work-tree={self.path}", "-C", str(self.path)))
        with tempfile.TemporaryDirectory() as scratch:
            index = Path(scratch) / "index"
            changed = {"GIT_INDEX_FILE": str(index)}
            try:
                self._copy_index(git, index)
                git.must("add", "--all", **changed)
                patch = git.must("diff-index", "--cached", *_PLAIN_PATCH, self.base, "--", **changed)
            except (Unavailable, OSError) as error:
                raise Invalid(f"the changes in {self.path} cannot be listed: {error}") from error
        self._refuse_hidden_work(patch)
        return patch or None

    def remove(self) -> None:
        """Remove the folder, git's record of it, and the branch: the patch is the evidence."""
        _remove_folder(self.path)
        try:
            common = self._common_dir()
        except Invalid:
            return  # there is no repository any more that could know of it
        with _alone(common):
            self._git.run("worktree", "remove", "--force", "--force", str(self.path))
            # Not `git branch -D`: that rewrites the user's config.
            self._git.run("update-ref", "-d", f"refs/heads/{self.branch}")

    def _copy_index(self, git: "_Git", index: Path) -> None:
        """The agent's index knows the ignored files that it added all the same; a lost one starts from the base."""
        try:
            # With its time stamp: by it git knows which entries are too young to be trusted.
            shutil.copy2(self._git_dir / "index", index)
        except FileNotFoundError:
            git.must("read-tree", self.base, GIT_INDEX_FILE=str(index))

    def _refuse_hidden_work(self, patch: bytes) -> None:
        """A repository inside the workspace would be in the patch as a bare commit id, and its files lost."""
        if b"\nnew file mode 160000\n" in patch and not (self.path / ".gitmodules").exists():
            raise Invalid(
                "a folder that was added is a git repository of its own, so its files are not in the patch",
                hint="remove its .git folder",
            )

    def _common_dir(self) -> Path:
        """The folder that all worktrees of the repository share."""
        if not self._repository.is_dir():
            raise Invalid(f"the repository {self._repository} does not exist", hint="give the path of a git checkout")
        found = self._git.run("rev-parse", "--git-common-dir")
        if found.returncode == 0:
            return self._repository / _path(found.stdout)
        if b"dubious ownership" in found.stderr:
            raise Invalid(
                f"git refuses the repository {self._repository}: it belongs to another user",
                hint=f"as the worker's user: git config --global --add safe.directory '{self._repository}'",
            )
        raise Invalid(f"{self._repository} is not a git repository: {_words(found.stderr)}")

    def _resolve(self, base: str) -> str:
        found = self._git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
        if found.returncode:
            raise Invalid(
                f"the base {base!r} is no commit of the repository {self._repository}",
                hint="name a branch, tag or commit that is there; a new repository needs its first commit",
            )
        return found.stdout.decode().strip()


@dataclass(frozen=True, slots=True)
class _Git:
    """Runs git without hooks, prompts, or what our own caller set for it."""

    where: tuple[str, ...]

    def run(self, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[bytes]":
        """Run git; raises Invalid when it is not installed, Unavailable when it does not come to an end."""
        ours = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0")
        try:
            return subprocess.run(
                ["git", *ours, *self.where, *arguments],
                env=_environment(changed),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GIT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise Invalid("git is not installed", hint="install git, or use the workspace `none`") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"`git {arguments[0]}` did not end within {_GIT_SECONDS:g} s") from error

    def must(self, *arguments: str, **changed: str) -> bytes:
        """What git printed; raises Unavailable with git's own words when it failed."""
        done = self.run(*arguments, **changed)
        if done.returncode:
            raise Unavailable(f"`git {arguments[0]}` failed: {_words(done.stderr)}")
        return done.stdout


def _environment(changed: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", **changed}


@contextmanager
def _alone(common: Path) -> Iterator[None]:
    """Add and remove worktrees of a repository one at a time: git dies of another's half-made one."""
    descriptor = os.open(common, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _path(line: bytes) -> Path:
    return Path(os.fsdecode(line.removesuffix(b"\n")))


def _words(stderr: bytes) -> str:
    return " ".join(stderr.decode(errors="replace").split())[-_REASON:] or "it did not say why"


def _must_be_given(repository: Path | None) -> Path:
    if repository is None:
        raise Invalid(
            "the workspace git-worktree needs a repository",
            hint="set it in the worker's profile, or give the task the label `repo`",
        )
    return repository


def _remove_folder(folder: Path) -> None:
    """Remove a folder, also one with read-only parts, such as a module cache; no link is followed."""
    if folder.is_symlink():
        return folder.unlink()
    if not folder.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _make_writable(folder)
        _rmtree(folder)


def _make_writable(folder: Path) -> None:
    with suppress(OSError):
        folder.chmod(0o700)
    for inner, names, _ in os.walk(folder):
        for path in (Path(inner, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)


def _rmtree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise Unavailable(f"the workspace {folder} cannot be removed: {error}") from error
