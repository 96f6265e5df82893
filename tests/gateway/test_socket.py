"""`/ws`: who is let in, what they are told, and who is cut off."""

import asyncio
import contextlib
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from agentq.errors import StoreUnavailable
from agentq.events import Event
from agentq.gateway import guests, socket, subscription, wire
from agentq.gateway.place import NOBODY_KNOWS, Gateway
from agentq.tokens import Tokens
from tests import tales
from tests.daemons.harness import until
from tests.gateway.ears import PATIENCE, Ear, ear, unwelcomed
from tests.gateway.serving import Served

SOON = 3.0


def long(number: int, task_id: str = "a") -> Event:
    return tales.event(task_id, "progress", number, str(number), data={"text": "x" * 60_000})


def tell(served: Served, *events: Event) -> None:
    served.desk.with_engine(lambda engine: engine.append(events))


async def told(served: Served, *events: Event) -> None:
    await asyncio.to_thread(tell, served, *events)


# ---------------------------------------------------------------------- who is let in


async def test_without_any_token_this_machine_may_do_everything(served: Served) -> None:
    async with unwelcomed(served.ws) as one:
        await one.say("hello")
        welcome = await one.hear()
    assert welcome["op"] == "welcome"
    assert set(welcome["roles"]) == {"observer", "coordinator", "approver", "worker"}
    assert welcome["heartbeat_seconds"] == 15


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_token_says_who_it_is(served: Served, by_header: bool) -> None:
    token = served.new_token("observer", name="eve")
    async with unwelcomed(served.ws, token if by_header else None) as one:
        if not by_header:
            await one.say("hello", token=token)
        welcome = await one.hear()
    assert (welcome["name"], welcome["roles"]) == ("eve", ["observer"])


@pytest.mark.parametrize("token", [None, "aqt_000000000000_" + "x" * 43, "nonsense", ""])
async def test_a_token_that_does_not_count_is_refused(served: Served, token: str | None) -> None:
    served.new_token("observer")
    async with unwelcomed(served.ws) as one:
        await one.say("hello", token=token)
        assert (await one.closing())[0] == 4401


@pytest.mark.parametrize("first", ['{"op": "ping"}', "nonsense", "[]", '{"op": "subscribe", "topic": "/events"}'])
async def test_who_says_something_else_first_is_refused(served: Served, first: str) -> None:
    async with unwelcomed(served.ws) as one:
        await one.connection.send(first)
        code, reason = await one.closing()
        assert code == 4408
        assert "the first frame is no" in reason


async def test_a_hello_that_has_more_in_it_is_told_what(served: Served) -> None:
    async with unwelcomed(served.ws) as one:
        await one.say("hello", client="mine")
        code, reason = await one.closing()
    assert code == 4408
    assert "client" in reason


def test_who_comes_without_a_websocket_hears_that_it_is_one(served: Served) -> None:
    answer = served.get("/ws")
    assert answer.headers["upgrade"] == "websocket"
    assert "/sse" in answer.problem(426)["hint"]


async def test_who_says_nothing_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "HELLO_SECONDS", 0.2)
    async with unwelcomed(served.ws) as one:
        assert (await one.closing(SOON))[0] == 4408


# ---------------------------------------------------------------------- what they are told


async def test_a_task_is_pushed_to_who_waits_for_it(served: Served) -> None:
    async with ear(served.ws) as one:
        await one.subscribe("/agents/implementation-worker/tasks")
        asked = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
        task_id = (await asyncio.to_thread(served.post, "/api/tasks", asked)).ok(201)["task_id"]
        frame = await one.hear("event")
    assert frame["topic"] == "/agents/implementation-worker/tasks"
    assert (frame["event"]["kind"], frame["event"]["task_id"]) == ("submitted", task_id)


async def test_an_event_is_told_as_the_log_has_it(served: Served) -> None:
    event = tales.submitted("a", labels={"é": "\u2028\u0085 ~%\n"})
    async with ear(served.ws) as one:
        await one.subscribe("/events")
        await told(served, event)
        frame = await one.hear("event")
    assert Event.model_validate(frame["event"]) == event
    assert frame["id"] == "a/submitted"


