"""What a dead daemon left on this host, looked through while living ones come and go beside it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentq.scratch import Scratch, abandoned


def left_behind(folder: Path, task_id: str) -> None:
    scratch = Scratch(folder, task_id, 1)
    scratch.create()
    scratch.release()


def test_what_a_daemon_died_over_is_found(tmp_path: Path) -> None:
    left_behind(tmp_path, "task-1")
    assert [found.task_id for found in abandoned(tmp_path)] == ["task-1"]
    assert list(abandoned(tmp_path / "of-nobody")) == []


def test_a_folder_that_goes_while_it_is_looked_at_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task_id in ("task-1", "task-2"):
        left_behind(tmp_path, task_id)
    look = Path.iterdir

    def look_too_late(folder: Path) -> Iterator[Path]:
        if folder.name == "task-1":  # its own daemon has just finished with it
            shutil.rmtree(folder)
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", look_too_late)
    assert [found.task_id for found in abandoned(tmp_path)] == ["task-2"]
