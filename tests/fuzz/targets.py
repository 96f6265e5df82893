"""What is fed with anything: each target takes bytes, and fails for all but an AgentqError that says something."""

import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import QueryParams

from agentq.claim import Claims, Terms
from agentq.cli.terms import one_line
from agentq.commit import commit, completion_of
from agentq.config import load_settings
from agentq.coordinator import Coordinator
from agentq.credentials import finds, masked
from agentq.errors import AgentqError
from agentq.gateway import engine_requests
from agentq.gateway.answering import body_of, query_of
from agentq.gateway.api.plans import NewPlan
from agentq.gateway.api.tasks import NewTask, request_of
from agentq.gateway.app import operations
from agentq.gateway.socket import said_in
from agentq.gateway.topics import Cursor, Topic, id_in, part
from agentq.handover import hand_over
from agentq.hands import Hands
from agentq.harmless import visible, visible_json
from agentq.messages import Envelope
from agentq.papers import Cancel, Lease, Release
from agentq.plans import read_plan
from agentq.profile import load_profile
from agentq.proposal import PROPOSAL, read
from agentq.records import Records
from agentq.scratch import Scratch
from agentq.settle import settle_in_store
from agentq.stores.file import FileStore
from agentq.stores.gateway_wire import Garbled, Pieces, piece, problem
from agentq.stores.gateway_wire import end as end_of_object
from agentq.verdict import Refuse
from tests.samples import AGENT, OWNER, TASK, claim, end, lease, registered, report, request, seal
from tests.simulation import MemoryStore

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
Target = Callable[[bytes], None]
KEYS = (
    f"tasks/{TASK}.json",
    f"attempts/{TASK}/1.json",
    f"attempts/{TASK}/1.end.json",
    f"attempts/{TASK}/2.json",
    f"attempts/{TASK}/2.lease.json",
    f"controls/{TASK}/cancel.json",
    f"controls/{TASK}/released.json",
    f"controls/{TASK}/approval-demanded.json",
    f"results/{TASK}.json",
    f"tasks/{TASK}.md",
)


@contextmanager
def only_words() -> Any:
    """Let an AgentqError pass that says what happened, and nothing else."""
    said = "something"
    try:
        yield
    except AgentqError as error:
        said = str(error)
    assert said.strip()


def claims_over(records: Records) -> Claims:
    terms = Terms(AGENT, OWNER, (), max_attempts=2, lease=20.0, renewal=5.0)
    return Claims(records, terms, is_gone=lambda _: False, now=lambda: NOW)


def message(data: bytes) -> None:
    """A message from anybody, on a queue: a verdict, and when it is refused a reason and nothing written."""
    store = MemoryStore()
    records = Records(store)
    registered(records, task_id="task-known")
    before = {key: store.get(key) for key in store.keys("tasks/")}
    verdict = claims_over(records).pick_up(data, None, NOW)
    if isinstance(verdict, Refuse):
        assert verdict.reason.strip()
        assert {key: store.get(key) for key in store.keys("tasks/")} == before


@cache
def _papers() -> dict[str, bytes]:
    """A task that was tried twice, cancelled and ended, as its papers stand in a store."""
    store = MemoryStore()
    records = Records(store)
    store.put(f"tasks/{TASK}.md", b"# Context\n")
    registered(records, context_ref=store.ref(f"tasks/{TASK}.md"))
    records.take(TASK, claim())
    records.end(TASK, end().model_copy(update={"artifacts": (report(records),)}))
    records.take(TASK, claim(2))
    records.renew(TASK, 2, Lease(token="owner", counter=1, at=NOW))
    records.ask_cancel(TASK, Cancel(token="c", by="me", at=NOW, reason="No."))
    records.release(TASK, Release(token="r", at=NOW))
    papers = records.papers(TASK)
    assert papers
    done = completion_of(papers, "completed", by=AGENT, attempt=2, summary="Did it.", artifacts=(report(records),))
    commit(records, done)
    return {key: data for prefix in _PREFIXES for key in store.keys(prefix) if (data := store.get(key)) is not None}


_PREFIXES = ("tasks/", "attempts/", "controls/", "results/", "artifacts/", "open/", "inbox/", "waits/", "outbox/")


