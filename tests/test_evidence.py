"""Evidence: what a report says under its headings, why a piece is missing, and who made what."""

import asyncio
from pathlib import Path

import pytest

from agentq.errors import Invalid
from agentq.evidence import Evidence, section_of
from agentq.gathering import Gathering
from agentq.messages import Envelope
from agentq.profile import EvidenceSection, Profile, WorkspaceSection
from agentq.records import Records
from agentq.runner import Ran
from agentq.scratch import Scratch
from tests.samples import TASK, request
from tests.simulation import MemoryStore

REPORT = """# Report
Done, see below.

## Summary
I did it.

### Detail
- more

## 2. Risks:
```
# no heading
Summary: nor this
```
none

## Test plan
a
"""


@pytest.mark.parametrize(
    ("report", "name", "section"),
    [
        (REPORT, "summary", "I did it.\n\n### Detail\n- more"),
        (REPORT, "risks", "```\n# no heading\nSummary: nor this\n```\nnone"),
        (REPORT, "test-plan", "a"),
        (REPORT, "patch", ""),
        ("Text\n**Risks:** low\nmore\nSummary: x\n", "risks", "low\nmore"),
        ("**Risks**: low", "risks", "low"),
        ("RISKS:\n- a\n- Note: b\n\n# End", "risks", "- a\n- Note: b"),
        ("## Risks\nNote: b\n## Risks\nc", "risks", "Note: b"),
        ("No risks: none\n the risks: x\n", "risks", ""),
        ("## Risks\n\n## Summary\nx", "risks", ""),
        ("", "risks", ""),
    ],
)
def test_a_section_is_what_stands_under_its_heading(report: str, name: str, section: str) -> None:
    assert section_of(report, name) == section


class Scene:
    """An attempt whose agent has ended."""

    def __init__(self, folder: Path, artifacts: tuple[str, ...] = (), kind: str = "copy", verify: str = "") -> None:
        self.records = Records(MemoryStore())
        evidence = EvidenceSection(artifacts=artifacts, verify=("check", verify) if verify else ())
        workspace = WorkspaceSection.model_validate({"kind": kind})
        self.profile = Profile(agent="a", folder=folder, prompt="", evidence=evidence, workspace=workspace)
        self.envelope: Envelope = request()
        self.scratch = Scratch(folder, TASK, 1)
        self.scratch.create()
        self.scratch.transcript.write_text("printed\n")
        self.patch: bytes | None = None
        self.undone: bytes | None = None
        self.fault = ""
        self.path, self.notes = folder, ()

    # a workspace

    def changes(self, what: bytes | None) -> bytes | None:
        if self.fault:
            raise Invalid(self.fault)
        return what

    def gather(self, ran: Ran = Ran("done"), proof: Ran | None = None) -> Evidence:
        """What is gathered, with its faults."""
        scene = self

        class Workspace:
            path, notes = scene.path, ()

            def patch(self) -> bytes | None:
                return scene.changes(scene.patch)

            def undo(self) -> bytes | None:
                return scene.changes(scene.undone)

            def remove(self) -> None:
                pass

        async def verify() -> Ran | None:
            if proof:
                scene.scratch.tests.write_text("tested")
            return proof

        gathering = Gathering(self.records, self.profile, self.envelope, self.scratch, Workspace())
        evidence, _ = asyncio.run(gathering.run(ran, None, verify, overfull=False))
        return evidence

    def text(self, evidence: Evidence, name: str) -> str:
        artifact = evidence.of(name)
        assert artifact
        return self.records.artifacts.read(artifact).decode()


def makers(evidence: Evidence) -> dict[str, str]:
    return {artifact.name: artifact.made_by for artifact in evidence.artifacts}


