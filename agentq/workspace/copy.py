"""A copy of a folder as it stands: cheap where the file system can share the data."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentq.errors import Invalid, Unavailable
from agentq.workspace import folders
from agentq.workspace.changes import Base, inner_repositories, patch_of, snapshot
from agentq.workspace.git import SECONDS, at
from agentq.workspace.record import Record, forget
from agentq.workspace.source import Source

_SHARING = ("-a", "--reflink=auto") if sys.platform == "linux" else ("-pPR",)


class Copy:
    """All that is in the folder, also what no commit has and what git ignores; the base is what was copied."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.path = record.folder

    def create(self) -> None:
        """Copy the folder and note what there is; raises Invalid for one that cannot be separated from the original."""
        source = self.record.source.resolve()
        _refuse(source, self.path, self.record.name)
        folders.remove(self.path)
        _copy(source, self.path, self.record.name)
        _separate(self.path, self.record.name)
        self.record = replace(self.record, base=self._base(source))

    def patch(self) -> bytes | None:
        """All changes against what was copied: new, deleted, binary; without what git would ignore."""
        return patch_of(self.record.base, self.path, self.path, self.path / ".git") if self.record.whole else None

    def remove(self) -> None:
        """Remove the copy and what was noted of it."""
        folders.remove(self.path)
        folders.remove(self.record.own)
        forget(self.path)

    def _base(self, source: Path) -> Base:
        folders.remove(self.record.own)
        try:
            return _noted(_known(source, self.path), self.path, self.record.own / "objects", self.path)
        except Unavailable as error:
            raise Invalid(
                f"what is in {self.record.name} cannot be listed: {error}",
                hint="see that everything in it can be read, and that no repository inside it is without a commit",
            ) from error


def _known(source: Path, copied: Path) -> Base:
    """What git knows of the folder already: objects that need not be written again."""
    if not (copied / ".git").is_dir():
        return Base("", ())
    repository = Source(copied, str(source))
    return replace(repository.kind(), objects=(source / ".git/objects",))


def _noted(known: Base, folder: Path, objects: Path, near: Path) -> Base:
    base = snapshot(known, folder, objects, near)
    inner = {
        path: _noted(Base("", (), base.object_format), folder / path, objects, near)
        for path in inner_repositories(base, near)
        if (folder / path).is_dir()
    }
    return replace(base, inner=inner)


def _refuse(source: Path, folder: Path, name: str) -> None:
    if not source.is_dir():
        raise Invalid(f"the folder {name} does not exist", hint="give a folder on the worker's machine")
    if folder.is_relative_to(source):
        raise Invalid(
            f"the folder {name} holds the worker's own data ({folder}), so it cannot be copied there",
            hint="keep the data folder (AGENTQ_DATA) outside of what is copied",
        )
    if (source / ".git").is_file():
        raise Invalid(
            f"{name} is a worktree or submodule: its copy would share the repository",
            hint="use the workspace git-worktree, or copy the main checkout",
        )
    if all((source / part).exists() for part in ("HEAD", "objects", "refs")):
        raise Invalid(f"{name} is a bare repository: there are no files to copy", hint="use the workspace git-worktree")


def _copy(source: Path, folder: Path, name: str) -> None:
    folders.make(folder.parent)
    command = ["cp", *_SHARING, "--", str(source), str(folder)]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"copying {name} did not end within {SECONDS:g} s") from error
    if done.returncode:
        what = " ".join(done.stderr.decode(errors="replace").split())[:500]
        if "Permission denied" in what:
            raise Invalid(f"{name} cannot be copied: {what}", hint="let the worker's user read all of it")
        raise Unavailable(f"{name} cannot be copied: {what}")


def _separate(folder: Path, name: str) -> None:
    """Cut what leads from the copy's repositories back into the original's."""
    for repository in _git_folders(folder):
        folders.remove(repository / "worktrees")
        for lock in repository.glob("*.lock"):
            lock.unlink()
    for link in _git_files(folder):
        if not _target(link).is_relative_to(folder):
            link.unlink()
    if (folder / ".git").is_dir():
        top = at(folder).line("rev-parse", "--show-toplevel")
        if Path(top) != folder.resolve():
            raise Invalid(
                f"the repository {name} says that its files are in {top}",
                hint="git config --unset core.worktree, or use the workspace git-worktree",
            )


def _git_folders(folder: Path) -> Iterator[Path]:
    yield from (path for path in _dot_gits(folder) if path.is_dir() and not path.is_symlink())


def _git_files(folder: Path) -> Iterator[Path]:
    yield from (path for path in _dot_gits(folder) if path.is_file() or path.is_symlink())


def _dot_gits(folder: Path) -> Iterator[Path]:
    for here, folders_in, files in os.walk(folder):
        if ".git" in folders_in or ".git" in files:
            yield Path(here, ".git")
        if ".git" in folders_in:
            folders_in.remove(".git")


def _target(link: Path) -> Path:
    """Where a `.git` file or link leads."""
    with suppress(OSError, ValueError):
        if link.is_symlink():
            return link.resolve()
        words = os.fsdecode(link.read_bytes()).removeprefix("gitdir:").strip()
        return (link.parent / words).resolve()
    return Path("/")
