"""Where one attempt works on this host: its folders, and a workspace that is new, or that the attempt before left
together with the conversation of its tool."""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from agentq.errors import AgentqError, EvidenceError, StoreUnavailable
from agentq.leftovers import awaits, tidy
from agentq.messages import Envelope
from agentq.profile import Profile
from agentq.records import Records
from agentq.runner import Session
from agentq.scratch import Scratch
from agentq.sessions import KeptSession, Sessions
from agentq.workspace import Workspace, open_workspace, resume_workspace

log = logging.getLogger("agentq")

PATIENCE = 10.0
"""Seconds for which an attempt waits while what the one before left is brought in by somebody else."""
_GOES_ON = (
    "You go on where attempt {} was interrupted or failed: this is the folder that it worked in, as it left it."
    " Its folder for results is gone; yours is named below."
)


class Workplace:
    """The folders, the workspace, and what there is to go on with. All methods but `release` block."""

    def __init__(
        self,
        records: Records,
        profile: Profile,
        sessions: Sessions,
        folder: Path,
        envelope: Envelope,
        attempt: int,
        cache: Path | None,
    ) -> None:
        self._records, self._profile, self._sessions = records, profile, sessions
        self._envelope, self._attempt, self._cache = envelope, attempt, cache
        self.scratch = self._home = Scratch(folder, envelope.task_id, attempt)
        self.workspace: Workspace | None = None
        self.session: Session | None = None
        self.notes: tuple[str, ...] = ()

    def open(self, begun: Callable[[], bytes | None]) -> Workspace:
        """The workspace, the folders being made; a new one has the patch `begun` in it.

        Raises what that raises, and Invalid and Unavailable as `open_workspace` does.
        """
        if self.session is None:
            self._take_up()
        if self.session:  # taken up, perhaps before the folders were made anew
            self.scratch.go_on_in(self._home)
            self.workspace = resume_workspace(self._home.work)
        else:
            self.workspace = self._opened(begun())
            self.notes = self.workspace.notes
        return self.workspace

    def meets(self, session: Session) -> None:
        """Note the conversation, with which a later attempt may go on."""
        if self.workspace:
            with contextlib.suppress(OSError):  # without it the next attempt starts afresh
                kind = self._profile.runner.kind
                self._sessions.keep(self._envelope.task_id, self._attempt, kind, self.workspace.path, session)

    def release(self) -> None:
        """Let go of the folders, and leave them to whoever brings in what dead attempts left."""
        self.scratch.release()
        self._home.release()

    def close(self, *, going_on: bool) -> None:
        """Clean up; when the task is `going_on` and its tool can, the workspace is left to the next attempt here.

        Raises StoreUnavailable.
        """
        if self._profile.workspace.keep and self.scratch.root.exists():
            log.info("%s: attempt %d is kept in %s", self._envelope.task_id, self._attempt, self.scratch.keep())
            return self._home.release()
        if going_on and self._is_awaited():
            self._home.leave()
        else:
            self._remove_home()
        if self.scratch is not self._home:
            self.scratch.remove()

    def _is_awaited(self) -> bool:
        with contextlib.suppress(EvidenceError):
            return self._home.root.exists() and awaits(self._records, self._sessions, self._home) is not None
        return False

    def _remove_home(self) -> None:
        if self.workspace:
            with contextlib.suppress(AgentqError):
                self.workspace.remove()
        self._home.remove()

    def _opened(self, patch: bytes | None) -> Workspace:
        section, labels = self._profile.workspace, self._envelope.labels
        return open_workspace(
            section.kind,
            folder=self.scratch.work,
            task_id=self._envelope.task_id,
            attempt=self._attempt,
            repository=labels.get("repo") or section.repository,
            base=labels.get("base") or section.base,
            cache=self._cache,
            patch=patch,
        )

    # ------------------------------------------------------------------ going on

    def _take_up(self) -> None:
        """Hold the workspace of the attempt before, if there is one in which this tool can go on."""
        kept = self._sessions.of(self._envelope.task_id)
        if kept is None or (kept.attempt, kept.kind) != (self._attempt - 1, self._profile.runner.kind):
            return
        try:
            home = self._left_by(kept)
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.warning("%s: attempt %d starts afresh: %s", self._envelope.task_id, self._attempt, error)
            return
        if home:
            self._home, self.session, self.notes = home, kept.as_session, (_GOES_ON.format(kept.attempt),)
            log.info("%s: attempt %d goes on where %d ended", home.task_id, self._attempt, kept.attempt)

    def _left_by(self, kept: KeptSession) -> Scratch | None:
        """The folders with that workspace, held, once all that the attempt before left is brought in."""
        name, task_id = Path(kept.workdir).parent.name, self._envelope.task_id
        home = Scratch(self.scratch.folder, task_id, int(name) if name.isdigit() else kept.attempt)
        for number in dict.fromkeys((kept.attempt, home.attempt)):
            _bring_in(self._records, self._profile, self._sessions, Scratch(home.folder, task_id, number))
        if not (home.is_left and _held(home)):
            return None
        waits = False
        try:
            waits = awaits(self._records, self._sessions, home) is not None
        finally:
            if not waits:
                home.release()
        return home if waits else None


def _bring_in(records: Records, profile: Profile, sessions: Sessions, scratch: Scratch) -> None:
    """Bring in what an attempt left that died, unless that is done."""
    if scratch.root.is_dir() and not scratch.is_left and _held(scratch):
        try:
            if scratch.root.is_dir():
                tidy(records, profile, sessions, scratch)
        finally:
            scratch.release()


def _held(scratch: Scratch) -> bool:
    """Hold the folders, or wait for who does: whoever looks through them lets go of them soon."""
    deadline = time.monotonic() + PATIENCE
    while not (held := scratch.hold()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held