async def test_one_connection_has_many_topics(served: Served) -> None:
    topics = ["/events", "/agents/worker/tasks", "/tasks/a", "/threads/th"]
    async with ear(served.ws) as one:
        for topic in topics:
            await one.subscribe(topic)
        await told(served, tales.submitted("a", labels={"thread": "th"}))
        heard = {(await one.hear("event"))["topic"] for _ in topics}
        assert heard == set(topics)
        await one.say("unsubscribe", topic="/events")
        await one.say("ping")
        await one.hear("heartbeat")
        await told(served, tales.claimed("a", 1))
        heard = {(await one.hear("event"))["topic"] for _ in topics[1:]}
        assert heard == set(topics[1:])


async def test_it_goes_on_behind_what_was_heard(served: Served) -> None:
    await told(served, *(tales.event("a", "progress", n, str(n)) for n in range(5)))
    async with ear(served.ws) as one:
        assert await one.subscribe("/tasks/a", "a/progress/1~") == "a/progress/1~start"
        heard = [await one.hear() for _ in range(4)]
    assert [frame["op"] for frame in heard] == ["event"] * 3 + ["caught_up"]
    assert [frame["id"] for frame in heard[:3]] == [f"a/progress/{n}~start" for n in (2, 3, 4)]


async def test_an_event_that_nobody_knows_is_a_gap(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "ARRIVE_SECONDS", 0.2)
    async with ear(served.ws) as one:
        await one.say("subscribe", topic="/events", since="nobody/knows")
        heard = [await one.hear() for _ in range(3)]
    assert [frame["op"] for frame in heard] == ["gap", "subscribed", "caught_up"]
    assert heard[0]["detail"]


async def test_subscribing_again_begins_again(served: Served) -> None:
    await told(served, tales.submitted("a"))
    async with ear(served.ws) as one:
        for _ in range(3):
            await one.subscribe("/events", "start")
            heard = [await one.hear("event", "caught_up") for _ in range(2)]  # it may come when all else is read
            assert sorted(frame["op"] for frame in heard) == ["caught_up", "event"]
            assert max(heard, key=lambda frame: frame["op"])["id"] == "a/submitted"


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        ({"op": "subscribe", "topic": "/nope"}, 400),
        ({"op": "subscribe"}, 400),
        ({"op": "subscribe", "topic": "/events", "since": "a~b~c"}, 400),
        ({"op": "dance"}, 400),
        ({"op": "subscribe", "topic": ["/events"]}, 400),
        ({}, 400),
    ],
)
async def test_what_cannot_be_done_is_a_problem_and_no_end(served: Served, frame: Any, status: int) -> None:
    async with ear(served.ws) as one:
        await one.connection.send(json.dumps(frame))
        problem = (await one.hear())["problem"]
        assert problem["status"] == status
        assert problem["detail"]
        for garbage in ("", "{", '"x"', b"\xff\x00", "[" * 5000):
            await one.connection.send(garbage)
            assert (await one.hear())["op"] == "problem"
        await one.subscribe("/events")


async def test_a_worker_is_told_its_own_agents_tasks_alone(served: Served) -> None:
    token = served.new_token("worker", name="w", agent="worker")
    async with ear(served.ws, token) as one:
        for topic in ("/events", "/tasks/a", "/threads/th", "/agents/other/tasks"):
            await one.say("subscribe", topic=topic)
            assert (await one.hear("problem"))["problem"]["status"] == 403
        await one.subscribe("/agents/worker/tasks")
        await told(served, tales.submitted("b", agent="other"), tales.submitted("a", agent="worker"))
        assert (await one.hear("event"))["id"] == "a/submitted"


async def test_a_heart_beats(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "BEAT_SECONDS", 0.2)
    async with ear(served.ws) as one:
        began = time.monotonic()
        for _ in range(3):
            assert (await one.hear("heartbeat", seconds=SOON))["at"]
        assert time.monotonic() - began >= 0.5


# ---------------------------------------------------------------------- who is cut off


