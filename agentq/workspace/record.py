"""What is written down beside a workspace, so that another process can take up or remove what this one has made."""

import dataclasses
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentq.workspace.changes import Base

Made = Literal["empty", "worktree", "clone", "copy"]


@dataclass(frozen=True, slots=True)
class Record:
    """How a workspace was made, of which repository or folder; `agents` is the git folder whose index the agent has,
    and only a `whole` one can be compared with its base."""

    made: Made
    folder: Path
    source: Path = Path()
    name: str = ""
    branch: str = ""
    base: Base = field(default_factory=lambda: Base("", ()))
    agents: Path | None = None
    read_only: bool = False
    whole: bool = False

    @property
    def own(self) -> Path:
        """Where the workspace keeps what belongs to it beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.base")

    @property
    def begun(self) -> Path:
        """Where the objects are of what a workspace began with that is not its base; it outlives that it is filled."""
        return self.folder.with_name(f"{self.folder.name}.begun")

    def save(self) -> None:
        """Write it down beside the folder."""
        path = _path(self.folder)
        half = path.with_name(f"{path.name}.half")
        half.write_text(json.dumps(dataclasses.asdict(self), default=os.fspath))
        half.replace(path)


def load(folder: Path) -> Record:
    """What was written down of the workspace in that folder; without it there is only the folder."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        values = json.loads(_path(folder).read_text())
        paths = {
            "folder": folder,
            "source": Path(values["source"]),
            "agents": values["agents"] and Path(values["agents"]),
        }
        return Record(**{**values, **paths, "base": _base(values["base"])})
    return Record("empty", folder)


def forget(folder: Path) -> None:
    """Remove what was written down; nothing happens when nothing was."""
    _path(folder).unlink(missing_ok=True)


def _base(values: dict[str, Any]) -> Base:
    inner = {path: _base(base) for path, base in values["inner"].items()}
    paths = {"objects": tuple(map(Path, values["objects"])), "index": values["index"] and Path(values["index"])}
    return Base(**{**values, **paths, "inner": inner})


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
