"""Who is let in, and as whom; what a browser may do with the answers; and what a client may not take."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import urlsplit

import pytest
import trustme
import uvicorn
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from agentq import desk as resident
from agentq.door import listen, names_in
from agentq.errors import ExitCode, Invalid, StoreUnavailable
from agentq.gateway import answering, guard, server
from agentq.gateway.app import operations
from agentq.gateway.guard import Guard, Names
from agentq.gateway.operations import Operation
from agentq.gateway.problems import Refused, problem_of
from agentq.tokens import ROLES, Role, Tokens
from tests.desk import Desk
from tests.gateway.serving import Client, Served, serving
from tests.store_gateways import client

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}


# ---------------------------------------------------------------------- hosts and origins


@pytest.mark.promise("gateway-names")
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "", "[::2]", "10.0.0.1"]
)
def test_a_name_that_somebody_made_lead_here_is_not_answered(served: Served, host: str) -> None:
    assert served.get("/api/me", Host=host).problem(421)
    assert served.get("/", Host=host).problem(421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8420", "LOCALHOST", "[::1]:99"])
def test_loopback_goes_by_its_names(served: Served, host: str) -> None:
    assert served.get("/api/me", Host=host).ok()


def test_a_request_names_one_host(served: Served) -> None:
    assert b" 421 " in served.raw(b"GET /api/me HTTP/1.0\r\n\r\n").splitlines()[0]
    assert b" 400 " in served.raw(b"GET /api/me HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n").splitlines()[0]


@pytest.mark.promise("gateway-names")
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "https://evil@127.0.0.1", "file://", "http://["],
)
def test_a_foreign_page_may_not_ask(served: Served, origin: str) -> None:
    assert served.get("/api/me", Origin=origin).problem(403)
    assert served.post("/api/tasks", TASK, Origin=origin).problem(403)
    with pytest.raises(InvalidStatus) as refused, connect(f"{served.ws}/ws", additional_headers={"Origin": origin}):
        pass
    assert refused.value.response.status_code == 403


def test_its_own_page_may(served: Served) -> None:
    assert served.get("/api/me", Origin=served.url).ok()


def test_a_name_that_clients_use_is_said(desk: Desk) -> None:
    desk.app().store.put("access/keep", b"")
    with _with_token(desk) as (gateway, caller):
        assert caller.get("/api/me", Host="gate.example.com", Origin="https://gate.example.com").ok()
        assert caller.get("/api/me", Origin="https://gate.example.com").ok()
        assert caller.get("/api/me", Host="gate.example.com", Origin="https://other.example.com").problem(403)
        assert gateway.get("/api/me", Host="gate.example.com").problem(401)


@contextlib.contextmanager
def _with_token(desk: Desk) -> Iterator[tuple[Served, Client]]:
    text, _ = Tokens(desk.store).new("ann", ["observer"])
    with serving(desk, names=("gate.example.com",), is_local=False) as gateway:
        yield gateway, gateway.bringing(text)


@pytest.mark.parametrize(
    ("host", "with_tls", "is_told"), [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)]
)
def test_that_tokens_can_be_read_on_their_way_is_told(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    host: str,
    with_tls: bool,
    is_told: bool,
) -> None:
    Tokens(desk.store).new("ann", ["observer"])
    monkeypatch.setattr(server.Server, "run_on", AsyncMock(return_value=0))
    monkeypatch.setattr(server, "config_of", lambda *_: uvicorn.Config(""))
    tls = server.Tls(Path("cert.pem"), Path("key.pem")) if with_tls else None

    server.serve(resident.Desk(desk.app().settings), host, listen("127.0.0.1", 0), tls=tls, say=print)

    told = "without TLS: tokens can be read on their way (give --cert and --key"
    assert [told in record.message for record in caplog.records] == [True] * is_told


def test_names() -> None:
    assert Names.of("127.0.0.1", ()).are_local
    assert not Names.of("127.0.0.1", ("gate.example.com",)).are_local
    assert Names.of("127.0.0.1", ("localhost:99",)).are_local
    own = Names.of("10.0.0.7", ("gate.example.com:8443",))
    assert not own.are_local
    assert own.know("10.0.0.7:8420")
    assert own.know("localhost:8420")
    assert own.know("GATE.example.com:8443")
    assert not own.know("gate.example.com")
    assert own.let_in("https://gate.example.com:8443", "gate.example.com:8443")
    assert not own.let_in("https://gate.example.com", "10.0.0.7:8420")
    assert not own.let_in("http://localhost:3000", "localhost:8420")


def test_what_is_no_name_is_refused() -> None:
    names = ("gate.example.com", "a_b:8443", "10.0.0.7", "[::1]:80", "xn--bcher-kva.example")
    assert names_in("--allow-host", names) == names
    assert names_in("--allow-host", None) == ()
    for wrong in ("", "http://x", "a/b", "a b", "*.example.com", "a:", ":80", "a:b", "::1", "bücher.example", "x\n"):
        with pytest.raises(Invalid, match="is no host name"):
            names_in("--allow-host", ("localhost", wrong))


# ---------------------------------------------------------------------- tokens and roles


@pytest.mark.promise("gateway-roles")
def test_without_any_token_this_machine_may_do_everything_and_with_one_nobody_without(served: Served) -> None:
    assert served.post("/api/tasks", TASK).ok(201)
    token = served.new_token("observer")

    assert served.get("/api/me").problem(401)
    assert served.post("/api/tasks", TASK).problem(401)
    assert served.bringing(token).get("/api/me").ok()["name"] == "ann"
    assert served.get("/api/health").ok()["status"] == "ok"
    assert served.get("/").status == 200
    assert served.get("/openapi.json").ok()


@pytest.mark.parametrize(
    "header", ["Bearer aqt_000000000000_" + "x" * 43, "Bearer nonsense", "Bearer ", "Basic YTpi", "bearer", "aqt_x"]
)
def test_a_token_that_does_not_count_is_refused_everywhere(served: Served, header: str) -> None:
    served.new_token("observer")

    reply = served.get("/api/health", Authorization=header)

    assert reply.problem(401)["hint"]
    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_revoked_token_counts_no_more(served: Served) -> None:
    ann = served.caller("observer")
    served.new_token("observer", name="bob")
    assert ann.get("/api/me").ok()

    served.tokens.revoke("ann")

    assert ann.get("/api/me").problem(401)


@pytest.mark.promise("gateway-roles")
@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-proto", "X-Real-IP", "Via"]
)
def test_what_came_through_a_proxy_needs_a_token_also_while_there_is_none(served: Served, header: str) -> None:
    through = {header: "203.0.113.7"}

    for path in ("/api/me", "/api/tasks", "/store", "/sse?topic=/events"):
        assert "agentq token new" in served.get(path, **through).problem(401)["hint"]
    assert served.request("POST", "/api/tasks", TASK, through).problem(401)
    assert served.get("/", **through).status == 200
    assert served.get("/api/health", **through).ok()
    for path in ("/ws", "/engine"):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"{served.ws}{path}", additional_headers=through, proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 401
        assert b"agentq token new" in (refused.value.response.body or b"")
    assert served.get("/api/me").ok()["everything"]

    token = served.new_token("observer")
    assert served.bringing(token).get("/api/me", **through).ok()["name"] == "ann"
    with connect(f"{served.ws}/ws", additional_headers=through, proxy=None) as line:
        line.send(json.dumps({"op": "hello", "token": token}))
        assert "welcome" in str(line.recv(10))


def test_revoking_the_last_token_opens_nothing(served: Served) -> None:
    served.new_token("observer")
    served.tokens.revoke("ann")

    assert served.get("/api/me").problem(401)


def _roles(operation: Operation) -> frozenset[Role]:
    return frozenset(ROLES) if operation.may is None else operation.may


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Role | None, Client]]:
    """A gateway, and somebody of each role, and nobody."""
    with serving(Desk(tmp_path_factory.mktemp("roles"))) as gateway:
        callers: dict[Role | None, Client] = {
            role: gateway.caller(role, name=role, agent="implementation-worker" if role == "worker" else None)
            for role in ROLES
        }
        yield callers | {None: gateway}


@pytest.mark.promise("gateway-roles")
@pytest.mark.parametrize("operation", operations(), ids=lambda one: f"{one.method} {one.path}")
def test_every_operation_is_for_its_roles_alone(one_of_each: dict[Role | None, Client], operation: Operation) -> None:
    path = operation.path.replace("{name:path}", "report")
    for name in ("task_id", "thread_id", "message_id", "id"):
        path = path.replace(f"{{{name}}}", "nothing")

    answers = {role: caller.request(operation.method, path).status for role, caller in one_of_each.items()}

    assert (answers.pop(None) == 401) == (operation.may is not None)
    assert {role for role, status in answers.items() if status == 403} == set(ROLES) - _roles(operation)
    assert not any(status >= 500 for status in answers.values())


# ---------------------------------------------------------------------- what a browser may do


@pytest.mark.promise("gateway-names")
@pytest.mark.parametrize("path", ["/", "/page/app.js", "/api/health", "/api/nothing", "/openapi.json", "/metrics"])
def test_every_answer_says_what_a_browser_may_do_with_it(served: Served, path: str) -> None:
    headers = served.get(path).headers

    assert headers["content-security-policy"] == guard.POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers
    if path.startswith("/api"):
        assert headers["cache-control"] == "no-store"


def test_a_form_of_another_page_cannot_ask(served: Served) -> None:
    body = b'{"to": "implementation-worker", "type": "implementation", "instructions": "x"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert served.request("POST", "/api/tasks", body, {"Content-Type": kind}).problem(415)
    assert not served.desk.waiting()


# ---------------------------------------------------------------------- limits


@pytest.mark.promise("gateway-limits")
def test_a_body_that_is_too_large_is_not_read(served: Served) -> None:
    head = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = served.raw(head + b"Content-Length: 99999999999\r\n\r\n")
    assert b" 413 " in said.splitlines()[0]
    assert served.request("POST", "/api/tasks", b"x" * 1_100_000, {"Content-Type": "application/json"}).problem(413)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with contextlib.suppress(ConnectionError):
        said = served.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17)
    assert b" 413 " in said.splitlines()[0]


@pytest.mark.promise("gateway-limits")
def test_a_body_that_does_not_come_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "BODY_SECONDS", 0.2)

    said = served.raw(
        b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    )

    assert b" 408 " in said.splitlines()[0]


@pytest.mark.promise("gateway-limits")
@pytest.mark.parametrize("begun", [b"", b"GET /api/me HT", b"GET /api/me HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1\r\n"])
def test_half_a_request_holds_no_connection(served: Served, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)

    served.raw(begun, seconds=10)

    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), 10) as connection:
        connection.sendall(b"GET /api/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in connection.recv(65536).splitlines()[0]
        connection.sendall(begun or b"G")
        while connection.recv(65536):
            pass


@pytest.mark.promise("gateway-limits")
@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"])
def test_nor_does_half_a_handshake(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)
    tls = server.Tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tls.cert)
    issued.private_key_pem.write_to_path(tls.key)

    with serving(desk, tls=tls) as gateway, contextlib.suppress(ConnectionError):
        assert gateway.raw(begun, seconds=10) == b""


def test_too_long_a_head_is_refused(served: Served) -> None:
    said = b""
    with contextlib.suppress(ConnectionError):
        said = served.raw(b"GET /api/me HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 600_000 + b"\r\n\r\n")

    assert b"200" not in said


@pytest.mark.promise("gateway-limits")
def test_more_requests_than_can_be_answered_are_told_to_come_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "AT_ONCE", 0)
    with serving(desk) as gateway:
        reply = gateway.get("/api/me")
        assert reply.problem(503)
        assert reply.headers["retry-after"] == "1"


UPLOAD = b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n%s\r\n"


def _line(gateway: Served, stack: contextlib.ExitStack, small: int | None = None) -> socket.socket:
    """A connection that waits for no more than 5 s; `small` is what it takes in before somebody reads."""
    parts = urlsplit(gateway.url)
    line = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    if small:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
    line.settimeout(5)
    line.connect((parts.hostname or "", parts.port or 0))
    return line


@pytest.mark.promise("gateway-shares")
@pytest.mark.parametrize(
    ("what", "role", "status"),
    [
        (b"PUT /store/x", None, 401),
        (b"POST /api/tasks", None, 401),
        (b"POST /nothing", None, 401),
        (b"PUT /store/x", "observer", 403),
        (b"POST /api/tasks", "observer", 403),
        (b"PUT /store/access/x", "worker", 403),
    ],
)
def test_who_is_refused_holds_nothing_while_the_body_does_not_come(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, what: bytes, role: Role | None, status: int
) -> None:
    monkeypatch.setattr(guard, "AT_ONCE", 4)
    with serving(desk) as gateway, contextlib.ExitStack() as stack:
        other = gateway.caller("observer", name="bob")
        agent = "implementation-worker" if role == "worker" else None
        said = b"Authorization: Bearer %s\r\n" % gateway.new_token(role, agent=agent).encode() if role else b""
        for _ in range(8):
            line = _line(gateway, stack)
            line.sendall(UPLOAD % (what, said))
            assert line.recv(65536).split()[1] == str(status).encode()
        assert other.get("/api/me").ok()["name"] == "bob"
        assert gateway.get("/api/health").ok()


def test_who_goes_on_sending_after_the_answer_is_heard_for_a_while_only(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)
    served.new_token("observer")

    assert b" 401 " in served.raw(UPLOAD % (b"PUT /store/x", b""), seconds=10).splitlines()[0]


@pytest.mark.promise("gateway-shares")
def test_a_client_that_is_busy_sending_reads_why_it_is_refused(served: Served, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    observer, revoked = served.new_token("observer"), f"aqt_{'0' * 12}_{'x' * 43}"
    for token, words in ((observer, "no worker's"), (revoked, "a token that counts"), (None, "a token that counts")):
        with pytest.raises(StoreUnavailable, match=words):
            client(served.url, token, retry_seconds=0.2).put_file("artifacts/a/1/x", tmp_path / "large")


@pytest.mark.promise("gateway-shares")
def test_who_takes_nothing_of_much_keeps_nobody_else_from_being_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SHARE", 2)
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": bytes(30 << 20)})
    ann, bob = served.caller("observer", name="ann"), served.caller("observer", name="bob")
    asked = f"GET /api/tasks/fix-17/artifacts/report HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ann.token}"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            line = _line(served, stack, 4096)
            line.sendall(f"{asked}\r\n\r\n".encode())
            assert line.recv(100).split()[1] == b"200"

        refused = ann.get("/api/me")

        assert refused.problem(429)
        assert refused.headers["retry-after"] == "1"
        assert ann.get("/api/health").ok()
        assert bob.get("/api/me").ok()["name"] == "bob"
        assert served.get("/").status == 200


@pytest.mark.promise("gateway-shares")
async def test_all_without_a_token_have_one_share(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SHARE", 1)
    held, entered = asyncio.Event(), asyncio.Event()

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await held.wait()
        await Response()(scope, receive, send)

    token = served.new_token("observer")
    door = Guard(hold, served.gateway, Names.of("127.0.0.1", ()))
    first = asyncio.create_task(_status(door, "/"))
    await entered.wait()
    assert await _status(door, "/page/app.js") == 429
    held.set()
    assert await _status(door, "/api/me", token) == 200
    assert await first == 200
    assert await _status(door, "/") == 200


async def _status(door: Guard, path: str, token: str | None = None) -> int:
    """What a guard answers to GET."""
    headers = [(b"host", b"localhost"), *([(b"authorization", f"Bearer {token}".encode())] if token else [])]
    found = list[int]()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    await door({"type": "http", "method": "GET", "path": path, "headers": headers}, receive, send)
    return found[0]


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_a_method_that_there_is_not(served: Served, method: str) -> None:
    reply = served.request(method, "/api/tasks")

    assert reply.problem(405)["hint"] == "It has: GET, HEAD, POST."
    assert served.request(method, "/page/app.js").problem(405)["hint"] == "It has: GET, HEAD."
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.promise("gateway-same")
def test_a_refusal_has_the_exit_code_of_a_command_that_ends_so(served: Served) -> None:
    assert served.get("/nothing").problem(404)["exit_code"] == ExitCode.NOT_FOUND
    assert served.get("/api/me", Host="evil.example").problem(421)["exit_code"] == ExitCode.INVALID
    for status in (408, 429, 503):
        assert problem_of(Refused(status, "later"))["exit_code"] == ExitCode.UNAVAILABLE
    assert problem_of(Refused(409, "another"))["exit_code"] == ExitCode.CONFLICT


@pytest.mark.promise("gateway-refuses")
def test_a_bug_tells_nothing_of_our_insides(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("/secret/path.py")

    monkeypatch.setattr("agentq.coordinator.Coordinator.status", break_)

    reply = served.get("/api/tasks/fix-17")

    assert reply.problem(500)["type"] == "urn:agentq:bug"
    assert b"secret" not in reply.body
    assert b"Zero" not in reply.body


@pytest.mark.promise("gateway-refuses")
@pytest.mark.parametrize(
    ("path", "broken"),
    [
        ("/store/attempts/a/1.json", "agentq.stores.file.FileStore.open"),
        ("/sse?topic=/events", "agentq.gateway.sse.Stream.__init__"),
        ("/page/app.js", "agentq.gateway.app._Page.file_response"),
        ("/api/tasks/fix-17", "agentq.coordinator.Coordinator.status"),
    ],
)
def test_a_bug_is_in_the_log_once_with_where_it_happened(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, broken: str
) -> None:
    def break_(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("/secret/path.py")

    monkeypatch.setattr(broken, break_)

    assert b"secret" not in (reply := served.get(path)).body
    assert "log" in reply.problem(500)["hint"]
    [told] = [record for record in caplog.records if record.name == "agentq" and record.exc_info]
    assert told.exc_info
    assert told.exc_info[0] is ZeroDivisionError
    assert told.exc_info[2]


@pytest.mark.promise("gateway-refuses")
def test_while_nobody_can_tell_whose_token_counts_nobody_is_let_in(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> Any:
        raise StoreUnavailable("file:///secret/place cannot be read")

    monkeypatch.setattr("agentq.stores.file.FileStore.keys", away)

    for caller in (served, served.bringing(f"aqt_{'0' * 12}_{'x' * 43}")):
        refused = caller.get("/api/tasks")
        assert refused.problem(503)
        assert b"secret" not in refused.body
        assert caller.get("/api/health").ok()
        assert caller.get("/").status == 200
    with (
        pytest.raises(InvalidStatus) as unknown,
        connect(f"{served.ws}/ws", additional_headers={"Via": "1.1 proxy"}, proxy=None),
    ):
        pass
    assert unknown.value.response.status_code == 503
    assert b"secret" not in (unknown.value.response.body or b"")
