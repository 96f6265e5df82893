"""What a daemon that was killed left on this host: brought into the store as late evidence, then removed."""

import contextlib
import logging
from pathlib import Path

from agentq.artifacts import evidence_prefix
from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.evidence import PATCH, TEST_OUTPUT, TRANSCRIPT, UNDONE, LateCollector
from agentq.ownership import bury_orphaned, is_orphaned
from agentq.papers import Claim
from agentq.profile import Profile
from agentq.proposal import read_own
from agentq.quota import Quota
from agentq.records import Records
from agentq.scratch import Scratch, abandoned
from agentq.workspace import Workspace, resume_workspace

log = logging.getLogger("agentq")


def end_orphans(records: Records, folder: Path) -> None:
    """Stop what agents of dead daemons of this host still run, as their scratches below `folder` tell.

    Blocks. Raises StoreUnavailable.
    """
    for scratch in abandoned(folder):
        try:
            claim = _claim(records, scratch)
            if claim and is_orphaned(claim) and not bury_orphaned(claim):
                log.error("%s: something of attempt %d still runs", scratch.task_id, scratch.attempt)
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left cannot be looked for: %s", scratch.task_id, scratch.attempt, error)


def salvage(records: Records, profile: Profile, folder: Path) -> None:
    """Bring in everything below `folder` that no daemon holds any more; what belongs to another store stays.

    Blocks. Raises StoreUnavailable; the same call then brings in the rest.
    """
    for scratch in abandoned(folder):
        try:
            envelope = records.envelope(scratch.task_id)
            if envelope is not None:
                claim = _claim(records, scratch)
                if claim:  # what the dead daemon's agent left running must not write any more
                    bury_orphaned(claim)
                    _bring_in_proposal(records, scratch, claim)
                workspace = resume_workspace(scratch.work)
                quota = Quota(profile.limits.artifact_bytes, profile.limits.attempt_bytes)
                _bring_in(records, scratch, workspace, quota)
                workspace.remove()
                scratch.remove()
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left in %s stays: %s", scratch.task_id, scratch.attempt, scratch.root, error)


def _claim(records: Records, scratch: Scratch) -> Claim | None:
    papers = (attempt.paper for attempt in records.attempts(scratch.task_id) if attempt.number == scratch.attempt)
    return next((paper for paper in papers if isinstance(paper, Claim)), None)


def _bring_in_proposal(records: Records, scratch: Scratch, claim: Claim) -> None:
    with contextlib.suppress(Invalid):  # what the agent broke is not its word
        if proposal := read_own(scratch.output, scratch.task_id, scratch.attempt, claim.token):
            records.propose(proposal)


def _bring_in(records: Records, scratch: Scratch, workspace: Workspace, quota: Quota) -> None:
    collector = LateCollector(records, evidence_prefix(scratch.task_id, scratch.attempt), quota)
    for name, path, suffix in ((TRANSCRIPT, scratch.transcript, ".log"), (TEST_OUTPUT, scratch.tests, ".txt")):
        if path.exists():
            collector.add(name, path, suffix=suffix, bounded=True)
    with contextlib.suppress(Invalid):  # a worktree that its agent broke has no patch
        for name, change in ((PATCH, workspace.patch), (UNDONE, workspace.undo)):
            if patch := change():
                collector.add(name, patch, suffix=".diff")
    collector.add_output(scratch.output)
    for fault in collector.evidence.faults:
        log.warning("%s: attempt %d: %s", scratch.task_id, scratch.attempt, fault)
    log.info("%s: brought in what was left of attempt %d", scratch.task_id, scratch.attempt)
