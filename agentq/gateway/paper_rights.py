"""Which papers a worker may create, by what is in them: what it says of its own agent's tasks, and what follows from
the papers of others, whoever writes it down.

Every function raises Refused, and Invalid for a task that asks for what is out of reach. What is checked is read a
moment before the paper is created: whoever is first there still holds, as it does for all who write to the store
themselves.
"""

import json
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from agentq.commit import REPORT, completion_of
from agentq.errors import Invalid
from agentq.gateway.problems import Refused
from agentq.gateway.reach import Reach
from agentq.groups import conclusion, members
from agentq.lifecycle import Papers, ending
from agentq.messages import Artifact, Completion, Envelope, Message, sha256_hex, task_in, utc_now
from agentq.papers import Cancel, Claim, Demand, End, Lease, Proposal, Release, Seal
from agentq.proposal import proof_of
from agentq.records import Records

M = TypeVar("M", bound=Message)

_FOUND = re.compile(r"found-([0-9a-f]{12})")
NOBODY = "agentq"
SKEW = timedelta(minutes=10)
"""How far ahead a worker's clock may be."""
_LATER = ("finished_at", "signature")
"""What of a completion is each hand's own."""


class PaperRights:
    """What the workers of one agent may write down."""

    def __init__(self, agent: str, records: Records, reach: Reach) -> None:
        self._agent, self._records, self._reach = agent, records, reach

    # ------------------------------------------------------------------ attempts

    def attempt(self, task_id: str, number: int, data: bytes) -> None:
        """An attempt of its own task whose gates are open and that nobody runs, or a seal."""
        papers = self._papers(task_id)
        if number != papers.next_number or papers.manifest or papers.running or papers.moved_to:
            raise refused(f"{task_id} has no attempt {number} to be taken")
        kind = _object(data).get("kind")
        if kind == "seal":
            return self._seal(papers, _read(Seal, data))
        claim = _read(Claim, data)
        if not self._is_own(task_id) or kind != "claim" or claim.worker != self._agent or claim.attempt != number:
            raise refused(f"only a worker of {papers.envelope.to} claims {task_id}, in its own name")
        if not papers.is_open or papers.seal:
            raise refused(f"{task_id} is not to be started: it waits for something")

    def _seal(self, papers: Papers, seal: Seal) -> None:
        """An end without a result: of its own task but for a completion, of others' tasks only what follows."""
        task_id, done = papers.envelope.task_id, seal.completion
        if seal.attempt != papers.next_number or done.attempt != seal.attempt or done.status == "completed":
            raise refused(f"{task_id} is not to be ended so")
        if self._is_own(task_id):
            return self._own_completion(papers, done)
        over = ending(papers, utc_now())
        if over is None:
            raise refused(f"nothing ends {task_id}")
        last = papers.last.end if papers.last else None
        expected = completion_of(
            papers,
            over[0],
            by=NOBODY,
            attempt=seal.attempt,
            reason=over[1],
            stopped=last.stopped if last and over[0] == "cancelled" else None,
            artifacts=last.artifacts if last else (),
        )
        _must_be(done, expected, self._records)

    def lease(self, task_id: str, number: int, data: bytes) -> None:
        """The renewal of a claim of its own agent, by whoever has its token."""
        if _read(Lease, data).token != self._claim(task_id, number).token:
            raise refused(f"attempt {number} of {task_id} is renewed by whoever claimed it")

    def end(self, task_id: str, number: int, data: bytes) -> None:
        """How an attempt of its own agent ended."""
        self._claim(task_id, number)
        end = _read(End, data)
        if end.attempt != number or end.by not in (self._agent, NOBODY):
            raise refused(f"attempt {number} of {task_id} is ended by its own agent")
        _own_artifacts(task_id, end.artifacts)

    def proposal(self, task_id: str, number: int, data: bytes) -> None:
        """What a running agent says of its own attempt."""
        claim, proposal = self._claim(task_id, number), _read(Proposal, data)
        if (proposal.task_id, proposal.attempt, proposal.token) != (task_id, number, proof_of(claim.token)):
            raise refused(f"attempt {number} of {task_id} says that itself")

    # ------------------------------------------------------------------ results

    def result(self, task_id: str, data: bytes) -> None:
        """The manifest: of its own task what its attempt brought, else what a seal or the ends of a group say."""
        papers, done = self._papers(task_id), _read(Completion, data)
        if papers.moved_to:
            raise refused(f"{task_id} is at home in {papers.moved_to}")
        if papers.envelope.is_group:
            return self._concluded(papers.envelope, done)
        if papers.seal and papers.seal.attempt == done.attempt:
            return _must_be(done, papers.seal.completion, self._records, leaving=())
        self._claim(task_id, done.attempt)
        self._own_completion(papers, done)

    def _concluded(self, group: Envelope, done: Completion) -> None:
        concluded = conclusion(self._records, group)
        if concluded is None:
            raise refused(f"not all of {group.task_id} has ended")
        _must_be(done, concluded, self._records, leaving=("signature",))

    def _own_completion(self, papers: Papers, done: Completion) -> None:
        envelope = papers.envelope
        if done.task_id != envelope.task_id or done.to != envelope.from_ or done.from_ not in (self._agent, NOBODY):
            raise refused(f"that is no result of {envelope.task_id} by {self._agent}")
        if done.envelope_sha256 != papers.envelope_sha256:
            raise refused(f"that answers another request than {envelope.task_id}")
        if done.result_ref not in (None, self._records.store.ref(f"results/{envelope.task_id}.md")):
            raise refused(f"the report of {envelope.task_id} lies elsewhere")
        _own_artifacts(envelope.task_id, done.artifacts)

    def report(self, task_id: str, sha256: str) -> None:
        """The copy of the report that the result names."""
        manifest = self._records.manifest(task_id)
        report = manifest.artifact(REPORT) if manifest else None
        if report is None or report.sha256 != sha256:
            raise refused(f"that is not the report of {task_id}")

    # ------------------------------------------------------------------ evidence

    def evidence(self, task_id: str, number: int, key: str) -> None:
        """A piece of evidence of its own agent's attempt, which no result and no end names yet."""
        self._claim(task_id, number)
        manifest = self._records.manifest(task_id)
        end = self._records.ended(task_id, number)
        named = (*(manifest.artifacts if manifest else ()), *(end.artifacts if end else ()))
        if self._records.store.ref(key) in {artifact.ref for artifact in named}:
            raise refused(f"{key} is evidence, and stays as it is")

    def filed(self, task_id: str, place: str, name: str, sha256: str) -> None:
        """What settling puts beside the evidence: a plan's own report, and what lay where a report is to be copied."""
        group, found = self._records.envelope(task_id), _FOUND.fullmatch(place)
        if name == "report.md" and place == "plan" and group and group.is_group:
            concluded = conclusion(self._records, group)
            if concluded and concluded.result_sha256 == sha256:
                return
        if name == "report.md" and found and sha256.startswith(found[1]) and self._records.manifest(task_id):
            there = self._records.store.get(f"results/{task_id}.md")
            if there is not None and sha256_hex(there) == sha256:
                return
        raise refused(f"that is no evidence of {task_id}")

    # ------------------------------------------------------------------ what follows

    def release(self, task_id: str, data: bytes) -> None:
        """That the last gate is open, once it is."""
        papers, release = self._papers(task_id), _read(Release, data)
        if not (papers.is_gated and papers.is_open) or release.at > utc_now() + SKEW:
            raise refused(f"{task_id} still waits for something")

    def demand(self, task_id: str, data: bytes) -> None:
        """That a task of its own has to be approved."""
        if not self._is_own(task_id) or _read(Demand, data).by != self._agent:
            raise refused(f"only a worker of its agent asks for an approval of {task_id}")

    def cancel(self, task_id: str, data: bytes) -> None:
        """That a task is to be cancelled whose group is."""
        group = self._papers(task_id).envelope.group
        held = self._records.cancel(group) if group else None
        if held is None or held != _read(Cancel, data):
            raise refused(f"a worker cancels {task_id} only with the plan that it belongs to")

    def task(self, task_id: str, data: bytes) -> None:
        """A task: one of a registered plan as that says, or what some other producer put into its agent's own queue,
        which must not build on anything that is out of its reach."""
        envelope = _read(Envelope, data)
        if envelope.task_id != task_id:
            raise refused(f"that is {envelope.task_id}, not {task_id}")
        if envelope.group:
            return self._member(envelope)
        if envelope.to != self._agent or envelope.plan or envelope.store != self._records.store.url:
            raise refused(f"only a message to {self._agent} itself is registered here")
        if envelope.request_sha256 != envelope.request_digest():
            raise refused(f"{task_id} is not what its digest says")
        for what in self._reach.builds_on(envelope) - {task_id, f"tasks/{task_id}.md"}:
            if not self._reach.is_readable(self._agent, what):
                raise out_of_reach(task_id, what)

    def _member(self, envelope: Envelope) -> None:
        group = self._records.envelope(envelope.group or "")
        planned = members(group) if group and group.is_group and self._reach.holds(self._agent, group.task_id) else ()
        if envelope not in planned:
            raise refused(f"{envelope.task_id} is not a task of {envelope.group}, or not as that says")

    def notice(self, task_id: str, coordinator: str, data: bytes) -> None:
        """The result in its coordinator's inbox, as long as the task is not settled."""
        papers = self._papers(task_id)
        if papers.manifest is None or papers.manifest.to != coordinator or not papers.envelope.reply_to:
            raise refused(f"there is nothing of {task_id} for {coordinator}")
        if not self._records.marks.is_open(task_id) or _read(Completion, data) != papers.manifest:
            raise refused(f"the inbox gets what {task_id} brought, once")

    # ------------------------------------------------------------------

    def _is_own(self, task_id: str) -> bool:
        return self._reach.is_own(self._agent, task_id)

    def _claim(self, task_id: str, number: int) -> Claim:
        """The claim of an attempt of its own agent's task."""
        data = self._records.store.get(f"attempts/{task_id}/{number}.json") if self._is_own(task_id) else None
        claim = _read(Claim, data) if data and _object(data).get("kind") == "claim" else None
        if claim is None or claim.worker != self._agent:
            raise refused(f"{self._agent} has no attempt {number} of {task_id}")
        return claim

    def _papers(self, task_id: str) -> Papers:
        papers = self._records.papers(task_id)
        if papers is None:
            raise refused(f"{task_id} is not registered")
        return papers


