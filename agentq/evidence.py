"""The evidence of an attempt: what the agent left and what the daemon made, put into the store and checked."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agentq.commit import REPORT
from agentq.errors import Invalid
from agentq.harmless import one_line
from agentq.messages import SUMMARY_LIMIT, Artifact, Chosen, Decision, shorten
from agentq.proposal import PROPOSAL
from agentq.quota import Quota
from agentq.records import Records
from agentq.runner import NOT_BEFORE
from agentq.telling.note import NOTE

PATCH, TEST_OUTPUT, TRANSCRIPT, SUMMARY = "patch", "test-output", "transcript", "summary"
UNDONE = "undone"
"""What the agent of a read-only workspace changed in it all the same, as a patch."""
FILES_LIMIT = 1000
"""How many files of an agent are evidence at most."""
FAULTS_TOLD = 10
_PAPERS = frozenset({"proposal"})  # what lies beside the evidence and is none
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(?:\d+[.)][ \t]+)?(.*?)[ \t]*:?[ \t]*#*[ \t]*")
_LABELLED = re.compile(r"[*_]{0,2}([A-Z][A-Za-z -]{0,40}?)(?::[*_]{0,2}|[*_]{1,2}:)(?=\s|$)")
_LABEL = 7  # a line `Risks:` stands below every heading
_NOT_A_KEY = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(slots=True)
class Evidence:
    """What one attempt brought, and what is wrong with it."""

    artifacts: list[Artifact] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)
    """Why there is no artifact of that name, where that is known."""
    verdict: Decision | None = None
    """What the review came to, when one was asked for and brought."""
    decided: Chosen | None = None
    """What the agent decided to do, when an answer was asked for and brought."""

    def of(self, name: str) -> Artifact | None:
        """The artifact of that name, else the one that lies in a file of that name."""
        named = (a for a in self.artifacts if a.name == name)
        return next(named, None) or next((a for a in self.artifacts if PurePosixPath(a.ref).name == name), None)

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
                why = self.lacks.get(name)
                self.faults.append(f"{name} is missing: {why}" if why else f"{name} is missing")
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
        evidence = self.evidence
        other.evidence = Evidence(list(evidence.artifacts), list(evidence.faults), dict(evidence.lacks))
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

    def add_output(self, output: Path, reserved: Iterable[str] = ()) -> None:
        """Put every regular file that the agent left in its output folder; links, `not-before` and its proposal are
        left out. One that has a name which is taken or `reserved` gets another; one that cannot be read is a fault of
        the evidence, and so are too many.
        """
        taken = {artifact.name for artifact in self.evidence.artifacts} | _PAPERS | set(reserved)
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


def section_of(report: str, name: str) -> str:
    """What a report says under a heading: from `## Risks` to the next heading that is not below it, or from `Risks:` at
    the start of a line to the next such line or heading. `-` in the name stands for a space; "" when there is none.
    """
    wanted, found, depth = name.replace("-", " ").casefold(), None, 0
    fenced = False
    for line in report.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        level, title, rest = (0, "", "") if fenced else _heading(line)
        if found is None and title == wanted:
            found, depth = [rest], level
        elif found is not None and title and (level <= depth or depth == _LABEL):
            break
        elif found is not None:
            found.append(line)
    return "\n".join(found or ()).strip()


def _heading(line: str) -> tuple[int, str, str]:
    """A heading's level, its title folded, and what follows on its line; the title is "" for any other line."""
    if match := _HEADING.fullmatch(line):
        return len(match[1]), match[2].replace("-", " ").casefold(), ""
    if match := _LABELLED.match(line):
        return _LABEL, match[1].replace("-", " ").casefold(), line[match.end() :].strip()
    return 0, "", line


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
