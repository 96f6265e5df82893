"""The evidence of an attempt: what the agent left and what the daemon made, put into the store and checked."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agentq.commit import REPORT
from agentq.errors import Invalid
from agentq.harmless import one_line
from agentq.messages import SUMMARY_LIMIT, Artifact, shorten
from agentq.note import NOTE
from agentq.proposal import PROPOSAL
from agentq.quota import Quota
from agentq.records import Records
from agentq.runner import NOT_BEFORE

PATCH, TEST_OUTPUT, TRANSCRIPT, SUMMARY = "patch", "test-output", "transcript", "summary"
FILES_LIMIT = 1000
"""How many files of an agent are evidence at most."""
FAULTS_TOLD = 10
_PAPERS = frozenset({"proposal"})  # what lies beside the evidence and is none
_NOT_A_KEY = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(slots=True)
class Evidence:
    """What one attempt brought, and what is wrong with it."""

    artifacts: list[Artifact] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def of(self, name: str) -> Artifact | None:
        """The artifact of that name."""
        return next((a for a in self.artifacts if a.name == name), None)

    def in_words(self) -> str:
        """What is wrong with it, bounded."""
        told = [shorten(one_line(fault), SUMMARY_LIMIT) for fault in self.faults[:FAULTS_TOLD]]
        more = len(self.faults) - len(told)
        return "; ".join([*told, f"and {more} more"] if more else told)

    def require(self, names: Iterable[str]) -> None:
        """Note every name that has no artifact, or an empty one."""
        for name in dict.fromkeys(names):
            artifact = self.of(name)
            if artifact is None:
                self.faults.append(f"{name} is missing")
            elif artifact.bytes == 0:
                self.faults.append(f"{name} is empty")


class Collector:
    """Puts the pieces of one attempt under its prefix; the daemon's own names cannot be taken by the agent."""

    def __init__(self, records: Records, prefix: str, quota: Quota) -> None:
        self._records = records
        self._prefix = prefix
        self._quota = quota
        self.evidence = Evidence()

    def restart(self) -> None:
        """Forget what was noted: the same pieces are put again."""
        self.evidence, self._quota.used = Evidence(), 0

    def copy(self) -> "Collector":
        """A collector that goes on from here without changing this one."""
        other = Collector(self._records, self._prefix, self._quota.copy())
        other.evidence = Evidence(list(self.evidence.artifacts), list(self.evidence.faults))
        return other

    def add(
        self, name: str, source: Path | bytes, *, suffix: str, made_by: str = "daemon", bounded: bool = False
    ) -> None:
        """Put one piece and note it; over the quota it is a fault instead, unless it is bounded in another way."""
        size = len(source) if isinstance(source, bytes) else _size(source)
        fault = None if bounded else self._quota.fault(name, size)
        if fault:
            self.evidence.faults.append(fault)
            return
        artifact = self._records.artifacts.add(self._prefix, name, source, suffix=suffix, made_by=made_by)
        self._quota.used += artifact.bytes
        self.evidence.artifacts.append(artifact)

    def add_output(self, output: Path) -> None:
        """Put every regular file that the agent left in its output folder; links, `not-before` and its proposal are
        left out. One that cannot be read is a fault of the evidence, and so are too many.
        """
        taken = {artifact.name for artifact in self.evidence.artifacts} | _PAPERS
        found, faults = _files(output)
        self.evidence.faults += faults
        for path in found:
            name, suffix = _name(path.relative_to(output))
            while name in taken:
                name = f"agent-{name}"
            taken.add(name)
            try:
                self.add(name, path, suffix=suffix, made_by="agent")
            except Invalid as error:
                self.evidence.faults.append(str(error))


class LateCollector(Collector):
    """Puts only what is not there yet: for an attempt whose daemon died, perhaps in the middle of doing the same."""

    def __init__(self, records: Records, prefix: str, quota: Quota) -> None:
        super().__init__(records, prefix, quota)
        self._there = set(records.store.keys(prefix))

    def add(
        self, name: str, source: Path | bytes, *, suffix: str, made_by: str = "daemon", bounded: bool = False
    ) -> None:
        """Put one piece unless its key is taken."""
        if f"{self._prefix}{name}{suffix}" not in self._there:
            super().add(name, source, suffix=suffix, made_by=made_by, bounded=bounded)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError as error:
        raise Invalid(f"cannot read the file {path}: {error.strerror}") from error


def summary_from(texts: Iterable[str]) -> str:
    """The first paragraph of the first text that has one, without headings, bounded."""
    for text in texts:
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
            if paragraph := " ".join(" ".join(lines).split()):
                return shorten(paragraph, SUMMARY_LIMIT)
    return ""


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files in a folder that are evidence, and what is wrong with it; no link is followed, not even its own."""
    found: list[Path] = []
    faults: list[str] = [f"{folder} is a symbolic link"] if folder.is_symlink() else []
    waiting = [] if faults else [folder]
    while waiting and len(found) <= FILES_LIMIT:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            faults.append(f"cannot read the folder {here}: {error.strerror}")
            continue
        waiting += [Path(entry) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        found += [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
    if len(found) > FILES_LIMIT:
        faults.append(f"it left more than {FILES_LIMIT} files: put them into an archive")
    return [path for path in found[:FILES_LIMIT] if not _is_word(path, folder)], faults


def _is_word(path: Path, folder: Path) -> bool:
    """Whether a file is the agent's word to its worker, not evidence."""
    return path.parent == folder and (path.name == NOT_BEFORE or path.name.startswith((PROPOSAL, NOTE)))


def _name(path: Path) -> tuple[str, str]:
    """An artifact's name and suffix from its path in the output folder: `risks.md` is risks, `a/b.txt` is a-b."""
    flat = _NOT_A_KEY.sub("-", "-".join(path.parts)).lstrip(".-") or "unnamed"
    suffix = Path(flat).suffix
    return (flat.removesuffix(suffix) or "unnamed")[:64], suffix[:16]


def report_text(evidence: Evidence, final_text: str, summary: str) -> bytes | None:
    """The report to write when the agent left none: its last words, else its summary; None when there is neither."""
    if evidence.of(REPORT):
        return None
    text = final_text.strip() or summary.strip()
    return f"{text}\n".encode() if text else None
