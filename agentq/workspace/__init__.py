"""Where an attempt works: an empty folder, a worktree or clone of a repository, a copy, or one that stays as it is."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from agentq.errors import Invalid
from agentq.request import is_url
from agentq.workspace import folders, remote
from agentq.workspace.changes import apply, files_in
from agentq.workspace.clone import Clone
from agentq.workspace.copy import Copy
from agentq.workspace.record import Record, forget, load
from agentq.workspace.source import Source
from agentq.workspace.worktree import Worktree

__all__ = ["Kind", "Workspace", "branch_of", "files_in", "open_workspace", "resume_workspace"]

Kind = Literal["none", "git-worktree", "copy", "read-only"]
_READ_ONLY = "It is for reading: what you change in it is undone and reported."


class Workspace(Protocol):
    """A folder that one attempt has to itself. All methods block."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its agent should know of it, in sentences."""

    def patch(self) -> bytes | None:
        """All that the attempt changed, for `git apply` on its base; None when nothing was, or nothing can tell.

        Raises Invalid when that cannot be listed.
        """

    def undo(self) -> bytes | None:
        """Put a read-only workspace back to what it was and answer what was changed; None when nothing was, and for
        every other kind. Raises Invalid when that cannot be listed."""

    def remove(self) -> None:
        """Remove the workspace and what belongs to it; nothing happens when it is gone."""


def open_workspace(
    kind: Kind,
    *,
    folder: Path,
    task_id: str,
    attempt: int,
    repository: str | Path | None = None,
    base: str | None = None,
    cache: Path | None = None,
    patch: bytes | None = None,
) -> Workspace:
    """Make the workspace of an attempt in `folder`, clearing away what an earlier try left there; its `repository` is a
    path or a URL, which is fetched below `cache`. It begins with that `patch` of its base, which a read-only one keeps.

    Raises Invalid for what no further try could mend (no git, no repository, no such base, a patch that does not
    apply), else Unavailable.
    """
    folder = folder.absolute()
    folders.make(folder.parent)
    _Opened(load(folder)).remove()
    record = Record("empty", folder, branch=branch_of(task_id, attempt), read_only=kind == "read-only")
    if kind != "none" and not (kind == "read-only" and repository is None):
        record = _of_repository(kind, record, _must_be_given(kind, repository), base, cache or folder.parent)
    if patch is not None and record.made == "empty":
        raise Invalid(
            "the work that it continues is a patch, and there is no repository to apply it to",
            hint="give the task the label `repo`, and its worker a workspace of another kind than `none`",
        )
    record, notes = _with_notes(record)
    record.save()
    workspace = _Opened(record, notes, patch)
    workspace.create()
    return workspace


def resume_workspace(folder: Path) -> Workspace:
    """What a dead attempt left of its workspace in that folder, for its patch and to be removed."""
    return _Opened(load(folder.absolute()))


def branch_of(task_id: str, attempt: int) -> str:
    """The branch of an attempt: `agentq/<task>/<n>`; an id that git refuses in a branch's name gets a digest."""
    clean = re.sub(r"\.(?=\.|$|lock$)", "-", task_id)
    if clean != task_id:
        clean = f"{clean}-{hashlib.sha256(task_id.encode()).hexdigest()[:8]}"
    return f"agentq/{clean}/{attempt}"


class _Empty:
    """An empty folder, without a patch."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.path = record.folder

    def create(self) -> None:
        """Make the folder, empty."""
        folders.remove(self.path)
        folders.make(self.path)

    def patch(self) -> bytes | None:
        """Nothing: there is no base that a change could be seen against."""
        return None

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        folders.remove(self.path)
        forget(self.path)


_KINDS: dict[str, type[_Empty] | type[Worktree] | type[Clone] | type[Copy]] = {
    "empty": _Empty,
    "worktree": Worktree,
    "clone": Clone,
    "copy": Copy,
}


class _Opened:
    """A workspace of any kind, whose changes are kept or undone."""

    def __init__(self, record: Record, notes: tuple[str, ...] = (), patch: bytes | None = None) -> None:
        self.path, self.notes = record.folder, notes
        self._record, self._patch = record, patch
        self._inner = _KINDS[record.made](record)

    def create(self) -> None:
        """Make it, with the patch that it begins with; what is written down of it says then that it is whole."""
        self._inner = _KINDS[self._record.made](self._record)
        self._inner.create()
        record = self._inner.record
        if self._patch is not None:
            begun = apply(record.base, self._patch, self.path, record.begun, self.path)
            record = replace(record, base=begun) if record.read_only else record
        self._inner.record = replace(record, whole=True)
        self._inner.record.save()

    def patch(self) -> bytes | None:
        """The changes that are to be kept."""
        return None if self._inner.record.read_only else self._inner.patch()

    def undo(self) -> bytes | None:
        """The changes that are not."""
        if not self._inner.record.read_only:
            return None
        changed: bytes | None = b""
        try:
            changed = self._inner.patch()
        finally:
            if changed is not None:
                self.create()
        return changed

    def remove(self) -> None:
        """Remove it."""
        self._inner.remove()
        folders.remove(self._record.begun)


def _of_repository(kind: Kind, record: Record, repository: str, base: str | None, cache: Path) -> Record:
    if is_url(repository):
        return _checked_out("clone", record, remote.fetched(repository, cache, base), base)
    path = Path(repository).absolute()
    if kind == "copy" or (kind == "read-only" and base is None and path.is_dir() and not _is_repository(path)):
        if base is not None:
            raise Invalid(
                f"a copy of {repository} is the folder as it stands, so it has no base {base!r}",
                hint="leave the base out, or use the workspace git-worktree",
            )
        return replace(record, made="copy", source=path, name=repository)
    made: Literal["worktree", "clone"] = "worktree" if kind == "git-worktree" else "clone"
    return _checked_out(made, record, Source(path, repository), base)


def _checked_out(made: Literal["worktree", "clone"], record: Record, source: Source, base: str | None) -> Record:
    return replace(record, made=made, source=source.folder, name=source.name, base=source.base(base))


def _is_repository(path: Path) -> bool:
    try:
        return bool(Source(path, str(path)).git_dir)
    except Invalid as error:
        if "is not a git repository" in str(error):
            return False
        raise


def _with_notes(record: Record) -> tuple[Record, tuple[str, ...]]:
    """The record with its submodules, and what its agent should know."""
    notes = [_READ_ONLY] if record.read_only else []
    if record.made in ("worktree", "clone"):
        source, near = Source(record.source, record.name), record.folder
        base, empty = source.with_inner(record.base, near)
        record = replace(record, base=base)
        if source.is_dirty(near):
            notes.append(f"{record.name} has uncommitted changes that are not in it: it is the commit {base.id[:12]}.")
        if empty:
            notes.append(f"These submodules are empty, for {record.name} has not initialised them: {', '.join(empty)}.")
    return record, tuple(notes)


def _must_be_given(kind: Kind, repository: str | Path | None) -> str:
    if repository is None:
        raise Invalid(
            f"the workspace {kind} needs a repository",
            hint="set it in the worker's profile, or give the task the label `repo`",
        )
    return str(repository)