def out_of_reach(task_id: str, what: str) -> Invalid:
    """What is answered to a message that asks for more than its worker may read, and always will."""
    return Invalid(f"{task_id} builds on {what}, which is out of its worker's reach", hint="Submit it with agentq.")


def refused(what: str) -> Refused:
    """What is answered to a worker that goes beyond its token."""
    return Refused(403, what, hint="docs/security.md says what a worker's token may do.")


def _must_be(done: Completion, expected: Completion, records: Records, *, leaving: Collection[str] = _LATER) -> None:
    """Refuse a completion that is not the one that follows from the papers, but for what is each hand's own."""
    told, follows = (one.model_dump(exclude={"result_ref", *leaving}) for one in (done, expected))
    if told != follows or done.finished_at > utc_now() + SKEW:
        raise refused(f"that is not how {expected.task_id} ends")
    if done.result_ref not in (None, records.store.ref(f"results/{expected.task_id}.md")):
        raise refused(f"the report of {expected.task_id} lies elsewhere")


def _own_artifacts(task_id: str, artifacts: Collection[Artifact]) -> None:
    if any(task_in(artifact.ref) != task_id for artifact in artifacts):
        raise refused(f"the evidence of {task_id} is its own")


def _read(model: type[M], data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise refused(f"that is no {model.__name__.lower()}") from error


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
