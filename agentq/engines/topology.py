"""What agentq makes and uses on a RabbitMQ broker, as data: settings, names, queues, delays. No I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from agentq.engines.log import Retention
from agentq.messages import Priority

PRIORITY: Mapping[Priority, int] = {"low": 1, "normal": 4, "high": 6, "urgent": 9}
GUARD_PRIORITY = 12
RUNGS = (1, 5, 20, 60, 300, 1800, 7200, 86400)
EVENT_KEY, OUTPUT_KEY = "event", "output"

STRICT_QUORUM_SINCE = (4, 3)
DELIVERY_LIMIT = 1000
UNLIMITED = 2**31 - 1
DAY = 24 * 3600
SEGMENT_BYTES = 50_000_000
"""A stream is cut by whole segments, so the largest has a few of them."""
BOUNDS, SEGMENT = ("x-max-length-bytes", "x-max-age"), "x-stream-max-segment-size-bytes"

Version = tuple[int, int]
Arguments = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class RabbitMQSettings:
    """Where the brokers are, tried in order, and how to talk to them; what is None is taken from the URL."""

    urls: tuple[str, ...] = field(default=("amqp://guest:guest@localhost:5672/",), repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    vhost: str | None = None
    namespace: str = "agentq"
    heartbeat: int = 30
    timeout: float = 10.0
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue or stream, and the one binding that fills it."""

    name: str
    arguments: Arguments
    source: str
    key: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether it is one of the log's."""
        return self.arguments.get("x-queue-type") == "stream"


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything of one namespace, in an order in which it can be made."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]

    def __iter__(self) -> Iterator[Exchange | Queue]:
        return chain(self.exchanges, self.queues)


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one namespace."""

    namespace: str

    @property
    def tasks(self) -> str:
        """The direct exchange that every task goes through."""
        return f"{self.namespace}.tasks"

    @property
    def results(self) -> str:
        """The direct exchange of completions."""
        return f"{self.namespace}.results"

    @property
    def dlx(self) -> str:
        """The fanout exchange that dead letters go through."""
        return f"{self.namespace}.dlx"

    @property
    def dead_letters(self) -> str:
        """The queue where dead letters stay."""
        return f"{self.namespace}.dead-letters"

    @property
    def looker(self) -> str:
        """The exclusive queue of whoever looks at the dead letters just now."""
        return f"{self.dead_letters}.looker"

    @property
    def events(self) -> str:
        """The topic exchange of the log, and its stream."""
        return f"{self.namespace}.events"

    @property
    def output(self) -> str:
        """The stream of what agents print."""
        return f"{self.namespace}.output"

    def task_queue(self, agent: str) -> str:
        """The queue of one agent."""
        return f"{self.tasks}.{agent}"

    def result_queue(self, coordinator: str) -> str:
        """The queue of one coordinator's completions."""
        return f"{self.results}.{coordinator}"

    @property
    def delays(self) -> str:
        """What the names of all exchanges and queues that delay begin with."""
        return f"{self.namespace}.delay."

    def delay(self, seconds: int) -> str:
        """The exchange and the queue that hold a message for so many seconds."""
        return f"{self.delays}{seconds}"


