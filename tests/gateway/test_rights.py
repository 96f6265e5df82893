"""What a worker's token may do: all that its agent's tasks need, and nothing to anybody else's."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.artifacts import evidence_prefix
from agentq.claim import Claims, Terms, end_of
from agentq.commit import commit, completion_of
from agentq.doctor.papers import ailments
from agentq.errors import Invalid, StoreUnavailable
from agentq.gates import look_at_gates
from agentq.gateway.reach import Reach
from agentq.groups import plant
from agentq.messages import Completion, Envelope, utc_now
from agentq.papers import Approval, Cancel, Claim, Demand, End, Lease, Move, Release, Seal, new_token
from agentq.proof import prove
from agentq.records import Records
from agentq.settle import settle_in_store
from agentq.tokens import Tokens
from agentq.verdict import Refuse, Settle, Start
from tests.bounded import Bounded, rights_of
from tests.samples import OWNER, request
from tests.simulation import MemoryStore
from tests.store_gateways import client, serving, settings_in

A, B = "implementation-worker", "review-worker"


class World:
    """A store with tasks of A and of B in all states, and A's worker before it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.truth = Records(self.store)
        self.far = Records(Bounded(self.store, rights_of(A, self.truth, Reach(self.truth))))
        self.claims = Claims(self.far, _terms(A), is_gone=lambda _: False)

    def task(self, task_id: str, to: str, **more: Any) -> Envelope:
        """A registered task."""
        asked = request(task_id=task_id, to=to, **more)
        return self.truth.register(asked.registered(self.store.url, utc_now()), published=True)

    def ended(self, task_id: str, **more: Any) -> Completion:
        """Carry a task out, beside the gateway."""
        return carry_out(self.truth, task_id, **more)

    def start(self, task_id: str) -> Start:
        """Let A's worker take it."""
        verdict = self.claims.decide(task_id)
        assert isinstance(verdict, Start), verdict
        return verdict

    def about(self, *words: str) -> dict[str, bytes]:
        """All that the store holds of some tasks."""
        return {key: data for key, data in self.store.objects.items() if any(word in key for word in words)}


def _terms(agent: str) -> Terms:
    return Terms(agent, OWNER, (), max_attempts=2, lease=20.0, renewal=5.0)


def carry_out(records: Records, task_id: str, status: str = "completed", *, settled: bool = True) -> Completion:
    """Claim a task for its own agent, bring evidence and commit."""
    papers = records.papers(task_id)
    assert papers
    to = papers.envelope.to
    start = Claims(records, _terms(to), is_gone=lambda _: False).decide(task_id)
    assert isinstance(start, Start), start
    return finish(records, start, status, settled=settled)


def finish(records: Records, start: Start, status: str = "completed", *, settled: bool = True) -> Completion:
    """Renew, bring evidence, commit and settle."""
    task_id, number = start.papers.envelope.task_id, start.claim.attempt
    lease = Lease(token=start.claim.token, counter=1, at=utc_now())
    records.renew(task_id, number, lease)
    prefix = evidence_prefix(task_id, number)
    found = tuple(
        records.artifacts.add(prefix, name, b"# It is done\n", suffix=".md", made_by="agent")
        for name in ("report", "notes")
    )
    says: dict[str, Any] = {"by": start.papers.envelope.to, "attempt": number, "artifacts": found}
    manifest = commit(records, completion_of(start.papers, status, verified=True, **says))  # type: ignore[arg-type]
    if settled:
        settle_in_store(records, manifest)
    return manifest


@pytest.fixture
def world() -> World:
    return World()


# ---------------------------------------------------------------------- what a worker has to be able to do


@pytest.mark.promise("worker-token-enough")
def test_a_task_from_its_claim_to_its_inbox(world: World) -> None:
    prove(world.far.store)
    world.task("own", A, ttl_seconds=3600, context_ref=None)
    world.truth.artifacts.add("artifacts/x/1/", "x", b"", suffix=".md", made_by="agent")
    manifest = finish(world.far, world.start("own"))
    assert world.truth.manifest("own") == manifest
    assert list(world.truth.inbox("coordinator")) == ["own"]
    assert world.store.objects["results/own.md"] == b"# It is done\n"
    assert not world.about("open/", "outbox/", "waits/", "expiring/", "probes/")


@pytest.mark.promise("worker-token-enough")
def test_an_attempt_that_ends_is_followed_by_another_and_given_up_at_last(world: World) -> None:
    world.task("own", A)
    for number in (1, 2):
        start = world.start("own")
        assert start.claim.attempt == number
        world.far.artifacts.add(evidence_prefix("own", number), "log", b"x", suffix=".txt", made_by="daemon")
        world.far.artifacts.add(evidence_prefix("own", number), "log", b"again", suffix=".txt", made_by="daemon")
        world.far.end("own", end_of(start.claim, A, "it broke"))
        world.far.artifacts.add(evidence_prefix("own", number), "late", b"x", suffix=".txt", made_by="daemon")
    verdict = world.claims.decide("own")
    assert isinstance(verdict, Settle)
    assert (verdict.manifest.status, verdict.manifest.given_up) == ("failed", True)