async def test_a_frame_has_a_limit(served: Served) -> None:
    async with ear(served.ws) as one:
        await one.say("subscribe", topic="/" + "x" * socket.FRAME_LIMIT)
        assert (await one.closing())[0] == 4413


@pytest.mark.promise("gateway-limits")
@pytest.mark.parametrize("path", ["/ws", "/engine"])
async def test_nothing_much_is_read_of_whom_nobody_knows(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Gateway, "grant", never)
    async with connect(f"{served.ws}{path}", proxy=None, compression=None) as line:
        with contextlib.suppress(ConnectionClosed):
            await line.send("x" * (wire.FIRST_BYTES + 1))
            async with asyncio.timeout(SOON):
                await line.recv()
        assert line.close_code == 1009


@pytest.mark.promise("gateway-limits")
async def test_nor_is_more_than_a_frame_may_have_of_who_is_known(served: Served) -> None:
    async with ear(served.ws) as one:
        await one.connection.send('{"op": "subscribe", "topic": "/%s"}' % ("é" * (wire.FIRST_BYTES // 2)))
        assert (await one.hear())["op"] == "problem"
        await one.connection.send("x" * (4 * socket.FRAME_LIMIT + 1))
        assert (await one.closing(SOON))[0] == 1009


@pytest.mark.promise("gateway-limits")
@pytest.mark.parametrize("path", ["/ws", "/engine"])
def test_who_is_not_let_in_and_stays_is_gone_soon(served: Served, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(socket, "HELLO_SECONDS", 0.2)
    monkeypatch.setattr(wire, "BRIEFLY", 0.1)
    served.new_token("observer")
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    half = b"\x81\xfe\x40\x00aaaa" + b"x" * 1000

    assert b" 101 " in served.raw(head.encode() + half, seconds=5)


async def test_so_have_subscriptions(served: Served) -> None:
    async with ear(served.ws) as one:
        for number in range(socket.SUBSCRIPTIONS):
            await one.subscribe(f"/tasks/t{number}")
        await one.subscribe("/tasks/t0")
        await one.say("subscribe", topic="/tasks/more")
        assert (await one.closing())[0] == 4429


@pytest.mark.promise("revoked-cut-off")
async def test_a_revoked_token_is_cut_off(served: Served) -> None:
    token, other = served.new_token("observer", name="eve"), served.new_token("observer", name="ann")
    async with ear(served.ws, token) as one, ear(served.ws, other) as another:
        await one.subscribe("/events")
        await another.subscribe("/events")
        Tokens(served.desk.store).revoke("eve")
        began = time.monotonic()
        code, reason = await one.closing()
        assert time.monotonic() - began < SOON
        assert (code, reason) == guests.REVOKED
        await told(served, tales.submitted("a"))
        assert (await another.hear("event"))["id"] == "a/submitted"
    async with unwelcomed(served.ws) as one:
        await one.say("hello", token=token)
        assert (await one.closing())[0] == 4401


@pytest.mark.promise("revoked-cut-off")
async def test_the_first_token_cuts_off_who_brought_none(served: Served) -> None:
    async with ear(served.ws) as one:
        Tokens(served.desk.store).new("ann", ["observer"])
        assert (await one.closing(SOON))[0] == 4401


async def test_that_nobody_knows_which_tokens_count_is_logged_once_and_once_that_it_is_over(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "agentq")
    monkeypatch.setattr(guests, "LOOK_SECONDS", 0.01)
    looked = 0

    def away(*_: object) -> bool:
        nonlocal looked
        looked += 1
        raise StoreUnavailable("the store is away")

    async with ear(served.ws):
        with monkeypatch.context() as patched:
            patched.setattr(Tokens, "holds", away)
            await asyncio.to_thread(until, lambda: looked > 3, "it to look again")
        lines = ["nobody knows which tokens count: the store is away", "it is known again which tokens count"]
        await asyncio.to_thread(until, lambda: lines[1] in caplog.text, "it to be over")
    assert [record.message for record in caplog.records] == [f"gateway: {line}" for line in lines]


async def test_a_gateway_that_ends_says_so(served: Served) -> None:
    async with ear(served.ws) as one:
        await one.subscribe("/events")
        served.gateway.closing.set()
        assert (await one.closing(SOON))[0] == 1012


@pytest.mark.promise("gateway-refuses")
@pytest.mark.parametrize("by_header", [True, False])
async def test_a_stranger_does_not_hear_where_the_store_is(
    served: Served, monkeypatch: pytest.MonkeyPatch, by_header: bool
) -> None:
    def away(*_: object) -> Any:
        raise StoreUnavailable("file:///secret/place cannot be read")

    monkeypatch.setattr("agentq.stores.file.FileStore.keys", away)
    token = f"aqt_{'0' * 12}_{'x' * 43}"
    async with unwelcomed(served.ws, token if by_header else None) as one:
        if not by_header:
            await one.say("hello", token=token)
        assert await one.closing() == (1012, NOBODY_KNOWS)


@pytest.mark.promise("slow-never-slows")
async def test_who_reads_nothing_is_cut_off_and_resumes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB for one who takes none of it: it is cut off, with the reason, and goes on where it was; whoever listens is
    told everything as it happens."""
    monkeypatch.setattr(socket, "WRITE_SECONDS", 1.0)
    count, delays = 350, list[float]()
    async with ear(served.ws, max_queue=1) as deaf, ear(served.ws) as quick:
        await deaf.say("subscribe", topic="/events", since="start")
        await quick.subscribe("/events")
        engine = served.desk.app().engine()
        async with engine as appending:
            for number in range(count):
                began = time.monotonic()
                await appending.append([long(number)])
                assert (await quick.hear("event"))["id"] == f"a/progress/{number}"
                delays.append(time.monotonic() - began)
        assert sorted(delays)[count * 95 // 100] < 0.5
        await asyncio.sleep(2.5)  # it must take nothing for longer than it may
        heard, since = list[str](), "start"
        while True:
            frame = await _next_or_end(deaf)
            if isinstance(frame, tuple):
                assert frame[0] == 4499
                break
            if frame["op"] == "event":
                heard.append(frame["event"]["id"])
                since = frame["id"]
    assert 0 < len(heard) < count, "it was cut off in the middle"
    async with ear(served.ws) as again:
        await again.subscribe("/events", since)
        while len(heard) < count:
            heard.append((await again.hear("event"))["event"]["id"])
    assert heard == [f"a/progress/{n}" for n in range(count)]


async def _next_or_end(one: Ear) -> dict[str, Any] | tuple[int, str]:
    try:
        return await one.hear()
    except ConnectionClosed:
        return await one.closing(PATIENCE)


async def test_a_thousand_idle_connections(served: Served) -> None:
    """All are told of a task within a moment, and hold nobody up."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if wanted < 2400:
        pytest.skip(f"a process may have {hard} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    async with AsyncExitStack() as stack:
        connecting = asyncio.Semaphore(20)

        async def come() -> Ear:
            async with connecting:
                one = await stack.enter_async_context(ear(served.ws, open_timeout=60))
                await one.subscribe("/agents/worker/tasks")
                await one.hear("caught_up")
                return one

        ears = await asyncio.gather(*(come() for _ in range(1000)))
        await told(served, tales.submitted("a", agent="worker"))
        frames = await asyncio.gather(*(one.hear("event") for one in ears))
        for one in ears:
            one.connection.transport.abort()  # quicker than a thousand farewells
    assert {frame["id"] for frame in frames} == {"a/submitted"}


@pytest.mark.promise("gateway-refuses")
async def test_a_bug_is_in_the_log_and_says_nothing_of_our_insides(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_(*_: object) -> Any:
        raise ZeroDivisionError("/secret/path.py")

    monkeypatch.setattr(socket.Connection, "_subscribe", break_)
    async with ear(served.ws) as one:
        await one.say("subscribe", topic="/events")
        with pytest.raises(ConnectionClosed) as closed:
            await one.hear("subscribed")
    assert closed.value.rcvd
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "the gateway broke")
    [told] = [record for record in caplog.records if record.name == "agentq" and record.exc_info]
    assert told.exc_info
    assert told.exc_info[0] is ZeroDivisionError
