"""Who is silent is taken over; who comes back late loses, and its work is kept. What no queue holds is found."""

import os
import subprocess
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from tests.daemons.harness import Deployment, until

WORK = ("[ $AGENTQ_ATTEMPT = 2 ] && { report second; exit; }", "report first", "note agent $$", "hold go")


def test_an_attempt_that_comes_back_after_its_guard(deployment: Deployment) -> None:
    """Owner and agent stand still and go on: what was accepted stays, the late work is kept, the owner goes on."""
    owner = deployment.start_worker()
    task = deployment.submit(*WORK)
    deployment.has_guard(task)
    deployment.is_renewed(task)  # by then its message is acknowledged: it must not stop while it writes to the queue
    agent = int(deployment.noted(task, "agent")[1])
    os.kill(agent, SIGSTOP)
    owner.send(SIGSTOP)
    deployment.start_worker()
    until(lambda: deployment.status(task) != "processing")
    manifest = deployment.ended(task)
    assert (manifest.attempt, deployment.starts(task)) == (2, [1, 2])
    os.kill(agent, SIGCONT)
    owner.send(SIGCONT)
    until(lambda: deployment.evidence(task, 1).get("report.md") == "first\n")
    assert deployment.records.manifest(task) == manifest
    assert [key for key in deployment.keys("results/") if task in key] == [f"results/{task}.json", f"results/{task}.md"]
    deployment.workers[1].send(SIGTERM)
    deployment.workers[1].wait()
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("taken-over")
def test_a_silent_owners_agent_on_this_host_is_stopped_before_the_next_one_starts(deployment: Deployment) -> None:
    owner = deployment.start_worker()
    task = deployment.submit(*WORK)
    deployment.has_guard(task)
    deployment.is_renewed(task)
    owner.send(SIGSTOP)  # its agent goes on
    deployment.start_worker()
    manifest = deployment.ended(task)
    assert (manifest.attempt, deployment.starts(task)) == (2, [1, 2])
    assert deployment.notes(task, "overlap") == []
    assert deployment.papers(task).attempts[0].end.stopped == "presumed"  # type: ignore[union-attr]


def test_an_attempt_that_comes_back_and_never_had_a_guard(deployment: Deployment) -> None:
    """Its renewals hang, and with them the message it holds; another worker's sweep notices the silence."""
    deployment.start_worker("stall before put attempts/*/1.lease.json")
    task = deployment.submit(*WORK)
    deployment.see_flag("stalled")
    deployment.start_worker()
    manifest = deployment.ended(task)
    assert (manifest.attempt, deployment.starts(task)) == (2, [1, 2])
    deployment.open_gate("go")
    until(lambda: deployment.evidence(task, 1).get("report.md") == "first\n")
    deployment.raise_flag("go")
    assert deployment.records.manifest(task) == manifest
    deployment.rest()


def test_a_message_that_the_engine_lost_is_published_again(deployment: Deployment) -> None:
    task = deployment.submit("report done")
    deployment.lose_message()
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


def test_a_bug_in_the_middle_is_tried_again(deployment: Deployment) -> None:
    worker = deployment.start_worker("break before put_new attempts/*/1.json", "break before keys attempts/*")
    task = deployment.submit("report done")
    deployment.check(task, starts=[1], attempt=1)
    assert "RuntimeError: a bug" in worker.said()
    deployment.rest()


def test_a_bug_while_the_agent_is_looked_after_is_survived(deployment: Deployment) -> None:
    deployment.start_worker("break before put attempts/*.lease.json", "break before publish guard")
    task = deployment.submit("hold go", "report done")
    deployment.has_guard(task)
    deployment.open_gate("go")
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.parametrize("fault", ["break before put_file artifacts/*", "break before put_new results/*"])
def test_an_attempt_that_the_worker_broke_is_ended_and_its_work_kept(deployment: Deployment, fault: str) -> None:
    deployment.start_worker(fault)
    task = deployment.submit("report $AGENTQ_ATTEMPT")
    deployment.check(task, starts=[1, 2], attempt=2)
    until(lambda: deployment.evidence(task, 1).get("report.md") == "1\n")
    assert "the worker broke" in deployment.prompt(task, 2)
    deployment.rest()


def test_a_worktree_of_a_killed_worker_is_kept_as_a_patch_and_removed(deployment: Deployment) -> None:
    repository = a_repository(deployment.home / "repository")
    deployment.profile(workspace={"kind": "git-worktree"})
    worker = deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { echo two > file; report done; exit; }",
        "echo half > file",
        "git add file && git commit -q -m half && echo more >> file",
        "note changed",
        "hold never",
        repo=str(repository),
    )
    deployment.noted(task, "changed")
    worker.send(SIGKILL)
    worker.wait()
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    deployment.rest()
    assert "+half\n+more\n" in deployment.evidence(task, 1)["patch.diff"]
    assert "+two\n" in deployment.evidence(task, 2)["patch.diff"]
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "branch", "--list", "agentq/*") == ""


def a_repository(path: Path) -> Path:
    path.mkdir()
    git(path, "init", "-q")
    git(path, "config", "user.name", "A")
    git(path, "config", "user.email", "a@example.org")
    (path / "file").write_text("one\n")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "one")
    return path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout
