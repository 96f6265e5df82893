"""What a daemon that was killed left on this host: brought into the store as late evidence, then removed."""

import logging
from pathlib import Path

from agentq.config import Profile
from agentq.errors import AgentqError, StoreUnavailable
from agentq.evidence import TEST_OUTPUT, TRANSCRIPT, LateCollector
from agentq.messages import Envelope
from agentq.ownership import bury_orphaned
from agentq.papers import Claim
from agentq.records import Records, evidence_prefix
from agentq.scratch import Scratch, abandoned
from agentq.workspace import remove_workspace

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
                _bring_in(records, scratch)
                _remove(profile, envelope, scratch)
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left in %s stays: %s", scratch.task_id, scratch.attempt, scratch.root, error)


def _stop_agent(records: Records, scratch: Scratch) -> None:
    """What the dead daemon's agent left running must not write any more."""
    for attempt in records.attempts(scratch.task_id):
        if attempt.number == scratch.attempt and isinstance(attempt.paper, Claim):
            bury_orphaned(attempt.paper)


def _bring_in(records: Records, scratch: Scratch) -> None:
    collector = LateCollector(records, evidence_prefix(scratch.task_id, scratch.attempt))
    for name, path, suffix in ((TRANSCRIPT, scratch.transcript, ".log"), (TEST_OUTPUT, scratch.tests, ".txt")):
        if path.exists():
            collector.add(name, path, suffix=suffix)
    collector.add_output(scratch.output)
    log.info("%s: brought in what was left of attempt %d", scratch.task_id, scratch.attempt)


def _remove(profile: Profile, envelope: Envelope, scratch: Scratch) -> None:
    section, labels = profile.workspace, envelope.labels
    remove_workspace(
        section.kind,
        folder=scratch.work,
        task_id=scratch.task_id,
        attempt=scratch.attempt,
        repository=Path(labels["repo"]) if "repo" in labels else section.repository,
    )
    scratch.remove()
