"""Whom one believes: a worker whose tasks it runs, a coordinator whose completions it takes for proven."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentq.errors import Invalid, StoreUnavailable
from agentq.keyring import Key, Keyring
from agentq.lifecycle import Papers
from agentq.messages import Completion, Doubted, sha256_hex
from agentq.profile import Profile
from agentq.records import Records
from agentq.signing import NOBODY, Kind, Signer, Unproven, proven

ANY_TYPE = "*"


@dataclass(frozen=True, slots=True)
class Senders:
    """Whose tasks of which types a worker runs, by the names of the keys that must have signed them."""

    keyring: Keyring
    types: Mapping[str, Sequence[str]]

    def check(self) -> None:
        """Raise Invalid when no task at all could be run: without any key that may have signed one."""
        self.keyring.check()
        trusted = {key.name for key in self.keyring if key.revoked_at is None}
        if not trusted & self.types.keys():
            raise Invalid(
                f"signatures of {', '.join(self.types)} are required, and no key of that name is trusted here",
                hint=f"Trust one: agentq keys trust LINE. The keys are in {self.keyring.folder}.",
            )

    def refusal(self, papers: Papers) -> str | None:
        """Why a task must not be run as it stands in its papers; None when all of it is from who may ask for it."""
        envelope = papers.envelope
        if (fault := self._fault("envelope", papers.registered, [envelope.from_])) is not None:
            return f"nothing proves that {envelope.from_} asked for this: {fault}"
        if not {ANY_TYPE, envelope.type} & set(self.types.get(envelope.from_, ())):
            return f"tasks of type {envelope.type} are not run for {envelope.from_} here"
        if envelope.context_ref and envelope.context_sha256 is None:
            return f"the signature of {envelope.from_} does not cover the context: the envelope has no digest of it"
        return self._approval(papers)

    def _approval(self, papers: Papers) -> str | None:
        approved = papers.approved
        if approved is None or not papers.needs_approval:
            return None
        if approved.digest != papers.digest:
            return f"the approval by {approved.by} is of something else"
        fault = self._fault("approval", papers.approval, [approved.by])
        return None if fault is None else f"nothing proves that {approved.by} approved this: {fault}"

    def _fault(self, kind: Kind, paper: bytes, by: list[str]) -> str | None:
        try:
            proven(self.keyring, kind, paper, by)
        except Unproven as error:
            return str(error)
        return None


def of_worker(keyring: Keyring, profile: Profile) -> tuple[Signer, Senders | None]:
    """How a worker signs, and whose tasks it runs, None for everybody's; raises Invalid when its keys are no use.

    What becomes wrong with the keys while it works is no fault of a task: the worker waits until that is mended.
    """
    section = profile.signatures
    if keyring.holds(profile.agent):
        keyring.private(profile.agent)
    if section.required:
        Senders(keyring, section.from_).check()
    patient = Keyring(keyring.folder, StoreUnavailable)
    return Signer(patient, profile.agent), Senders(patient, section.from_) if section.required else None


@dataclass(frozen=True, slots=True)
class Answers:
    """Which completions a coordinator takes for proven: with `required` only signed ones, else also unsigned ones."""

    records: Records
    keyring: Keyring
    required: bool = False

    def told(self, manifest: Completion) -> Completion:
        """The completion as it is to be shown: as unverified, with the reason, when it is not proven."""
        fault = self.fault(manifest)
        if fault is None:
            return manifest
        return Doubted.model_validate(manifest.model_dump() | {"verified": False, "unverified_because": fault})

    def fault(self, manifest: Completion) -> str | None:
        """Why a task's manifest is not proven; None when it is, or need not be."""
        if manifest.signature is None:
            return "it is not signed" if self.required else None
        try:
            self.proven(manifest)
        except Unproven as error:
            return str(error)
        return None

    def proven(self, manifest: Completion) -> Key:
        """The key that signed a task's manifest; raises Unproven, also when it answers another request."""
        paper = self.records.store.get(f"results/{manifest.task_id}.json") or b""
        key = proven(self.keyring, "completion", paper, None if manifest.from_ == NOBODY else [manifest.from_])
        if Completion.model_validate_json(paper) != manifest:
            raise Unproven("the result was exchanged while it was looked at")
        if manifest.envelope_sha256 != sha256_hex(self.records.registered(manifest.task_id) or b""):
            raise Unproven("it answers another request than the one that is registered")
        return key
