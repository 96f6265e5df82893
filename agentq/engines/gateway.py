"""The engine behind a gateway, for hosts that have only its URL: every method is asked over one WebSocket."""

from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any

from agentq.engine import DeadLetter, Declared, Guard, Health, Log, Page
from agentq.engines import gateway_wire as wire
from agentq.engines.gateway_link import Line, Link
from agentq.engines.log import written
from agentq.errors import EngineUnavailable
from agentq.events import Event
from agentq.messages import Completion, Envelope
from agentq.remote import Remote

PATIENCE = 3
"""So many times its time-out a request may take: the engine behind the gateway has its own, and an error to tell."""
LONG = 30
"""The same for what looks at many things."""
IDS_AT_ONCE = 2000
BYTES_AT_ONCE = 256 * 1024


class GatewayDelivery:
    """A message that the gateway holds for this process until it is acknowledged or the line ends."""

    def __init__(self, line: Line, seconds: float, said: dict[str, Any]) -> None:
        self.body = wire.to_bytes(said["body"])
        self.guard = wire.to_guard(said["guard"])
        self.published_at = wire.to_moment(said["published_at"])
        self.was_delayed = bool(said["was_delayed"])
        self._of: int = said["of"]
        self._line, self._seconds = line, seconds
        self._is_held = True

    async def ack(self) -> None:
        """Give the message back for good; nothing when its line is gone, also when that happens just now."""
        await self._settle("ack")

    async def dead_letter(self, reason: str) -> None:
        """Move the message to the dead letters; nothing when its line is gone, for it is delivered again then."""
        await self._settle("bury", reason=reason)

    async def _settle(self, do: str, **what: Any) -> None:
        if not self._is_held:
            return
        try:
            await self._line.ask(do, self._seconds, of=self._of, **what)
        except EngineUnavailable:
            if self._line.is_open:
                raise
        self._is_held = False


class GatewayEngine:
    """An engine of its own behind the gateway, for as long as the line stands; it connects when it is first used."""

    def __init__(self, remote: Remote) -> None:
        self._link = Link(remote)
        self._seconds = PATIENCE * remote.timeout
        self.url = remote.url

    async def declare(self, agents: Sequence[str], coordinators: Sequence[str]) -> Declared:
        """Make all that is used there, if this is for us to do."""
        said = await self._ask("declare", LONG, agents=[*agents], coordinators=[*coordinators])
        return wire.to_declared(said)

    async def ready(self, agent: str) -> None:
        """Raise EngineUnavailable unless a publish to that agent would be accepted just now."""
        await self._ask("ready", agent=agent)

    async def publish(self, envelope: Envelope, *, delay: float = 0.0, guard: Guard | None = None) -> None:
        """Hand a message to the agent's queue, not before `delay` seconds; returns once it is durable there."""
        text = envelope.to_json().decode()
        await self._ask("publish", envelope=text, delay=delay, guard=wire.of_guard(guard))

    async def receive(self, agent: str) -> GatewayDelivery:
        """Wait for the agent's next message; raises EngineUnavailable when the line is cut.

        When it is cancelled, the gateway gives back what it was just handing out.
        """
        line = await self._link.line()
        said = await line.ask("receive", agent=agent)
        return GatewayDelivery(line, self._seconds, said)

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        """Put a copy of a task that was given up to the dead letters."""
        await self._ask("dead_letter", envelope=envelope.to_json().decode(), reason=reason)

    async def notify(self, completion: Completion, reply_to: str) -> None:
        """Put a completion on the coordinator's results queue, if anyone declared it; nothing waits for it."""
        await self._ask("notify", completion=completion.to_json().decode(), reply_to=reply_to)

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first; looking changes nothing."""
        return [wire.to_letter(said) for said in await self._ask("dead_letters", LONG)]

    async def remove_dead_letters(self, ids: Collection[str]) -> int:
        """Remove those dead letters, looking at all of them once for each 2,000; answers how many were there."""
        removed, rest = 0, iter(ids)
        while some := [*islice(rest, IDS_AT_ONCE)]:
            removed += int(await self._ask("remove_dead_letters", LONG, ids=some))
        return removed

    async def depth(self, agent: str) -> int:
        """How many messages wait for the agent, without delayed ones."""
        return int(await self._ask("depth", agent=agent))

    async def listeners(self, agent: str) -> int:
        """How many receivers wait for the agent's messages, wherever they are."""
        return int(await self._ask("listeners", agent=agent))

    async def append(self, events: Sequence[Event]) -> None:
        """Add events to their logs, in this order; long ones in several requests, of which the first may have happened
        when a later one fails."""
        for lot in _in_lots(body for _, body in written(events)):
            await self._ask("append", events=[body.decode() for body in lot])

    async def read(
        self,
        log: Log = "events",
        *,
        after: str | None = None,
        since: datetime | None = None,
        tasks: Collection[str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Read a log; each page is fetched when it is asked for."""
        line = await self._link.line()
        what = {"log": log, "after": after, "since": wire.of_moment(since), "tasks": [*tasks], "follow": follow}
        reading = await line.ask("read", self._seconds, **what)
        try:
            while (said := await line.ask("next", of=reading)) is not None:
                yield wire.to_page(said)
        finally:
            line.say(op="end", of=reading)

    async def count_dead_letters(self) -> int:
        """How many dead letters there are."""
        return int(await self._ask("count_dead_letters"))

    async def health(self, agents: Sequence[str]) -> Health:
        """What the engine behind the gateway is and what is missing there."""
        return wire.to_health(await self._ask("health", LONG, agents=[*agents]))

    async def close(self) -> None:
        """Let go of the line; a delivery that was not acknowledged is delivered again."""
        with suppress(EngineUnavailable):
            await self._link.close()

    async def _ask(self, do: str, patience: int = PATIENCE, **what: Any) -> Any:
        line = await self._link.line()
        return await line.ask(do, patience * self._link.seconds, **what)


def _in_lots(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The bodies in their order, so many at once as fit into a frame."""
    lot: list[bytes] = []
    size = 0
    for body in bodies:
        if lot and size + len(body) > BYTES_AT_ONCE:
            yield lot
            lot, size = [], 0
        lot.append(body)
        size += len(body)
    if lot:
        yield lot