@pytest.mark.promise("worker-token-enough")
def test_a_message_of_another_producer_is_registered_and_carried_out(world: World) -> None:
    body = request(task_id="raw", to=A, ttl_seconds=60, context_ref="memory://store/tasks/raw.md").to_json()
    world.store.objects["tasks/raw.md"] = b"the brief"
    verdict = world.claims.pick_up(body, None, None)
    assert isinstance(verdict, Start), verdict
    assert world.far.store.get("tasks/raw.md") == b"the brief"
    finish(world.far, verdict)
    assert not world.about("open/", "expiring/")


@pytest.mark.promise("worker-token-enough")
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_what_waits_for_its_task_is_released_or_ended_whosever_it_is(world: World, status: str) -> None:
    world.task("theirs", B)
    world.task("own", A)
    world.task("next", B, depends_on=("own", "theirs"), ttl_seconds=3600)
    world.task("last", B, depends_on=("next",))
    world.ended("theirs")
    finish(world.far, world.start("own"), status)
    if status == "completed":
        found = world.truth.papers("next")
        assert found
        assert found.release
        assert world.truth.marks.is_unpublished("next")
        return
    for task_id in ("next", "last"):
        manifest = world.truth.manifest(task_id)
        assert manifest
        assert (manifest.status, manifest.from_) == ("failed", "agentq")
    assert sorted(world.truth.inbox("coordinator")) == ["last", "next", "own", "theirs"]


@pytest.mark.promise("worker-token-enough")
def test_a_plan_is_planted_cancelled_and_concluded(world: World) -> None:
    tasks = (
        request(task_id="p.a", to=A, group="p", reply_to=None),
        request(task_id="p.b", to=B, group="p", reply_to=None, depends_on=("p.a",)),
    )
    group = world.task("p", "agentq", type="plan", plan=tasks)
    assert [task.task_id for task in plant(world.far, group)] == ["p.a"]
    world.truth.ask_cancel("p", cancel := Cancel(token="c", by="ann", at=utc_now()))
    world.far.ask_cancel("p.b", cancel)
    world.far.ask_cancel("p.a", cancel)
    for task_id in ("p.a", "p.b"):
        found = look_at_gates(world.far, task_id)
        if isinstance(found, Completion):
            settle_in_store(world.far, found)
    manifest = world.truth.manifest("p")
    assert manifest
    assert manifest.status == "cancelled"
    assert "open/p" not in world.store.objects


@pytest.mark.promise("worker-token-enough")
def test_what_its_task_needs_is_read_and_nothing_else(world: World) -> None:
    world.task("theirs", B, context_ref="memory://store/tasks/theirs.md")
    world.store.objects |= {"tasks/theirs.md": b"secret", "docs/spec.md": b"the spec", "docs/other.md": b"secret"}
    world.task("needed", B)
    report = world.ended("needed").artifacts[0]
    world.task("own", A, depends_on=("needed",), context_ref="memory://store/docs/spec.md")
    look_at_gates(world.truth, "own")
    assert world.far.papers("own")
    assert world.far.artifacts.read(report) == b"# It is done\n"
    assert world.far.store.get("docs/spec.md") == b"the spec"
    assert "open/theirs" not in list(world.far.store.keys("open/"))
    world.ended("theirs")
    world.truth.ask_cancel("theirs", Cancel(token="c", by="ann", at=utc_now(), reason="secret"))
    keys = ("tasks/theirs.json", "tasks/theirs.md", "results/theirs.md", "docs/other.md", "inbox/coordinator/own")
    for key in (*keys, "controls/theirs/cancel.json"):
        with pytest.raises(StoreUnavailable):
            world.far.store.get(key)
    below = ("inbox/coordinator/", "tasks/", "results/", "artifacts/")
    for prefix in ("artifacts/theirs/1/", "attempts/theirs/", "controls/theirs/", *below):
        with pytest.raises(StoreUnavailable):
            list(world.far.store.keys(prefix))


# ---------------------------------------------------------------------- what it must not


