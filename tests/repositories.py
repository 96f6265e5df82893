"""Git repositories for tests: made, compared, and patched."""

import os
import subprocess
from pathlib import Path

import pytest

BINARY = bytes(range(256)) * 40


def git(where: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A Person", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, "-C", str(where), *arguments], check=True, capture_output=True, text=True, env=clean
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with all sorts of files, its user in the middle of something."""
    path = tmp_path / "a répository"
    (path / "src").mkdir(parents=True)
    git(path, "init", "--quiet")
    files = {
        "src/main.py": b"print(1)\n",
        "src/gone.py": b"print(2)\n",
        "src/with space ä.txt": b"one\ntwo\n",
        "data.bin": BINARY,
        "crlf.txt": b"one\r\ntwo\r\n",
        "no-newline": b"end",
        "empty": b"",
        ".gitignore": b"*.log\nbuild/\n",
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    (path / "link").symlink_to("src/main.py")
    (path / "tracked.log").write_bytes(b"tracked though ignored\n")
    git(path, "add", "--all")
    git(path, "add", "--force", "tracked.log")
    git(path, "commit", "--quiet", "-m", "first")
    (path / "src/main.py").write_bytes(b"the user's own work\n")
    (path / "untracked").write_bytes(b"the user's own file\n")
    git(path, "add", "src/main.py")
    return path


def tree(path: Path) -> dict[str, tuple[str, bytes]]:
    """Every file below a folder with its kind and content, without git's own."""
    found: dict[str, tuple[str, bytes]] = {}
    for file in path.rglob("*"):
        name = str(file.relative_to(path))
        if name.split("/")[0] == ".git":
            continue
        if file.is_symlink():
            found[name] = ("link", os.fsencode(file.readlink()))
        elif file.is_file():
            found[name] = ("program" if os.access(file, os.X_OK) else "file", file.read_bytes())
    return found


def applied(repository: Path, patch: bytes | None, where: Path, base: str = "HEAD") -> dict[str, tuple[str, bytes]]:
    """The files of the base with the patch applied in a fresh clone."""
    assert patch is not None
    git(repository, "clone", "--quiet", "--no-checkout", str(repository), str(where))
    git(where, "checkout", "--quiet", git(repository, "rev-parse", base).strip())
    subprocess.run(["git", "-C", str(where), "apply", "--index", "-"], input=patch, check=True, capture_output=True)
    return tree(where)
