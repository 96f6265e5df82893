"""Cancelling a task whose agent runs, or has run: whatever the agent does against it, nothing of it is left."""

import asyncio
import json
from pathlib import Path
from signal import SIGKILL
from unittest import mock

import pytest

from agentq.attempt import AttemptRun, Bench
from agentq.messages import Completion, utc_now
from agentq.papers import Cancel
from agentq.profile import LimitsSection, Profile
from agentq.records import Records
from agentq.runner import Job, Ran
from agentq.sessions import Sessions
from agentq.verdict import Settle, Start
from tests.daemons.harness import Deployment, until
from tests.samples import AGENT, TASK, claims_for, registered
from tests.simulation import MemoryStore

DEAF = (
    "trap '' TERM HUP INT",
    "setsid sleep 300 & echo $! >> $DESK/pids",
    "env -i setsid sleep 300 & echo $! >> $DESK/pids",
    "(env -i setsid sleep 300 & echo $! >> $DESK/pids)",
)
"""Children in sessions of their own that ignore what they are asked; two of them forgot whose children they are, and
one of these has lost its parent too."""

pytestmark = pytest.mark.promise("cancel-stops")


def cancel(deployment: Deployment, task: str, *flags: str) -> str:
    """What `agentq cancel` says; it must succeed."""
    done = deployment.cli("cancel", task, "--by", "alice", "--reason", "not needed any more", *flags)
    assert done.returncode == 0, done
    return done.stdout


def is_cancelled(deployment: Deployment, task: str, *, starts: list[int], attempt: int) -> Completion:
    """Wait until the task is cancelled, once, and nothing of its agents is left."""
    manifest = deployment.check(task, "cancelled", starts=starts, attempt=attempt)
    assert manifest.reason == "cancelled by alice: not needed any more"
    assert not manifest.verified
    assert not deployment.left_processes()
    assert not [pid for pid in noted_pids(deployment) if lives(pid)]
    return manifest


def noted_pids(deployment: Deployment) -> list[int]:
    path = deployment.desk / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def names(manifest: Completion) -> set[str]:
    return {artifact.name for artifact in manifest.artifacts}


# ---------------------------------------------------------------------- while the agent runs


def test_an_agent_that_is_asked_may_save_its_work(deployment: Deployment) -> None:
    deployment.profile(runner={"grace_seconds": 60})
    deployment.start_worker()
    task = deployment.submit(
        "trap 'echo saved > $AGENTQ_OUTPUT/saved.md; report half; exit 0' TERM", "echo working", "note ready", "hold no"
    )
    deployment.noted(task, "ready")
    cancel(deployment, task)
    manifest = is_cancelled(deployment, task, starts=[1], attempt=1)
    assert manifest.stopped == "proven"
    assert manifest.stop_seconds is not None
    assert 0 < manifest.stop_seconds < 15
    assert names(manifest) == {"transcript", "report", "saved"}
    assert deployment.evidence(task, 1)["saved.md"] == "saved\n"
    assert deployment.evidence(task, 1)["transcript.log"].startswith("working\n")
    deployment.rest()


