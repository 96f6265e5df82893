"""The evidence of an attempt: what the agent left and what the daemon made, put into the store and checked."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentq.commit import REPORT
from agentq.errors import Invalid
from agentq.messages import SUMMARY_LIMIT, Artifact, shorten
from agentq.records import Records
from agentq.runner import NOT_BEFORE

PATCH, TEST_OUTPUT, TRANSCRIPT, SUMMARY = "patch", "test-output", "transcript", "summary"
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

    def __init__(self, records: Records, prefix: str) -> None:
        self._records = records
        self._prefix = prefix
        self.evidence = Evidence()

    def copy(self) -> "Collector":
        """A collector that goes on from here without changing this one."""
        other = Collector(self._records, self._prefix)
        other.evidence = Evidence(list(self.evidence.artifacts), list(self.evidence.faults))
        return other

    def add(self, name: str, source: Path | bytes, *, suffix: str, made_by: str = "daemon") -> None:
        """Put one piece and note it."""
        artifact = self._records.add_evidence(self._prefix, name, source, suffix=suffix, made_by=made_by)
        self.evidence.artifacts.append(artifact)

    def add_output(self, output: Path) -> None:
        """Put every regular file that the agent left in its output folder; links and `not-before` are left out.

        One that cannot be read is a fault of the evidence.
        """
        taken = {artifact.name for artifact in self.evidence.artifacts} | _PAPERS
        for path in _files(output):
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

    def __init__(self, records: Records, prefix: str) -> None:
        super().__init__(records, prefix)
        self._there = set(records.store.keys(prefix))

    def add(self, name: str, source: Path | bytes, *, suffix: str, made_by: str = "daemon") -> None:
        """Put one piece unless its key is taken."""
        if f"{self._prefix}{name}{suffix}" not in self._there:
            super().add(name, source, suffix=suffix, made_by=made_by)


def summary_from(texts: Iterable[str]) -> str:
    """The first paragraph of the first text that has one, without headings, bounded."""
    for text in texts:
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
            if paragraph := " ".join(" ".join(lines).split()):
                return shorten(paragraph, SUMMARY_LIMIT)
    return ""


def _files(folder: Path) -> Iterator[Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return (path for path in found if path != folder / NOT_BEFORE)


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
