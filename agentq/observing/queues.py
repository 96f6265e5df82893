"""How much waits in the engine, as far as it can be counted at one moment."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentq.engine import Engine
from agentq.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Queues:
    """How many messages wait for each agent, without delayed ones, and how many dead letters there are.

    None is what the engine does not tell: it is away, or the agent has no queue.
    """

    messages: dict[str, int | None] = field(default_factory=dict)
    dead_letters: int | None = None


async def count(engine: Engine, agents: Iterable[str]) -> Queues:
    """Count what waits for these agents; raises EngineUnavailable only when the engine tells nothing at all."""
    letters = await engine.count_dead_letters()
    return Queues({agent: await _messages(engine, agent) for agent in agents}, letters)


async def _messages(engine: Engine, agent: str) -> int | None:
    try:
        return await engine.depth(agent)
    except EngineUnavailable:
        return None
