"""The repository that a task names: a folder on this machine, or the cache of one on another host. It is only read."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from agentq.errors import Invalid, Unavailable
from agentq.workspace.changes import Base, inner_repositories, submodules
from agentq.workspace.git import Git, at, folder_of, fresh, words


@dataclass(frozen=True)
class Source:
    """A repository: any folder of a checkout, a bare one, or a cache. `name` is what a person calls it."""

    folder: Path
    name: str
    prefixes: Sequence[str] = ("",)
    default: str = "HEAD"

    @cached_property
    def git_dir(self) -> Path:
        """The folder that all worktrees of the repository share; raises Invalid when it is none that git accepts."""
        if not self.folder.is_dir():
            raise Invalid(
                f"the repository {self.name} does not exist",
                hint="on the worker's machine, give the path of a git checkout, or a URL",
            )
        found = self.git.run("rev-parse", "--git-common-dir")
        if found.returncode == 0:
            return Path(os.path.normpath(self.folder / os.fsdecode(found.stdout.removesuffix(b"\n"))))
        if b"dubious ownership" in found.stderr:
            raise Invalid(
                f"git refuses the repository {self.name}: it belongs to another user",
                hint=f"as the worker's user: git config --global --add safe.directory '{self.folder}'",
            )
        raise Invalid(
            f"{self.name} is not a git repository: {words(found.stderr)}", hint="for a plain folder: the workspace copy"
        )

    @property
    def git(self) -> Git:
        """Git in that repository."""
        return at(self.folder)

    def base(self, name: str | None) -> Base:
        """The commit that a branch, tag or id stands for now; raises Invalid when there is none."""
        wanted, kind = name or self.default, self.kind()
        for prefix in self.prefixes if name else ("",):
            asked = f"{prefix}{wanted}^{{commit}}"
            found = self.git.run("rev-parse", "--verify", "--quiet", "--end-of-options", asked)
            if found.returncode == 0:
                commit = found.stdout.decode().strip()
                return replace(kind, id=commit)
        raise Invalid(
            f"the base {name or 'HEAD'!r} is no commit of the repository {self.name}",
            hint="name a branch, tag or commit that is there; a new repository needs its first commit",
        )

    def kind(self) -> Base:
        """A base without an id yet: what all of this repository's have in common."""
        objects = (self.git_dir / "objects",)
        return Base("", objects, self.git.line("rev-parse", "--show-object-format"), self._excludes())

    def with_inner(self, base: Base, near: Path) -> tuple[Base, list[str]]:
        """The base with those of its submodules that this repository has initialised, and the paths of the others.

        Raises Invalid when one that it has initialised lacks the commit that is asked for.
        """
        wanted = inner_repositories(base, near)
        modules = self._modules(base, near) if wanted else {}
        empty = [path for path in wanted if path not in modules]
        inner: dict[str, Base] = {}
        for path, folder in modules.items():
            if path in wanted:
                found = _must_have(Base(wanted[path], (folder / "objects",), base.object_format), path, self, near)
                inner[path], more = Source(folder, f"{self.name}, submodule {path}").with_inner(found, near)
                empty += [f"{path}/{inside}" for inside in more]
        return replace(base, inner=inner), empty

    def is_dirty(self, near: Path) -> bool:
        """Whether the checkout has changes that no commit has; False for one without a checkout."""
        top = self.git.run("rev-parse", "--show-toplevel")
        if top.returncode:
            return False
        tree = Path(os.fsdecode(top.stdout.removesuffix(b"\n")))
        with suppress(Unavailable, Invalid, OSError):
            index = Path(self.git.line("rev-parse", "--path-format=absolute", "--git-path", "index")).read_bytes()
            head = self.base("HEAD")
            with fresh(head.objects, near=near, tree=tree, object_format=head.object_format, head=head.id) as git:
                (folder_of(git) / "index").write_bytes(index)
                (folder_of(git) / "info/exclude").write_bytes(os.fsencode(head.excludes))
                return bool(git.must("status", "--porcelain", "--ignore-submodules=all"))
        return False

    def refs(self) -> bytes:
        """Its branches and tags, as git packs them; without those of attempts."""
        listed = self.git.must(
            "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/remotes", "refs/tags"
        )
        lines = [line for line in listed.splitlines() if b" refs/heads/agentq/" not in line]
        return b"".join(line + b"\n" for line in [b"# pack-refs with: sorted", *lines])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Change the repository's worktrees one at a time: git dies of another's half-made one."""
        with alone(self.git_dir):
            yield

    def _excludes(self) -> str:
        """What its user has git ignore, beside the `.gitignore` files, as it is before an agent can change that."""
        named = self.git.run("config", "--path", "--get", "core.excludesFile").stdout.removesuffix(b"\n")
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
        texts = []
        for path in (Path(os.fsdecode(named)) if named else home / "git/ignore", self.git_dir / "info/exclude"):
            with suppress(OSError):
                texts.append(os.fsdecode(path.read_bytes()))
        return "\n".join(texts)

    def _modules(self, base: Base, near: Path) -> dict[str, Path]:
        """The git folders of the submodules that are initialised here, by the path that they have in the base."""
        with fresh(base.objects, near=near, object_format=base.object_format) as git:
            named = submodules(git, "--blob", f"{base.id}:.gitmodules")
        folders = {path: self.git_dir / "modules" / name for name, path in named if ".." not in name.split("/")}
        return {path: folder for path, folder in folders.items() if (folder / "objects").is_dir()}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder until the end, or wait for who does; a file system without locks has none."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _must_have(inner: Base, path: str, source: Source, near: Path) -> Base:
    with fresh(inner.objects, near=near, object_format=inner.object_format) as git:
        if git.run("cat-file", "-e", f"{inner.id}^{{commit}}").returncode:
            raise Invalid(
                f"the submodule {path} is not in {source.name} at the commit {inner.id[:12]} that the base names",
                hint=f"git -C '{source.folder}' submodule update --init --recursive",
            )
    return inner
