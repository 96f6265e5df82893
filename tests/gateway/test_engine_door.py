"""The door of the engine: who may do what, what is given back when, and what is no frame of its protocol."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from agentq.config import GatewaySection
from agentq.engine import Engine, Guard
from agentq.engines import gateway_wire as wire
from agentq.engines.gateway import GatewayEngine
from agentq.errors import EngineUnavailable, ExitCode, Invalid, NotPermitted, StoreUnavailable
from agentq.events import Event
from agentq.gateway import engine_door
from agentq.gateway.place import NOBODY_KNOWS
from agentq.ledger.facts import OUTCOMES
from agentq.messages import Completion, Envelope, utc_now
from agentq.profile import built_in, load_profile
from agentq.remote import Remote
from agentq.stores.file import FileStore
from agentq.tokens import FRESH_SECONDS, PREFIX, Role, Tokens
from tests.conformance.engines import an_envelope, nothing_waits, take, task_of
from tests.daemons.lines import Line, line_to
from tests.desk import Desk
from tests.gateway.serving import Served, serving, started

AGENT = "implementation-worker"
OTHER = "review-worker"
PATIENCE = 10.0


@contextlib.asynccontextmanager
async def engine_at(served: Served, token: str | None = None, port: int | None = None) -> AsyncIterator[GatewayEngine]:
    """The adapter, connected when it is first used."""
    url = f"ws://127.0.0.1:{port}/engine" if port else f"{served.ws}/engine"
    engine = GatewayEngine(Remote(url, token=token, timeout=2.0))
    try:
        yield engine
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def behind(served: Served) -> AsyncIterator[Engine]:
    """An engine that needs no gateway."""
    async with served.desk.app().engine() as engine:
        yield engine


class Raw:
    """Somebody who speaks the protocol by hand."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def say(self, **said: Any) -> None:
        """Send a frame."""
        await self._socket.send(wire.frame(**said))

    async def hear(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(PATIENCE):
            said: dict[str, Any] = json.loads(await self._socket.recv())
        return said

    async def closed(self) -> tuple[int, str]:
        """With which code and reason it is closed."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.hear()
        return self._socket.close_code or 0, self._socket.close_reason or ""


@contextlib.asynccontextmanager
async def by_hand(served: Served, token: str | None = None) -> AsyncIterator[Raw]:
    """A connection of which nothing was heard yet."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with connect(f"{served.ws}/engine", additional_headers=headers, ping_interval=None, proxy=None) as socket:
        yield Raw(socket)


@contextlib.asynccontextmanager
async def welcomed(served: Served, token: str | None = None) -> AsyncIterator[Raw]:
    """A connection that was let in."""
    async with by_hand(served, token) as raw:
        assert (await raw.hear())["op"] == "welcome"
        yield raw


def token_of(served: Served, role: Role, name: str = "ann", agent: str | None = None) -> str:
    """A new token; from now on everybody needs one."""
    return served.tokens.new(name, [role], agent)[0]


# What is handed out and given back


@pytest.mark.promise("none-lost")
async def test_a_receive_that_is_cancelled_once_its_message_is_on_its_way_gives_it_back(any_served: Served) -> None:
    """The client has broken it off before it saw the answer; the message is nobody's then, and comes first again."""
    async with welcomed(any_served) as raw, behind(any_served) as engine:
        await engine.declare([AGENT], ["coordinator"])
        for task in ("first", "second"):
            await engine.publish(an_envelope(AGENT, task))
        for request in range(1, 20):
            await raw.say(id=request, do="receive", agent=AGENT)
            answer = await raw.hear()
            assert (answer["id"], json.loads(answer["answer"]["body"]["text"])["task_id"]) == (request, "first")
            await raw.say(op="cancel", of=request)
        async with asyncio.timeout(PATIENCE):
            while await engine.depth(AGENT) != 2:
                pass
        for task in ("first", "second"):
            delivery = await take(engine, AGENT)
            assert task_of(delivery) == task
            await delivery.ack()


@pytest.mark.promise("none-lost")
async def test_a_receive_that_is_cancelled_while_it_waits_holds_nothing_later(any_served: Served) -> None:
    async with welcomed(any_served) as raw, behind(any_served) as engine:
        await engine.declare([AGENT], ["coordinator"])
        await raw.say(id=1, do="receive", agent=AGENT)
        await raw.say(op="cancel", of=1)
        await raw.say(id=2, do="depth", agent=AGENT)
        assert await raw.hear() == {"id": 2, "answer": 0}
        await engine.publish(an_envelope(AGENT))
        assert task_of(await take(engine, AGENT)) == "task-1"


async def test_only_the_cancelled_ones_message_is_given_back(served: Served) -> None:
    async with welcomed(served) as raw, behind(served) as engine:
        for task in ("first", "second"):
            await engine.publish(an_envelope(AGENT, task))
        for request in (1, 2):
            await raw.say(id=request, do="receive", agent=AGENT)
            await raw.hear()
        await raw.say(op="cancel", of=1)
        delivery = await take(engine, AGENT)
        assert task_of(delivery) == "first"
        await delivery.ack()
        assert await nothing_waits(engine, AGENT)
        await raw.say(id=3, do="ack", of=2)
        assert await raw.hear() == {"id": 3, "answer": None}
    async with behind(served) as engine:
        assert await nothing_waits(engine, AGENT)


@pytest.mark.promise("none-lost")
async def test_a_client_of_which_nothing_is_heard_is_taken_for_dead(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 0.4)
    with serving(desk) as served:
        async with welcomed(served) as raw, behind(served) as engine:
            await engine.publish(an_envelope(AGENT))
            await raw.say(id=1, do="receive", agent=AGENT)
            await raw.hear()
            assert task_of(await take(engine, AGENT)) == "task-1"
            assert (await raw.closed())[0] == 1001


async def test_who_pings_is_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SILENCE", 3.0)
    with serving(desk) as served:
        async with engine_at(served) as engine, behind(served) as other:
            waiting = asyncio.create_task(take(engine, AGENT))
            await asyncio.sleep(5.0)  # longer than a silence
            await other.publish(an_envelope(AGENT))
            assert task_of(await waiting) == "task-1"


# A line that is cut


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    """A line to the gateway."""
    with line_to(int(served.url.rpartition(":")[2])) as line:
        yield line


@pytest.mark.parametrize("how", ["swallow", "reset"])
@pytest.mark.parametrize("does", ["ack", "bury"])
async def test_letting_go_of_a_message_over_a_cut_line_does_nothing(
    served: Served, line: Line, how: str, does: str
) -> None:
    """Also when it is cut in the middle of it: the message is delivered again."""
    async with engine_at(served, port=line.port) as engine, behind(served) as other:
        await other.publish(an_envelope(AGENT))
        delivery = await take(engine, AGENT)
        getattr(line, how)()
        async with asyncio.timeout(PATIENCE):
            await (delivery.ack() if does == "ack" else delivery.dead_letter("refused"))
        line.mend()
        if how == "reset":
            assert task_of(await take(engine, AGENT)) == "task-1"


@pytest.mark.promise("via-again")
@pytest.mark.parametrize("how", ["swallow", "reset"])
async def test_who_waits_is_told_of_the_cut_and_receives_when_it_is_over(served: Served, line: Line, how: str) -> None:
    async with engine_at(served, port=line.port) as engine, behind(served) as other:
        waiting = asyncio.create_task(engine.receive(AGENT))
        await _listens(other, 1)
        getattr(line, how)()
        with pytest.raises(EngineUnavailable):
            async with asyncio.timeout(PATIENCE):
                await waiting
        with pytest.raises(EngineUnavailable):
            await engine.depth(AGENT)
        line.mend()
        waiting = asyncio.create_task(take(engine, AGENT))
        await other.publish(an_envelope(AGENT))
        assert task_of(await waiting) == "task-1"


async def test_nobody_there_is_told_in_bounded_time(served: Served, line: Line) -> None:
    line.swallow()
    async with engine_at(served, port=line.port) as engine:
        async with asyncio.timeout(PATIENCE):
            asked = [engine.depth(AGENT), engine.ready(AGENT), engine.publish(an_envelope(AGENT))]
            told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in told] == [EngineUnavailable] * 3