@pytest.mark.promise("worker-token-bounded")
def test_a_task_that_waits_for_an_approval_is_not_started(world: World) -> None:
    world.task("own", A, requires_approval=True)
    claim = Claim(attempt=1, token="t", worker=A, owner=OWNER, at=utc_now(), lease_seconds=20)
    with pytest.raises(StoreUnavailable, match="waits"):
        world.far.take("own", claim)
    papers = world.far.papers("own")
    assert papers
    assert papers.digest
    with pytest.raises(StoreUnavailable, match="not for workers"):
        world.far.approve("own", Approval(token="t", digest=papers.digest, by=A, at=utc_now()))
    with pytest.raises(StoreUnavailable, match="still waits"):
        world.far.release("own", Release(token="t", at=utc_now()))
    done = completion_of(papers, "completed", by=A, attempt=1, verified=True)
    with pytest.raises(StoreUnavailable, match="no attempt 1"):
        commit(world.far, done)
    with pytest.raises(StoreUnavailable, match="not to be ended so"):
        world.far.take("own", Seal(attempt=1, token="t", by=A, at=utc_now(), completion=done))
    assert world.truth.attempts("own") == ()


@pytest.mark.promise("worker-token-bounded")
def test_evidence_that_is_named_and_papers_stay_as_they_are(world: World) -> None:
    world.task("own", A)
    start = world.start("own")
    manifest = finish(world.far, start)
    before = dict(world.store.objects)
    far = world.far.store
    acts: list[Callable[[], object]] = [
        lambda: far.put("artifacts/own/1/report.md", b"better"),
        lambda: far.put("results/own.md", b"better"),
        lambda: far.put("results/own.json", manifest.to_json()),
        lambda: far.put("tasks/own.json", b"{}"),
        lambda: far.put("attempts/own/1.json", start.claim.to_json()),
        lambda: far.put("inbox/coordinator/own.json", manifest.to_json()),
        lambda: far.put("open/own", b""),
        lambda: far.put_new("attempts/own/2.json", start.claim.model_copy(update={"attempt": 2}).to_json()),
        *(lambda key=key: far.delete(key) for key in before),
    ]
    for act in acts:
        with pytest.raises(StoreUnavailable):
            act()
        assert world.store.objects == before


@pytest.mark.promise("worker-token-bounded")
@pytest.mark.promise("via-refused")
def test_a_worker_reads_nothing_of_others_by_inventing_a_task_that_needs_it(world: World) -> None:
    world.task("theirs", B)
    world.store.objects["tasks/theirs.md"] = b"secret"
    world.ended("theirs")
    for more in (
        {"depends_on": ("theirs",)},
        {"context_ref": "memory://store/tasks/theirs.md"},
        {"context_ref": "memory://store/artifacts/theirs/1/report.md"},
        {"context_ref": "memory://store/access/tokens/x.json"},
    ):
        asked = request(task_id="mine", to=A, **more)
        envelope = asked.registered(world.store.url, utc_now())
        with pytest.raises(Invalid, match="out of its worker's reach"):
            world.far.store.put_new("tasks/mine.json", envelope.to_json())
        verdict = world.claims.pick_up(asked.to_json(), None, None)  # which would else come back for ever
        assert isinstance(verdict, Refuse), verdict
        assert "out of its worker's reach" in verdict.reason
        assert [one.kind for one in ailments(world.truth)] == ["unregistered"], "the mark that is left"
    for envelope in (
        request(task_id="mine", to=B).registered(world.store.url, utc_now()),
        request(task_id="mine", to=A, group="theirs").registered(world.store.url, utc_now()),
        request(task_id="mine", to=A).registered("file:///elsewhere", utc_now()),
        request(task_id="other", to=A).registered(world.store.url, utc_now()),
        request(task_id="mine", to=A),
    ):
        with pytest.raises(StoreUnavailable):
            world.far.store.put_new("tasks/mine.json", envelope.to_json())
    assert "tasks/mine.json" not in world.store.objects


# ---------------------------------------------------------------------- whatever it tries

THEIRS = ("theirs", "done", "running", "gated", "plan-b")
PARTS = (
    *("tasks/{}.json", "tasks/{}.md", "results/{}.json", "results/{}.md", "open/{}", "outbox/{}", "found/{}.json"),
    *("attempts/{}/1.json", "attempts/{}/2.json", "attempts/{}/1.end.json", "attempts/{}/1.lease.json", "arriving/{}"),
    *(
        "artifacts/{}/1/report.md",
        "artifacts/{}/1/new.md",
        "artifacts/{}/1/proposal.json",
        "artifacts/{}/plan/report.md",
    ),
    *("controls/{}/cancel.json", "controls/{}/released.json", "controls/{}/approval-demanded.json"),
    *("controls/{}/approval-" + "0" * 64 + ".json", "controls/{}/collected.json", "inbox/coordinator/{}.json"),
    *("artifacts/{}/hand-x/report.md", "artifacts/{}/found-0123456789ab/report.md", "waits/{}/own", "waits/{}/running"),
    *("waits/done/{}", "waits/own/{}", "uses/{}/own", "uses/own/{}", "expiring/coordinator/20261122T100000Z_{}"),
)