def test_an_agent_that_ignores_it_is_stopped_when_its_grace_is_over(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("trap '' TERM", "echo half > $AGENTQ_OUTPUT/half.md", "note ready", "hold never")
    deployment.noted(task, "ready")
    cancel(deployment, task)
    manifest = is_cancelled(deployment, task, starts=[1], attempt=1)
    assert manifest.stopped == "proven"
    assert manifest.stop_seconds is not None
    assert 0.3 <= manifest.stop_seconds < 15
    assert deployment.evidence(task, 1)["half.md"] == "half\n"
    deployment.rest()


def test_children_that_hide_and_ignore_it_are_stopped_too(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(*DEAF, "note ready", "hold never")
    deployment.noted(task, "ready")
    hidden = noted_pids(deployment)
    assert len([pid for pid in hidden if lives(pid)]) == 3
    assert "cancelled  stopped in" in cancel(deployment, task, "--wait")
    assert not [pid for pid in hidden if lives(pid)]
    assert is_cancelled(deployment, task, starts=[1], attempt=1).stopped == "proven"
    deployment.rest()


def test_a_verify_command_is_stopped_likewise(deployment: Deployment) -> None:
    verify = "(trap '' TERM; exec setsid sleep 300) & echo checking; touch $DESK/gates/verifying; wait"
    deployment.profile(evidence={"verify": ["sh", "-c", verify]})
    deployment.start_worker()
    task = deployment.submit("report done")
    until((deployment.desk / "gates" / "verifying").exists)
    cancel(deployment, task)
    manifest = is_cancelled(deployment, task, starts=[1], attempt=1)
    assert manifest.stopped == "proven"
    assert {"report", "test-output"} <= names(manifest)
    checking, how = deployment.evidence(task, 1)["test-output.txt"].splitlines()
    assert (checking, how.endswith("status -15]")) == ("checking", True)
    deployment.rest()


class Stubborn:
    """A runner that cannot tell whether it stopped everything."""

    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def run(self, job: Job) -> Ran:
        self.started.set()
        await job.stop.wait()
        return Ran("stopped", proven=False)

    def check(self) -> None:
        """Always there."""


async def test_what_cannot_be_proven_is_presumed(tmp_path: Path) -> None:
    records, runner = Records(MemoryStore()), Stubborn()
    registered(records)
    claims = claims_for(records)
    start = claims.decide(TASK)
    assert isinstance(start, Start)
    profile = Profile(agent=AGENT, folder=tmp_path, prompt="", limits=LimitsSection(look_seconds=0.01))
    bench = Bench(records, mock.Mock(), runner, None, profile, claims, Sessions(tmp_path / "sessions"), tmp_path)
    running = asyncio.create_task(AttemptRun(bench, start, mock.Mock()).run())
    async with asyncio.timeout(15):
        await runner.started.wait()
        records.ask_cancel(TASK, Cancel(token="t", by="alice", at=utc_now()))
        verdict = await running
    assert isinstance(verdict, Settle)
    manifest = verdict.manifest
    assert (manifest.status, manifest.reason, manifest.stopped) == ("cancelled", "cancelled by alice", "presumed")


# ---------------------------------------------------------------------- before and between


def test_an_agent_that_was_about_to_be_started_is_not(deployment: Deployment) -> None:
    deployment.start_worker("stall after put_new attempts/*/1.json")
    task = deployment.submit("report done")
    deployment.see_flag("stalled")
    cancel(deployment, task)
    deployment.raise_flag("go")
    manifest = is_cancelled(deployment, task, starts=[], attempt=1)
    assert (manifest.stopped, manifest.stop_seconds) == ("proven", 0.0)
    deployment.rest()


def test_a_task_that_waits_to_be_tried_again_is_not(deployment: Deployment) -> None:
    deployment.profile(retry={"delay_seconds": 300, "longest_seconds": 300})
    deployment.start_worker()
    task = deployment.submit("echo half > $AGENTQ_OUTPUT/half.md", "exit 1")
    until(lambda: deployment.status(task) == "pending delayed")
    assert "cancelled" in cancel(deployment, task)
    manifest = is_cancelled(deployment, task, starts=[1], attempt=2)
    assert "half" in names(manifest)


# ---------------------------------------------------------------------- when the worker dies


def test_a_worker_that_dies_does_not_keep_the_task_alive(deployment: Deployment) -> None:
    deployment.profile(limits={"look_seconds": 60})
    worker = deployment.start_worker()
    task = deployment.submit(
        "trap '' TERM", "setsid sleep 300 &", "echo half > $AGENTQ_OUTPUT/half.md", "note ready", "hold never"
    )
    deployment.noted(task, "ready")
    cancel(deployment, task)
    worker.kill()
    deployment.start_worker()
    assert is_cancelled(deployment, task, starts=[1], attempt=2).stopped == "presumed"
    until(lambda: deployment.evidence(task, 1).get("half.md") == "half\n")
    deployment.rest()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_around_the_commit_leaves_one_result(deployment: Deployment, when: str) -> None:
    worker = deployment.start_worker(f"die {when} put_new results/*.json")
    task = deployment.submit("trap '' TERM", "note ready", "hold never")
    deployment.noted(task, "ready")
    cancel(deployment, task)
    assert worker.wait() == -SIGKILL
    deployment.start_worker()
    attempt, stopped = (2, "presumed") if when == "before" else (1, "proven")
    assert is_cancelled(deployment, task, starts=[1], attempt=attempt).stopped == stopped
    deployment.rest()


# ---------------------------------------------------------------------- when it meets the agent's own end


def test_it_comes_before_a_success_that_is_not_committed(deployment: Deployment) -> None:
    deployment.start_worker("stall before put_file artifacts/*/report.md")
    task = deployment.submit("report done")
    deployment.see_flag("stalled")
    cancel(deployment, task)
    deployment.raise_flag("go")
    manifest = is_cancelled(deployment, task, starts=[1], attempt=1)
    assert (manifest.stopped, manifest.stop_seconds) == ("proven", 0.0)
    assert "report" in names(manifest)
    deployment.rest()


def test_it_comes_too_late_for_one_that_is_being_committed(deployment: Deployment) -> None:
    deployment.start_worker("stall before put_new results/*.json")
    task = deployment.submit("report done")
    deployment.see_flag("stalled")
    cancel(deployment, task)
    deployment.raise_flag("go")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert (manifest.reason, manifest.stopped) == (None, None)
    assert deployment.cli("cancel", task).returncode == 5
    deployment.rest()


@pytest.mark.promise("one-result")
def test_at_the_same_moment_there_is_one_of_both_results(deployment: Deployment) -> None:
    deployment.profile(limits={"look_seconds": 0.01})
    deployment.start_worker()
    for round_ in range(4):
        task = deployment.submit(f"hold go-{round_}", "report done")
        deployment.agent_runs(task)
        deployment.open_gate(f"go-{round_}")
        code = deployment.cli("cancel", task).returncode
        status = deployment.ended(task).status
        assert (status, code) in (("completed", 0), ("completed", 5), ("cancelled", 0))
        deployment.check(task, status, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("cancel")
@pytest.mark.parametrize("step", ["put_new controls/p/cancel.json", "put_new controls/p.b/cancel.json"])
def test_a_cancel_of_a_plan_that_dies_half_way_is_finished_by_a_sweep(deployment: Deployment, step: str) -> None:
    task = {"to": deployment.agent, "type": "work", "instructions": "hold never\n"}
    path = deployment.home / "plan.json"
    path.write_text(json.dumps({"plan": "p", "defaults": task, "tasks": {"a": {}, "b": {}}}))
    assert deployment.cli("plan", "submit", str(path)).returncode == 0
    assert deployment.cli("cancel", "p", "--by", "alice", faults=(f"die after {step}",)).returncode == -SIGKILL
    deployment.start_worker()
    assert deployment.ended("p").status == "cancelled"
    assert deployment.cli("status", "p.a").stdout.split()[1] == "cancelled"
    assert not deployment.left_processes()
