"""What can be done with one delivery."""

from dataclasses import dataclass
from logging import INFO

from agentq.engine import Guard
from agentq.lifecycle import Papers
from agentq.messages import Completion, Envelope
from agentq.papers import Claim


@dataclass(frozen=True, slots=True)
class Refuse:
    """Move this message alone to the dead letters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Acknowledge: another message or paper looks after the task."""

    why: str


@dataclass(frozen=True, slots=True)
class Settle:
    """The task has ended: settle it if it is still open, then acknowledge."""

    manifest: Completion


@dataclass(frozen=True, slots=True)
class Park:
    """Publish a copy with a delay (and as a guard), then acknowledge; `level` is how loudly that is logged."""

    envelope: Envelope
    delay: float
    why: str
    guard: Guard | None = None
    level: int = INFO


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Keep the delivery, and pick it up again after that many seconds: a lease that still stands still is dead."""

    after: float


@dataclass(frozen=True, slots=True)
class Start:
    """The attempt is ours: run the agent."""

    papers: Papers
    claim: Claim


Verdict = Refuse | Drop | Settle | Park | LookAgain | Start
