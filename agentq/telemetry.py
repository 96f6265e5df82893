"""Traces told to OpenTelemetry, as its OTEL_* variables ask for it. Imported when they do, and not otherwise."""

import atexit
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import (
    Link,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentq import __version__
from agentq.errors import Invalid
from agentq.messages import Completion, Envelope, shorten
from agentq.tracing import Span, Tracing, ambient, in_trace, well_formed

log = logging.getLogger("agentq")

COMMAND_SECONDS, DAEMON_SECONDS = 1.0, 5.0
"""How long a command, and a daemon that ends, wait at the most until their last spans are taken."""
SAY_AGAIN_SECONDS = 600.0
WORDS = 300
PORTS = {"amqp": 5672, "amqps": 5671}

_propagator = TraceContextTextMapPropagator()

Operation = Literal["send", "process", "receive"]
Exchange = Literal["tasks", "results"]
Attributes = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the messages go: the engine's URL without its password, and the namespace there."""

    broker: str
    namespace: str

    def attributes(self, operation: Operation, exchange: Exchange, key: str | None) -> Attributes:
        """What the conventions say of an operation and its destination, which is None when it has several."""
        url, named = urlsplit(self.broker), _named(exchange, key)
        said: Attributes = {"messaging.operation.name": operation, "messaging.operation.type": operation}
        if url.scheme not in PORTS:
            return said | {"messaging.system": f"agentq.{url.scheme}"} | _only("messaging.destination.name", named)
        said |= {"messaging.system": "rabbitmq", "server.address": url.hostname or "localhost"}
        said |= {"server.port": url.port or PORTS[url.scheme]}
        if key is None:
            return said
        queue = "" if operation == "send" else f":{self.namespace}.{exchange}.{key}"
        return said | {
            "messaging.destination.name": f"{self.namespace}.{exchange}:{key}{queue}",
            "messaging.destination.template": named,
            "messaging.rabbitmq.destination.routing_key": key,
        }


class OpenTelemetry(Tracing):
    """Tells an OpenTelemetry SDK."""

    def __init__(self, provider: TracerProvider, place: Place) -> None:
        self._tracer = provider.get_tracer("agentq", __version__)
        self._place = place

    @contextmanager
    def send(self, request: Envelope) -> Iterator[Envelope]:
        agents = {task.to for task in request.plan or (request,)}
        agent = agents.pop() if len(agents) == 1 else None
        attributes = self._place.attributes("send", "tasks", agent) | _of(request)
        name = f"send {agent}" if agent else "send"
        with self._span(name, SpanKind.PRODUCER, attributes, ambient(request)) as span:
            yield in_trace(request, span.traceparent)

    @contextmanager
    def process(self, envelope: Envelope, attempt: int) -> Iterator[Span]:
        attributes = self._of_attempt("process", envelope, attempt)
        with self._span(f"process {envelope.to}", SpanKind.CONSUMER, attributes, envelope.traceparent) as span:
            span.event("claimed")
            yield span

    @contextmanager
    def step(self, name: str) -> Iterator[Span]:
        with self._tracer.start_as_current_span(name) as span:
            yield _Told(span)

    @contextmanager
    def reply(self, completion: Completion, reply_to: str) -> Iterator[Span]:
        attributes = self._place.attributes("send", "results", reply_to.removeprefix("results.")) | _how(completion)
        # No PRODUCER, whose own context travels with its message: a notice is signed, with its attempt's context in it.
        with self._span(f"send {reply_to}", SpanKind.CLIENT, attributes, completion.traceparent) as span:
            yield span

    def received(self, completions: Sequence[Completion], since: datetime | None = None) -> None:
        for completion in completions:
            attributes = self._place.attributes("receive", "results", completion.to) | _how(completion)
            name = f"receive results.{completion.to}"
            self._past(name, SpanKind.CLIENT, attributes, completion.traceparent, since).end()

    def claimed(self, envelope: Envelope, attempt: int, since: datetime) -> None:
        attributes = self._of_attempt("receive", envelope, attempt)
        self._past(f"receive {envelope.to}", SpanKind.CLIENT, attributes, envelope.traceparent, since).end()

    def processed(
        self,
        envelope: Envelope,
        attempt: int,
        since: datetime,
        outcome: str,
        error: str | None = None,
        why: str | None = None,
    ) -> None:
        attributes = self._of_attempt("process", envelope, attempt)
        span = self._past(f"process {envelope.to}", SpanKind.CONSUMER, attributes, envelope.traceparent, since)
        _Told(span).ended(outcome, error, why)
        span.end()

    # ------------------------------------------------------------------

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Attributes, parent: str | None) -> Iterator["_Told"]:
        """A span below that context, which is the current one meanwhile; it fails with what leaves it."""
        with self._tracer.start_as_current_span(
            name,
            _context(parent),
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            told = _Told(span)
            try:
                yield told
            except BaseException as error:
                told.failed(type(error).__name__, str(error))
                raise

    def _past(
        self, name: str, kind: SpanKind, attributes: Attributes, parent: str | None, since: datetime | None
    ) -> OtelSpan:
        """A span that began then, linked to the trace that this process belongs to, if it does to any."""
        own = ambient()
        links = [Link(get_current_span(_context(own)).get_span_context())] if own else []
        start = int(since.timestamp() * 1e9) if since else None
        return self._tracer.start_span(name, _context(parent), kind, attributes, links, start)

    def _of_attempt(self, operation: Operation, envelope: Envelope, attempt: int) -> Attributes:
        place = self._place.attributes(operation, "tasks", envelope.to)
        return place | _of(envelope) | {"agentq.attempt.number": attempt}


class _Told(Span):
    """A span of OpenTelemetry's."""

    def __init__(self, span: OtelSpan) -> None:
        context = span.get_span_context()
        trace, own = format_trace_id(context.trace_id), format_span_id(context.span_id)
        super().__init__(f"00-{trace}-{own}-{context.trace_flags:02x}")
        self._span = span

    def event(self, name: str, **attributes: Any) -> None:
        self._span.add_event(name, {f"agentq.{key}": value for key, value in attributes.items()})

    def ended(self, outcome: str, error: str | None = None, why: str | None = None) -> None:
        self._span.set_attribute("agentq.outcome", outcome)
        if error:
            self.failed(error, why or outcome)

    def failed(self, error: str, why: str) -> None:
        """Set the kind of its error, and the reason in words."""
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR, shorten(why, WORDS)))


