"""Attempts that go on where the one before ended: the same conversation of their tool, in the same workspace.

The tool is the scripted agent of these tests, which prints what the real ones print; those are in tests/agents.
"""

import shutil
from pathlib import Path
from signal import SIGTERM

import pytest

from agentq.sessions import Sessions
from tests.daemons.harness import Deployment, until
from tests.daemons.test_taking_over import a_repository, git
from tests.daemons.test_tools import DONE, INIT, SESSION, event

ARGUMENTS = 'tr "\\0" " " < /proc/$$/cmdline > $DESK/arguments.$AGENTQ_ATTEMPT'


@pytest.fixture
def repository(deployment: Deployment) -> Path:
    """What the worker's agents, which are tools, work on."""
    deployment.profile(runner={"kind": "claude"}, workspace={"kind": "git-worktree"})
    return a_repository(deployment.home / "repository")


def arguments(deployment: Deployment, attempt: int) -> str:
    return (deployment.desk / f"arguments.{attempt}").read_text()


def left(deployment: Deployment) -> list[Path]:
    """The workspaces on this host."""
    return list(deployment.data.glob("scratch/*/*/*/work"))


def work(*then: str) -> list[str]:
    """An agent that changes a file in its first attempt, then does something, and in the next ones changes another."""
    first = "; ".join(("echo one > first", "hold never" if not then else then[0]))
    return [
        ARGUMENTS,
        INIT,
        f"[ $AGENTQ_ATTEMPT = 1 ] && {{ {first}; }}",
        "pwd > $DESK/where",
        "echo two > second",
        DONE,
    ]


@pytest.mark.promise("goes-on")
@pytest.mark.parametrize("how", ["killed", "drained"])
def test_an_interrupted_attempt_is_gone_on_with(deployment: Deployment, repository: Path, how: str) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(*work(), repo=str(repository), expect="patch")
    until(lambda: list(deployment.data.glob("scratch/*/*/1/work/first")), "the first change")
    until(lambda: Sessions(deployment.data / "sessions" / deployment.agent).of(task), "the session")
    if how == "killed":
        worker.kill()
    else:
        worker.send(SIGTERM)
        worker.says("draining")
        worker.send(SIGTERM)
        worker.wait()
    assert [path.parent.name for path in left(deployment)] == ["1"]
    deployment.start_worker()
    manifest = deployment.check(task, starts=[1, 2], attempt=2)
    assert f"--resume {SESSION}" in arguments(deployment, 2)
    assert "--resume" not in arguments(deployment, 1)
    assert Path((deployment.desk / "where").read_text().strip()).parent.name == "1"
    assert "You go on where attempt 1 was interrupted" in deployment.prompt(task, 2)
    patch = manifest.artifact("patch")
    assert patch is not None
    text = deployment.evidence(task, 2)["patch.diff"]
    assert "+one" in text
    assert "+two" in text
    before = deployment.evidence(task, 1)["patch.diff"]
    assert "+one" in before
    assert "+two" not in before
    deployment.rest()
    assert git(repository, "branch", "--list", "agentq/*") == ""
    assert Sessions(deployment.data / "sessions" / deployment.agent).of(task) is None


@pytest.mark.promise("goes-on")
def test_an_attempt_that_failed_is_gone_on_with_once(deployment: Deployment, repository: Path) -> None:
    deployment.start_worker()
    task = deployment.submit(*work("exit 1"), "exit 1", repo=str(repository))
    deployment.check(task, "failed", starts=[1, 2, 3], attempt=4)
    resumed = ["--resume" in arguments(deployment, attempt) for attempt in (1, 2, 3)]
    assert resumed == [False, True, False]
    assert "+one" in deployment.evidence(task, 2)["patch.diff"]
    assert "+one" not in deployment.evidence(task, 3)["patch.diff"]
    deployment.rest()


@pytest.mark.promise("goes-on")
def test_a_workspace_of_a_task_that_ended_otherwise_is_removed(deployment: Deployment, repository: Path) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(*work(), repo=str(repository))
    until(lambda: Sessions(deployment.data / "sessions" / deployment.agent).of(task), "the session")
    worker.kill()
    assert deployment.cli("cancel", task).returncode == 0
    deployment.start_worker()
    deployment.check(task, "cancelled", starts=[1], attempt=2)
    deployment.rest()
    assert git(repository, "worktree", "list").count("\n") == 1
    assert Sessions(deployment.data / "sessions" / deployment.agent).of(task) is None


def test_a_workspace_that_is_gone_means_a_fresh_start_with_an_account(deployment: Deployment, repository: Path) -> None:
    worker = deployment.start_worker()
    task = deployment.submit(*work(), repo=str(repository))
    until(lambda: Sessions(deployment.data / "sessions" / deployment.agent).of(task), "the session")
    worker.kill()
    (path,) = left(deployment)
    shutil.rmtree(path)
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "--resume" not in arguments(deployment, 2)
    assert "attempt 1:" in deployment.prompt(task, 2)
    deployment.rest()


def test_a_conversation_that_is_gone_is_begun_anew_in_the_same_attempt(
    deployment: Deployment, repository: Path
) -> None:
    gone = event(type="result", subtype="error_during_execution", is_error=True, errors=["No conversation found"])
    deployment.start_worker()
    task = deployment.submit(
        ARGUMENTS,
        f"[ $AGENTQ_ATTEMPT = 2 ] && [ ! -e $DESK/tried ] && {{ touch $DESK/tried; {gone}; exit 1; }}",
        INIT,
        "[ $AGENTQ_ATTEMPT = 1 ] && { echo one > first; exit 1; }",
        DONE,
        repo=str(repository),
        expect="patch",
    )
    manifest = deployment.ended(task)
    assert (manifest.status, manifest.attempt) == ("completed", 2)
    assert deployment.starts(task) == [1, 2, 2]
    assert "--resume" not in arguments(deployment, 2)
    assert "+one" in deployment.evidence(task, 2)["patch.diff"]
    deployment.rest()
