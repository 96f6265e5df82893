"""What an agent's end means: exit codes, evidence that is missing, time-outs; and what the next attempt is told."""

import pytest

from tests.daemons.harness import Deployment, until


def test_75_is_tried_again_and_the_reason_told(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("if [ $AGENTQ_ATTEMPT = 1 ]; then echo no   quota >&2; exit 75; fi", "report done")
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "no quota" in deployment.prompt(task, 2)
    assert "no quota" not in deployment.prompt(task, 1)
    assert "no quota" in deployment.evidence(task, 1)["transcript.log"]
    deployment.rest()


def test_65_is_final(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("echo 'makes no sense' >&2; exit 65")
    manifest = deployment.check(task, "failed", starts=[1], attempt=1)
    assert "makes no sense" in (manifest.reason or "")
    deployment.rest()


@pytest.mark.promise("done-needs-evidence")
def test_missing_evidence_fails_the_attempt(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(
        "report done", "[ $AGENTQ_ATTEMPT = 1 ] || echo none > $AGENTQ_OUTPUT/risks.md", expect="risks"
    )
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "risks is missing" in deployment.prompt(task, 2)
    assert deployment.evidence(task, 1)["report.md"] == "done\n"
    deployment.rest()


@pytest.mark.promise("done-needs-evidence")
@pytest.mark.promise("bounded-attempts")
def test_an_agent_that_leaves_nothing_has_not_done_it(deployment: Deployment) -> None:
    """It is tried as often as allowed, then given up, visibly: failed, in the inbox and among the dead letters."""
    deployment.start_worker()
    task = deployment.submit("exit 0")
    manifest = deployment.check(task, "failed", starts=[1, 2, 3], attempt=4)
    assert manifest.given_up
    assert "report is missing" in (manifest.reason or "")
    assert [letter.task_id for letter in deployment.dead_letters(1)] == [task]
    deployment.rest()


def test_a_paper_cannot_be_forged_as_evidence(deployment: Deployment) -> None:
    """A file named like the proposal is evidence, not the agent's word."""
    deployment.start_worker()
    task = deployment.submit("echo '{' > $AGENTQ_OUTPUT/proposal.json", "report done")
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["agent-proposal.json"] == "{\n"
    deployment.rest()


@pytest.mark.promise("done-needs-evidence")
def test_a_verify_command_decides(deployment: Deployment) -> None:
    deployment.profile(evidence={"verify": ["sh", "-c", "echo checked; test -e good"]})
    deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 1 ] || touch good", "report done")
    deployment.check(task, starts=[1, 2], attempt=2)
    assert deployment.evidence(task, 1)["test-output.txt"] == "checked\n"
    assert "the verify command" in deployment.prompt(task, 2)
    deployment.rest()


def test_an_attempt_that_takes_too_long_is_stopped_with_all_it_started(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "setsid sleep 300 &", "hold never", timeout="0.5"
    )
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "took longer than 0.5 s" in deployment.prompt(task, 2)
    deployment.rest()


def test_silence_is_a_time_out_too(deployment: Deployment) -> None:
    deployment.profile(limits={"silence_seconds": 0.4})
    deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "hold never")
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "printed nothing for" in deployment.prompt(task, 2)
    deployment.rest()


def test_what_an_agent_leaves_running_is_stopped(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("setsid sleep 300 > /dev/null 2>&1 &", "(sleep 300 > /dev/null 2>&1 &)", "report done")
    deployment.check(task, starts=[1], attempt=1)
    assert not deployment.left_processes()
    deployment.rest()


def test_a_task_that_waited_too_long_is_not_started(deployment: Deployment) -> None:
    task = deployment.submit("report done", ttl="0.1")
    until(lambda: deployment.status(task) == "expired")
    deployment.start_worker()
    deployment.check(task, "expired", starts=[], attempt=1)
    deployment.rest()


def test_priorities_and_order(deployment: Deployment) -> None:
    names = [f"{priority}-{n}" for n in (1, 2) for priority in ("low", "urgent")]
    for name in names:
        deployment.submit("note ran", "report done", id=name, priority=name.partition("-")[0])
    deployment.start_worker()
    for name in names:
        deployment.ended(name)
    path = deployment.desk / "notes"
    ran = [line.split()[0] for line in path.read_text().splitlines() if line.endswith("ran")]
    assert ran == [f"{priority}-{n}" for priority in ("urgent", "low") for n in (1, 2)]
    deployment.rest()