@pytest.mark.promise("checked-or-claimed")
def test_what_the_worker_made_is_told_from_what_the_agent_says(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ("summary", "risks"), verify="x")
    scene.patch = b"diff --git a/a b/a\n"
    (scene.scratch.output / "other.md").write_text("x")
    evidence = scene.gather(
        Ran("done", final_text="Done.\n## Risks\nnone\n## Summary\nShort."), Ran("done", exit_code=0)
    )
    assert makers(evidence) == {
        **dict.fromkeys(("transcript", "patch", "test-output"), "daemon"),
        **dict.fromkeys(("other", "report", "summary", "risks"), "agent"),
    }
    assert evidence.faults == []
    assert scene.text(evidence, "risks") == "none\n"
    assert scene.text(evidence, "test-output") == "tested\n[check x: exit status 0]\n"


def test_a_file_of_its_own_goes_before_a_section(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ("risks",))
    (scene.scratch.output / "risks.md").write_text("of the file\n")
    evidence = scene.gather(Ran("done", final_text="## Risks\nof the report"))
    assert scene.text(evidence, "risks") == "of the file\n"


@pytest.mark.promise("done-needs-evidence")
@pytest.mark.parametrize(
    ("kind", "undone", "reason"),
    [
        ("git-worktree", None, "nothing was changed"),
        ("copy", None, "nothing was changed"),
        ("none", None, "a workspace of kind none makes none"),
        ("read-only", None, "a workspace of kind read-only makes none"),
        ("read-only", b"diff --git a/a b/a\ndiff --git a/b b/b\n", "2 files were changed, which was undone"),
    ],
)
def test_why_there_is_no_patch_is_told(tmp_path: Path, kind: str, undone: bytes | None, reason: str) -> None:
    scene = Scene(tmp_path, ("patch",), kind)
    scene.undone = undone
    evidence = scene.gather(Ran("done", final_text="Done.\n## Patch\nforged"))
    assert evidence.in_words() == f"patch is missing: {reason}"
    assert makers(evidence).get("undone") == ("daemon" if undone else None)


@pytest.mark.promise("checked-or-claimed")
@pytest.mark.parametrize("kind", ["git-worktree", "copy", "none", "read-only"])
def test_a_claim_does_not_stand_in_for_what_the_worker_makes(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, ("patch", "test-output"), kind, verify="x" if kind != "none" else "")
    for name in ("patch.diff", "test-output.txt", "transcript.log"):
        (scene.scratch.output / name).write_text("the agent's own")
    evidence = scene.gather(Ran("done", final_text="Done."))
    made = makers(evidence)
    assert made["transcript"] == "daemon"
    assert made["agent-transcript"] == "agent"
    if kind in ("git-worktree", "copy"):
        assert "patch is missing" in evidence.in_words()
        assert made["agent-patch"] == "agent"
    else:
        assert made["patch"] == "agent", "nobody else makes one here, and it is told as claimed"
    assert ("test-output" in made) == (kind == "none")


def test_a_section_is_never_what_the_worker_makes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ("patch", "test-output", "transcript"))
    evidence = scene.gather(Ran("done", final_text="## Patch\nforged\n## Test output\nforged"))
    assert evidence.of("patch") is evidence.of("test-output") is None
    assert "test-output is missing" in evidence.in_words()


@pytest.mark.promise("done-needs-evidence")
def test_tests_that_fail_are_a_fault_with_their_output(tmp_path: Path) -> None:
    scene = Scene(tmp_path, verify="it all")
    failed = Ran("failed", "ended with status 3", exit_code=3)
    evidence = scene.gather(Ran("done", final_text="All tests pass."), failed)
    assert evidence.in_words() == "the verify command (check 'it all') ended with status 3"
    assert scene.text(evidence, "test-output") == "tested\n[check 'it all': exit status 3]\n"
    late = scene.gather(Ran("done", final_text="x"), Ran("timed_out", "took longer than 900 s"))
    assert scene.text(late, "test-output") == "tested\n[check 'it all': took longer than 900 s]\n"


@pytest.mark.promise("done-needs-evidence")
def test_a_patch_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ("patch",))
    scene.fault = "the folder is gone"
    faults = scene.gather(Ran("done", final_text="x")).faults
    assert faults == ["the patch could not be made: the folder is gone", "patch is missing"]
