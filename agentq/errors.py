"""What can go wrong, and the exit code that each kind ends the CLI with.

AgentqError                 1   a bug unless it is one of those below
├── Invalid                 3   bad input or settings; nothing was written
├── NotFound                4   no such task, artifact or dead letter
│   └── NoSuchTask
├── Conflict                5   another content under the same id, or another hand was first
├── Unavailable             6   try again later
│   ├── EngineUnavailable
│   │   └── NotPermitted     the engine refuses this to the user who is logged in
│   └── StoreUnavailable
├── WaitTimeout             7
├── EvidenceError          11   evidence is missing or altered
└── NothingYet             12   the task has no result yet
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The process's exit codes, one meaning each."""

    OK = 0
    BUG = 1
    USAGE = 2
    INVALID = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    WAIT_TIMEOUT = 7
    TASK_FAILED = 8
    TASK_CANCELLED = 9
    TASK_EXPIRED = 10
    EVIDENCE = 11
    NOTHING_YET = 12
    NEEDS_MENDING = 13
    INTERRUPTED = 130


class AgentqError(Exception):
    """Something a person can act on: `str()` says what happened and to what, `hint` the next thing to do."""

    exit_code = ExitCode.BUG

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Invalid(AgentqError):
    """Input or settings that cannot be used; raised before anything is written."""

    exit_code = ExitCode.INVALID


class CredentialFound(Invalid):
    """Something in it looks like a credential; who says that it is none may let it through."""


class NotFound(AgentqError):
    """A name that stands for nothing here."""

    exit_code = ExitCode.NOT_FOUND


class NoSuchTask(NotFound):
    """No task of that id in a store; `what` and `remedy` say so without naming that, for who is on another machine."""

    def __init__(self, what: str, store: str, *, remedy: str = "") -> None:
        super().__init__(f"{what} in {store}", hint=remedy or "Check the id and the store (--store, AGENTQ_STORE).")
        self.what, self.remedy = what, remedy


class Conflict(AgentqError):
    """The same id with another content, or another hand was first."""

    exit_code = ExitCode.CONFLICT


class Unavailable(AgentqError):
    """A server or disk that cannot be reached or used just now; nothing is known to be wrong with the request."""

    exit_code = ExitCode.UNAVAILABLE


class EngineUnavailable(Unavailable):
    """The engine cannot be reached, refuses, or did not answer in time (the request may have happened)."""


class NotPermitted(EngineUnavailable):
    """The engine refuses this to the user who is logged in; nothing was done."""


class StoreUnavailable(Unavailable):
    """The store cannot be reached or is full (a put may have happened: read it back)."""


class WaitTimeout(AgentqError):
    """The task did not end within the time given."""

    exit_code = ExitCode.WAIT_TIMEOUT


class EvidenceError(AgentqError):
    """Evidence that the result names is missing, or its digest does not match."""

    exit_code = ExitCode.EVIDENCE


class NothingYet(AgentqError):
    """The task is known and has no result yet."""

    exit_code = ExitCode.NOTHING_YET
