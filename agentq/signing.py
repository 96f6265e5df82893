"""Signatures: Ed25519 over the canonical JSON (RFC 8785) of a paper without its signature, one domain for each kind.

What is signed is what lies in the store: a signature is checked over the paper's own bytes, never over a model of them,
so that fields which only a newer agentq knows do not break it.
"""

import base64
import json
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from agentq.errors import EvidenceError, Invalid
from agentq.keyring import Key, Keyring, public_half
from agentq.messages import Completion, Envelope, Message, Signature
from agentq.papers import Approval

Kind = Literal["envelope", "completion", "approval"]
M = TypeVar("M", bound=Message)

NOBODY = "agentq"
"""Whom a completion is from that follows from others, such as a plan's; its signature says in whose hands it did."""


class Unproven(EvidenceError):
    """A signature is missing, or does not hold."""


def content(paper: bytes) -> dict[str, Any]:
    """The JSON object in a paper; raises Invalid for what two readers might read differently."""
    try:
        value = json.loads(paper.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"it is not JSON that can be signed: {error}") from error
    if not isinstance(value, dict):
        raise Invalid("it is not a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands in it twice")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def to_be_signed(kind: Kind, value: dict[str, Any]) -> bytes:
    """What a signature covers: its kind, and all of the paper but the signature; raises Invalid."""
    import rfc8785

    covered = {key: item for key, item in value.items() if key != "signature"}
    try:
        return f"agentq {kind} 1\n".encode() + rfc8785.dumps(covered)
    except (ValueError, RecursionError) as error:  # a number beyond 2^53, half a character
        raise Invalid(
            f"the {kind} has no canonical JSON to be signed: {error}", hint="Write such numbers as texts."
        ) from error


class Signer:
    """Signs as whoever acts, where there is a private key of that name; without one papers stay unsigned."""

    def __init__(self, keyring: Keyring | None = None, own: str = NOBODY) -> None:
        self._keyring = keyring
        self._own = own

    def envelope(self, envelope: Envelope) -> Envelope:
        """The envelope as it is about to be registered, signed by who asks; of a plan, each of its tasks too."""
        if envelope.is_group and self._holds(envelope.from_):
            tasks = tuple(self._planned(envelope, task) for task in envelope.plan)
            envelope = envelope.model_copy(update={"plan": tasks})
        return self._sign("envelope", envelope, envelope.from_)

    def _planned(self, group: Envelope, task: Envelope) -> Envelope:
        """A task of a plan with the signature under which any hand registers it later."""
        assert group.store is not None
        assert group.created_at is not None
        signed = self.envelope(task.registered(group.store, group.created_at))
        return task.model_copy(update={"signature": signed.signature})

    def completion(self, completion: Completion) -> Completion:
        """The completion as it is about to be committed or sealed, signed by whom it is from."""
        by = self._own if completion.from_ == NOBODY else completion.from_
        return self._sign("completion", completion, by)

    def approval(self, approval: Approval) -> Approval:
        """The approval, signed by who approves."""
        return self._sign("approval", approval, approval.by)

    def _holds(self, name: str) -> bool:
        return self._keyring is not None and self._keyring.holds(name)

    def _sign(self, kind: Kind, paper: M, by: str) -> M:
        if self._keyring is None or not self._keyring.holds(by):
            return paper.model_copy(update={"signature": None})
        key = self._keyring.private(by)
        value = key.sign(to_be_signed(kind, content(paper.to_json())))
        signature = Signature(by=by, key=public_half(by, key).id, value=base64.b64encode(value).decode())
        return paper.model_copy(
            update={"signature": signature.model_dump() if isinstance(paper, Envelope) else signature}
        )


def proven(keyring: Keyring, kind: Kind, paper: bytes, by: Iterable[str] | None) -> Key:
    """The key that signed a paper, which must be trusted here and one of those names' (any for None); else Unproven."""
    try:
        value = content(paper)
        covered = to_be_signed(kind, value)
    except Invalid as error:
        raise Unproven(str(error)) from error
    signature = _signature(value.get("signature"))
    key = _trusted(keyring, signature)
    if not _holds(key, signature, covered):
        raise Unproven(f"it is not what {key.name} signed: it was altered, or is another's")
    if by is not None and key.name not in (names := list(by)):
        raise Unproven(f"it is from {', '.join(names)}, but {key.name} signed it")
    return key


def _signature(value: object) -> Signature:
    if value is None:
        raise Unproven("it is not signed")
    try:
        return Signature.model_validate(value)
    except ValidationError as error:
        raise Unproven("its signature cannot be read") from error


def _trusted(keyring: Keyring, signature: Signature) -> Key:
    key = keyring.trusted(signature.key)
    if key is None:
        raise Unproven(
            f"it is signed with the key {signature.key[:16]} (of {signature.by}, it says), which is not trusted here",
            hint="If that key is theirs: agentq keys trust LINE",
        )
    if key.revoked_at:
        raise Unproven(
            f"it is signed with the key {key.id} of {key.name}, revoked {key.revoked_at:%Y-%m-%d %H:%M:%SZ}",
            hint="What that key signed counts no more: have it done again, with another one.",
        )
    if key.name != signature.by:
        raise Unproven(f"it says that {signature.by} signed it, but the key {key.id} is {key.name}'s")
    return key


def _holds(key: Key, signature: Signature, covered: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        value = base64.b64decode(signature.value, validate=True)
        Ed25519PublicKey.from_public_bytes(key.raw).verify(value, covered)
    except (InvalidSignature, ValueError):
        return False
    return base64.b64encode(value).decode() == signature.value
