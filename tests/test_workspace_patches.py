"""For any tree and any edits: the patch makes of the base exactly what the agent's folder holds."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentq.errors import Invalid
from agentq.workspace import Kind, files_in, open_workspace
from tests.repositories import git, tree

NAMES = (
    *("a", "b", "c.txt", "dir", "with space", "ünï", "new\nline", "tab\t", '"quoted"', "back\\slash", "-n", ":(top)x"),
    *("b\udcff", "~", "'", "$HOME", "a..b", "*.txt", "[ab]", "#c", " lead", "trail ", "x.ignored"),
)
NAME = st.sampled_from(NAMES)
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join).filter(lambda path: " /" not in path)  # see the last test
TEXT = st.lists(st.sampled_from(["one", "two", "three", "", "diff --git a/a b/a", "--- a/a", "+x", "-- ", "\\"]))
CONTENT = st.one_of(
    TEXT.map(lambda lines: "\n".join(lines).encode()),
    TEXT.map(lambda lines: "".join(f"{line}\r\n" for line in lines).encode()),
    st.binary(max_size=40),
    st.just(b"\0\xff" * 30),
)
LINK = st.sampled_from(["a", "../a", "dir", "/etc/hostname", "nowhere\n", "."])
ENTRY = st.one_of(
    st.tuples(st.just("file"), CONTENT),
    st.tuples(st.just("program"), CONTENT),
    st.tuples(st.just("link"), LINK.map(os.fsencode)),
)
TREE = st.dictionaries(PATH, ENTRY, max_size=6)
EDITS = st.lists(st.tuples(PATH, st.none() | ENTRY), max_size=6)


def put(folder: Path, name: str, entry: tuple[str, bytes] | None) -> None:
    """Make it so that there is that entry, or none, whatever was in its way."""
    path = folder
    for part in name.split("/")[:-1]:
        path = path / part
        if path.is_symlink() or path.is_file():
            path.unlink()
        path.mkdir(exist_ok=True)
    path = folder / name
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    if entry is None:
        return
    kind, content = entry
    if kind == "link":
        path.symlink_to(os.fsdecode(content))
    else:
        path.write_bytes(content)
        path.chmod(0o755 if kind == "program" else 0o644)


def kept(folder: Path) -> dict[str, tuple[str, bytes]]:
    """What is in a folder without what the patterns of these tests ignore."""
    return {name: entry for name, entry in tree(folder).items() if "x.ignored" not in name.split("/")}


@contextmanager
def scene(base: dict[str, tuple[str, bytes]], versioned: bool) -> Iterator[tuple[Path, Path]]:
    """A repository, or a plain folder, with these files; and a place for a workspace."""
    with tempfile.TemporaryDirectory() as name:
        origin = Path(name) / "the origin"
        origin.mkdir()
        for path, entry in base.items():
            put(origin, path, entry)
        put(origin, ".gitignore", ("file", b"x.ignored\n"))
        if versioned:
            git(origin, "init", "--quiet")
            git(origin, "add", "--all")
            git(origin, "commit", "--quiet", "-m", "first")
        yield origin, Path(name) / "scratch" / "work"


def applied_to(start: Path, patch: bytes | None, where: Path) -> dict[str, tuple[str, bytes]]:
    """What the patch makes of a folder's files: by a git that knows nothing of how the patch was made."""
    where.mkdir()
    for name, entry in kept(start).items():
        put(where, name, entry)
    if patch:
        git(where, "init", "--quiet")
        git(where, "add", "--all")
        command = ["git", "-C", str(where), "apply", "--index", "--whitespace=nowarn", "-"]
        done = subprocess.run(command, input=patch, check=False, capture_output=True)
        assert done.returncode == 0, (done.stderr, patch)
    return kept(where)


@pytest.mark.promise("patch-is-the-work")
@pytest.mark.parametrize("kind", ["git-worktree", "copy", "copy of a plain folder"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=TREE, edits=EDITS, commits=st.booleans())
def test_the_patch_makes_of_the_base_exactly_the_agents_tree(
    kind: str, base: dict[str, tuple[str, bytes]], edits: list[tuple[str, tuple[str, bytes] | None]], commits: bool
) -> None:
    plain = kind.endswith("folder")
    of_kind: Kind = "copy" if kind.startswith("copy") else "git-worktree"
    with scene(base, versioned=not plain) as (origin, folder):
        work = open_workspace(of_kind, folder=folder, task_id="t", attempt=1, repository=origin)
        assert kept(folder) == kept(origin)
        for name, entry in edits:
            put(folder, name, entry)
            if commits and not plain and name != ".gitignore":
                git(folder, "add", "--all")
                git(folder, "commit", "--quiet", "--allow-empty", "-m", "the agent's")
        patch = work.patch()
        assert applied_to(origin, patch, folder.parent / "applied") == kept(folder)
        assert files_in(patch or b"") >= (kept(origin) != kept(folder))
        work.remove()
        assert not folder.exists()


def test_a_patch_that_git_itself_cannot_apply_is_refused_not_kept() -> None:
    """Git writes of an empty file in a folder whose name ends in a space what it cannot read."""
    with scene({"a": ("file", b"x")}, versioned=True) as (origin, folder):
        work = open_workspace("git-worktree", folder=folder, task_id="t", attempt=1, repository=origin)
        put(folder, "trail /empty", ("file", b""))
        with pytest.raises(Invalid, match="cannot be listed: `git apply` failed"):
            work.patch()
        work.remove()
