"""A group: a task made of tasks. It is registered and never delivered; the end of its last task commits it.

Its own paper names all its tasks, so that whoever finds it half-registered can finish it.
"""

from collections.abc import Iterator, Sequence

from agentq.artifacts import evidence_prefix
from agentq.commit import REPORT, commit
from agentq.lifecycle import NEEDS, cancelled_because
from agentq.loops import Conclusion, concluded, was_needed
from agentq.messages import Completion, Envelope, sha256_hex, total
from agentq.papers import Cancel
from agentq.records import Records

NAMED = 3
"""How many of the tasks of a group that did not complete its reason names."""


def members(group: Envelope) -> Iterator[Envelope]:
    """The group's tasks as they are registered: the same for every hand that does it."""
    assert group.store is not None
    assert group.created_at is not None
    for task in group.plan:
        yield task.registered(group.store, group.created_at)


def plant(records: Records, group: Envelope) -> list[Envelope]:
    """Register every task of a registered group that is not; answers with those that nobody is known to have published.

    A task with gates is not among them: it is to be looked at afterwards.
    """
    unpublished = []
    for task in members(group):
        found = records.envelope(task.task_id) or records.register(task)
        if not found.has_gates and records.marks.is_unpublished(found.task_id):
            unpublished.append(found)
    return unpublished


def ask_members(records: Records, group: Envelope, cancel: Cancel) -> None:
    """Ask to cancel every task of a group that has not ended, those first that wait for the others."""
    for task in reversed(group.plan):
        if records.manifest(task.task_id) is None:
            records.ask_cancel(task.task_id, cancel)


def conclude(records: Records, group: Envelope) -> Completion | None:
    """Commit a group all of whose tasks have ended; of several hands that do so the first one holds."""
    end = conclusion(records, group)
    return commit(records, end) if end else None


def conclusion(records: Records, group: Envelope) -> Completion | None:
    """How a group ends, the same for every hand that looks, its report put down; None while not all of it has ended."""
    ended = []
    for task in reversed(group.plan):  # the last ones end last
        manifest = records.manifest(task.task_id)
        if manifest is None:
            return None
        ended.append(manifest)
    return _completion(records, group, list(reversed(ended)))


def _completion(records: Records, group: Envelope, ended: Sequence[Completion]) -> Completion:
    ran = [m for m in ended if was_needed(m)]
    end = concluded(records, ended) if group.review else _of_plan(ran)
    cancel = records.cancel(group.task_id) if end.status == "cancelled" else None
    report = records.artifacts.add(
        evidence_prefix(group.task_id, "plan"), REPORT, _report(group, ran), suffix=".md", made_by="daemon"
    )
    return Completion(
        task_id=group.task_id,
        from_="agentq",
        to=group.from_,
        status=end.status,
        attempt=0,
        finished_at=max(m.finished_at for m in ended),
        summary=end.summary,
        reason=cancelled_because(cancel) if cancel else end.reason,
        verified=end.verified,
        result_sha256=report.sha256,
        artifacts=(report, *end.artifacts),
        usage=total(tuple(m.usage for m in ran)),
        envelope_sha256=sha256_hex(records.registered(group.task_id) or b""),
        traceparent=group.traceparent,
    )


def _of_plan(ended: Sequence[Completion]) -> Conclusion:
    worst = next((s for s in ("failed", "expired", "cancelled") if any(m.status == s for m in ended)), None)
    others = [m for m in ended if m.status != "completed"]
    return Conclusion(
        status="completed" if worst is None else "cancelled" if worst == "cancelled" else "failed",
        reason=_reason(others),
        summary=f"{len(ended) - len(others)} of {len(ended)} tasks completed",
        verified=worst is None and all(m.verified for m in ended),
    )


def _reason(others: Sequence[Completion]) -> str | None:
    """The first tasks that did not complete, without those that only followed another one."""
    first = ([m for m in others if not (m.reason or "").startswith(NEEDS)] or list(others))[:NAMED]
    named = [f"{m.task_id} {m.status}{f': {m.reason}' if m.reason else ''}" for m in first]
    more = len(others) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named) or None


def _report(group: Envelope, ended: Sequence[Completion]) -> bytes:
    """One paragraph for each task: how it ended, what its agent says, and where its result is."""
    lines = [f"# {group.task_id}", ""]
    for m in ended:
        lines.append(f"- {m.task_id}: {m.status}{'' if m.status != 'completed' or m.verified else ' (unverified)'}")
        lines += [f"  verdict: {m.verdict}"] if m.verdict else []
        lines += [f"  reason: {' '.join(m.reason.split())}"] if m.reason else []
        lines += [f"  {m.from_} writes: {' '.join(m.summary.split())}"] if m.summary else []
        lines += [f"  {m.result_ref}"] if m.result_ref else []
    return ("\n".join(lines) + "\n").encode()
