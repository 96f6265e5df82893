"""The conversations that tools keep on this host, by task: what the next attempt here could go on with."""

from pathlib import Path

from pydantic import AwareDatetime

from agentq.messages import Message, Usage, utc_now
from agentq.runner import Session


class KeptSession(Message):
    """Of which attempt a session is, and of which kind of runner; each tool knows only its own."""

    attempt: int
    kind: str
    session: str
    usage: Usage = Usage()
    workdir: str
    at: AwareDatetime

    @property
    def as_session(self) -> Session:
        """It as a job takes it."""
        return Session(self.session, self.usage)


class Sessions:
    """A folder with a file for each task whose agent has told a session; the newest one is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, task_id: str, attempt: int, kind: str, workdir: Path, session: Session) -> None:
        """Keep a session, and what was counted for it, in place of the one before. Raises OSError."""
        kept = KeptSession(
            attempt=attempt, kind=kind, session=session.id, usage=session.usage, workdir=str(workdir), at=utc_now()
        )
        path = self._path(task_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(kept.to_json())
        new.replace(path)

    def of(self, task_id: str) -> KeptSession | None:
        """The newest session of a task, None when there is none that can be read."""
        try:
            return KeptSession.model_validate_json(self._path(task_id).read_bytes())
        except (OSError, ValueError):
            return None

    def forget(self, task_id: str) -> None:
        """The task needs it no more; the tool's own files stay."""
        self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.json"
