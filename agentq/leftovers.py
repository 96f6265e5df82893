"""What attempts left on this host whose daemons are gone: their evidence is brought in, and a workspace in which the
next attempt may go on with the conversation of its tool stays for a while."""

import contextlib
import logging
from datetime import timedelta
from pathlib import Path

from agentq.artifacts import evidence_prefix
from agentq.errors import Invalid
from agentq.evidence import PATCH, TEST_OUTPUT, TRANSCRIPT, UNDONE, LateCollector
from agentq.messages import utc_now
from agentq.ownership import bury_orphaned
from agentq.papers import Claim
from agentq.profile import Profile
from agentq.proposal import read_own
from agentq.quota import Quota
from agentq.records import Records
from agentq.scratch import Scratch
from agentq.sessions import KeptSession, Sessions
from agentq.workspace import Workspace, resume_workspace
from agentq.workspace.record import load

log = logging.getLogger("agentq")

LONGEST = timedelta(days=1)
"""How long a workspace waits for the next attempt."""


def claim_of(records: Records, scratch: Scratch) -> Claim | None:
    """The paper of the attempt whose folders these are. Raises StoreUnavailable."""
    papers = (attempt.paper for attempt in records.attempts(scratch.task_id) if attempt.number == scratch.attempt)
    return next((paper for paper in papers if isinstance(paper, Claim)), None)


def awaits(records: Records, sessions: Sessions, home: Scratch) -> KeptSession | None:
    """The conversation that the next attempt may go on with in that workspace, None when it is of no use any more.

    Raises StoreUnavailable.
    """
    kept, record = sessions.of(home.task_id), load(home.work.absolute())
    if kept is None or Path(kept.workdir) != home.work.absolute() or kept.at < utc_now() - LONGEST:
        return None
    if not record.whole or record.read_only or not home.work.is_dir():  # what was changed for reading was undone
        return None
    last = max((attempt.number for attempt in records.attempts(home.task_id)), default=0)
    over = last > kept.attempt + 1 or records.manifest(home.task_id) is not None
    return None if over else kept


def tidy(records: Records, profile: Profile, sessions: Sessions, scratch: Scratch) -> None:
    """Bring in what a dead attempt left in these folders, which are held, and leave or remove them.

    What still runs of its agent is stopped first. Blocks. Raises AgentqError, OSError.
    """
    home, gone = scratch.home, True
    if not scratch.is_left:
        if claim := claim_of(records, scratch):  # what the dead daemon's agent left running must not write any more
            gone = bury_orphaned(claim)
            _bring_in_proposal(records, scratch, claim)
        _bring_in(records, scratch, home, Quota(profile.limits.artifact_bytes, profile.limits.attempt_bytes))
    if home.attempt == scratch.attempt and gone and awaits(records, sessions, scratch):
        return scratch.leave()
    if home.attempt == scratch.attempt:
        resume_workspace(scratch.work).remove()
    scratch.remove()
    if records.manifest(scratch.task_id):
        sessions.forget(scratch.task_id)


def _bring_in_proposal(records: Records, scratch: Scratch, claim: Claim) -> None:
    with contextlib.suppress(Invalid):  # what the agent broke is not its word
        if proposal := read_own(scratch.output, scratch.task_id, scratch.attempt, claim.token):
            records.propose(proposal)


def _bring_in(records: Records, scratch: Scratch, home: Scratch, quota: Quota) -> None:
    collector = LateCollector(records, evidence_prefix(scratch.task_id, scratch.attempt), quota)
    for name, path, suffix in ((TRANSCRIPT, scratch.transcript, ".log"), (TEST_OUTPUT, scratch.tests, ".txt")):
        if path.exists():
            collector.add(name, path, suffix=suffix, bounded=True)
    _bring_in_changes(collector, resume_workspace(home.work))
    collector.add_output(scratch.output)
    for fault in collector.evidence.faults:
        log.warning("%s: attempt %d: %s", scratch.task_id, scratch.attempt, fault)
    log.info("%s: brought in what was left of attempt %d", scratch.task_id, scratch.attempt)


def _bring_in_changes(collector: LateCollector, workspace: Workspace) -> None:
    with contextlib.suppress(Invalid):  # a worktree that its agent broke has no patch
        for name, change in ((PATCH, workspace.patch), (UNDONE, workspace.undo)):
            if patch := change():
                collector.add(name, patch, suffix=".diff")
