"""A collector of traces for one test: takes OTLP over HTTP on a loopback port, and keeps what it was sent."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PATIENCE = 15.0


@dataclass(frozen=True)
class Told:
    """A span as it came over the wire; ids are hex, times nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: dict[str, dict[str, Any]]
    links: list[str]
    failed: bool
    why: str
    start: int
    end: int

    def is_told_by(self, traceparent: str | None) -> bool:
        """Whether a traceparent names it, and says that it is sampled; the protocol does not carry the other flags."""
        said = (traceparent or "").strip()
        return said.startswith(f"00-{self.trace}-{self.id}-") and int(said[-2:], 16) & 1 == 1


@dataclass
class Collector:
    """What came so far."""

    url: str = ""
    spans: list[Told] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process send its traces here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def take(self, body: bytes) -> None:
        """Keep a request's spans."""
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_told(span, resource) for span in scope.spans]

    def named(self, name: str) -> list[Told]:
        """The spans of that name, the one that began first first."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start)

    def one(self, name: str) -> Told:
        """Wait for the one span of that name."""
        (found,) = self.several(name, 1)
        return found

    def several(self, name: str, count: int) -> list[Told]:
        """Wait until there are so many spans of that name, and no more."""
        self.until(lambda: len(self.named(name)) >= count, f"{count} of {name}")
        assert len(self.named(name)) == count
        return self.named(name)

    def until(self, look: Callable[[], bool], what: str) -> None:
        """Wait for something to come."""
        deadline = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}; there are {self.names()}"
            time.sleep(0.01)

    def names(self) -> list[str]:
        """The names of all spans."""
        return sorted(span.name for span in self.spans)


def _told(span: trace_pb2.Span, resource: dict[str, Any]) -> Told:
    return Told(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        resource=resource,
        events={event.name: _plain(event.attributes) for event in span.events},
        links=[link.trace_id.hex() for link in span.links],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        why=span.status.message,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    def value(item: KeyValue) -> Any:
        kind = item.value.WhichOneof("value")
        return getattr(item.value, kind) if kind else None

    return {item.key: value(item) for item in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that answers."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.headers.append(dict(self.headers))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            found.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()
