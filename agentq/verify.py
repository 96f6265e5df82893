"""The chain from a request to its result, link by link: what is checked, by whom it is signed, and what is broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from agentq.commit import REPORT
from agentq.errors import EvidenceError, Invalid, NotFound
from agentq.keyring import Key
from agentq.lifecycle import Papers
from agentq.messages import Artifact, Completion, Envelope, Message, sha256_hex
from agentq.papers import Claim, Seal
from agentq.records import Records
from agentq.signing import Kind, Unproven, proven
from agentq.trust import Answers

SHOWN = 12
"""How many hex digits of a digest are shown."""
_ALTERED = "Do not use it. Restore it from a backup of the store, or submit the task again."

State = Literal["ok", "none", "gone", "broken"]


class Link(Message):
    """One link: it holds, there is none (yet), it was removed in order, or it is broken; and what to do then."""

    name: str
    state: State
    what: str
    next: str | None = None


class Chain(Message):
    """All links of one task, in their order; `ended` says whether there is a result at all."""

    task_id: str
    ended: bool
    links: tuple[Link, ...]

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that do not hold."""
        return tuple(link for link in self.links if link.state == "broken")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Checks chains; unsigned papers break one only where signatures are required."""

    records: Records
    answers: Answers

    def chain(self, task_id: str) -> Chain:
        """The chain of a task, or of a plan with that of each of its tasks; raises NotFound."""
        try:
            papers = self.records.known(task_id)
        except EvidenceError as error:
            return Chain(task_id=task_id, ended=False, links=(_broken("papers", error),))
        return Chain(task_id=task_id, ended=papers.manifest is not None, links=tuple(self._links(papers)))

    def _links(self, papers: Papers) -> Iterator[Link]:
        envelope, manifest = papers.envelope, papers.manifest
        yield _link("request", partial(self._request, papers))
        yield _link("signature", partial(self._signature, papers))
        if envelope.context_ref:
            yield self._kept("context", papers, partial(self._context, papers))
        if papers.needs_approval:
            yield self._kept("approval", papers, partial(self._approval, papers))
        for task in envelope.plan:
            yield _link(task.task_id, partial(self._member, task))
        if not envelope.is_group:
            yield self._kept("attempt", papers, partial(self._attempt, papers))
        if manifest:
            yield from self._evidence(papers, manifest)
        yield _link("manifest", partial(self._manifest, papers))

    def _kept(self, name: str, papers: Papers, check: Callable[[], Link]) -> Link:
        """The link, unless `gc` removed what it is about."""
        if papers.collected:
            return Link(name=name, state="gone", what=f"collected {papers.collected.at:%Y-%m-%d %H:%M:%SZ}")
        return _link(name, check)

    # ------------------------------------------------------------------ what was asked

    def _request(self, papers: Papers) -> Link:
        envelope = papers.envelope
        if envelope.request_sha256 != envelope.request_digest():
            raise EvidenceError("it was altered: its content is not what its own digest says", hint=_ALTERED)
        since = f"{envelope.created_at:%Y-%m-%d %H:%M:%SZ}" if envelope.created_at else "at an unknown time"
        return _ok("request", f"registered {since}, digest {papers.envelope_sha256[:SHOWN]}")

    def _signature(self, papers: Papers) -> Link:
        envelope = papers.envelope
        if envelope.signature is None:
            return self._unsigned("signature", f"{envelope.from_} has not signed it")
        key = self._proven("envelope", papers.registered, envelope.from_)
        return _ok("signature", f"{_signed(key)}, trusted")

    def _context(self, papers: Papers) -> Link:
        envelope = papers.envelope
        key = self.records.artifacts.key(envelope.context_ref, envelope.task_id) if envelope.context_ref else None
        data = self.records.store.get(key) if key else None
        if data is None:
            raise EvidenceError(f"{envelope.context_ref} is missing", hint=_ALTERED)
        digest = sha256_hex(data)
        if envelope.context_sha256 is None:
            return _none("context", f"{len(data)} bytes, {digest[:SHOWN]}; the envelope has no digest of it")
        if digest != envelope.context_sha256:
            raise EvidenceError(f"{envelope.context_ref} was altered after the task was submitted", hint=_ALTERED)
        return _ok("context", f"{len(data)} bytes, {digest[:SHOWN]}")

    def _approval(self, papers: Papers) -> Link:
        approved = papers.approved
        if approved is None:
            if _was_run(papers):
                what = "it was run, and nobody approved it as it is now: its envelope, context or what it needs changed"
                raise EvidenceError(what, hint=_ALTERED)
            return _none("approval", "nobody has approved it yet")
        if approved.digest != papers.digest:
            raise EvidenceError(f"the approval by {approved.by} is of something else", hint=_ALTERED)
        if approved.signature is None:
            return self._unsigned("approval", f"by {approved.by}, unsigned", state="ok")
        key = self._proven("approval", papers.approval, approved.by)
        return _ok("approval", f"by {_signed(key)}, {approved.at:%Y-%m-%d %H:%M:%SZ}")

    def _member(self, task: Envelope) -> Link:
        """A task of a plan: it must be what the plan says, and its own chain must hold."""
        try:
            found, chain = self.records.envelope(task.task_id), self.chain(task.task_id)
        except NotFound:
            return _none(task.task_id, "not registered yet")
        if found and found.request_digest() != task.request_digest():
            raise EvidenceError("it is not the task that the plan names", hint=_ALTERED)
        if chain.broken:
            first = chain.broken[0]
            raise EvidenceError(f"{first.name}: {first.what}", hint=f"See: agentq verify {task.task_id}")
        if not chain.ended:
            return _none(task.task_id, "no result yet")
        return _ok(task.task_id, f"all {len(chain.links)} links hold")

    # ------------------------------------------------------------------ what was done

    def _attempt(self, papers: Papers) -> Link:
        number = papers.manifest.attempt if papers.manifest else papers.last.number if papers.last else 0
        paper = next((a.paper for a in papers.attempts if a.number == number), None)
        if papers.manifest and not isinstance(paper, Claim | Seal):
            raise EvidenceError(f"attempt {number}, which the result names, never was", hint=_ALTERED)
        if paper is None:
            return _none("attempt", "nobody has started it")
        if isinstance(paper, Claim):
            return self._claimed(papers, paper)
        if isinstance(paper, Seal) and papers.manifest and paper.completion != papers.manifest:
            raise EvidenceError(f"the result is not the one that attempt {number} was sealed with", hint=_ALTERED)
        return _ok("attempt", f"{number} by {paper.by}, {paper.at:%Y-%m-%d %H:%M:%SZ}, without a worker")

    def _claimed(self, papers: Papers, claim: Claim) -> Link:
        if papers.manifest and papers.manifest.from_ != claim.worker:
            what = f"attempt {claim.attempt} was {claim.worker}'s, and the result is from {papers.manifest.from_}"
            raise EvidenceError(what, hint=_ALTERED)
        host = f" on {claim.owner.host}" if claim.owner.host else ""
        return _ok("attempt", f"{claim.attempt} by {claim.worker}{host}, {claim.at:%Y-%m-%d %H:%M:%SZ}")

    def _evidence(self, papers: Papers, manifest: Completion) -> Iterator[Link]:
        for artifact in manifest.artifacts:
            yield self._kept(artifact.name, papers, partial(self._artifact, artifact.name, artifact))
        report = manifest.artifact(REPORT)
        if report and manifest.result_ref and not self.records.marks.is_open(manifest.task_id):
            copy = report.model_copy(update={"name": "the report's copy", "ref": manifest.result_ref})
            yield self._kept("copy", papers, partial(self._artifact, "copy", copy))

    def _artifact(self, name: str, artifact: Artifact) -> Link:
        self.records.artifacts.check(artifact)
        return _ok(name, f"{artifact.bytes} bytes, {artifact.sha256[:SHOWN]}, made by {artifact.made_by}")

    def _manifest(self, papers: Papers) -> Link:
        manifest = papers.manifest
        if manifest is None:
            return _none("manifest", "no result yet")
        answers = "answers exactly this request"
        if manifest.signature is not None:
            return _ok("manifest", f"signed by {_signed(self.answers.proven(manifest))}, {answers}")
        if manifest.envelope_sha256 not in (None, papers.envelope_sha256):
            raise EvidenceError("it answers another request than the one that is registered", hint=_ALTERED)
        return self._unsigned("manifest", f"unsigned{f', {answers}' if manifest.envelope_sha256 else ''}", state="ok")

    # ------------------------------------------------------------------ signatures

    def _proven(self, kind: Kind, paper: bytes, by: str) -> Key:
        return proven(self.answers.keyring, kind, paper, [by])

    def _unsigned(self, name: str, what: str, *, state: State = "none") -> Link:
        if self.answers.required:
            raise Unproven(
                f"{what}, and signatures are required", hint="Whoever made it needs a key: agentq keys new NAME"
            )
        return Link(name=name, state=state, what=what)


def _was_run(papers: Papers) -> bool:
    """Whether its result is an agent's, rather than a hand's, or an agent works on it."""
    number = papers.manifest.attempt if papers.manifest else None
    brought = any(isinstance(a.paper, Claim) and a.number == number for a in papers.attempts)
    return brought or papers.running is not None


def _signed(key: Key) -> str:
    return f"{key.name} (key {key.id})"


def _link(name: str, check: Callable[[], Link]) -> Link:
    try:
        return check()
    except (EvidenceError, Invalid) as error:
        return _broken(name, error)


def _ok(name: str, what: str) -> Link:
    return Link(name=name, state="ok", what=what)


def _none(name: str, what: str) -> Link:
    return Link(name=name, state="none", what=what)


def _broken(name: str, error: EvidenceError | Invalid) -> Link:
    return Link(name=name, state="broken", what=str(error), next=error.hint or _ALTERED)
