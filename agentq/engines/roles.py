"""Who may do what on a RabbitMQ broker: a user for each role with the least that its part needs. No I/O."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agentq.engines.topology import EVENT_KEY, OUTPUT_KEY, RUNGS, Names

Kind = Literal["coordinator", "worker", "observer", "gateway"]

NOTHING = "^$"
NO_KEY = "(?!)"
"""Matches no routing key at all: `^$` is one that somebody can bind with."""


@dataclass(frozen=True, slots=True)
class Topics:
    """With which routing keys a user may publish to a topic exchange, and bind to it: regular expressions."""

    exchange: str
    write: str
    read: str = NO_KEY


@dataclass(frozen=True, slots=True)
class Role:
    """A user of the broker, and the names that it may configure, write to and read: regular expressions."""

    kind: Kind
    name: str
    user: str
    configure: str
    write: str
    read: str
    topics: Topics


def roles(
    namespace: str,
    coordinators: Iterable[str],
    agents: Iterable[str],
    observers: Iterable[str],
    gateways: Iterable[str] = (),
) -> tuple[Role, ...]:
    """The roles of one namespace, one for each name, in this order; what is not named here may do nothing."""
    names, agents = Names(namespace), tuple(dict.fromkeys(agents))
    return (
        *(_coordinator(names, name, agents) for name in dict.fromkeys(coordinators)),
        *(_worker(names, name, agents) for name in agents),
        *(_observer(names, name, agents) for name in dict.fromkeys(observers)),
        *(_gateway(names, name, agents) for name in dict.fromkeys(gateways)),
    )


def _coordinator(names: Names, name: str, agents: Sequence[str]) -> Role:
    """Publishes tasks, looks through and settles what is half-done, and works with the dead letters."""
    return Role(
        kind="coordinator",
        name=name,
        user=_user(names, "coordinator", name),
        configure=_any_of(names, names.looker),
        write=_any_of(names, names.tasks, *_answers(names), *_delays(names), *_counted(names, agents)),
        read=_any_of(names, names.result_queue(name), names.dead_letters, names.events, names.output),
        topics=Topics(names.events, _keys(EVENT_KEY)),
    )


def _worker(names: Names, agent: str, agents: Sequence[str]) -> Role:
    """Takes from its own queue, parks and answers. Writing to another agent's queue only lets it see that it exists."""
    return Role(
        kind="worker",
        name=agent,
        user=_user(names, "worker", agent),
        configure=NOTHING,
        write=_any_of(names, *_answers(names), *_delays(names), *_counted(names, agents)),
        read=_any_of(names, names.task_queue(agent)),
        topics=Topics(names.events, _keys(EVENT_KEY, OUTPUT_KEY)),
    )


def _observer(names: Names, name: str, agents: Sequence[str]) -> Role:
    """Reads the two streams and counts what waits; it can change nothing."""
    return Role(
        kind="observer",
        name=name,
        user=_user(names, "observer", name),
        configure=NOTHING,
        write=_any_of(names, *_counted(names, agents), names.dead_letters),
        read=_any_of(names, names.events, names.output),
        topics=Topics(names.events, NO_KEY),
    )


def _gateway(names: Names, name: str, agents: Sequence[str]) -> Role:
    """Does all that its clients may ask for: it is coordinator, observer and every worker, but takes no completions."""
    queues = [names.task_queue(agent) for agent in agents]
    return replace(
        _coordinator(names, name, agents),
        kind="gateway",
        user=_user(names, "gateway", name),
        read=_any_of(names, *queues, names.dead_letters, names.events, names.output),
        topics=Topics(names.events, _keys(EVENT_KEY, OUTPUT_KEY)),
    )


def _answers(names: Names) -> list[str]:
    return [names.results, names.dlx, names.events]


def _delays(names: Names) -> list[str]:
    return [names.delay(rung) for rung in RUNGS]


def _counted(names: Names, agents: Sequence[str]) -> list[str]:
    """The queues whose messages may be counted: 4.3 shows them to whoever may do anything with them.

    To write to a queue does nothing without an exchange that may be read, to be bound to it: no message gets in so.
    """
    return [names.task_queue(agent) for agent in agents]


def _user(names: Names, kind: Kind, name: str) -> str:
    return f"{names.namespace}.{kind}.{name}"


def _any_of(names: Names, *resources: str) -> str:
    """Matches these names of one namespace and no other."""
    start = f"{names.namespace}."
    return f"^{re.escape(start)}({'|'.join(re.escape(name.removeprefix(start)) for name in resources)})$"


def _keys(*first_words: str) -> str:
    return rf"^({'|'.join(map(re.escape, first_words))})(\.|$)"
