"""What a daemon that was killed left on this host: brought into the store as late evidence, then removed."""

import contextlib
import logging
from pathlib import Path

from agentq.config import Profile
from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.evidence import PATCH, TEST_OUTPUT, TRANSCRIPT, LateCollector
from agentq.messages import Envelope
from agentq.ownership import bury_orphaned
from agentq.papers import Claim
from agentq.records import Records, evidence_prefix
from agentq.scratch import Scratch, abandoned
from agentq.workspace import Workspace, resume_workspace

log = logging.getLogger("agentq")


def salvage(records: Records, profile: Profile, folder: Path) -> None:
    """Bring in everything below `folder` that no daemon holds any more; what belongs to another store stays.

    Blocks. Raises StoreUnavailable; the same call then brings in the rest.
    """
    for scratch in abandoned(folder):
        try:
            envelope = records.envelope(scratch.task_id)
            if envelope is not None:
                _stop_agent(records, scratch)
                workspace = _workspace(profile, envelope, scratch)
                _bring_in(records, scratch, workspace)
                workspace.remove()
                scratch.remove()
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left in %s stays: %s", scratch.task_id, scratch.attempt, scratch.root, error)


def _stop_agent(records: Records, scratch: Scratch) -> None:
    """What the dead daemon's agent left running must not write any more."""
    for attempt in records.attempts(scratch.task_id):
        if attempt.number == scratch.attempt and isinstance(attempt.paper, Claim):
            bury_orphaned(attempt.paper)


def _workspace(profile: Profile, envelope: Envelope, scratch: Scratch) -> Workspace:
    section, labels = profile.workspace, envelope.labels
    return resume_workspace(
        section.kind,
        folder=scratch.work,
        task_id=scratch.task_id,
        attempt=scratch.attempt,
        repository=Path(labels["repo"]) if "repo" in labels else section.repository,
    )


def _bring_in(records: Records, scratch: Scratch, workspace: Workspace) -> None:
    collector = LateCollector(records, evidence_prefix(scratch.task_id, scratch.attempt))
    for name, path, suffix in ((TRANSCRIPT, scratch.transcript, ".log"), (TEST_OUTPUT, scratch.tests, ".txt")):
        if path.exists():
            collector.add(name, path, suffix=suffix)
    with contextlib.suppress(Invalid):  # a worktree that its agent broke has no patch
        if patch := workspace.patch():
            collector.add(PATCH, patch, suffix=".diff")
    collector.add_output(scratch.output)
    log.info("%s: brought in what was left of attempt %d", scratch.task_id, scratch.attempt)
