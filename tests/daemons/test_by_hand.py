"""`complete` and `fail`: proposals inside an agent, seals by hand; a second hand loses and its report is kept."""

import json
from pathlib import Path

import pytest

from agentq.messages import sha256_hex
from tests.daemons.harness import Deployment, until


def by_hand(deployment: Deployment, text: str, name: str) -> list[str]:
    path = deployment.home / f"{name}.md"
    path.write_text(text)
    return ["--from", name, "--result-file", str(path), "--summary", f"Done by {name}."]


def hand_evidence(deployment: Deployment, task: str, text: str) -> str:
    return deployment.evidence(task, f"hand-{sha256_hex(text.encode())[:12]}")["report.md"]


@pytest.mark.promise("result-stands")
def test_a_second_complete_is_refused_and_its_report_kept(deployment: Deployment) -> None:
    task = deployment.submit("report never")
    assert deployment.cli("complete", task, *by_hand(deployment, "first", "one")).returncode == 0
    done = deployment.cli("complete", task, *by_hand(deployment, "second", "two"))
    assert done.returncode == 5
    assert "already completed by one" in done.stderr
    manifest = deployment.check(task, starts=[], attempt=1)
    assert not manifest.verified
    assert hand_evidence(deployment, task, "second") == "second"
    deployment.start_worker()
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)
    deployment.check(task, starts=[], attempt=1)
    deployment.rest()


def test_complete_after_the_worker_is_refused_and_its_report_kept(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("report done")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert deployment.cli("complete", task, *by_hand(deployment, "second", "two")).returncode == 5
    assert deployment.cli("fail", task, "--from", "two", "--reason", "No.").returncode == 5
    assert deployment.check(task, starts=[1], attempt=1) == manifest
    assert hand_evidence(deployment, task, "second") == "second"
    deployment.rest()


def test_complete_for_an_unknown_task(deployment: Deployment) -> None:
    assert deployment.cli("complete", "task-no", *by_hand(deployment, "text", "one")).returncode == 4
    assert deployment.cli("fail", "task-no", "--from", "one", "--reason", "No.").returncode == 4
    for prefix in ("results/", "attempts/", "artifacts/", "open/", "inbox/"):
        assert deployment.keys(prefix) == []


def test_complete_inside_the_agent_is_a_proposal(deployment: Deployment) -> None:
    """The same word twice is one proposal; another one is refused; the daemon commits it, verified."""
    deployment.start_worker()
    task = deployment.submit(
        "echo written > found.md",
        'agentq complete $AGENTQ_TASK_ID --from me --result-file found.md --summary "All of it." && note proposed',
        'agentq complete $AGENTQ_TASK_ID --from me --result-file found.md --summary "All of it." && note proposed',
        "agentq fail $AGENTQ_TASK_ID --from me --reason Other || note refused $?",
        "hold go",
    )
    assert deployment.noted(task, "refused") == ["1", "5"]
    assert deployment.status(task) == "processing"
    assert len(deployment.notes(task, "proposed")) == 2
    deployment.open_gate("go")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert (manifest.summary, manifest.verified) == ("All of it.", True)
    assert deployment.evidence(task, 1)["report.md"] == "written\n"
    deployment.rest()


def test_a_proposal_without_what_was_asked_for_is_not_believed(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("agentq complete $AGENTQ_TASK_ID --summary Done", expect="patch", max_attempts="1")
    manifest = deployment.check(task, "failed", starts=[1], attempt=2)
    assert "patch is missing" in (manifest.reason or "")
    deployment.rest()


def test_fail_inside_the_agent_is_final(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("agentq fail $AGENTQ_TASK_ID --from me --reason 'Not reproducible.'")
    manifest = deployment.check(task, "failed", starts=[1], attempt=1)
    assert manifest.reason == "Not reproducible."
    deployment.rest()


@pytest.mark.promise("result-stands")
def test_a_live_attempt_is_taken_over_explicitly(deployment: Deployment) -> None:
    """Its agent is stopped with all it started, its work is kept, and the worker goes on."""
    deployment.start_worker()
    task = deployment.submit("echo half > $AGENTQ_OUTPUT/half.md", "setsid sleep 300 &", "note ready", "hold never")
    deployment.noted(task, "ready")
    refused = deployment.cli("complete", task, *by_hand(deployment, "mine", "one"))
    assert refused.returncode == 5
    assert "--take-over" in refused.stderr
    assert deployment.status(task) == "processing"
    assert deployment.cli("complete", task, "--take-over", *by_hand(deployment, "mine", "one")).returncode == 0
    assert deployment.status(task) == "completed"
    until(lambda: not deployment.left_processes())
    until(lambda: "half.md" in deployment.evidence(task, 1))
    deployment.check(task, starts=[1], attempt=2)
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)
    deployment.rest()


def test_a_worker_that_commits_meets_a_hand_that_seals(deployment: Deployment) -> None:
    """The daemon stands just before its commit when the task is taken over: one result, the other's work is kept."""
    deployment.start_worker("stall before put_new results/*")
    task = deployment.submit("report done")
    deployment.see_flag("stalled")
    assert deployment.cli("complete", task, "--take-over", *by_hand(deployment, "mine", "one")).returncode == 0
    deployment.raise_flag("go")
    manifest = deployment.check(task, starts=[1], attempt=2)
    assert manifest.from_ == "one"
    assert deployment.evidence(task, 1)["report.md"] == "done\n"
    deployment.rest()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("die after put_new attempts/*/1.json", "completed"),
        ("die after put_new results/*", "completed"),
        ("die after put inbox/*", "completed"),
    ],
)
def test_a_hand_that_dies_half_way(deployment: Deployment, fault: str, status: str) -> None:
    """The seal names the outcome; whoever meets it commits that."""
    task = deployment.submit("report never")
    deployment.cli("complete", task, *by_hand(deployment, "mine", "one"), faults=(fault,))
    assert deployment.status(task) == status
    deployment.start_worker()
    manifest = deployment.check(task, starts=[], attempt=1)
    assert manifest.from_ == "one"
    deployment.rest()


@pytest.mark.promise("inbox-keeps")
def test_the_inbox_keeps_a_completion_until_it_is_acknowledged(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("report done")
    deployment.check(task, starts=[1], attempt=1)
    for _ in range(2):
        assert [one["task_id"] for one in deployment.json("inbox")] == [task]
    assert json.loads(Path(deployment.store_path, "inbox", "coordinator", f"{task}.json").read_text())
    deployment.cli("inbox", "--ack", task)
    assert deployment.json("inbox") == []
    deployment.rest()