def _read_all(records: Records, folder: Path) -> None:
    coordinator, claims = Coordinator(records), claims_over(records)
    acts: tuple[Callable[[], object], ...] = (
        lambda: coordinator.status(TASK),
        lambda: coordinator.check(coordinator.result(TASK)),
        lambda: [coordinator.read(artifact) for artifact in coordinator.result(TASK).artifacts],
        lambda: coordinator.late_evidence(coordinator.result(TASK)),
        lambda: list(coordinator.inbox("coordinator")),
        lambda: coordinator.retry(TASK),
        lambda: claims.decide(TASK),
        lambda: _hand_over(records, folder),
        lambda: settle_in_store(records, coordinator.result(TASK)),
        lambda: Hands(records).cancel(TASK, "me"),
    )
    for act in acts:
        with only_words():
            act()


def _hand_over(records: Records, folder: Path) -> None:
    scratch = Scratch(folder, TASK, 9)
    scratch.create()
    try:
        hand_over(records, records.known(TASK), scratch)
    finally:
        scratch.remove()


def paper(data: bytes) -> None:
    """One paper of a task in the store is anything: whoever reads the task says so, or goes on."""
    which, content = data[:1], data[1:]
    key = KEYS[(which[0] if which else 0) % len(KEYS)]
    for ended in (True, False):
        store = MemoryStore()
        store.put_new(key, content)
        for name, kept in _papers().items():
            if ended or not name.startswith("results/"):
                store.put_new(name, kept)
        with tempfile.TemporaryDirectory() as folder:
            _read_all(Records(store), Path(folder))


def paper_on_disk(data: bytes) -> None:
    """The same in a folder: nothing is written beside the store."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        (folder / "beside.md").write_bytes(b"of somebody else")
        store = FileStore(folder / "store")
        for key, kept in _papers().items():
            store.put(key, kept.replace(b"memory://store", store.url.encode()), durable=False)
        which, content = data[:1], data[1:]
        store.put(KEYS[(which[0] if which else 0) % len(KEYS)], content, durable=False)
        _read_all(Records(store), folder / "scratch")
        assert {path.name for path in folder.iterdir()} == {"scratch", "store", "beside.md"}
        assert (folder / "beside.md").read_bytes() == b"of somebody else"


def profile(data: bytes) -> None:
    """A worker.toml of anybody."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "worker.toml").write_bytes(data)
        with only_words():
            load_profile(Path(folder))


def settings(data: bytes) -> None:
    """An agentq.toml of anybody."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agentq.toml").write_bytes(data)
        with only_words():
            load_settings(environ={"HOME": folder}, cwd=Path(folder))


def plan(data: bytes) -> None:
    """A plan file of anybody, YAML or JSON."""
    with only_words():
        read_plan(
            MemoryStore(), data, coordinator="chat", check_target=lambda *_: None, plan_id="p", allow_secrets=False
        )


def api(data: bytes) -> None:
    """What a client sends to the gateway: a body for every operation, and a query for every one that has parameters."""
    for operation in operations():
        with only_words():
            if operation.body:
                _act_on(body_of(operation.body, data))
        with only_words():
            query_of(operation.query, QueryParams(data).multi_items())


def socket(data: bytes) -> None:
    """A frame of a subscriber: a topic and a cursor that are written as they were read."""
    with only_words():
        said = said_in(data.decode(errors="replace"))
        if said.topic is not None:
            assert str(Topic.parse(said.topic)) == said.topic
        for one in (Cursor.parse(said.since).events, Cursor.parse(said.since).output):
            assert id_in(part(id_in(one))) == id_in(one)


def engine_door(data: bytes) -> None:
    """A frame of a worker behind a gateway, and what it carries."""
    with only_words():
        try:
            said = json.loads(data.decode(errors="replace"))
        except (ValueError, RecursionError):  # which the door answers itself
            return
        asked = engine_requests.request_of(said if isinstance(said, dict) else {})
        for field, carried in _CARRIED.items():
            if text := getattr(asked, field, None):
                with only_words():
                    carried(text)


_CARRIED: dict[str, Callable[[Any], object]] = {
    "envelope": engine_requests.envelope_of,
    "completion": engine_requests.completion_of,
    "events": engine_requests.events_of,
}


def pieces(data: bytes) -> None:
    """An object on its way, in whatever parts it arrives: the same bytes come out, or it is told to be garbled."""
    found = set()
    for step in (len(data) or 1, 1, 7):
        whole, arriving, garbled = b"", Pieces(), False
        try:
            for start in range(0, len(data), step):
                whole += b"".join(arriving.feed(data[start : start + step]))
        except Garbled:
            garbled = True
        found.add((garbled, b"" if garbled else whole, arriving.sha256, arriving.problem))
    assert len(found) == 1, found


def _act_on(body: BaseModel) -> None:
    """Make the request that a body asks for, as far as nothing is written by it."""
    store = MemoryStore()
    if isinstance(body, NewTask):
        request_of(body, body.id, coordinator="ann", store=store)
    elif isinstance(body, NewPlan):
        data, plan_id = body.plan.encode(), body.id
        read_plan(store, data, coordinator="ann", check_target=lambda *_: None, plan_id=plan_id, is_ours=False)
    assert not list(store.keys("tasks/"))


def proposal(data: bytes) -> None:
    """What stands in the place of an agent's word."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PROPOSAL).write_bytes(data)
        with only_words():
            read(Path(folder))


