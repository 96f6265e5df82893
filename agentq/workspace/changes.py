"""What a folder held at the start, and the patch to what it holds now; made with nothing that an agent can have set."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentq.errors import Invalid, Unavailable
from agentq.workspace.git import Git, alternates, folder_of, fresh, words

_GITLINK = "160000"
_PATCH = (
    *("-p", "-r", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)


@dataclass(frozen=True, slots=True)
class Base:
    """A commit or tree, the folders that hold its objects, the patterns of what is ignored beside the `.gitignore`s,
    and the bases of the repositories inside it, by their path. `index` is a copy of git's index of the folder as it was
    filled, believed only with its digest: by it git knows what nobody has touched, and need not look into it."""

    id: str
    objects: tuple[Path, ...]
    object_format: str = "sha1"
    excludes: str = ""
    inner: "dict[str, Base]" = field(default_factory=dict)
    index: Path | None = None
    digest: str = ""


def check_out(base: Base, folder: Path, index: Path, near: Path, own: Path) -> Base:
    """Fill an empty folder with the base; no filter is run. The index is what git says of the folder from now on, and
    the base that is answered knows a copy of it in the folder `own`.

    Raises Invalid when objects of the base are missing, else Unavailable.
    """
    with _git(base, folder, near) as git:
        try:
            git.must("read-tree", "--reset", "-u", base.id, env={"GIT_INDEX_FILE": str(index)})
        except Unavailable as error:
            if "unable to read" not in str(error) and "not a tree" not in str(error):
                raise
            raise Invalid(
                f"not all of the base {base.id} is there: {error}",
                hint="a partial clone lacks files: git fetch --refetch --no-filter",
            ) from error
    return _with_index(base, index, own)


def snapshot(base: Base, folder: Path, objects: Path, near: Path) -> Base:
    """What a folder holds now, as a base whose new objects go to `objects`; `base` says what else there is. What git
    ignores is left out, unless the index in the folder's own git folder knows it. Raises Unavailable with git's words.
    """
    there = {"GIT_OBJECT_DIRECTORY": str(objects)}
    (objects / "info").mkdir(parents=True, exist_ok=True)
    (objects / "info/alternates").write_bytes(alternates(base.objects))
    with _git(base, folder, near) as git:
        _add_all(folder, replace(git, variables={**git.variables, **there}), folder / ".git")
        tree = git.line("write-tree", env=there)
        return _with_index(replace(base, id=tree, objects=(objects, *base.objects)), folder_of(git) / "index", objects)


def apply(base: Base, patch: bytes, folder: Path, objects: Path, near: Path) -> Base:
    """Make of a folder that was filled with the base what a patch makes of that; answers with what it holds then, as a
    base whose new objects go to `objects`. Raises Invalid for a patch that does not apply.
    """
    there = {"GIT_OBJECT_DIRECTORY": str(objects)}
    (objects / "info").mkdir(parents=True, exist_ok=True)
    (objects / "info/alternates").write_bytes(alternates(base.objects))
    with _git(base, folder, near) as git:
        _start(base, git)
        done = git.run("apply", "--index", "--whitespace=nowarn", "-", stdin=patch, env=there)
        if done.returncode:
            raise Invalid(f"the patch does not apply to the base {base.id[:12]}: {words(done.stderr)}")
        tree = git.line("write-tree", env=there)
        return _with_index(replace(base, id=tree, objects=(objects, *base.objects)), folder_of(git) / "index", objects)


def patch_of(base: Base, folder: Path, near: Path, agents: Path | None = None) -> bytes | None:
    """All that changed in a folder since it was the base, committed or not, for `git apply`; None when nothing did.

    It is proven to make exactly that of the base. What git ignores is left out, unless the index in the git folder
    `agents` knows it. Raises Invalid for what cannot be told, and for changes that no patch can carry.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise Invalid(f"the changes in {folder} cannot be listed: the folder is gone")
    try:
        with _git(base, folder, near) as git:
            tree = _tree_now(base, folder, git, agents)
            patch = git.must("diff-tree", *_PATCH, base.id, tree)
            _prove(base, patch, tree, git)
            links = _changed_links(git.must("diff-tree", "-r", "-z", "--no-renames", base.id, tree))
    except (Unavailable, OSError) as error:
        raise Invalid(f"the changes in {folder} cannot be listed: {error}") from error
    _refuse_hidden_work(base, folder, near, links)
    return patch or None


