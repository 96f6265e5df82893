"""A running agent's own word on its attempt: a file in its output folder, so that it needs neither engine nor store.

Its worker reads it when the agent has ended, checks it, and puts it beside the attempt's evidence.
"""

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agentq.credentials import refuse
from agentq.errors import Conflict, Invalid
from agentq.messages import REASON_LIMIT, SUMMARY_LIMIT, sha256_hex, shorten, utc_now
from agentq.papers import Proposal

PROPOSAL = ".proposal.json"
"""The file's name, and how the names begin under which it is written; no evidence."""

_LIMIT = 64 * 1024
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Hand:
    """Who speaks for a task, and what they say: the agent that runs it, whoever claimed it, or any other hand."""

    by: str
    status: Literal["completed", "failed", "released"]
    summary: str = ""
    reason: str | None = None
    report: bytes | None = None
    not_before: datetime | None = None
    allow_secrets: bool = False

    def refuse_credentials(self) -> None:
        """Raise Invalid when what they say holds what looks like a credential, unless that is allowed."""
        texts = {"the summary": self.summary, "the reason": self.reason, "the report": self.report}
        refuse(texts, allowed=self.allow_secrets)


def proof_of(token: str) -> str:
    """What a proposal holds instead of the attempt's token."""
    return sha256_hex(token.encode())


def propose(output: Path, task_id: str, attempt: int, token: str, hand: Hand) -> Proposal:
    """Leave a running agent's word on its own attempt, durably, for its worker to check.

    Raises Conflict when it has said something else before or the attempt is over, Invalid when it cannot be written.
    """
    hand.refuse_credentials()
    proposal = Proposal(
        task_id=task_id,
        attempt=attempt,
        token=proof_of(token),
        status=hand.status,
        by=hand.by,
        at=utc_now(),
        summary=shorten(hand.summary, SUMMARY_LIMIT),
        reason=hand.reason and shorten(hand.reason, REASON_LIMIT),
        not_before=hand.not_before,
    )
    held = _leave(output, proposal)
    if any(getattr(held, name) != getattr(proposal, name) for name in ("token", "status", "summary", "reason")):
        raise Conflict(f"attempt {attempt} of {task_id} was already proposed as {held.status}", hint="End now.")
    return held


def _leave(output: Path, proposal: Proposal) -> Proposal:
    """Write the attempt's word; the first one holds and is answered."""
    path, temporary = output / PROPOSAL, output / f"{PROPOSAL}.{secrets.token_hex(8)}"
    try:
        _write(temporary, proposal.to_json())
        with suppress(FileExistsError):
            os.link(temporary, path, follow_symlinks=False)
        _sync(output)
    except FileNotFoundError as error:
        raise Conflict(
            f"attempt {proposal.attempt} of {proposal.task_id} is over: {output} is gone",
            hint="Stop. Its worker has ended the attempt.",
        ) from error
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="Is AGENTQ_OUTPUT the worker's?") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    held = read(output)
    if held is None:
        raise Invalid(f"{path} vanished while it was written", hint="Leave $AGENTQ_OUTPUT where it is.")
    return held


def read(output: Path) -> Proposal | None:
    """What was left there by anyone, None when nothing was; raises Invalid for what is no proposal."""
    data = _content(output / PROPOSAL)
    if data is None:
        return None
    try:
        return Proposal.model_validate_json(data)
    except ValidationError as error:
        raise Invalid(f"{output / PROPOSAL} is no proposal", hint="Remove it: only agentq writes it.") from error


def read_own(output: Path, task_id: str, attempt: int, token: str) -> Proposal | None:
    """The word of that very attempt; raises Invalid for anything else that stands in its place."""
    found = read(output)
    if found and (found.task_id, found.attempt, found.token) != (task_id, attempt, proof_of(token)):
        raise Invalid(f"{output / PROPOSAL} is not the word of attempt {attempt} of {task_id}")
    return found


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, _CREATE, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Invalid(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise Invalid(f"{path} is longer than any proposal")
    return data


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
