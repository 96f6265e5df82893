"""What is fed with anything: each target takes bytes, and fails for all but an AgentqError that says something."""

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from agentq.claim import Claims, Terms
from agentq.cli.terms import one_line
from agentq.commit import commit, completion_of
from agentq.config import load_settings
from agentq.coordinator import Coordinator
from agentq.credentials import finds, masked
from agentq.errors import AgentqError
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
        "proposal": (
            b'{"task_id": "t", "attempt": 1, "token": "x", "status": "failed", "by": "a", "at": "2026-01-01T00:00Z"}',
        ),
        "words": (b'password = "a1b2c3d4e5" https://u:p4ssw0rd@h/ Bearer abc\x1b[31m', "ü\u202e\u2028".encode()),
    }
    return found.get(target) or found["paper"]
