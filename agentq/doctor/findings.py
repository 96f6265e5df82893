"""What an examination finds."""

from dataclasses import dataclass, field
from typing import Literal

from agentq.engine import Health
from agentq.errors import AgentqError, Unavailable

Part = Literal["papers", "log", "queues", "workers", "clocks"]
"""Where something is the matter."""


@dataclass(frozen=True, slots=True)
class Ailment:
    """Something that is the matter: with which task or agent, what, what to do, and whether `--repair` does it."""

    task_id: str | None
    kind: str
    what: str
    mendable: bool = True
    part: Part = "papers"
    agent: str | None = None
    remedy: str = ""


@dataclass(slots=True)
class Findings:
    """All that an examination found. An error stands for a part that could not be looked at."""

    health: Health | None = None
    engine_error: AgentqError | None = None
    store_error: AgentqError | None = None
    log_error: AgentqError | None = None
    ledger_error: AgentqError | None = None
    ailments: list[Ailment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing of log and workers, and is nothing to mend."""

    @property
    def well(self) -> bool:
        """True when all was looked at, and there is nothing to mend."""
        engine_well = self.health is not None and not self.health.missing
        return engine_well and not (self.store_error or self.log_error or self.ledger_error or self.ailments)

    @property
    def ledger_is_wrong(self) -> bool:
        """Whether the ledger is to be made anew."""
        return any(ailment.part == "log" and ailment.mendable for ailment in self.ailments)

    @property
    def unreachable(self) -> bool:
        """True when something has to come back first: the engine, the store, the log, or where the ledger is."""
        away = isinstance(self.store_error, Unavailable) or bool(self.ledger_error)
        return bool(self.engine_error) or away or (self.log_error is not None and not self._is_bare)

    @property
    def _is_bare(self) -> bool:
        """Whether a part of the engine is yet to be declared."""
        return self.health is not None and bool(self.health.missing)


def span(seconds: float) -> str:
    """A duration in a few characters, to two or three digits."""
    units = ((86400, "d"), (3600, "h"), (60, "m"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= size), (1, "s"))
    return (
        f"{max(0.0, seconds / size):.0f} {unit}" if seconds / size >= 10 else f"{max(0.0, seconds / size):.2g} {unit}"
    )
