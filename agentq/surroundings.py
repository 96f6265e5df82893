"""What the programs of an attempt find in their environment, and nothing else of the daemon's."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentq.lineage import idempotency_key
from agentq.profile import PASSED_ENVIRONMENT, Profile
from agentq.records import Records
from agentq.scratch import Scratch
from agentq.verdict import Start


def surroundings(
    profile: Profile, records: Records, start: Start, scratch: Scratch, more: Mapping[str, str]
) -> Mapping[str, str]:
    """The environment of an attempt, without the variables by which its agent finds its login."""
    section = profile.environment
    return {**_passed(section.let_through), **section.set, **_own(profile, records, start, scratch), **more}


def credentials(profile: Profile) -> Mapping[str, str]:
    """The variables by which the profile's agent finds its login: for the agent alone, no verify command needs them."""
    return {name: os.environ[name] for name in profile.runner.credentials if name in os.environ}


def _passed(let_through: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in (*PASSED_ENVIRONMENT, *let_through) if name in os.environ}


def _own(profile: Profile, records: Records, start: Start, scratch: Scratch) -> dict[str, str]:
    own = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}",
        "AGENTQ_TASK_ID": start.papers.envelope.task_id,
        "AGENTQ_ATTEMPT": str(start.claim.attempt),
        "AGENTQ_TOKEN": start.claim.token,
        "AGENTQ_AGENT": profile.agent,
        "AGENTQ_IDEMPOTENCY_KEY": idempotency_key(records, start.papers.envelope),
        "AGENTQ_OUTPUT": str(scratch.output),
        "AGENTQ_STORE": records.store.address,
    }
    copies = {"CONTEXT": scratch.context, "EARLIER": scratch.earlier, "NEEDS": scratch.needs}
    return own | {f"AGENTQ_{name}": str(path) for name, path in copies.items() if path.exists()}
