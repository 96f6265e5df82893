"""A repository of the attempt's own that only borrows another one's objects: nothing in it leads back to that one."""

import os
from dataclasses import replace
from pathlib import Path

from agentq.workspace import folders
from agentq.workspace.changes import Base, check_out, patch_of
from agentq.workspace.git import Git, alternates
from agentq.workspace.record import Record, forget
from agentq.workspace.source import Source


class Clone:
    """Its branches, settings and hooks are its own, and it has no remote."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.path = record.folder

    def create(self) -> None:
        """Check out the base on the branch in the folder, with the branches and tags of the source beside it."""
        folders.remove(self.path)
        source = Source(self.record.source, self.record.name)
        folders.remove(self.record.own)
        base = make(self.record.base, self.record, self.path, branch=self.record.branch, source=source)
        self.record = replace(self.record, base=fill_inner(base, self.record, self.path))

    def patch(self) -> bytes | None:
        """All changes against the base: committed or not, new, deleted, binary; without what git ignores."""
        return patch_of(self.record.base, self.path, self.path, self.path / ".git") if self.record.whole else None

    def remove(self) -> None:
        """Remove the folder."""
        folders.remove(self.path)
        folders.remove(self.record.own)
        forget(self.path)


def make(base: Base, record: Record, folder: Path, *, branch: str = "", source: Source | None = None) -> Base:
    """Make a clone at the base, for that workspace; without a branch its HEAD is the commit itself."""
    git = Git(("-C", str(folder.parent)), {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull})
    git.must("init", "--quiet", "--template=", f"--object-format={base.object_format}", "--", str(folder))
    own = folder / ".git"
    (own / "objects/info/alternates").write_bytes(alternates(base.objects))
    if source:
        (own / "packed-refs").write_bytes(source.refs())
        shallow = source.git_dir / "shallow"
        if shallow.exists():
            (own / "shallow").write_bytes(shallow.read_bytes())
    (own / "HEAD").write_text(f"ref: refs/heads/{branch}\n" if branch else f"{base.id}\n")
    if branch:
        head = own / "refs/heads" / branch
        head.parent.mkdir(parents=True)
        head.write_text(f"{base.id}\n")
    return check_out(base, folder, own / "index", record.folder, record.own)


def fill_inner(base: Base, record: Record, folder: Path) -> Base:
    """Fill the submodules that the base has the objects of."""
    filled = {path: make(inner, record, folder / path) for path, inner in base.inner.items()}
    return replace(base, inner={path: fill_inner(inner, record, folder / path) for path, inner in filled.items()})