def words(data: bytes) -> None:
    """Any text, looked through for credentials and shown."""
    for find in finds(data):
        assert 0 <= find.start < find.end <= len(data)
    text = data.decode(errors="surrogateescape")
    assert not set("\x1b\x07\x9b\u202e") & set(visible(text) + visible_json(text) + one_line(text))
    masked(text)


TARGETS: dict[str, Target] = {
    "message": message,
    "paper": paper,
    "paper-on-disk": paper_on_disk,
    "profile": profile,
    "settings": settings,
    "plan": plan,
    "api": api,
    "socket": socket,
    "engine-door": engine_door,
    "pieces": pieces,
    "proposal": proposal,
    "words": words,
}

ROOT = Path(__file__).parents[2]


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """What is well-formed, to start from."""
    envelope: Envelope = request(depends_on=("task-0",), labels={"repo": "/r"}, ttl_seconds=60, requires_approval=True)
    sealed = seal(2).to_json()
    papers = tuple(bytes([number]) + _papers().get(key, sealed) for number, key in enumerate(KEYS))
    found: dict[str, tuple[bytes, ...]] = {
        "message": (envelope.to_json(), request().to_json(), envelope.registered("memory://store", NOW).to_json()),
        "paper": (*papers, bytes([3]) + sealed, bytes([4]) + lease(2).to_json()),
        "profile": tuple(path.read_bytes() for path in sorted(ROOT.glob("workers/*/worker.toml"))),
        "settings": (b'broker = "amqp://u@h/"\nstore = "s3://b/p"\numask = "077"\n[rabbitmq]\nuser = "u"\n[s3]\n',),
        "plan": (
            b"plan: p\ndefaults: {to: x, type: y}\ntasks:\n  a: {instructions: Do.}\n  b: {needs: [a], file: c.md}\n",
            b'{"defaults": {"to": "x", "type": "y"}, "tasks": [{"name": "a", "instructions": "Do it.", "ttl": "10m"}]}',
        ),
        "api": (
            b'{"to": "a", "type": "t", "instructions": "Do.", "labels": {"k": "v"}, "delay": "10m", "repo": "/r",'
            b' "context": "All of it.", "max_cost_usd": 1.5, "after": ["task-0"], "review_by": "b", "rounds": 2}',
            b'{"plan": "plan: p\\ntasks: {a: {to: x, type: y, instructions: Do., file: c.md, repo: .}}", "id": "p"}',
            b'{"digest": "0123456789abcdef"}',
            b"state=open&label=k%3Dv&since=24h&limit=20&before=task-1&text=words",
            b"since=2030-01-31T18:00&by=agent&points=60&attempt=1&check=false",
        ),
        "socket": (
            b'{"op": "hello", "token": "aqt_x"}',
            b'{"op": "subscribe", "topic": "/tasks/t-1", "since": "t-1/claimed/1~%73tart"}',
            b'{"op": "subscribe", "topic": "/agents/a/tasks", "since": "start"}',
        ),
        "engine-door": (
            json.dumps(
                {"id": 1, "do": "publish", "envelope": envelope.to_json().decode(), "guard": [1, 0, "g"]}
            ).encode(),
            json.dumps({"id": 2, "do": "append", "events": ['{"id": "t/failed", "kind": "failed"}']}).encode(),
            b'{"id": 3, "do": "notify", "completion": "{}", "reply_to": "results"}',
            b'{"id": 4, "do": "read", "log": "output", "since": "2026-01-31T18:00Z", "tasks": ["t"], "follow": true}',
        ),
        "pieces": (
            b"".join((piece(b"abc"), piece(b""), piece(b"defg"), end_of_object("0" * 64))),
            piece(b"abc") + problem(b'{"detail": "gone"}'),
        ),
        "proposal": (
            b'{"task_id": "t", "attempt": 1, "token": "x", "status": "failed", "by": "a", "at": "2026-01-01T00:00Z"}',
        ),
        "words": (b'password = "a1b2c3d4e5" https://u:p4ssw0rd@h/ Bearer abc\x1b[31m', "ü\u202e\u2028".encode()),
    }
    return found.get(target) or found["paper"]