def inner_repositories(base: Base, near: Path) -> dict[str, str]:
    """The repositories inside a base: the commit of each by its path."""
    with fresh(base.objects, near=near, object_format=base.object_format) as git:
        return _links_of(base, git)


def files_in(patch: bytes) -> int:
    """How many files a patch changes."""
    return f"\n{patch.decode('latin-1')}".count("\ndiff --git ")


@contextmanager
def _git(base: Base, folder: Path, near: Path) -> Iterator[Git]:
    with fresh(base.objects, near=near, tree=folder, object_format=base.object_format) as git:
        (folder_of(git) / "info/exclude").write_bytes(os.fsencode(base.excludes))
        yield git


def _tree_now(base: Base, folder: Path, git: Git, agents: Path | None) -> str:
    """The tree of what is in the folder. Its own index is not believed: flags in it hide changes."""
    _start(base, git)
    links = _links_of(base, git)
    git.must("update-index", "--force-remove", "-z", "--stdin", stdin=_joined(links))
    standing = {path: commit for path, commit in links.items() if _is_there(folder, os.fsencode(path), _is_real_folder)}
    _add_all(folder, git, agents, standing)
    for path, commit in standing.items():
        _add_link(folder, git, path, commit)
    _leave_as_they_are(base, folder, git)
    return git.line("write-tree")


def _leave_as_they_are(base: Base, folder: Path, git: Git) -> None:
    """Take out of the index what a commit would write otherwise (its line ends) though nobody has touched it: git looks
    into files that are about as young as its index. Source: "racy git" in git's technical documentation."""
    fields = git.must("diff-index", "--cached", "-z", "--diff-filter=M", base.id).split(b"\0")
    untouched = b""
    for said, name in zip(fields[::2], fields[1::2], strict=False):
        mode, mode_now, blob, _, _ = said.removeprefix(b":").split()
        if mode == mode_now and _is_blob(folder, name, blob.decode(), base.object_format):
            untouched += b"%b %b\t%b\0" % (mode, blob, name)
    if untouched:
        git.must("update-index", "-z", "--index-info", stdin=untouched)


