"""Workers and their workspaces: what tasks on one repository do to each other, what a reviewer may, what is kept."""

import subprocess
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.daemons.harness import Deployment, until
from tests.daemons.test_taking_over import a_repository, git


@pytest.fixture
def repository(on_sqlite_alone: Deployment) -> Path:
    return a_repository(on_sqlite_alone.home / "the repository")


@pytest.mark.promise("checkout-untouched")
def test_tasks_on_one_repository_at_once_beside_a_user_at_work(deployment: Deployment) -> None:
    repository = a_repository(deployment.home / "repository")
    (repository / "file").write_text("the user's\n")
    deployment.profile(workspace={"kind": "git-worktree"}, limits={"parallel": 3})
    for _ in range(2):
        deployment.start_worker()
    steps = (
        "hold all",
        "echo $AGENTQ_TASK_ID > file",
        "git -c user.name=a -c user.email=a@example.org commit -q -a -m mine",
        "echo $AGENTQ_TASK_ID > new",
        "report done",
    )
    tasks = [deployment.submit(*steps, repo=str(repository), expect="patch") for _ in range(5)]
    for task in tasks:
        deployment.agent_runs(task)
    assert len(git(repository, "worktree", "list").splitlines()) == 6
    assert "uncommitted changes" in deployment.prompt(tasks[0], 1)
    deployment.open_gate("all")
    for task in tasks:
        deployment.check(task, starts=[1], attempt=1)
        patch = deployment.evidence(task, 1)["patch.diff"]
        assert patch.count(f"+{task}\n") == 2
        assert all(other not in patch for other in tasks if other != task)
    deployment.rest()
    assert (repository / "file").read_text() == "the user's\n"
    assert git(repository, "status", "--porcelain") == " M file\n"
    assert git(repository, "branch", "--list", "agentq/*") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.promise("done-needs-evidence")
def test_no_change_where_a_patch_was_asked_for_is_told_to_the_next_attempt(deployment: Deployment) -> None:
    repository = a_repository(deployment.home / "repository")
    deployment.profile(workspace={"kind": "git-worktree"})
    deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 1 ] && echo forged > $AGENTQ_OUTPUT/patch.diff || echo two > file",
        "report done",
        repo=str(repository),
        expect="patch",
    )
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "patch is missing: nothing was changed" in deployment.prompt(task, 2)
    assert deployment.evidence(task, 1)["agent-patch.diff"] == "forged\n"
    patch = deployment.evidence(task, 2)["patch.diff"].encode()
    subprocess.run(["git", "-C", repository, "apply", "-"], input=patch, check=True)
    assert (repository / "file").read_text() == "two\n"
    deployment.rest()


@pytest.mark.promise("read-only-undone")
def test_a_reviewers_changes_are_undone_before_the_verify_command_and_told(deployment: Deployment) -> None:
    repository = a_repository(deployment.home / "repository")
    before = git(repository, "for-each-ref"), (repository / ".git/config").read_text()
    deployment.profile(workspace={"kind": "read-only"}, evidence={"verify": ["cat", "file"]})
    deployment.start_worker()
    task = deployment.submit(
        "echo better > file",
        "git -c user.name=a -c user.email=a@example.org commit -q -a -m better && git branch -f main HEAD",
        "git config core.hooksPath /tmp; git tag mine",
        "report done",
        repo=str(repository),
    )
    deployment.check(task, starts=[1], attempt=1)
    found = deployment.evidence(task, 1)
    assert "+better\n" in found["undone.diff"]
    assert found["test-output.txt"] == "one\n[cat file: exit status 0]\n"
    assert "patch.diff" not in found
    assert "only for reading, which was undone" in deployment.cli("result", task).stdout
    assert (git(repository, "for-each-ref"), (repository / ".git/config").read_text()) == before
    deployment.rest()


def test_a_repository_by_url_is_cloned_for_each_attempt(on_sqlite_alone: Deployment, repository: Path) -> None:
    deployment = on_sqlite_alone
    deployment.profile(workspace={"kind": "git-worktree"})
    deployment.start_worker()
    url = repository.as_uri().replace("%20", " ")
    for content in ("one", "two"):
        (repository / "file").write_text(f"{content}\n")
        git(repository, "commit", "-q", "-a", "--allow-empty", "-m", content)
        steps = (f"grep -x {content} file && echo more >> file", "report done")
        task = deployment.submit(*steps, repo=url, expect="patch")
        deployment.check(task, starts=[1], attempt=1)
        assert "+more\n" in deployment.evidence(task, 1)["patch.diff"]
    assert len(list((deployment.data / "repositories").iterdir())) == 1
    deployment.rest()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"repo": "/nowhere"}, "the repository /nowhere does not exist"),
        ({"repo": "file:///nowhere"}, "cannot be fetched"),
        ({"repo": "REPOSITORY", "base": "gone"}, "the base 'gone' is no commit"),
        ({}, "needs a repository"),
    ],
)
def test_what_no_attempt_could_work_on_fails_at_once(
    on_sqlite_alone: Deployment, repository: Path, labels: dict[str, str], reason: str
) -> None:
    deployment = on_sqlite_alone
    deployment.profile(workspace={"kind": "git-worktree"})
    deployment.start_worker()
    flags = {name: text.replace("REPOSITORY", str(repository)) for name, text in labels.items()}
    task = deployment.submit("report done", **flags)
    manifest = deployment.check(task, "failed", starts=[], attempt=1)
    assert reason in (manifest.reason or "")
    deployment.rest()


def test_a_copy_of_a_killed_worker_is_kept_as_a_patch_and_removed(
    on_sqlite_alone: Deployment, repository: Path
) -> None:
    deployment = on_sqlite_alone
    (repository / "file").write_text("the user's\n")
    deployment.profile(workspace={"kind": "copy"})
    worker = deployment.start_worker()
    steps = ("echo $AGENTQ_ATTEMPT >> file", "[ $AGENTQ_ATTEMPT = 1 ] && note changed && hold never", "report done")
    task = deployment.submit(*steps, repo=str(repository))
    deployment.noted(task, "changed")
    worker.send(SIGKILL)
    worker.wait()
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    for attempt in (1, 2):
        patch = until(lambda number=attempt: deployment.evidence(task, number).get("patch.diff", ""))
        assert f" the user's\n+{attempt}\n" in patch
    deployment.rest()
    assert not list((deployment.data / "scratch").glob("*/*/*"))


@pytest.mark.parametrize("by", ["profile", "flag"])
def test_what_is_to_be_kept_is_kept_also_from_who_comes_later(
    on_sqlite_alone: Deployment, repository: Path, by: str
) -> None:
    deployment = on_sqlite_alone
    deployment.profile(workspace={"kind": "git-worktree", "keep": by == "profile"})
    worker = deployment.start("worker", "run", deployment.agent, "--verbose", *(["--keep"] if by == "flag" else []))
    task = deployment.submit("echo two > file", "report done", repo=str(repository))
    deployment.check(task, starts=[1], attempt=1)
    kept = deployment.data / "scratch" / deployment.agent / task / "1"
    worker.says(f"{task}: attempt 1 is kept in {kept}")
    worker.kill()
    deployment.profile(workspace={"kind": "git-worktree"})
    deployment.start_worker()
    again = deployment.submit("report done", repo=str(repository))
    deployment.check(again, starts=[1], attempt=1)
    assert (kept / "work/file").read_text() == "two\n"
    assert git(kept / "work", "branch", "--show-current") == f"agentq/{task}/1\n"
    assert (kept / "transcript.log").exists()
    assert not list((deployment.data / "scratch" / deployment.agent / again).glob("*"))
