"""The evidence of an attempt whose agent has ended: gathered, proven where the worker can, checked against what was
asked for."""

import asyncio
import functools
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentq.artifacts import evidence_prefix
from agentq.commit import REPORT
from agentq.decided import ANSWER, DECISION, DECISION_LIMIT, read_decided
from agentq.errors import Invalid
from agentq.evidence import (
    PATCH,
    SUMMARY,
    TEST_OUTPUT,
    TRANSCRIPT,
    UNDONE,
    Collector,
    Evidence,
    report_text,
    section_of,
    summary_from,
)
from agentq.judgement import SHAPE, VERDICT, VERDICT_LIMIT, read_judgement
from agentq.messages import Artifact, Envelope
from agentq.papers import Proposal
from agentq.patience import patiently
from agentq.profile import Profile
from agentq.quota import Quota
from agentq.records import Records
from agentq.runner import Ran
from agentq.scratch import Scratch
from agentq.workspace import Workspace, files_in

Verify = Callable[[], Awaitable[Ran | None]]
"""Runs the profile's verify command, its output going to the scratch's `tests`; None when there is none to run."""


@dataclass(slots=True)
class _Changes:
    """What the agent changed in its workspace: to be kept, or undone; and what could not be told."""

    patch: bytes | None = None
    undone: bytes | None = None
    faults: list[str] = field(default_factory=list)


