"""Folders that an agent has worked in: made, and removed whatever is in them."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from agentq.errors import Unavailable


def make(folder: Path) -> None:
    """Make a folder and those above it; raises Unavailable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the workspace {folder} cannot be made: {error.strerror}") from error


def remove(folder: Path) -> None:
    """Remove a folder, also one with read-only parts, such as a module cache; no link is followed.

    Nothing happens when it is gone; raises Unavailable when it stays.
    """
    if folder.is_symlink():
        return folder.unlink()
    if not folder.exists():
        return
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _make_writable(folder)
        done = subprocess.run(["rm", "-rf", "--", str(folder)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"the workspace {folder} cannot be removed: {done.stderr.strip()[-200:]}")


def _make_writable(folder: Path) -> None:
    with suppress(OSError):
        folder.chmod(0o700)
    for inner, names, _ in os.walk(folder):
        for path in (Path(inner, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
