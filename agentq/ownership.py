"""Whose attempt is whose, as far as this host can tell from its own processes."""

import socket

from agentq.papers import Claim, Owner
from agentq.process_table import ProcessIdentity, is_gone, process_identity
from agentq.processes import kill_marked


def this_process() -> Owner:
    """This process as the owner of attempts."""
    identity = process_identity()
    return Owner(host=socket.gethostname(), pid=identity.pid, boot=identity.boot, started=identity.started)


def is_orphaned(claim: Claim) -> bool:
    """True only when this host can prove that the attempt's worker is gone."""
    owner = claim.owner
    return is_gone(ProcessIdentity(boot=owner.boot, pid=owner.pid, started=owner.started)) is True


def bury_orphaned(claim: Claim) -> bool:
    """The same, and what the dead worker's agent left running on this host is stopped first."""
    return is_orphaned(claim) and kill_marked(claim.token)


def stop_silent(claim: Claim) -> bool:
    """Stop what the agent of a worker that is silent, but not dead, still runs on this host; True when it is gone."""
    return claim.owner.boot == process_identity().boot != "" and kill_marked(claim.token)
