"""The folders of an attempt on this host: made, held for as long as their daemon lives, and found when it died."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_KEPT, _LEFT, _GOES_ON = "kept", "left", "goes-on-in"


class Scratch:
    """The folders of one attempt, below `<data>/scratch/<agent>`; a locked file beside them says that they are in use.

    The lock goes with the process that holds it, so whoever can take it knows that the attempt's daemon is gone.
    """

    def __init__(self, folder: Path, task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.folder = folder
        self.root = folder / task_id / str(attempt)
        self._lock: int | None = None

    @property
    def work(self) -> Path:
        """Where the agent works, unless its workspace says otherwise."""
        return self.root / "work"

    @property
    def home(self) -> "Scratch":
        """The folders that its workspace is in: its own, or those of an earlier attempt that it goes on in."""
        with suppress(OSError, ValueError):
            return Scratch(self.folder, self.task_id, int((self.root / _GOES_ON).read_text()))
        return self

    def go_on_in(self, home: "Scratch") -> None:
        """Write down that the workspace is in those folders."""
        (self.root / _GOES_ON).write_text(str(home.attempt))

    @property
    def is_left(self) -> bool:
        """Whether there is nothing in it but a workspace for the next attempt."""
        return (self.root / _LEFT).exists()

    @property
    def output(self) -> Path:
        """Where the agent leaves its own files."""
        return self.root / "output"

    @property
    def transcript(self) -> Path:
        """Everything the agent printed."""
        return self.root / "transcript.log"

    @property
    def tests(self) -> Path:
        """What the verify command printed."""
        return self.root / "test-output.txt"

    @property
    def context(self) -> Path:
        """The task's context, copied out of the store."""
        return self.root / "context.md"

    @property
    def earlier(self) -> Path:
        """Copies of what an earlier attempt left."""
        return self.root / "earlier"

    @property
    def needs(self) -> Path:
        """Copies of the results of needed tasks, a folder each."""
        return self.root / "needs"

    @property
    def _lock_file(self) -> Path:
        return self.root.with_suffix(".lock")

    def create(self) -> None:
        """Make the folders, empty; repeating it empties them."""
        _remove_tree(self.root)
        while not self._taken():  # before there is anything that could be found
            time.sleep(0.001)
        self.output.mkdir(parents=True)

    def _taken(self) -> bool:
        """True when the lock is ours; False when somebody who tidies up has it or removed the folder above."""
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            return self.hold()
        except (FileNotFoundError, FileExistsError):
            return False

    def hold(self) -> bool:
        """True when the folders are this process's now, until `remove`; False while another one holds them."""
        while self._lock is None:
            lock = os.open(self._lock_file, os.O_CREAT | os.O_RDONLY, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            if _is_at(lock, self._lock_file):
                self._lock = lock
            else:
                os.close(lock)
        return True

    def remove(self) -> None:
        """Remove the folders and let go of them; nothing happens when they were never made."""
        _remove_tree(self.root)
        if self._lock is not None:
            self._lock_file.unlink(missing_ok=True)
        self.release()
        with suppress(OSError):
            self.root.parent.rmdir()

    def keep(self) -> Path:
        """Leave the folders to a person, and answer where they are: no daemon takes them for abandoned."""
        (self.root / _KEPT).touch()
        self.release()
        return self.root

    def leave(self) -> None:
        """Leave the workspace to the next attempt, and nothing else, and let go of it."""
        (self.root / _LEFT).touch()
        for path in self.root.iterdir():
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(self.work.name):
                _remove_tree(path)
            elif path.name != _LEFT and not path.name.startswith(self.work.name):
                path.unlink()
        self.release()

    def release(self) -> None:
        """Let go of the folders and leave them as they are."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def abandoned(folder: Path) -> Iterator[Scratch]:
    """The scratches that a daemon of this host died over, each held while it is looked at.

    A lock without folders, of one that died while it made or removed them, is removed.
    """
    tasks = [path for task in _inside(folder) for path in _inside(task)]
    for root in sorted({path.with_suffix("") for path in tasks}):
        if root.name.isdigit():
            scratch = Scratch(folder, root.parent.name, int(root.name))
            with _held(scratch) as mine:
                if mine and (root / _KEPT).exists():
                    continue
                if mine and root.is_dir():
                    yield scratch
                elif mine:
                    scratch.remove()


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing in one that its own daemon removes at this moment."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # deeper than Python's stack
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, capture_output=True)


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _held(scratch: Scratch) -> Iterator[bool]:
    try:
        held = scratch.hold()
    except FileNotFoundError:  # its daemon lives, and has just removed it
        held = False
    try:
        yield held
    finally:
        scratch.release()