class Gathering:
    """Puts what one attempt left into the store."""

    def __init__(
        self, records: Records, profile: Profile, envelope: Envelope, scratch: Scratch, workspace: Workspace | None
    ) -> None:
        self._records, self._profile, self._envelope = records, profile, envelope
        self._scratch, self._workspace = scratch, workspace
        self._changes = _Changes()

    async def run(self, ran: Ran, proposal: Proposal | None, verify: Verify, *, overfull: bool) -> tuple[Evidence, str]:
        """All that the attempt left, checked, and its summary; a store that is away is waited for.

        Of an agent that was stopped because it filled the disk there is no patch: that would fill the memory, too.
        """
        limits = self._profile.limits
        prefix = evidence_prefix(self._envelope.task_id, self._scratch.attempt)
        collector = Collector(self._records, prefix, Quota(limits.artifact_bytes, limits.attempt_bytes))
        if not overfull:
            self._changes = await asyncio.to_thread(self._look)
        await patiently(functools.partial(self._add_own, collector))
        if ran.ended == "done" and (proof := await verify()):
            await patiently(functools.partial(self._add_proof, collector, proof))
        return await patiently(functools.partial(self._add_agents, collector, ran, proposal))

    def _look(self) -> _Changes:
        """What it changed; once, for what is undone cannot be seen again."""
        changes, workspace = _Changes(), self._workspace
        try:
            if workspace:
                changes.patch, changes.undone = workspace.patch(), workspace.undo()
        except Invalid as error:
            changes.faults.append(f"the patch could not be made: {error}")
        return changes

    def _add_own(self, collector: Collector) -> None:
        collector.restart()
        if self._scratch.transcript.exists():
            collector.add(TRANSCRIPT, self._scratch.transcript, suffix=".log", bounded=True)
        collector.evidence.faults += self._changes.faults
        if self._changes.patch:
            collector.add(PATCH, self._changes.patch, suffix=".diff")
        elif not self._changes.faults:
            collector.evidence.lacks[PATCH] = self._why_no_patch()
        if self._changes.undone:
            collector.add(UNDONE, self._changes.undone, suffix=".diff")
            collector.evidence.lacks[PATCH] = f"{files_in(self._changes.undone)} files were changed, which was undone"

    def _why_no_patch(self) -> str:
        kind = self._profile.workspace.kind
        return f"a workspace of kind {kind} makes none" if kind in ("none", "read-only") else "nothing was changed"

    def _add_proof(self, collector: Collector, proof: Ran) -> None:
        """The output of the verify command, with its exit code; a failure is a fault of the evidence."""
        command = shlex.join(self._profile.evidence.verify)
        how = proof.reason if proof.exit_code is None else f"exit status {proof.exit_code}"
        said = self._scratch.tests.read_bytes() if self._scratch.tests.exists() else b""
        newline = b"\n" if said and not said.endswith(b"\n") else b""
        text = said + newline + f"[{command}: {how}]\n".encode(errors="surrogateescape")
        collector.add(TEST_OUTPUT, text, suffix=".txt", bounded=True)
        if proof.ended != "done":
            collector.evidence.faults.append(f"the verify command ({command}) {proof.reason}")

    def _add_agents(self, own: Collector, ran: Ran, proposal: Proposal | None) -> tuple[Evidence, str]:
        collector = own.copy()
        collector.add_output(self._scratch.output, self._reserved())
        evidence, asked = collector.evidence, self._asked()
        evidence.lacks[VERDICT] = f"write {SHAPE} to {VERDICT}.json"
        evidence.lacks[DECISION] = f"write it to {DECISION}.json"
        evidence.lacks[ANSWER] = f"write it to {ANSWER}.md, or as the text of {DECISION}.json"
        summary = self._summary(evidence, proposal, ran)
        self._add_report(collector, self._text(evidence.of(ANSWER)) or ran.final_text, summary)
        if DECISION in asked:
            self._add_sections(collector, (*asked, ANSWER))
            self._decide(collector, ran)
            asked = (*asked, ANSWER)
            answer = self._text(evidence.of(ANSWER))
            summary = summary or summary_from([answer])
            self._add_report(collector, answer, summary)
        else:
            self._add_sections(collector, asked)
        unread = DECISION in asked and evidence.of(DECISION) and not evidence.decided  # it may have an answer
        untold = {REPORT, ANSWER} if unread else ()
        evidence.require(name for name in (REPORT, *asked) if evidence.of(name) or name not in untold)
        if VERDICT in asked:
            self._judge(evidence)
        return evidence, summary

    def _add_report(self, collector: Collector, text: str, summary: str) -> None:
        if report := report_text(collector.evidence, text, summary):
            collector.add(REPORT, report, suffix=".md", made_by="agent")

    def _decide(self, collector: Collector, ran: Ran) -> None:
        """Take the agent's decision for its word, and its answer from wherever it stands; a decision that is none is a
        fault. How it should be is in every attempt's prompt."""
        evidence = collector.evidence
        if not (found := evidence.of(DECISION)):
            return
        try:
            if found.bytes > DECISION_LIMIT:
                raise Invalid(f"the decision has {found.bytes} bytes, {DECISION_LIMIT} is the limit")
            decided = read_decided(self._records.artifacts.read(found))
        except Invalid as error:
            evidence.faults.append(str(error))
            return
        evidence.decided = decided.chosen
        if not evidence.of(ANSWER) and (text := decided.answer(ran.final_text)):
            collector.add(ANSWER, f"{text}\n".encode(errors="replace"), suffix=".md", made_by="agent")

    def _judge(self, evidence: Evidence) -> None:
        """Take the verdict of a review for its word; one that is none is a fault that says how it should be."""
        if not (found := evidence.of(VERDICT)):
            return
        try:
            if found.bytes > VERDICT_LIMIT:
                raise Invalid(f"the verdict has {found.bytes} bytes, {VERDICT_LIMIT} is the limit")
            evidence.verdict = read_judgement(self._records.artifacts.read(found)).verdict
        except Invalid as error:
            evidence.faults.append(". ".join(filter(None, (str(error), error.hint))))

    def _reserved(self) -> set[str]:
        """What this worker makes itself, also when there is none this time: no claim stands in for it."""
        patch = {PATCH} if self._profile.workspace.kind in ("git-worktree", "copy") else set()
        return patch | ({TEST_OUTPUT} if self._profile.evidence.verify else set())

    def _asked(self) -> tuple[str, ...]:
        return (*self._envelope.expected_output.artifacts, *self._profile.evidence.artifacts)

    def _add_sections(self, collector: Collector, names: tuple[str, ...]) -> None:
        """What was asked for and has no file of its own may be a section of the report."""
        missing = [name for name in dict.fromkeys(names) if not collector.evidence.of(name) and name not in _DAEMONS]
        if not missing or not (report := collector.evidence.of(REPORT)):
            return
        text = self._records.artifacts.read(report).decode(errors="replace")
        for name in missing:
            if section := section_of(text, name):
                collector.add(name, f"{section}\n".encode(), suffix=".md", made_by="agent")

    def _summary(self, evidence: Evidence, proposal: Proposal | None, ran: Ran) -> str:
        said = [proposal.summary] if proposal else []
        files = [self._text(evidence.of(name)) for name in (SUMMARY, REPORT, ANSWER)]
        return summary_from([*said, *files, ran.final_text])

    def _text(self, artifact: Artifact | None) -> str:
        return self._records.artifacts.read(artifact).decode(errors="replace") if artifact else ""


_DAEMONS = frozenset({PATCH, TEST_OUTPUT, TRANSCRIPT, UNDONE})
