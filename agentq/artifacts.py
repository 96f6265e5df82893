"""The evidence of tasks over a store: put under a prefix, found by its ref, and believed only with its digest."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from agentq.errors import EvidenceError
from agentq.messages import Artifact, sha256_hex, task_in
from agentq.papers import Collected
from agentq.store import Store

CHUNK = 1 << 20
MEDIA_TYPES = {
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".diff": "text/x-diff",
    ".patch": "text/x-diff",
    ".json": "application/json",
    ".html": "text/html",
}


class Artifacts:
    """The evidence of all tasks in one store.

    `homes` tells in which stores a task has lived, `collected` since when its evidence may be gone.
    """

    def __init__(
        self, store: Store, *, homes: Callable[[str], Iterable[str]], collected: Callable[[str], Collected | None]
    ) -> None:
        self._store = store
        self._homes = homes
        self._collected = collected

    def add(self, prefix: str, name: str, source: Path | bytes, *, suffix: str, made_by: str) -> Artifact:
        """Put one piece of evidence under a prefix of `artifacts/` and answer with its artifact."""
        key = f"{prefix}{name}{suffix}"
        if isinstance(source, bytes):
            self._store.put(key, source)
            sha256, size = sha256_hex(source), len(source)
        else:
            sha256, size = self._store.put_file(key, source)
        media_type = MEDIA_TYPES.get(suffix, "application/octet-stream")
        return Artifact(
            name=name, ref=self._store.ref(key), sha256=sha256, bytes=size, media_type=media_type, made_by=made_by
        )

    def check(self, artifact: Artifact) -> int:
        """The artifact's size in bytes; raises EvidenceError unless it is there with its digest. Memory does not grow
        with its size."""
        digest, size = hashlib.sha256(), 0
        with self.open(artifact) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
        if digest.hexdigest() != artifact.sha256:
            raise altered(artifact)
        return size

    def read(self, artifact: Artifact) -> bytes:
        """The artifact's content, checked against its digest; raises EvidenceError."""
        with self.open(artifact) as stream:
            data = stream.read()
        if sha256_hex(data) != artifact.sha256:
            raise altered(artifact)
        return data

    def key(self, ref: str, task_id: str) -> str | None:
        """The key here of what a task's paper refers to, also when that was written in a store which the task was at
        home in before; None for what lies anywhere else."""
        key = self._store.key(ref)
        if key is None:
            home = next((home for home in self._homes(task_id) if ref.startswith(f"{home}/")), None)
            key = None if home is None else ref.removeprefix(f"{home}/")
            if key:
                self._store.ref(key)  # raises Invalid for what is none
        return key

    def open(self, artifact: Artifact) -> BinaryIO:
        """A stream over its content, which nobody has checked yet; the caller closes it. Raises EvidenceError."""
        owner = task_in(artifact.ref)
        key = self.key(artifact.ref, owner) if owner else self._store.key(artifact.ref)
        stream = self._store.open(key) if key else None
        if stream is None and owner and (collected := self._collected(owner)):
            raise was_collected(owner, collected)
        if key is None:
            raise EvidenceError(
                f"{artifact.name} lies in another store: {artifact.ref}",
                hint=f"This store is {self._store.url}; point --store at the task's own, or: agentq store copy.",
            )
        if stream is None:
            raise EvidenceError(
                f"{artifact.name} is missing: {artifact.ref}",
                hint="Ask the store's keeper for a backup, or submit the task again: agentq retry.",
            )
        return stream


def evidence_prefix(task_id: str, attempt: int | str) -> str:
    """Where the evidence of an attempt lies (an attempt's number, or `hand-<token>`)."""
    return f"artifacts/{task_id}/{attempt}/"


def was_collected(task_id: str, collected: Collected) -> EvidenceError:
    """The error for whoever needs evidence that `gc` has removed, or is about to."""
    return EvidenceError(
        f"the evidence of {task_id} was collected on {collected.at:%Y-%m-%d}",
        hint=f"Its envelope and its summary are kept: agentq result {task_id}. Submit the work anew if you need more.",
    )


def altered(artifact: Artifact) -> EvidenceError:
    """The error for whoever needs a piece of evidence that is not what its result names."""
    return EvidenceError(
        f"{artifact.name} is not what the result names: {artifact.ref} was altered",
        hint="Do not use it. The digest in the manifest is of what the worker delivered.",
    )
