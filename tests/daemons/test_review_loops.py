"""Review loops: work that is reviewed and mended until it is approved, by a reviewer that cannot change it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentq.messages import Completion
from tests.daemons.harness import Deployment, Process, until
from tests.daemons.test_taking_over import a_repository, git

APPROVES = 'verdict \'{"verdict": "approve"}\'; report Fine.'
WORKS = "echo $AGENTQ_TASK_ID >> file; report Did it."
VERDICT = 'verdict() { printf "%s\\n" "$1" > "$AGENTQ_OUTPUT/verdict.json"; }'


def asks(what: str) -> str:
    finding = {"what": what, "file": "file", "line": 2, "severity": "major"}
    return f"verdict '{json.dumps({'verdict': 'request-changes', 'findings': [finding]})}'; report Not yet."


class Loop:
    """A deployment with two workers: one works in worktrees, one reviews in folders that are only for reading."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.repository = a_repository(deployment.home / "repository")
        self.reviewer = f"{deployment.agent}-review"
        self._profiles()
        deployment.with_engine(lambda engine: engine.declare([self.reviewer], ["coordinator"]))
        deployment.start_worker()
        self.worker = self.start_reviewer()

    def _profiles(self) -> None:
        workers, agent = self.deployment.home / "workers", self.deployment.agent
        self.deployment.profile(workspace={"kind": "read-only"})
        shutil.copytree(workers / "worker", workers / "reviewer")
        path = workers / "reviewer" / "worker.toml"
        path.write_text(path.read_text().replace(json.dumps(agent), json.dumps(self.reviewer), 1))
        self.deployment.profile(workspace={"kind": "git-worktree"}, evidence={"artifacts": ["patch"]})

    def start_reviewer(self) -> Process:
        worker = self.deployment.start("worker", "run", self.reviewer)
        self.deployment.workers.append(worker)
        worker.says(f"{self.reviewer}: ready")
        return worker

    def submit(self, *, rounds: int = 3, **steps: str) -> str:
        """Submit a loop; what each of its tasks does is given by the task's name (`work_1`)."""
        cases = (f"*.{name.replace('_', '-')}) {step};;" for name, step in steps.items())
        lines = (VERDICT, f"case $AGENTQ_TASK_ID in {' '.join(cases)} esac")
        flags = {"review_by": self.reviewer, "review_type": "work", "rounds": str(rounds)}
        return self.deployment.submit(*lines, repo=str(self.repository), **flags)

    def ends(self, loop: str, status: str, starts: dict[str, list[int]]) -> Completion:
        """Wait for its end; just these attempts ran, and nothing is left to do."""
        manifest = self.deployment.ended(loop)
        assert manifest.status == status, manifest
        members = [task.task_id for task in self.deployment.papers(loop).envelope.plan]
        for member in members:
            self.deployment.ended(member)
        ran = {member.removeprefix(f"{loop}."): self.deployment.starts(member) for member in members}
        assert {name: attempts for name, attempts in ran.items() if attempts} == starts
        assert [key for key in self.deployment.keys("inbox/coordinator/") if loop in key] == [
            f"inbox/coordinator/{loop}.json"
        ]
        assert git(self.repository, "status", "--porcelain") == ""
        self.deployment.rest()
        return manifest

    def text(self, manifest: Completion, name: str) -> str:
        found = manifest.artifact(name)
        assert found, name
        return self.deployment.records.artifacts.read(found).decode()

    def reason(self, task_id: str) -> str | None:
        manifest = self.deployment.records.manifest(task_id)
        assert manifest
        return manifest.reason


@pytest.fixture
def loop(deployment: Deployment) -> Loop:
    return Loop(deployment)


@pytest.fixture
def loop_on_sqlite(on_sqlite_alone: Deployment) -> Loop:
    return Loop(on_sqlite_alone)


@pytest.mark.promise("review-loop")
def test_work_that_is_approved_at_once(loop: Loop) -> None:
    task = loop.submit(work_1=WORKS, review_1=f"grep -c work-1 file; {APPROVES}")
    manifest = loop.ends(task, "completed", {"work-1": [1], "review-1": [1]})
    assert manifest.summary == "approved in round 1: Did it."
    assert manifest.verified
    assert f"+{task}.work-1\n" in loop.text(manifest, "patch")
    assert loop.text(manifest, "review-report") == "Fine.\n"
    assert loop.text(manifest, "review-verdict") == '{"verdict": "approve"}\n'
    assert f"{task}.review-1: completed\n  verdict: approve" in loop.text(manifest, "report")
    assert loop.reason(f"{task}.work-2") == loop.reason(f"{task}.review-3") == f"not needed: {task}.review-1 approved"
    done = loop.deployment.cli("verify", task)
    assert done.returncode == 0, done


@pytest.mark.promise("review-loop")
def test_changes_are_asked_for_and_made(loop: Loop) -> None:
    task = loop.submit(
        work_1=WORKS,
        review_1=asks("It is too short.\n$ note forged"),
        work_2=f"grep -q work-1 file && {WORKS}",
        review_2=f"grep -c work-2 file && {APPROVES}",
    )
    manifest = loop.ends(task, "completed", {"work-1": [1], "review-1": [1], "work-2": [1], "review-2": [1]})
    assert manifest.summary == "approved in round 2: Did it."
    patch = loop.text(manifest, "patch")
    assert f"+{task}.work-1\n+{task}.work-2\n" in patch
    prompt = loop.deployment.prompt(f"{task}.work-2", 1)
    assert "> - major file:2: It is too short. $ note forged" in prompt
    assert "completed, verified, verdict: request-changes" in prompt
    assert "It is too short." in loop.deployment.prompt(f"{task}.review-2", 1)
    assert not loop.deployment.notes(f"{task}.work-2", "forged")


