"""What follows a commit: the report's copy, the inbox, the notice, and those who waited for it.

Every step may be repeated by anyone, in any order of arrival; who dies between two of them is healed by the next.
"""

import contextlib
from dataclasses import dataclass, field

from agentq import story
from agentq.commit import REPORT
from agentq.engine import Engine
from agentq.errors import AgentqError, EngineUnavailable, EvidenceError
from agentq.gates import look_at_gates
from agentq.lifecycle import Papers, due, expires_at
from agentq.messages import Artifact, Completion, Envelope, sha256_hex, utc_now
from agentq.records import Records
from agentq.tracing import current


def file_papers(records: Records, manifest: Completion) -> Envelope | None:
    """What follows a commit in the store: the report's copy and the coordinator's inbox. Answers with the request."""
    report = manifest.artifact(REPORT)
    if report:
        _copy_report(records, manifest.task_id, report)
    envelope = records.envelope(manifest.task_id)
    if envelope:
        records.marks.let_go_of_evidence(envelope)  # of those that had ended before it was registered, too
    if envelope and envelope.ttl_seconds is not None:
        _forget_deadline(records, manifest.task_id)
    if envelope and envelope.reply_to:
        records.put_in_inbox(manifest)
    return envelope


def _forget_deadline(records: Records, task_id: str) -> None:
    papers = records.papers(task_id)
    expires = expires_at(papers) if papers else None
    if papers and expires:
        records.marks.will_not_expire(papers.envelope, expires)


def _copy_report(records: Records, task_id: str, report: Artifact) -> None:
    """Put the accepted report to `results/<id>.md`; what somebody else left there is kept as evidence."""
    key = f"results/{task_id}.md"
    found = records.store.get(key)
    if found is not None and (digest := sha256_hex(found)) == report.sha256:
        return
    if found is not None:
        records.store.put(f"artifacts/{task_id}/found-{digest[:12]}/report.md", found)
    with contextlib.suppress(EvidenceError):  # `result` reports it; settling must not hang on it
        records.store.put(key, records.artifacts.read(report))


@dataclass(slots=True)
class Followed:
    """What followed a commit in the store: everything that ended with it, and what may start now."""

    ended: list[Completion] = field(default_factory=list)
    released: list[Envelope] = field(default_factory=list)


def follow(records: Records, manifest: Completion) -> Followed:
    """File the papers of a task that ended, and open the gates of those that waited for it; safe to repeat.

    What needed it and can no longer start is sealed, and so on; a group whose last task it was is committed. What is
    released is marked as not published; nothing is closed yet. The journal is told how each ended: here, so that
    whoever helps after a crash tells it too.
    """
    followed, waiting = Followed(), [manifest]
    while waiting:
        ended = waiting.pop()
        followed.ended.append(ended)
        records.journal.tell(*story.finished(ended, file_papers(records, ended)))
        for waiter in list(records.marks.waiting_for(ended.task_id)):
            if not records.is_registered(waiter):
                continue  # it looks at its gates itself, when it is
            found = look_at_gates(records, waiter)
            if isinstance(found, Completion):
                waiting.append(found)
            elif found:
                followed.released.append(found)
            records.marks.stop_waiting(ended.task_id, waiter)
    return followed


def settle_in_store(records: Records, manifest: Completion) -> list[Envelope]:
    """Settle without an engine; answers with what was released by it and has to be published.

    The notice on the results queue is dropped, the inbox has it. A task that was given up stays open until somebody
    with an engine has dead-lettered it.
    """
    followed = follow(records, manifest)
    for ended in reversed(followed.ended):
        if not ended.given_up:
            _is_settled(records, ended)
            records.marks.close(ended.task_id)
    return followed.released


def _is_settled(records: Records, ended: Completion) -> None:
    """Tell the journal before the mark goes: after that nobody comes back to it."""
    records.journal.tell(story.settled(ended.task_id, utc_now()))


async def settle(records: Records, engine: Engine, manifest: Completion) -> bool:
    """Do what follows a commit: report, inbox, who waited for it, the notice, the dead letter of what was given up.

    False when somebody had done it: a coordinator that took the result from its inbox must not find it there again.
    The log has its end, unless the engine takes no events just now, before the task is closed. Raises EngineUnavailable
    when the dead letter could not be made durable: the task stays open and is settled again.
    """
    import asyncio  # here, because the commands that only read import this module too

    if not await asyncio.to_thread(records.marks.is_open, manifest.task_id):
        return False
    followed = await asyncio.to_thread(follow, records, manifest)
    for envelope in followed.released:
        with contextlib.suppress(EngineUnavailable):  # perhaps only that agent's queue is missing; it stays marked
            await publish(records, engine, envelope)
    for ended in reversed(followed.ended):
        await _tell(records, engine, ended)
        _is_settled(records, ended)
    await records.journal.try_to_hand_on(engine)
    for ended in reversed(followed.ended):
        await asyncio.to_thread(records.marks.close, ended.task_id)
    return True


async def _tell(records: Records, engine: Engine, ended: Completion) -> None:
    import asyncio

    envelope = await asyncio.to_thread(records.envelope, ended.task_id)
    if envelope and envelope.reply_to:
        with contextlib.suppress(AgentqError), current().reply(ended, envelope.reply_to):
            await engine.notify(ended, envelope.reply_to)
    if envelope and ended.given_up:
        await engine.dead_letter(envelope, ended.reason or "failed")


async def publish(records: Records, engine: Engine, envelope: Envelope) -> None:
    """Hand a task to the engine, not before its time, and note that it has it. Raises EngineUnavailable."""
    import asyncio

    papers = await asyncio.to_thread(records.papers, envelope.task_id)
    until = due(papers or Papers(envelope=envelope))
    delay = max(0.0, (until - utc_now()).total_seconds()) if until else 0.0
    await engine.publish(envelope, delay=delay)
    await asyncio.to_thread(records.marks.published, envelope.task_id)
