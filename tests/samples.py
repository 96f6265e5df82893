"""Papers for tests, with what matters given and the rest filled in."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from agentq.claim import Claims, Terms
from agentq.errors import StoreUnavailable
from agentq.messages import Artifact, Completion, Envelope, Outcome
from agentq.papers import Attempt, Claim, End, Lease, Owner, Seal
from agentq.records import Records
from tests.simulation import MemoryStore

T = TypeVar("T")

TASK, AGENT = "task-1", "implementation-worker"
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
OWNER = Owner(host="here", pid=1, boot="boot", started="then")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def request(**changes: Any) -> Envelope:
    """An envelope as a producer sends it."""
    least = {"task_id": TASK, "to": AGENT, "type": "implementation", "instructions": "Do it.", "reply_to": "results"}
    return Envelope.model_validate({**least, **changes})


def registered(records: Records, **changes: Any) -> Envelope:
    """The same, registered at NOW."""
    asked = request(**changes)
    update = {"created_at": NOW, "store": records.store.url, "request_sha256": asked.request_digest()}
    return records.register(asked.model_copy(update=update), published=True)


def claim(number: int = 1, *, token: str = "owner", worker: str = AGENT, lease: float = 20.0) -> Claim:
    return Claim(attempt=number, token=token, worker=worker, owner=OWNER, at=NOW, lease_seconds=lease)


def end(number: int = 1, *, counts: bool = True, retry_at: datetime | None = None, reason: str = "it broke") -> End:
    return End(attempt=number, token=f"end-{number}", by=AGENT, at=NOW, reason=reason, counts=counts, retry_at=retry_at)


def lease(counter: int, *, guard: str | None = None, at: datetime = NOW) -> Lease:
    return Lease(token="owner", counter=counter, at=at, guard=guard)


def completion(status: Outcome = "completed", *, attempt: int = 1, **changes: Any) -> Completion:
    given = Completion(task_id=TASK, from_=AGENT, to="coordinator", status=status, attempt=attempt, finished_at=NOW)
    return given.model_copy(update=changes)


def seal(number: int = 1, status: Outcome = "cancelled") -> Seal:
    return Seal(attempt=number, token="seal", by="hand", at=NOW, completion=completion(status, attempt=number))


def ran(number: int = 1, **parts: Any) -> Attempt:
    """An attempt that was claimed, with its end or lease if given."""
    return Attempt(paper=claim(number), **parts)


def report(records: Records, text: bytes = b"# Done\n") -> Artifact:
    return records.artifacts.add(f"artifacts/{TASK}/1/", "report", text, suffix=".md", made_by="daemon")


def claims_for(
    records: Records,
    *,
    gone: bool = False,
    types: tuple[str, ...] = (),
    lease: float = 20.0,
    irreversible: tuple[str, ...] = (),
) -> Claims:
    terms = Terms(AGENT, OWNER, types, max_attempts=2, lease=lease, renewal=5.0, irreversible=irreversible)
    return Claims(records, terms, is_gone=lambda _: gone, now=lambda: NOW)


class Failing:
    """A store's seam by script: "ok", "lost" (it happens, the answer does not come), "refused"; then all is well."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)

    def __call__(self, effect: Callable[[], T], **_: Any) -> T:
        fate = self.script.pop(0) if self.script else "ok"
        if fate != "refused":
            result = effect()
        if fate != "ok":
            raise StoreUnavailable(fate)
        return result


def failing(*script: str) -> tuple[Records, Failing]:
    """Records over a store that fails by script; the script may be extended later."""
    seam = Failing(*script)
    return Records(MemoryStore(seam=seam)), seam
