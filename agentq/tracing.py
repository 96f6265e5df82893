"""One trace for each task, from its submit over the queue to its attempts and back to whoever reads its result.

This is what the steps of a task call. Nobody is told until `use` says who: then only the W3C trace context is passed on
that others began. Names and attributes are those of OpenTelemetry's messaging conventions.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from agentq.messages import Completion, Envelope

TRACEPARENT = "TRACEPARENT"
"""The variable by which a process is told the trace that it belongs to."""
ASKS = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

KNOWN_FLAGS = 0b11
"""Of a traceparent: sampled, and a random trace id."""

_FORM = re.compile(
    r"(?!ff)(?!00-.{52}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL
)
"""Version, trace, span, flags; versions to come may add to it."""


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces, in OpenTelemetry's own words."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = environ.get(ASKS[0], "").strip().lower() == "none"
    return not (disabled or off) and any(environ.get(name, "").strip() for name in ASKS)


def well_formed(traceparent: str | None) -> str | None:
    """A W3C traceparent as this version writes it, None for what is none: a foreign message may say anything."""
    found = _FORM.fullmatch(traceparent or "")
    return f"00-{found[1]}-{found[2]}-{int(found[3], 16) & KNOWN_FLAGS:02x}" if found else None


class Span:
    """A step of a trace that is told to nobody; `traceparent` is what its children are given, also then."""

    def __init__(self, traceparent: str | None = None) -> None:
        self.traceparent = traceparent

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process that is started in it go on with the trace; nothing without one."""
        return {TRACEPARENT: self.traceparent} if self.traceparent else {}

    def event(self, name: str, **attributes: Any) -> None:
        """Note that something happened in it."""

    def ended(self, outcome: str, error: str | None = None, why: str | None = None) -> None:
        """How an attempt ended; with the kind of its error, one of a few words, it failed."""


class Tracing:
    """Tells nobody."""

    @contextmanager
    def send(self, request: Envelope) -> Iterator[Envelope]:
        """Submit a task or a plan: yields the request with the context that everything which follows belongs to.

        It goes on with the trace that the request names, else with the one this process was told.
        """
        yield in_trace(request, ambient(request))

    @contextmanager
    def process(self, envelope: Envelope, attempt: int) -> Iterator[Span]:
        """Carry out one attempt of a task."""
        yield Span(well_formed(envelope.traceparent))

    @contextmanager
    def step(self, name: str) -> Iterator[Span]:
        """Do a part of the step that this task of the event loop is in."""
        yield Span()

    @contextmanager
    def reply(self, completion: Completion, reply_to: str) -> Iterator[Span]:
        """Send a task's completion back."""
        yield Span(well_formed(completion.traceparent))

    def received(self, completions: Sequence[Completion], since: datetime | None = None) -> None:
        """Tell that completions were read, which somebody waited for since then."""

    def claimed(self, envelope: Envelope, attempt: int, since: datetime) -> None:
        """Tell that somebody without a daemon pulled a task, and waited for it since then."""

    def processed(
        self,
        envelope: Envelope,
        attempt: int,
        since: datetime,
        outcome: str,
        error: str | None = None,
        why: str | None = None,
    ) -> None:
        """Tell of an attempt that somebody carried out without a daemon since then; the rest as `Span.ended`."""


def in_trace(request: Envelope, traceparent: str | None) -> Envelope:
    """The request, and of a plan each of its tasks, with that context; malformed ones are taken out."""
    if not request.plan and request.traceparent == traceparent:
        return request
    plan = tuple(task.model_copy(update={"traceparent": traceparent}) for task in request.plan)
    return request.model_copy(update={"traceparent": traceparent, "plan": plan})


def ambient(request: Envelope | None = None) -> str | None:
    """The context that a request names, else the one that this process was told; None without a well-formed one."""
    named = well_formed(request.traceparent) if request else None
    return named or well_formed(os.environ.get(TRACEPARENT))


_nobody = Tracing()
_told = _nobody


def current() -> Tracing:
    """Who is told the traces of this process: one for the process, as the environment is that asks for it."""
    return _told


def is_decided() -> bool:
    """Whether `use` was called in this process."""
    return _told is not _nobody


def use(tracing: Tracing) -> None:
    """Tell it from now on."""
    global _told
    _told = tracing