async def _listens(engine: Engine, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await engine.listeners(AGENT) != count:
            pass


async def test_over_tls_only_a_gateway_that_is_known_is_spoken_to(desk: Desk, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    for name, one in (("ours", authority), ("theirs", stranger)):
        one.cert_pem.write_to_path(tmp_path / name)
    with started(desk, "--cert", str(cert), "--key", str(key)) as gateway:
        for name in ("ours", "theirs"):
            section = GatewaySection(ca_file=tmp_path / name, timeout=5.0)
            engine = GatewayEngine(Remote.at(f"{gateway.ws}/engine", section))
            if name == "ours":
                await engine.publish(an_envelope(AGENT))
                assert task_of(await take(engine, AGENT)) == "task-1"
            else:
                with pytest.raises(EngineUnavailable, match="not known to us") as caught:
                    await engine.depth(AGENT)
                assert "ca_file" in caught.value.hint
            await engine.close()


@pytest.mark.parametrize(("path", "words"), [("/nothing", "no gateway"), ("/api/health", "gateway"), ("", "gateway")])
async def test_what_is_no_engines_door_says_so(served: Served, path: str, words: str) -> None:
    engine = GatewayEngine(Remote(f"{served.ws}{path}", timeout=2.0))
    with pytest.raises(EngineUnavailable, match=words):
        await engine.depth(AGENT)
    await engine.close()


# The commands


def test_a_worker_is_checked_over_a_gateway(served: Served, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(token_of(served, "worker", agent=AGENT))
    elsewhere = {"AGENTQ_DATA": str(tmp_path / "data")}
    via = ("--via", served.url, "--token-file", str(token))
    done = served.desk.run("worker", "check", AGENT, *via, "--runner", "true", "--json", **elsewhere)
    said = {one["name"]: one for one in done.json["checks"]}
    assert (said["store"]["well"], said["engine"]["well"]) == (True, True), done
    assert said["engine"]["said"].startswith(f"{served.ws}/engine")


def test_a_unit_holds_the_url_and_where_the_token_is(desk: Desk) -> None:
    via = ("--via", "https://agentq.example.com", "--token-file", "/etc/agentq/token")
    told = desk.ok("worker", "install", AGENT, "--user", "--dry-run", *via)
    assert 'Environment="AGENTQ_VIA=https://agentq.example.com"' in told
    assert 'Environment="AGENTQ_GATEWAY_TOKEN_FILE=/etc/agentq/token"' in told


def test_a_lease_over_a_gateway_is_longer_by_what_a_line_may_be_away() -> None:
    profile = load_profile(built_in() / "implementation")
    assert profile.far_away().limits.lease_seconds == profile.limits.lease_seconds + 90.0


# Tokens


async def test_without_a_token_nobody_comes_in_once_there_is_one(served: Served) -> None:
    token_of(served, "worker", agent=AGENT)
    for token in (None, "aqt_0123456789ab_" + "x" * 43):
        async with engine_at(served, token) as engine:
            with pytest.raises(NotPermitted, match="no token that counts") as caught:
                await engine.depth(AGENT)
            assert "agentq token new" in caught.value.hint


@pytest.mark.promise("via-revoked")
async def test_a_revoked_token_cuts_the_connection_and_gives_back_what_was_held(served: Served) -> None:
    token = token_of(served, "worker", name="far", agent=AGENT)
    async with engine_at(served, token) as engine, behind(served) as other:
        await other.publish(an_envelope(AGENT))
        await take(engine, AGENT)
        waiting = asyncio.create_task(engine.receive(AGENT))
        served.tokens.revoke("far")
        with pytest.raises(NotPermitted, match="revoked"):
            async with asyncio.timeout(PATIENCE):
                await waiting
        assert task_of(await take(other, AGENT)) == "task-1"
        with pytest.raises(NotPermitted):
            await engine.depth(AGENT)


@pytest.mark.promise("via-revoked")
@pytest.mark.promise("revoked-cut-off")
async def test_a_token_that_is_revoked_elsewhere_is_cut_off_too(served: Served) -> None:
    async with welcomed(served, token_of(served, "worker", name="far", agent=AGENT)) as raw:
        Tokens(served.desk.store).revoke("far")
        assert await raw.closed() == (4401, "the token was revoked, or has expired")


@pytest.mark.promise("revoked-cut-off")
def test_a_token_is_looked_at_so_often_that_two_seconds_are_enough() -> None:
    """The answer to a look is up to a second old; a quarter of a second is left for reading the store."""
    assert engine_door.LOOK_SECONDS + FRESH_SECONDS <= 1.75


@pytest.mark.promise("token-cheap")
async def test_many_connections_cost_no_more_looks_at_the_store_than_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, listings, looks = token_of(served, "worker", agent=AGENT), [], asyncio.Event()
    keys = FileStore.keys

    def counted(store: FileStore, prefix: str) -> Iterator[str]:
        listings.append((prefix, time.monotonic()))
        if len([one for one, _ in listings if one == PREFIX]) == 4:
            loop.call_soon_threadsafe(looks.set)
        return keys(store, prefix)

    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(welcomed(served, token))
        monkeypatch.setattr(FileStore, "keys", counted)
        async with asyncio.timeout(PATIENCE):
            await looks.wait()
    first, *_, last = (at for prefix, at in listings if prefix == PREFIX)
    assert last - first > 2.5 * FRESH_SECONDS


@pytest.mark.promise("gateway-refuses")
async def test_a_stranger_does_not_hear_where_the_store_is(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Any:
        raise StoreUnavailable("file:///secret/place cannot be read")

    monkeypatch.setattr(FileStore, "keys", away)
    async with by_hand(served, f"aqt_{'0' * 12}_{'x' * 43}") as raw:
        assert await raw.closed() == (1013, NOBODY_KNOWS)


# Rights


@pytest.fixture
def mine(served: Served) -> str:
    """A task of the worker's agent."""
    return served.desk.task()


@pytest.fixture
def others(served: Served) -> str:
    """A task of another agent."""
    return served.desk.task(to=("--to", OTHER, "--type", "review"))


def of(served: Served, task_id: str) -> Envelope:
    """The registered envelope."""
    envelope = served.desk.records.envelope(task_id)
    assert envelope
    return envelope


@pytest.mark.promise("via-rights")
async def test_a_worker_takes_its_own_agents_messages_and_no_others(served: Served, mine: str) -> None:
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine:
        await engine.ready(AGENT)
        assert await engine.depth(AGENT) == 1
        assert await engine.listeners(AGENT) == 0
        assert task_of(await take(engine, AGENT)) == mine
        for asked in (engine.receive(OTHER), engine.depth(OTHER), engine.listeners(OTHER)):
            with pytest.raises(NotPermitted, match=OTHER):
                await asked


@pytest.fixture
def waits(served: Served, mine: str) -> str:
    """A task of another agent, for which the worker's own has to end first."""
    return served.desk.task("--after", mine, to=("--to", OTHER, "--type", "review"))


@pytest.mark.promise("via-rights")
async def test_a_worker_publishes_what_is_registered_as_it_is_registered(served: Served, mine: str, waits: str) -> None:
    guard = Guard(1, 2, "made.up")
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine, behind(served) as other:
        await engine.publish(of(served, mine))
        await engine.publish(of(served, waits))  # as whoever settles what it waited for does
        await engine.publish(of(served, mine), delay=60, guard=guard)
        with pytest.raises(NotPermitted, match="guard"):
            await engine.publish(of(served, waits), delay=60, guard=guard)
        with pytest.raises(NotPermitted, match="guard"):
            await engine.publish(of(served, mine), guard=guard)
        for forged in (
            an_envelope(AGENT, "task-unknown"),
            of(served, mine).model_copy(update={"instructions": "Do something else."}),
            of(served, mine).model_copy(update={"to": OTHER}),
        ):
            with pytest.raises(Invalid, match="not registered"):
                await engine.publish(forged)
            with pytest.raises(Invalid, match="not registered"):
                await engine.dead_letter(forged, "no more")
        assert (await other.depth(AGENT), await other.depth(OTHER)) == (2, 1)


@pytest.mark.promise("via-rights")
async def test_a_worker_publishes_and_gives_up_nothing_that_waits_for_none_of_its_tasks(
    served: Served, others: str
) -> None:
    """However well it knows what the task says."""
    theirs, done = of(served, others), served.desk.finish(others)
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine, behind(served) as other:
        for act in (
            engine.publish(theirs),
            engine.dead_letter(theirs, "x"),
            engine.notify(done, theirs.reply_to or ""),
        ):
            with pytest.raises(NotPermitted, match=others):
                await act
        assert (await other.depth(OTHER), await other.count_dead_letters()) == (1, 0)


@pytest.mark.promise("via-rights")
@pytest.mark.parametrize("role", ["coordinator", "approver", "observer"])
async def test_nobody_but_a_worker_publishes_gives_up_notifies_or_tells(served: Served, mine: str, role: Role) -> None:
    envelope, done = of(served, mine), served.desk.finish(mine)
    approved = Event(id=f"{mine}/approved/x", kind="approved", at=utc_now(), task_id=mine)
    async with engine_at(served, token_of(served, role)) as engine:
        for act in (
            engine.publish(envelope),
            engine.dead_letter(envelope, "no more"),
            engine.notify(done, envelope.reply_to or ""),
            engine.append([approved]),
        ):
            with pytest.raises(NotPermitted, match="may not"):
                await act


@pytest.mark.promise("via-rights")
async def test_a_worker_parks_what_is_registered_elsewhere_for_its_own_agent_alone(served: Served) -> None:
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine, behind(served) as other:
        await engine.publish(an_envelope(AGENT, "task-elsewhere"), delay=0.2)
        delivery = await take(other, AGENT)
        assert (task_of(delivery), delivery.was_delayed) == ("task-elsewhere", True)
        with pytest.raises(Invalid):
            await engine.publish(an_envelope(OTHER, "task-elsewhere"), delay=0.2)


@pytest.mark.promise("via-rights")
async def test_a_worker_tells_the_log_of_itself_and_its_own_tasks(
    served: Served, mine: str, others: str, waits: str
) -> None:
    def event(name: str, kind: str, task_id: str | None = None, agent: str | None = None, **more: Any) -> Event:
        return Event(id=name, kind=kind, at=utc_now(), task_id=task_id, agent=agent, **more)

    served.desk.finish(mine)
    good = [
        event(f"{AGENT}@far:1/up/1", "worker_up", agent=AGENT),
        event(f"{mine}/claimed/1", "claimed", mine, AGENT, attempt=1),
        event(f"{mine}/output/1/0", "output", mine),
        event(f"{mine}/completed", "completed", mine, AGENT),
        event(f"{waits}/released", "released", waits),
        event("message/dead_lettered/1", "dead_lettered"),
        event("foreign/dead_lettered/1", "dead_lettered", "foreign"),
    ]
    bad = [
        event(f"{OTHER}@far:1/up/1", "worker_up", agent=OTHER),
        event(f"{OTHER}@far:1/up/2", "worker_up", agent=AGENT),
        event(f"{others}/claimed/1", "claimed", others, OTHER, attempt=1),
        event(f"{others}/completed", "completed", mine),
        event(f"{mine}/approved/x", "approved", mine),
        event("thread-1/thread_opened", "thread_opened"),
        event(f"{others}/reply/1/0", "reply", others),
        *(event(f"{others}/{kind}", kind, others, OTHER) for kind in (*OUTCOMES, "settled", "cancel_requested")),
        *(event(f"{waits}/{kind}", kind, waits, OTHER) for kind in OUTCOMES),
        event("m-9.aaa/failed", "failed", "m-9.aaa", AGENT),
    ]
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine, behind(served) as other:
        await engine.append([*bad, *good, *bad])
        told = [event.id for log in ("events", "output") async for page in other.read(log) for event in page.events]  # type: ignore[arg-type]
        assert {event.id for event in good} <= {*told}
        assert not {event.id for event in bad} & {*told}


@pytest.mark.promise("via-rights")
async def test_a_worker_tells_no_lie_about_a_task_before_its_time_or_after_it(served: Served) -> None:
    """What the log has first of an id stays in it: the true event would be dropped."""
    at, labels = utc_now(), {"labels": {"thread": "forged"}}
    boss = served.caller("coordinator", name="boss")

    def lies(task_id: str) -> list[Event]:
        more: dict[str, Any] = {"at": at, "task_id": task_id, "agent": AGENT, "data": labels}
        return [Event(id=f"{task_id}/{kind}", kind=kind, **more) for kind in ("submitted", "completed", "settled")]

    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine:
        for task_id, to, work in (("task-theirs", OTHER, "review"), ("task-mine", AGENT, "test")):
            await engine.append(lies(task_id))
            asked = {"id": task_id, "to": to, "type": work, "instructions": "Look."}
            (await asyncio.to_thread(boss.post, "/api/tasks", asked)).ok(201)
            await engine.append(lies(task_id))
    async with behind(served) as other:
        told = [event async for page in other.read() for event in page.events]
    assert {(event.id, event.agent) for event in told if event.kind == "submitted"} == {
        ("task-theirs/submitted", OTHER),
        ("task-mine/submitted", AGENT),
    }
    assert not any(event.data.get("labels") for event in told)
    assert not {event.kind for event in told} & {"completed", "settled"}
    listed = (await asyncio.to_thread(boss.get, "/api/tasks")).ok()["tasks"]
    assert {one["task_id"]: one["state"] for one in listed} == {"task-theirs": "pending", "task-mine": "pending"}


@pytest.mark.promise("via-rights")
async def test_a_notice_is_the_manifest_as_it_stands(served: Served, mine: str) -> None:
    forged = Completion(
        task_id=mine, from_=AGENT, to="coordinator", status="completed", attempt=1, finished_at=utc_now()
    )
    async with engine_at(served, token_of(served, "worker", agent=AGENT)) as engine:
        with pytest.raises(Invalid, match="no result"):
            await engine.notify(forged, "results.coordinator")


@pytest.mark.promise("via-rights")
async def test_what_each_role_may_ask_of_the_engine(served: Served) -> None:
    may: dict[Role, set[str]] = {
        "worker": {"health"},
        "observer": {"health", "depth", "dead_letters", "count", "read"},
        "approver": {"health", "depth", "dead_letters", "count", "read"},
        "coordinator": {"health", "depth", "dead_letters", "count", "read", "remove"},
    }
    for role, allowed in may.items():
        agent = OTHER if role == "worker" else None
        async with engine_at(served, token_of(served, role, name=role, agent=agent)) as engine:
            asks = {
                "ready": lambda engine=engine: engine.ready(AGENT),
                "health": lambda engine=engine: engine.health([AGENT]),
                "depth": lambda engine=engine: engine.depth(AGENT),
                "dead_letters": lambda engine=engine: engine.dead_letters(),
                "count": lambda engine=engine: engine.count_dead_letters(),
                "read": lambda engine=engine: anext(engine.read()),
                "remove": lambda engine=engine: engine.remove_dead_letters(["1"]),
                "declare": lambda engine=engine: engine.declare([AGENT], []),
                "receive": lambda engine=engine: engine.receive(AGENT),
            }
            for what, ask in asks.items():
                if what in allowed:
                    await ask()
                else:
                    with pytest.raises(NotPermitted, match="may not"):
                        await ask()


@pytest.mark.promise("worker-check")
def test_a_worker_is_told_before_it_runs_that_its_token_is_anothers(served: Served) -> None:
    served.desk.home.joinpath("token").write_text(token_of(served, "worker", agent=OTHER))
    served.desk.home.joinpath("token").chmod(0o600)
    where = ("--via", served.url, "--token-file", str(served.desk.home / "token"))

    done = served.desk.run("worker", "check", AGENT, *where, "--json")

    engine = next(one for one in done.json["checks"] if one["name"] == "engine")
    assert (done.code, engine["well"]) == (ExitCode.NEEDS_MENDING, False)
    assert f"may not take the tasks of {AGENT}" in engine["said"]
    assert "agentq token new" in engine["hint"]


async def test_who_needs_no_token_may_do_everything(served: Served) -> None:
    async with engine_at(served) as engine:
        await engine.declare([AGENT], ["coordinator"])
        await engine.publish(an_envelope(AGENT, "of-nobody"), guard=Guard(1, 1, "x"))
        assert task_of(await take(engine, AGENT)) == "of-nobody"


# What is no frame of this protocol


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "1", "null", '{"do":"depth","agent":"a"}', '{"id":"1","do":"depth"}', "[" * 100_000]
)
async def test_what_is_no_frame_ends_the_connection(served: Served, text: str) -> None:
    async with by_hand(served) as raw:
        await raw.hear()
        await raw._socket.send(text)
        assert (await raw.closed())[0] == 4400


@pytest.mark.parametrize(
    "said",
    [
        {"do": "nothing"},
        {"do": "depth", "agent": "../x"},
        {"do": "depth", "agent": AGENT, "more": 1},
        {"do": "publish", "envelope": "{}", "guard": None},
        {"do": "publish", "envelope": "{}", "delay": -1, "guard": None},
        {"do": "read", "log": "sqlite_master"},
        {"do": "append", "events": [1]},
        {"do": "_close", "of": 1},
        {"do": "__class__"},
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_one_answered(served: Served, said: dict[str, Any]) -> None:
    async with welcomed(served) as raw:
        await raw.say(id=1, **said)
        answer = await raw.hear()
        assert (answer["id"], answer["error"]["kind"]) == (1, "Invalid")
        await raw.say(id=2, do="depth", agent=AGENT)
        assert await raw.hear() == {"id": 2, "answer": 0}


async def test_a_frame_that_is_too_large_ends_the_connection(served: Served) -> None:
    async with welcomed(served) as raw:
        with contextlib.suppress(ConnectionClosed):
            await raw.say(id=1, do="append", events=["x" * (17 * wire.FRAME_LIMIT)])
        assert (await raw.closed())[0] == 1009


async def test_events_of_a_whole_frame_arrive(served: Served) -> None:
    events = [Event(id=f"e-{n}", kind="progress", at=utc_now(), data={"text": '"\\\n🦉' * 6000}) for n in range(20)]
    async with engine_at(served) as engine:
        await engine.append(events)
        assert [event async for page in engine.read() for event in page.events] == events
