"""How a task ends: by taking the next attempt number, by the commit point, and by what follows it.

Every step may be repeated by anyone, in any order of arrival; who dies between two of them is healed by the next.
"""

import contextlib
from datetime import datetime

from agentq.engine import Engine
from agentq.errors import AgentqError, EvidenceError
from agentq.lifecycle import Papers
from agentq.messages import Artifact, Completion, Outcome, sha256_hex, utc_now
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
    artifacts: tuple[Artifact, ...] = (),
    finished_at: datetime | None = None,
) -> Completion:
    """The completion of a task as it is about to be committed; without a report it names none."""
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
        artifacts=artifacts,
        result_sha256=report.sha256 if report else None,
        finished_at=finished_at or utc_now(),
    )


def seal(records: Records, papers: Papers, completion: Completion, *, by: str) -> Completion | None:
    """End a task that is not running: take the next number with a seal, then commit.

    Answers with the manifest that holds, None when another hand took that number: start over from the papers.
    """
    number = papers.next_number
    completion = completion.model_copy(update={"attempt": number})
    paper = Seal(attempt=number, token=new_token(), by=by, at=utc_now(), completion=completion)
    if not records.take(papers.envelope.task_id, paper):
        return None
    return commit(records, completion)


def commit(records: Records, completion: Completion) -> Completion:
    """The commit point: answers with the manifest that holds, which may be another hand's."""
    if completion.result_sha256:
        ref = records.store.ref(f"results/{completion.task_id}.md")
        completion = completion.model_copy(update={"result_ref": ref})
    return records.commit(completion)


def file_papers(records: Records, manifest: Completion) -> None:
    """What follows a commit in the store: the report's copy and the coordinator's inbox."""
    report = manifest.artifact(REPORT)
    if report:
        _copy_report(records, manifest.task_id, report)
    envelope = records.envelope(manifest.task_id)
    if envelope and envelope.reply_to:
        records.put_in_inbox(manifest)


def _copy_report(records: Records, task_id: str, report: Artifact) -> None:
    """Put the accepted report to `results/<id>.md`; what somebody else left there is kept as evidence."""
    key = f"results/{task_id}.md"
    found = records.store.get(key)
    if found is not None and (digest := sha256_hex(found)) == report.sha256:
        return
    if found is not None:
        records.store.put(f"artifacts/{task_id}/found-{digest[:12]}/report.md", found)
    with contextlib.suppress(EvidenceError):  # `result` reports it; settling must not hang on it
        records.store.put(key, records.read(report))


def settle_in_store(records: Records, manifest: Completion) -> None:
    """Settle without an engine: the notice on the results queue is dropped, the inbox has it.

    A task that was given up stays open until somebody with an engine has dead-lettered it.
    """
    file_papers(records, manifest)
    if not manifest.given_up:
        records.close(manifest.task_id)


async def settle(records: Records, engine: Engine, manifest: Completion) -> None:
    """Do what follows a commit: the report's copy, the inbox, the notice, the dead letter of a task given up.

    Raises EngineUnavailable when the dead letter could not be made durable: the task stays open and is settled again.
    """
    import asyncio  # here, because the commands that only read import this module too

    await asyncio.to_thread(file_papers, records, manifest)
    envelope = await asyncio.to_thread(records.envelope, manifest.task_id)
    if envelope and envelope.reply_to:
        with contextlib.suppress(AgentqError):
            await engine.notify(manifest, envelope.reply_to)
    if envelope and manifest.given_up:
        await engine.dead_letter(envelope, manifest.reason or "failed")
    await asyncio.to_thread(records.close, manifest.task_id)