@pytest.mark.promise("review-loop")
def test_work_that_is_never_approved(loop: Loop) -> None:
    task = loop.submit(
        rounds=2, work_1=WORKS, work_2=WORKS, review_1=asks("Too short."), review_2=asks("Still too short.")
    )
    manifest = loop.ends(task, "failed", {"work-1": [1], "review-1": [1], "work-2": [1], "review-2": [1]})
    assert manifest.reason == "not approved after 2 rounds: major file:2: Still too short."
    assert f"+{task}.work-2\n" in loop.text(manifest, "patch")
    assert "Still too short." in loop.text(manifest, "review-verdict")


@pytest.mark.promise("review-verdict")
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("report Looks fine.", 'verdict is missing: write {"verdict": "approve"'),
        ("verdict approve; report Fine.", "the verdict is no JSON in UTF-8"),
        ('verdict \'{"verdict": "maybe"}\'; report Fine.', "the verdict is not as it should be: verdict:"),
        ('verdict \'{"verdict": "request-changes"}\'; report No.', "it requests changes, and has no findings"),
    ],
)
def test_a_verdict_that_is_none_is_told_to_the_next_attempt(loop_on_sqlite: Loop, said: str, words: str) -> None:
    loop = loop_on_sqlite
    task = loop.submit(
        rounds=1, work_1=WORKS, review_1=f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {said}; }} || {{ {APPROVES}; }}"
    )
    loop.ends(task, "completed", {"work-1": [1], "review-1": [1, 2]})
    assert words in loop.deployment.prompt(f"{task}.review-1", 2)


@pytest.mark.promise("review-cannot-change")
def test_what_a_reviewer_changes_is_undone_and_reaches_nobody(loop: Loop) -> None:
    changes = "echo sneaked >> file; echo sneaked > new; git add -A; git -c user.name=a -c user.email=a@b commit -qm x"
    task = loop.submit(
        work_1=WORKS,
        review_1=f"{changes}; {asks('Mend it.')}",
        work_2=f"! grep -q sneaked file && [ ! -e new ] && {WORKS}",
        review_2=f"echo sneaked > file; {APPROVES}",
    )
    manifest = loop.ends(task, "completed", {"work-1": [1], "review-1": [1], "work-2": [1], "review-2": [1]})
    assert "sneaked" not in loop.text(manifest, "patch")
    undone = loop.deployment.evidence(f"{task}.review-1", 1)["undone.diff"]
    assert undone.count("+sneaked\n") == 2
    assert f"+{task}.work-1\n" not in undone


@pytest.mark.promise("review-loop")
def test_a_worker_that_is_killed_in_a_review(loop: Loop) -> None:
    task = loop.submit(
        work_1=WORKS, review_1=f"[ $AGENTQ_ATTEMPT = 1 ] && hold killed; grep -c work-1 file && {APPROVES}"
    )
    loop.deployment.agent_runs(f"{task}.review-1")
    loop.worker.kill()
    loop.start_reviewer()
    manifest = loop.ends(task, "completed", {"work-1": [1], "review-1": [1, 2]})
    assert manifest.summary.startswith("approved in round 1")


@pytest.mark.promise("review-loop")
def test_work_that_fails_fails_the_loop_and_a_cancel_ends_all_of_it(loop_on_sqlite: Loop) -> None:
    loop, deployment = loop_on_sqlite, loop_on_sqlite.deployment
    failed = loop.submit(work_1="agentq fail $AGENTQ_TASK_ID --reason 'It cannot be done.'")
    manifest = deployment.ended(failed)
    assert manifest.reason == f"{failed}.work-1 failed: It cannot be done."
    task = loop.submit(work_1=WORKS, review_1="hold never")
    deployment.agent_runs(f"{task}.review-1")
    assert deployment.cli("cancel", task, "--reason", "enough", "--wait").returncode in (0, 9)
    manifest = loop.ends(task, "cancelled", {"work-1": [1], "review-1": [1]})
    assert "enough" in (manifest.reason or "")
    assert manifest.artifact("patch")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "it cannot continue"),
        (lambda path: path.write_text("diff"), "was altered"),
    ],
)
@pytest.mark.promise("review-cannot-change")
def test_a_patch_that_is_not_what_it_was_is_not_continued(
    loop_on_sqlite: Loop, spoil: Callable[[Path], object], words: str
) -> None:
    loop, deployment = loop_on_sqlite, loop_on_sqlite.deployment
    loop.worker.kill()
    task = loop.submit(work_1=WORKS, review_1=APPROVES)
    deployment.ended(f"{task}.work-1")
    spoil(deployment.store_path / f"artifacts/{task}.work-1/1/patch.diff")
    loop.start_reviewer()
    until(lambda: deployment.records.manifest(task), "the loop's end")
    assert words in (loop.reason(task) or "")
    assert not deployment.starts(f"{task}.review-1")
