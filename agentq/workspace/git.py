"""Git, run so that nothing which an agent, a repository or our own caller left behind is executed."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentq.errors import Invalid, Unavailable

SECONDS = 600.0
PROTOCOLS = "file:git:http:https:ssh"
_REASON = 500
_SETTINGS = (
    *(
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "gc.auto=0",
        "-c",
        "maintenance.auto=false",
    ),
    # Locks that somebody else holds for a moment: the user, or a `git gc`.
    *("-c", "core.packedRefsTimeout=20000", "-c", "core.filesRefLockTimeout=20000"),
)
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "false",
    "SSH_ASKPASS_REQUIRE": "force",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # a missing object makes git fetch, by a program that the repository's config names
}
_NOTHING: Mapping[str, str] = {}
_OWN_SETTINGS = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


@dataclass(frozen=True, slots=True)
class Git:
    """Git with some options and variables; no hook is run, nothing is asked, and no other host is spoken to."""

    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def run(
        self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] = _NOTHING
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run git; raises Invalid when it is not installed, Unavailable when it does not come to an end."""
        command = ["git", *_SETTINGS, *self.options, *arguments]
        try:
            process = subprocess.Popen(
                command,
                env=_environment({**self.variables, **env}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Not a session: a child of ours in another one is taken for an orphan of some agent, and is killed.
                process_group=0,
            )
        except FileNotFoundError as error:
            raise Invalid("git is not installed", hint="install git, or use the workspace `none`") from error
        return _end_of(process, stdin, arguments[0], self.seconds or SECONDS)

    def must(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] = _NOTHING) -> bytes:
        """What git printed; raises Unavailable with git's own words when it failed."""
        done = self.run(*arguments, stdin=stdin, env=env)
        if done.returncode:
            raise Unavailable(f"`git {arguments[0]}` failed: {words(done.stderr)}")
        return done.stdout

    def line(self, *arguments: str, env: Mapping[str, str] = _NOTHING) -> str:
        """The one line that git printed, such as an id or a path, whatever bytes it has."""
        return os.fsdecode(self.must(*arguments, env=env).removesuffix(b"\n"))


def at(folder: Path) -> Git:
    """Git in a folder of somebody else's repository: with its settings, none of which is a program that is run."""
    return Git(("-C", str(folder)))


@contextmanager
def fresh(
    objects: Sequence[Path], *, near: Path, tree: Path | None = None, object_format: str = "sha1", head: str = ""
) -> Iterator[Git]:
    """Git with a git folder of its own, gone afterwards: it has the objects in these folders, and nobody's settings,
    attributes, filters, refs or index. `tree` is its work tree; what it writes goes to a folder beside `near`.
    """
    with tempfile.TemporaryDirectory(prefix="git-", dir=near.parent) as name:
        folder = Path(name)
        for part in ("objects/info", "refs", "info"):
            (folder / part).mkdir(parents=True)
        (folder / "HEAD").write_text(f"{head or 'ref: refs/heads/none'}\n")
        (folder / "config").write_text(_CONFIG.format(object_format))
        (folder / "objects/info/alternates").write_bytes(alternates(objects))
        options = (f"--git-dir={folder}", *(("-C", str(tree), f"--work-tree={tree}") if tree else ()))
        settings = ("-c", f"core.excludesFile={os.devnull}", "-c", f"core.attributesFile={os.devnull}")
        yield Git((*settings, *options), {**_OWN_SETTINGS, "GIT_INDEX_FILE": str(folder / "index")})


def folder_of(git: Git) -> Path:
    """The git folder of a `fresh` git."""
    return Path(git.options[4].removeprefix("--git-dir="))


def alternates(objects: Sequence[Path]) -> bytes:
    """What git reads as a list of further object folders; quoted, for a path may hold a line's end."""
    return b"".join(b'"%b"\n' % b"".join(_quoted(byte) for byte in os.fsencode(path)) for path in objects)


def words(stderr: bytes) -> str:
    """What git complained of, on one line, bounded."""
    return " ".join(stderr.decode(errors="replace").split())[-_REASON:] or "it did not say why"


_CONFIG = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n[extensions]\n\tobjectformat = {}\n"


def _quoted(byte: int) -> bytes:
    plain = 32 <= byte < 127 and byte not in b'"\\'
    return bytes((byte,)) if plain else b"\\%03o" % byte


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, **_ENVIRONMENT, **variables}


def _end_of(
    process: "subprocess.Popen[bytes]", stdin: bytes, command: str, seconds: float
) -> "subprocess.CompletedProcess[bytes]":
    try:
        stdout, stderr = process.communicate(stdin, seconds)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unavailable(f"`git {command}` did not end within {seconds:g} s") from error
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
