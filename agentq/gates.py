"""Gates: what keeps a task from being started, and who opens them.

Whoever opens a gate writes its own paper first and then looks at all gates: of two who open the last two at once,
one at least sees both open. A task may so be released twice; it is started once.
"""

from agentq.artifacts import was_collected
from agentq.commit import commit_seal, seal_as
from agentq.errors import Invalid, NoSuchTask
from agentq.groups import conclude
from agentq.lifecycle import Papers, ending, expires_at
from agentq.messages import Completion, Envelope, utc_now
from agentq.papers import Release, new_token
from agentq.records import Records


def look_at_gates(
    records: Records, task_id: str, papers: Papers | None = None, *, may_release: bool = True
) -> Completion | Envelope | None:
    """Take a task one step further that may have waited until now, whoever else does so too.

    Answers with its manifest when it was to be ended, with its envelope when it was released (it is marked, and has
    to be published), and None when there is nothing to be done. `papers` saves the first look at them. Who only reads
    must not release: whoever settles what it waited for publishes it at once.
    """
    while True:
        papers = papers or records.papers(task_id)
        if papers is None or papers.manifest:
            return None
        if papers.seal:
            return commit_seal(records, papers.seal)
        if papers.envelope.is_group:
            return conclude(records, papers.envelope)
        over = ending(papers, utc_now())
        if over is None:
            shut = papers.running or papers.release or papers.moved_to or not (papers.is_gated and papers.is_open)
            return release(records, papers) if may_release and not shut else None
        if manifest := seal_as(records, papers, *over, by="agentq"):
            return manifest
        papers = None


def release(records: Records, papers: Papers) -> Envelope:
    """Say that the last gate is open. The mark comes first: who dies after it is helped by the next sweep."""
    records.marks.unpublish(papers.envelope.task_id)
    note_release(records, papers)
    return papers.envelope


def note_release(records: Records, papers: Papers) -> Papers:
    """The papers with the moment since when the task may start, which is written down now unless it is known."""
    release = records.release(papers.envelope.task_id, Release(token=new_token(), at=utc_now()))
    papers = papers.model_copy(update={"release": release})
    if expires := expires_at(papers):
        records.marks.will_expire(papers.envelope, expires)
    return papers


def check_needs(records: Records, envelope: Envelope, *, must_exist: bool = True) -> None:
    """Raise Invalid when a task would wait for itself, NotFound when it needs one that does not exist, EvidenceError
    when the evidence of one was collected."""
    mine = {envelope.task_id, *(task.task_id for task in envelope.plan)}
    asked = (*envelope.depends_on, *(need for task in envelope.plan for need in task.depends_on if need not in mine))
    for need in asked:
        if must_exist and need not in mine and not records.is_registered(need):
            raise NoSuchTask(
                f"{need}, which {envelope.task_id} is to wait for, is no task",
                records.store.url,
                remedy="Submit it first, or correct the id.",
            )
    for owner in dict.fromkeys((*asked, *envelope.borrows)):
        if owner not in mine and (collected := records.collected(owner)):
            raise was_collected(owner, collected)
    awaited = any(next(records.marks.waiting_for(task_id), None) for task_id in mine)
    waiting: dict[str, tuple[str, ...]] = {need: (envelope.task_id, need) for need in asked}
    seen: set[str] = set()
    while waiting:
        need, path = waiting.popitem()
        if need in mine:
            raise Invalid(f"it would wait for itself: {' → '.join(path)}", hint="Leave out one of these.")
        seen.add(need)
        found = records.envelope(need) if awaited else None  # there is no circle through what nobody waits for
        if found and records.manifest(need) is None:
            waiting |= {further: (*path, further) for further in found.waits_on if further not in seen}
