"""What a daemon that was killed left on this host: brought into the store as late evidence, then removed."""

import logging
from collections.abc import Iterator
from pathlib import Path

from agentq.errors import AgentqError, StoreUnavailable
from agentq.leftovers import claim_of, tidy
from agentq.ownership import bury_orphaned, is_orphaned
from agentq.profile import Profile
from agentq.records import Records
from agentq.scratch import Scratch, abandoned
from agentq.sessions import Sessions

log = logging.getLogger("agentq")


def end_orphans(records: Records, folder: Path) -> None:
    """Stop what agents of dead daemons of this host still run, as their scratches below `folder` tell.

    Blocks. Raises StoreUnavailable.
    """
    for scratch in abandoned(folder):
        try:
            claim = claim_of(records, scratch)
            if claim and is_orphaned(claim) and not bury_orphaned(claim):
                log.error("%s: something of attempt %d still runs", scratch.task_id, scratch.attempt)
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left cannot be looked for: %s", scratch.task_id, scratch.attempt, error)


def salvage(records: Records, profile: Profile, sessions: Sessions, folder: Path) -> None:
    """Bring in everything below `folder` that no daemon holds any more; what belongs to another store stays, and for a
    while a workspace that the next attempt of its task may go on in.

    Blocks. Raises StoreUnavailable; the same call then brings in the rest.
    """
    for scratch in _attempts_first(folder):
        try:
            if records.envelope(scratch.task_id) is not None:
                tidy(records, profile, sessions, scratch)
        except StoreUnavailable:
            raise
        except (AgentqError, OSError) as error:
            log.error("%s: what attempt %d left in %s stays: %s", scratch.task_id, scratch.attempt, scratch.root, error)


def _attempts_first(folder: Path) -> Iterator[Scratch]:
    """A workspace is looked at after the attempts that went on in it."""
    for left in (False, True):
        yield from (scratch for scratch in abandoned(folder) if scratch.is_left == left)
