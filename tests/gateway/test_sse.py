"""`/sse`: one topic as server-sent events."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pytest

from agentq.errors import Unavailable
from agentq.events import Event
from agentq.gateway import sse
from agentq.tokens import Tokens
from tests import tales
from tests.gateway.serving import Served

SECONDS = 20.0


@dataclass
class Listener:
    """One stream, read event by event."""

    answer: http.client.HTTPResponse

    def next(self) -> dict[str, str]:
        """The next event, or comment, by its fields."""
        fields: dict[str, str] = {}
        while line := self.answer.readline().decode().rstrip("\n"):
            name, _, value = line.partition(":")
            fields[name or "comment"] = value.removeprefix(" ")
        return fields

    def until(self, kind: str) -> dict[str, str]:
        """The next event of a kind."""
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            if (found := self.next()).get("event") == kind:
                return found
        raise AssertionError(f"no {kind} came")


@contextlib.contextmanager
def listening(
    served: Served, topic: str, since: str = "", token: str | None = None, **headers: str
) -> Iterator[Listener]:
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=SECONDS)
    given = headers | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request("GET", f"/sse?topic={quote(topic)}&since={quote(since)}", headers=given)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    try:
        yield Listener(answer)
    finally:
        connection.close()


def tell(served: Served, *events: Event) -> None:
    served.desk.with_engine(lambda engine: engine.append(events))


def test_events_come_as_they_happen(served: Served) -> None:
    event = tales.submitted("a", labels={"é": "\u2028\r\n"})
    with listening(served, "/events") as one:
        assert one.until("subscribed")["id"] == "start"
        one.until("caught_up")
        tell(served, event)
        heard = one.until("submitted")
    assert heard["id"] == "a/submitted"
    assert Event.model_validate_json(heard["data"]) == event


@pytest.mark.promise("push-no-gap")
def test_it_goes_on_behind_the_last_id(served: Served) -> None:
    tell(served, *(tales.event("a", "progress", n, str(n)) for n in range(5)))
    with listening(served, "/tasks/a", "start", **{"Last-Event-ID": "a/progress/2~"}) as one:
        assert [one.until("progress")["id"].partition("~")[0] for _ in range(2)] == ["a/progress/3", "a/progress/4"]


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("?topic=/nope", 400), ("?topic=/events&topic=/tasks/a", 400)]
)
def test_a_stream_has_one_topic(served: Served, query: str, status: int) -> None:
    served.get(f"/sse{query}").problem(status)


def test_who_may_not_is_refused(served: Served) -> None:
    worker = served.caller("worker", name="w", agent="worker")
    served.get("/sse?topic=/events").problem(401)
    worker.get("/sse?topic=/events").problem(403)


def test_a_heart_beats(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "BEAT_SECONDS", 0.1)
    with listening(served, "/events") as one:
        one.until("caught_up")
        assert one.next() == {"comment": "heartbeat"}


@pytest.mark.promise("revoked-cut-off")
def test_a_revoked_token_is_cut_off(served: Served) -> None:
    token = served.new_token("observer", name="eve")
    with listening(served, "/events", token=token) as one:
        one.until("caught_up")
        Tokens(served.desk.store).revoke("eve")
        began = time.monotonic()
        assert "token" in one.until("end")["data"]
        assert time.monotonic() - began < 3.0
        assert one.answer.readline() == b""


@pytest.mark.promise("gateway-away")
def test_who_listens_hears_that_the_engine_is_away_and_that_it_is_back(served: Served) -> None:
    hub = served.gateway.hub
    with listening(served, "/events") as one:
        one.until("caught_up")
        for trouble, said in (
            (Unavailable("it is away"), {"engine": "away", "detail": "it is away"}),
            (None, {"engine": "ok"}),
        ):
            hub._loop.call_soon_threadsafe(hub._tell, "engine", trouble)
            assert json.loads(one.until("state")["data"]) == {"op": "state", **said}


def test_the_head_of_a_stream_has_an_end(served: Served) -> None:
    asked = b"HEAD /sse?topic=/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asked += b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, _, rest = served.raw(asked).partition(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_a_gateway_that_ends_says_so(served: Served) -> None:
    with listening(served, "/events") as one:
        one.until("caught_up")
        served.gateway.closing.set()
        assert "ends" in json.loads(one.until("end")["data"])["detail"]
