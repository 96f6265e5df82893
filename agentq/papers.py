"""The papers of a task: the small JSON objects in the store from which its state is derived."""

import secrets
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from agentq.messages import Artifact, Completion, Message, Seconds, Signature, Stopped, TaskId, Usage


def new_token() -> str:
    """A random token: who holds it wrote the paper."""
    return secrets.token_hex(16)


class Owner(Message):
    """The process behind an attempt: enough to tell on its own host whether it is gone."""

    host: str
    pid: int
    boot: str
    started: str


class Claim(Message):
    """Attempt n belongs to the worker that created this paper."""

    kind: Literal["claim"] = "claim"
    attempt: int
    token: str
    worker: str
    owner: Owner
    at: AwareDatetime
    lease_seconds: Seconds


class Seal(Message):
    """Attempt n is no run but an end: whoever meets it commits the completion in it."""

    kind: Literal["seal"] = "seal"
    attempt: int
    token: str
    by: str
    at: AwareDatetime
    completion: Completion


class Move(Message):
    """Attempt n is no run either: since then the task is at home in another store, and acted upon only there."""

    kind: Literal["moved"] = "moved"
    attempt: int
    token: str
    to: str
    by: str
    at: AwareDatetime


class Lease(Message):
    """The owner's renewals. A counter that stands still means a dead attempt; `at` is only for words on a screen, and
    `usage` what the agent has taken so far."""

    token: str
    counter: int
    at: AwareDatetime
    guard: str | None = None
    usage: Usage | None = None


class End(Message):
    """How an attempt ended without a result: whether it counts, and when the task may be tried again.

    `stopped` says whether its processes are proven gone; of a dead worker's that is presumed. `started` is False where
    it is proven that its agent never ran, else it may have. `usage` is what it took, None of one whose worker died.
    """

    attempt: int
    token: str
    by: str
    at: AwareDatetime
    reason: str
    counts: bool
    retry_at: AwareDatetime | None = None
    stopped: Stopped | None = None
    started: bool | None = None
    artifacts: tuple[Artifact, ...] = ()
    usage: Usage | None = None


class Proposal(Message):
    """What a running agent says of its own attempt; the daemon checks it and commits, or gives the task back.

    `token` is the digest of the attempt's own.
    """

    task_id: TaskId
    attempt: int
    token: str
    status: Literal["completed", "failed", "released"]
    by: str
    at: AwareDatetime
    summary: str = ""
    reason: str | None = None
    report: str | None = None
    not_before: AwareDatetime | None = None


class Cancel(Message):
    """Somebody asked to cancel the task: whoever runs it stops, and nobody starts it any more."""

    token: str
    by: str
    at: AwareDatetime
    reason: str | None = None


class Approval(Message):
    """Somebody approved exactly this: the digest of the envelope, its context and the results that it needs."""

    token: str
    digest: str
    context_sha256: str | None = None
    by: str
    at: AwareDatetime
    signature: Signature | None = None


class Demand(Message):
    """A worker whose profile takes the task's type for irreversible asks for an approval that the envelope does not."""

    token: str
    by: str
    at: AwareDatetime
    reason: str


class Release(Message):
    """The last gate of the task is open since then; its TTL counts from here."""

    token: str
    at: AwareDatetime


class Collected(Message):
    """The evidence of a finished task may be gone from then on: whoever comes later must not build on it."""

    at: AwareDatetime


class Attempt(Message):
    """Everything the store says of one attempt number."""

    paper: Annotated[Claim | Seal | Move, Field(discriminator="kind")]
    end: End | None = None
    lease: Lease | None = None

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return self.paper.attempt

    @property
    def spent(self) -> Usage | None:
        """What it took, or at least what its last renewal said; None where no agent ran."""
        if not isinstance(self.paper, Claim) or (self.end and self.end.started is False):
            return None
        if self.end and self.end.usage:
            return self.end.usage
        told = self.lease.usage if self.lease else None
        return (told or Usage()).model_copy(update={"at_least": True})


NUMBERED: TypeAdapter[Claim | Seal | Move] = TypeAdapter(Annotated[Claim | Seal | Move, Field(discriminator="kind")])
"""The papers that an attempt number may belong to."""
