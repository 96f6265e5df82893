"""The bar for large files: it shows on a terminal, for large files only, and is gone in the end."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agentq.cli.progress import watched
from tests.desk import Desk

MIB, ROOT = 1 << 20, Path(__file__).parent.parent
MOVE = """
import sys
from pathlib import Path
from agentq.cli.progress import watched
from agentq.stores.file import FileStore
store = watched(FileStore(Path(sys.argv[1])))
print(store.put_file("artifacts/a/1/large", Path(sys.argv[2]), progress=lambda count: None).bytes)
print(len(store.open("artifacts/a/1/large").read()), store.open("nothing"), store.get("nothing"), store.url)
"""


def seen_by(command: list[str], *, terminal: bool, environment: dict[str, str], folder: Path) -> tuple[str, str]:
    """What a command prints, and what is seen on its stderr."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**environment, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, check=True, text=True, cwd=folder, env=environment
    )
    os.set_blocking(ours, False)
    try:
        return done.stdout, os.read(ours, 1 << 16).decode()
    except BlockingIOError:
        return done.stdout, ""
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("size", "terminal"), [(20 * MIB, True), (20 * MIB, False), (MIB, True)])
def test_a_large_file_shows_on_a_terminal(tmp_path: Path, size: int, terminal: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * size)
    command = [sys.executable, "-c", MOVE, str(tmp_path / "store"), str(source)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    printed, seen = seen_by(command, terminal=terminal, environment=environment, folder=tmp_path)
    assert printed == f"{size}\n{size} None None {(tmp_path / 'store').as_uri()}\n"
    if terminal and size > 8 * MIB:
        assert "putting artifacts/a/1/large" in seen
        assert "reading artifacts/a/1/large" in seen
        assert "/s" in seen
    else:
        assert seen == ""


def test_nothing_is_in_the_way_where_nobody_looks(desk: Desk) -> None:
    assert watched(desk.store) is desk.store


def test_a_command_that_reads_a_large_artifact_shows_it(desk: Desk) -> None:
    task_id = desk.task()
    desk.finish(task_id, evidence={"large": b"x" * (20 * MIB)})
    command = [sys.executable, "-m", "agentq", "result", task_id]
    printed, seen = seen_by(command, terminal=True, environment=desk.environment, folder=desk.project)
    assert "20.0 MiB" in printed
    assert f"reading artifacts/{task_id}/1/large" in seen