def _is_blob(folder: Path, name: bytes, blob: str, object_format: str) -> bool:
    """Whether a file is that blob, byte for byte."""
    path = folder / os.fsdecode(name)
    if path.is_symlink() or not _is_there(folder, name):
        return False
    with path.open("rb") as file:
        digest = hashlib.new(object_format, b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == blob


def _start(base: Base, git: Git) -> None:
    """Begin with the index of the folder as it was filled, or with one that knows nothing of the files."""
    with suppress(OSError):
        if base.index and _digest(base.index) == base.digest:
            shutil.copy2(base.index, folder_of(git) / "index")  # with its time, by which git knows what is too young
            return
    git.must("read-tree", base.id)


def _with_index(base: Base, index: Path, own: Path) -> Base:
    own.mkdir(parents=True, exist_ok=True)
    digest = _digest(index)
    shutil.copy2(index, own / f"index-{digest}")
    return replace(base, index=own / f"index-{digest}", digest=digest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _links_of(base: Base, git: Git) -> dict[str, str]:
    entries = (os.fsdecode(entry).split("\t", 1) for entry in git.must("ls-tree", "-r", "-z", base.id).split(b"\0"))
    return {entry[1]: entry[0].split()[2] for entry in entries if entry[0].startswith(_GITLINK)}


def _add_link(folder: Path, git: Git, path: str, commit: str) -> None:
    """The commit that an inner repository is at; that of the base for one that is not filled in.

    Not by `git add`: that looks whether a known one is modified, by a git which obeys the settings in there.
    """
    if (folder / path / ".git").exists():
        git.must("update-index", "--add", "--replace", "-z", "--stdin", stdin=os.fsencode(path))
    else:
        git.must("update-index", "--add", "--replace", "--cacheinfo", f"{_GITLINK},{commit},{path}")


def _add_all(folder: Path, git: Git, agents: Path | None, but: Iterable[str] = ()) -> None:
    git.must("add", "--all", "--", ".", *(f":(top,exclude,literal){path}" for path in but))
    known = set(git.must("ls-files", "-z").split(b"\0"))
    added = [name for name in _names_in(git, agents) if name not in known and _is_there(folder, name)]
    if added:
        listed = ("--pathspec-from-file=-", "--pathspec-file-nul")
        git.must("--literal-pathspecs", "add", "--force", *listed, stdin=b"\0".join(added))


def _joined(paths: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _names_in(git: Git, agents: Path | None) -> Iterator[bytes]:
    """The files that the agent's own index has: also ignored ones, when it added them all the same."""
    if agents is None:
        return
    index = folder_of(git) / "index-of-the-agent"
    with suppress(OSError, Unavailable):
        shutil.copyfile(agents / "index", index)
        for shared in agents.glob("sharedindex.*"):
            shutil.copyfile(shared, folder_of(git) / shared.name)
        yield from git.must("ls-files", "-z", env={"GIT_INDEX_FILE": str(index)}).split(b"\0")


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _is_there(folder: Path, name: bytes, what: Callable[[Path], bool] = _is_file) -> bool:
    """Whether a folder has that, behind no link."""
    path = folder / os.fsdecode(name)
    inside = (parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder)
    return bool(name) and what(path) and not any(parent.is_symlink() for parent in inside)


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _prove(base: Base, patch: bytes, tree: str, git: Git) -> None:
    """Apply the patch to the base, in an index of its own: nothing but the tree may come of it."""
    index = {"GIT_INDEX_FILE": str(folder_of(git) / "index-of-the-proof")}
    git.must("read-tree", base.id, env=index)
    if patch:
        git.must("apply", "--cached", "--whitespace=nowarn", "-", stdin=patch, env=index)
    if git.line("write-tree", env=index) != tree:
        raise Unavailable("the patch does not make of the base what is there")


def _changed_links(raw: bytes) -> dict[str, str]:
    """The inner repositories that changed: the new commit of each by its path, "" for one that is none any more."""
    fields = [os.fsdecode(part) for part in raw.split(b"\0")]
    entries = ((fields[i].split(), fields[i + 1]) for i in range(0, len(fields) - 1, 2))
    links = ((path, entry) for entry, path in entries if _GITLINK in (entry[0].removeprefix(":"), entry[1]))
    return {path: entry[3] if entry[1] == _GITLINK else "" for path, entry in links}


def _refuse_hidden_work(base: Base, folder: Path, near: Path, links: dict[str, str]) -> None:
    """A repository inside the workspace is in the patch as a bare commit id, so its files must be elsewhere, too."""
    added = [path for path in links if links[path] and path not in base.inner]
    for path in added:
        if path not in _submodules(folder, near):
            raise Invalid(
                f"the folder {path!r} is a git repository of its own, so its files are not in the patch",
                hint="remove its .git folder",
            )
    for path, inner in base.inner.items():
        now = replace(inner, id=links[path], index=None) if path in links else inner
        if now.id and _is_there(folder, os.fsencode(path), _is_real_folder):
            _refuse_changes_inside(now, folder / path, near, path)


def _refuse_changes_inside(inner: Base, folder: Path, near: Path, path: str) -> None:
    hint = "make a task of it in that repository, and have the submodule moved to its commit afterwards"
    with fresh(inner.objects, near=near, object_format=inner.object_format) as git:
        if git.run("cat-file", "-e", inner.id).returncode:
            raise Invalid(f"the repository {path!r} inside the workspace is at a commit of the agent's own", hint=hint)
    if patch_of(inner, folder, near):
        raise Invalid(f"files in the repository {path!r} were changed, which no patch of this one can hold", hint=hint)


def _submodules(folder: Path, near: Path) -> list[str]:
    """The paths that `.gitmodules` names."""
    with fresh((), near=near) as git:
        return [path for _, path in submodules(git, "--file", str(folder / ".gitmodules"))]


def submodules(git: Git, *where: str) -> list[tuple[str, str]]:
    """The names and paths of the submodules in a `.gitmodules`; nothing when there is none."""
    asked = ("config", *where, "--no-includes", "-z", "--get-regexp", r"^submodule\..*\.path$")
    entries = [os.fsdecode(entry).partition("\n") for entry in git.run(*asked).stdout.split(b"\0") if entry]
    return [(key.removeprefix("submodule.").removesuffix(".path"), path) for key, _, path in entries]
