"""The commit point: how a task gets its one result, by its attempt or by taking the next number with a seal."""

from datetime import datetime

from agentq.lifecycle import Papers
from agentq.messages import Artifact, Completion, Outcome, Stopped, Usage, total, utc_now
from agentq.papers import Seal, new_token
from agentq.records import Records

REPORT = "report"


def completion_of(
    papers: Papers,
    status: Outcome,
    *,
    by: str,
    attempt: int,
    reason: str | None = None,
    summary: str = "",
    verified: bool = False,
    given_up: bool = False,
    stopped: Stopped | None = None,
    artifacts: tuple[Artifact, ...] = (),
    finished_at: datetime | None = None,
    usage: Usage | None = None,
) -> Completion:
    """The completion of a task as it is about to be committed; without a report it names none. `usage` is what its
    last attempt took, when that has not ended by a paper of its own."""
    envelope = papers.envelope
    report = next((a for a in artifacts if a.name == REPORT), None)
    return Completion(
        task_id=envelope.task_id,
        from_=by,
        to=envelope.from_,
        status=status,
        attempt=attempt,
        reason=reason,
        summary=summary,
        verified=verified,
        given_up=given_up,
        stopped=stopped,
        artifacts=artifacts,
        result_sha256=report.sha256 if report else None,
        finished_at=finished_at or utc_now(),
        usage=total((*papers.spent, *((usage,) if usage else ()))),
        envelope_sha256=papers.envelope_sha256,
        traceparent=envelope.traceparent,
    )


def seal_as(
    records: Records,
    papers: Papers,
    status: Outcome,
    reason: str,
    *,
    by: str,
    given_up: bool = False,
    at: datetime | None = None,
) -> Completion | None:
    """The same as `seal`, for a task that ends without a result: with the evidence of the last attempt, if any."""
    end = papers.last.end if papers.last else None
    completion = completion_of(
        papers,
        status,
        by=by,
        attempt=papers.next_number,
        reason=reason,
        given_up=given_up,
        stopped=end.stopped if end and status == "cancelled" else None,
        artifacts=end.artifacts if end else (),
        finished_at=at,
    )
    return seal(records, papers, completion, by=by)


def seal(records: Records, papers: Papers, completion: Completion, *, by: str) -> Completion | None:
    """End a task that is not running: take the next number with a seal, then commit.

    Answers with the manifest that holds, None when another hand took that number: start over from the papers.
    """
    number = papers.next_number
    completion = _final(records, completion.model_copy(update={"attempt": number}))
    paper = Seal(attempt=number, token=new_token(), by=by, at=utc_now(), completion=completion)
    if not records.take(papers.envelope.task_id, paper):
        return None
    return commit_seal(records, paper)


def commit_seal(records: Records, seal: Seal) -> Completion:
    """Commit what a seal names, as it was sealed and signed, whoever meets it; answers as `commit` does."""
    return records.commit(seal.completion)


def commit(records: Records, completion: Completion) -> Completion:
    """The commit point: answers with the manifest that holds, which may be another hand's."""
    return records.commit(_final(records, completion))


def _final(records: Records, completion: Completion) -> Completion:
    """The completion with where its report will be, signed where there is a key."""
    if completion.result_sha256:
        ref = records.store.ref(f"results/{completion.task_id}.md")
        completion = completion.model_copy(update={"result_ref": ref})
    return records.signer.completion(completion)