def _hostile() -> World:
    world = World()
    world.task("own", A)
    world.task("theirs", B)
    world.task("done", B)
    world.task("running", B, ttl_seconds=100)
    world.task("gated", B, requires_approval=True, depends_on=("done",))
    member = request(task_id="plan-b.x", to=B, group="plan-b", reply_to=None)
    plant(world.truth, world.task("plan-b", "agentq", type="plan", plan=(member,)))
    world.ended("done", settled=False)
    assert isinstance(Claims(world.truth, _terms(B), is_gone=lambda _: False).decide("running"), Start)
    return world


def _papers(world: World, task_id: str) -> list[bytes]:
    """Everything that fits somewhere."""
    papers = world.truth.papers(task_id)
    assert papers
    now, token = utc_now() - timedelta(seconds=1), "t"
    running = world.truth.attempts("running")[0].paper.token
    done = completion_of(papers, "completed", by=A, attempt=1, verified=True)
    failed = completion_of(papers, "cancelled", by="agentq", attempt=1, reason="cancelled by ann")
    claims = [
        Claim(attempt=number, token=token, worker=who, owner=OWNER, at=now, lease_seconds=20)
        for number in (1, 2)
        for who in (A, B)
    ]
    others: list[Any] = [
        *(
            done,
            failed,
            done.model_copy(update={"from_": B}),
            papers.envelope,
            papers.envelope.model_copy(update={"to": A}),
        ),
        *(Seal(attempt=number, token=token, by=A, at=now, completion=failed) for number in (1, 2)),
        *(End(attempt=1, token=token, by=who, at=now, reason="r", counts=True) for who in (A, B)),
        *(Lease(token=running, counter=9, at=now), Cancel(token=token, by=A, at=now), Release(token=token, at=now)),
        *(Demand(token=token, by=A, at=now, reason="r"), Approval(token=token, digest="0" * 64, by=A, at=now)),
        Move(attempt=1, token=token, to="file:///x", by=A, at=now),
    ]
    manifest = world.truth.manifest(task_id)
    return [b"", b"x", b"{}", b"null", *(p.to_json() for p in (*claims, *others, *((manifest,) if manifest else ())))]


@pytest.mark.promise("worker-token-bounded")
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_whatever_it_writes_nothing_of_others_changes(data: st.DataObject) -> None:
    world = _hostile()
    before = world.about(*THEIRS)
    for _ in range(20):
        key = data.draw(st.sampled_from(PARTS)).format(data.draw(st.sampled_from((*THEIRS, "plan-b.x"))))
        paper = data.draw(st.sampled_from(_papers(world, data.draw(st.sampled_from(THEIRS)))))
        act = data.draw(st.sampled_from(["new", "put", "delete"]))
        with suppress(StoreUnavailable, Invalid):
            if act == "delete":
                world.far.store.delete(key)
            elif act == "new":
                world.far.store.put_new(key, paper)
            else:
                world.far.store.put(key, paper)
        assert world.about(*THEIRS) == before, (act, key, paper)


@pytest.mark.promise("worker-token-bounded")
def test_every_key_with_every_paper(world: World) -> None:
    """The same, each once."""
    world = _hostile()
    before = world.about(*THEIRS)
    for task_id in THEIRS:
        for paper in _papers(world, task_id):
            for part in PARTS:
                for put in (world.far.store.put_new, world.far.store.put):
                    with suppress(StoreUnavailable, Invalid):
                        put(part.format(task_id), paper)
            assert world.about(*THEIRS) == before, (task_id, paper)


# ---------------------------------------------------------------------- over HTTP


@pytest.mark.promise("worker-token-bounded")
def test_through_the_gateway_what_is_refused_is_told_in_words_and_not_repeated(tmp_path: Path) -> None:
    with serving(settings_in(tmp_path)) as url:
        from agentq.stores.file import FileStore

        truth = Records(FileStore(tmp_path / "störe"))
        text, _ = Tokens(truth.store).new("far", ["worker"], A)
        for task_id, to in (("own", A), ("theirs", B)):
            truth.register(request(task_id=task_id, to=to).registered(truth.store.url, utc_now()), published=True)
        far = Records(client(url, text))
        prove(far.store)
        with pytest.raises(StoreUnavailable, match="theirs") as refused:
            far.store.get("tasks/theirs.json")
        assert "security.md" in refused.value.hint
        claim = Claim(attempt=1, token=new_token(), worker=A, owner=OWNER, at=utc_now(), lease_seconds=20)
        with pytest.raises(StoreUnavailable):
            far.take("theirs", claim)
        assert truth.attempts("theirs") == ()
        assert carry_out(far, "own").status == "completed"
        assert list(truth.inbox("coordinator")) == ["own"]
        assert list(far.marks.unsettled()) == []
        assert list(truth.marks.unsettled()) == ["theirs"]