def parse_version(text: str) -> Version:
    """Major and minor number of a broker's version; what cannot be read counts as the oldest."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def hop(delay: float) -> tuple[int, float]:
    """The longest rung that is not longer than the delay (at least the first), and the seconds left after it."""
    rung = max((rung for rung in RUNGS if rung <= delay), default=RUNGS[0])
    return rung, max(0.0, round(delay - rung, 3))


def topology(
    version: Version,
    namespace: str,
    agents: Sequence[str],
    coordinators: Sequence[str],
    retention: Retention = Retention(),
) -> Topology:
    """What a broker of this version needs for these agents and coordinators."""
    names = Names(namespace)
    return Topology(
        exchanges=(
            Exchange(names.dlx, "fanout"),
            Exchange(names.tasks, "direct"),
            Exchange(names.results, "direct"),
            Exchange(names.events, "topic"),
            *(Exchange(names.delay(rung), "fanout") for rung in RUNGS),
        ),
        queues=(
            _dead_letters(names),
            *(_tasks(names, agent, version) for agent in dict.fromkeys(agents)),
            *(_delay(names, rung) for rung in RUNGS),
            *(_results(names, coordinator) for coordinator in dict.fromkeys(coordinators)),
            _stream(names, names.events, EVENT_KEY, *retention.of("events")),
            _stream(names, names.output, OUTPUT_KEY, *retention.of("output")),
        ),
    )


def notes(version: Version) -> tuple[str, ...]:
    """What this broker's version gives, and what is lost with an older one than 4.3."""
    if version >= STRICT_QUORUM_SINCE:
        return ("task queues are quorum queues: replicated in a cluster, priorities are strict",)
    return (
        f"RabbitMQ {version[0]}.{version[1]} has no strict priorities on quorum queues (4.3 has): "
        "task queues are classic queues, priorities are strict, but the queues are not replicated in a cluster",
        "a classic queue has no delivery limit: a message that kills its reader is only stopped by max_attempts",
        "what the broker itself takes out of a classic queue (AMQP expiration, a length limit) is dead-lettered "
        "at most once: a broker that stops just then loses it",
        "after an upgrade to 4.3, drain and delete the task queues, then run `agentq init` to have them replicated",
    )


def _quorum(**more: str | int) -> Arguments:
    """A quorum queue; without reject-publish, at-least-once dead-lettering would silently be at-most-once."""
    return {"x-queue-type": "quorum", **{f"x-{key.replace('_', '-')}": value for key, value in more.items()}}


def _dead_lettering(exchange: str) -> dict[str, str | int]:
    return {
        "dead_letter_exchange": exchange,
        "dead_letter_strategy": "at-least-once",
        "overflow": "reject-publish",
    }


def _tasks(names: Names, agent: str, version: Version) -> Queue:
    """An agent's queue, strict between priorities on every version."""
    if version >= STRICT_QUORUM_SINCE:
        arguments = _quorum(
            delivery_limit=DELIVERY_LIMIT, consumer_timeout=7 * DAY * 1000, **_dead_lettering(names.dlx)
        )
    else:
        arguments = {
            "x-queue-type": "classic",
            "x-max-priority": GUARD_PRIORITY,
            "x-consumer-timeout": 7 * DAY * 1000,
            "x-dead-letter-exchange": names.dlx,
        }
    return Queue(names.task_queue(agent), arguments, names.tasks, agent)


def _delay(names: Names, rung: int) -> Queue:
    """One queue per delay, because messages expire head-first."""
    return Queue(names.delay(rung), _quorum(message_ttl=rung * 1000, **_dead_lettering(names.tasks)), names.delay(rung))


def _dead_letters(names: Names) -> Queue:
    """A quorum queue, so that evidence survives a node; its limit of returns is out of reach for anyone who looks.

    No limit at all (-1) would kill at the first return on 3.10, and leaving it out means 20 since 4.0.
    """
    return Queue(names.dead_letters, _quorum(delivery_limit=UNLIMITED), names.dlx)


def _results(names: Names, coordinator: str) -> Queue:
    """Bounded, the oldest notice goes first: the inbox in the store is the truth."""
    arguments = _quorum(delivery_limit=DELIVERY_LIMIT, max_length=10_000, overflow="drop-head")
    return Queue(names.result_queue(coordinator), arguments, names.results, coordinator)


def _stream(names: Names, name: str, key: str, days: int, size: int) -> Queue:
    arguments: Arguments = {
        "x-queue-type": "stream",
        "x-max-age": f"{days}D",
        "x-max-length-bytes": size,
        SEGMENT: min(SEGMENT_BYTES, size // 4),
    }
    return Queue(name, arguments, names.events, f"{key}.#")