def _named(exchange: Exchange, key: str | None) -> str:
    """A destination as agentq calls it, the same on each engine."""
    return key or "" if exchange == "tasks" else f"results.{key}"


def _only(name: str, value: str | None) -> Attributes:
    return {name: value} if value else {}


def _of(task: Envelope) -> Attributes:
    """What is told of a task or a plan; never what it is asked to do."""
    group = task.task_id if task.is_group else task.group
    return {
        "messaging.message.id": task.task_id,
        "agentq.task.type": task.type,
        "agentq.task.priority": task.priority,
        **_only("messaging.message.conversation_id", group),
        **({"messaging.batch.message_count": len(task.plan)} if task.plan else {}),
    }


def _how(completion: Completion) -> Attributes:
    return {
        "messaging.message.id": completion.task_id,
        "agentq.outcome": completion.status,
        "agentq.attempt.number": completion.attempt,
    }


def _context(traceparent: str | None) -> Context:
    """The context of a traceparent, an empty one for what is malformed."""
    return _propagator.extract({"traceparent": well_formed(traceparent) or ""}, Context())


# ---------------------------------------------------------------------- the SDK


def open_telemetry(place: Place, service: str, environ: Mapping[str, str], *, daemon: bool) -> OpenTelemetry:
    """Traces as the environment asks for them. Raises Invalid for what it asks and this cannot do, ImportError.

    What is left at the process's end is sent then, in bounded time; a server that is away is told once, in one line.
    """
    seconds = DAEMON_SECONDS if daemon else COMMAND_SECONDS
    _tell_in_one_line()
    try:
        provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        for exporter in _exporters(environ, None if daemon else seconds):
            provider.add_span_processor(BatchSpanProcessor(exporter))
    except (ValueError, OSError) as error:
        raise Invalid(f"an OTEL_* variable cannot be used: {error}") from error
    _send_at_exit(provider, seconds)
    return OpenTelemetry(provider, place)


def _resource(service: str) -> Resource:
    """What the environment says of this process; the service's name is ours unless it names one."""
    said = dict(Resource.create().attributes)
    if str(said.get(SERVICE_NAME, "")).startswith("unknown_service"):
        del said[SERVICE_NAME]
    return Resource({SERVICE_NAME: service, "service.version": __version__, "host.name": socket.gethostname(), **said})


def _exporters(environ: Mapping[str, str], longest: float | None) -> Iterator[SpanExporter]:
    for name in (environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp").split(","):
        match name.strip():
            case "otlp":
                yield _otlp(environ, longest)
            case "console":
                yield ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: f"{span.to_json(indent=None)}\n")
            case "none":
                pass
            case other:
                raise Invalid(f"OTEL_TRACES_EXPORTER is {other!r}; agentq knows otlp, console and none")


def _otlp(environ: Mapping[str, str], longest: float | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(name, "").strip()
        if protocol and protocol != "http/protobuf":
            raise Invalid(f"{name} is {protocol!r}; agentq sends http/protobuf, most collectors take it at port 4318")
        if protocol:
            break
    return OTLPSpanExporter(timeout=longest)


def _send_at_exit(provider: TracerProvider, seconds: float) -> None:
    """Send what is left when the process ends. The thread is made now: none can be made then."""
    over, sent = threading.Event(), threading.Event()

    def send() -> None:
        over.wait()
        provider.shutdown()
        sent.set()

    def at_exit() -> None:
        over.set()
        with suppress(SystemExit, KeyboardInterrupt):  # who is in a hurry
            if not sent.wait(seconds):
                _OneLine.say(f"they were not taken within {seconds:g} s")

    threading.Thread(target=send, name="agentq-traces", daemon=True).start()
    atexit.register(at_exit)


class _OneLine(logging.Handler):
    """What the SDK complains about, as one line without a traceback, and not again for ten minutes."""

    said_at = -SAY_AGAIN_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self.say(record.getMessage())

    @classmethod
    def say(cls, what: str) -> None:
        """Say why traces are not sent, unless that was said just now."""
        if time.monotonic() - cls.said_at >= SAY_AGAIN_SECONDS:
            cls.said_at = time.monotonic()
            log.warning("traces are not sent: %s", shorten(" ".join(what.split()), WORDS))


def _tell_in_one_line() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_OneLine(logging.ERROR)], False
