"""What makes a guard believed: whoever may park messages can make one up, and must gain nothing by it."""

from agentq.engine import Guard
from agentq.messages import sha256_hex
from agentq.papers import Attempt, Claim, new_token

PROOF_LENGTH = 32


def guard_id(token: str) -> str:
    """A new id for a guard of the attempt with that token: whoever cannot read its papers cannot make one."""
    salt = new_token()
    return f"{salt}.{_proof(token, salt)}"


def is_genuine(guard: Guard, claim: Claim, last: Attempt) -> bool:
    """Whether a guard was made by somebody who knows the attempt, and so waited as long as it says."""
    salt, _, proof = guard.id.partition(".")
    return (last.lease is not None and last.lease.guard == guard.id) or proof == _proof(claim.token, salt)


def _proof(token: str, salt: str) -> str:
    return sha256_hex(f"{token}.{salt}".encode())[:PROOF_LENGTH]
