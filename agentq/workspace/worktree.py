"""A worktree of the user's repository, on a branch of the attempt's own."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentq.errors import Invalid
from agentq.workspace import folders
from agentq.workspace.changes import check_out, patch_of
from agentq.workspace.clone import fill_inner
from agentq.workspace.git import at
from agentq.workspace.record import Record, forget
from agentq.workspace.source import Source


class Worktree:
    """The user's own checkout is not touched, and several can be made at once."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.path = record.folder
        self._source = Source(record.source, record.name)

    def create(self) -> None:
        """Check out the base on the branch in the folder; no hook and no filter of the repository is run."""
        base, path = self.record.base, self.path
        self._clear()
        with self._source.alone():
            new = ("--no-checkout", "-b", self.record.branch)
            self._source.git.must("worktree", "add", "--quiet", *new, str(path), base.id)
        git_dir = Path(at(path).line("rev-parse", "--absolute-git-dir"))
        base = check_out(base, path, git_dir / "index", path, self.record.own)
        self.record = replace(self.record, agents=git_dir, base=fill_inner(base, self.record, path))

    def patch(self) -> bytes | None:
        """All changes against the base: committed or not, new, deleted, binary; without what git ignores."""
        return patch_of(self.record.base, self.path, self.path, self.record.agents) if self.record.whole else None

    def remove(self) -> None:
        """Remove the folder, git's record of it, and the branch: the patch is the evidence."""
        with suppress(Invalid, OSError):  # there is no repository any more that could know of it
            self._clear()
        forget(self.path)

    def _clear(self) -> None:
        folders.remove(self.path)
        folders.remove(self.record.own)
        with self._source.alone():
            self._source.git.run("worktree", "remove", "--force", "--force", str(self.path))
            # Not `git branch -D`: that rewrites the user's config.
            self._source.git.run("update-ref", "-d", f"refs/heads/{self.record.branch}")
