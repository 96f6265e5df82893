"""What an agent's end means: exit codes, evidence that is missing, time-outs; and what the next attempt is told."""

import json
from datetime import timedelta

import pytest

from agentq.messages import utc_now
from agentq.papers import End
from agentq.proposal import Hand, propose
from tests.daemons.harness import Deployment, foreign, script, until


def test_75_is_tried_again_and_the_reason_told(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("if [ $AGENTQ_ATTEMPT = 1 ]; then echo no   quota >&2; exit 75; fi", "report done")
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "no quota" in deployment.prompt(task, 2)
    assert "no quota" not in deployment.prompt(task, 1)
    assert "no quota" in deployment.evidence(task, 1)["transcript.log"]
    deployment.rest()


def test_retries_of_tasks_that_failed_together_are_spread(deployment: Deployment) -> None:
    deployment.profile(retry={"delay_seconds": 300, "factor": 2, "longest_seconds": 500, "jitter": 0.5})
    deployment.start_worker()
    ends = [ended(deployment, deployment.submit("exit 1")) for _ in range(3)]
    delays = [end.retry_at - end.at for end in ends if end.retry_at]
    assert len(set(delays)) == 3
    assert all(timedelta(seconds=149) < delay < timedelta(seconds=300) for delay in delays)


@pytest.mark.promise("parked")
def test_75_with_a_time_waits_until_then_and_does_not_count(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }",
        "echo 1.5 > $AGENTQ_OUTPUT/not-before",
        "echo rate limit >&2",
        "exit 75",
        max_attempts="1",
    )
    until(lambda: deployment.status(task) == "pending delayed")
    assert "rate limit" in deployment.json("status", task)["reason"]
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "not-before" not in deployment.evidence(task, 1)
    first, second = deployment.papers(task).attempts
    assert first.end
    assert not first.end.counts
    assert first.end.retry_at
    assert first.end.at + timedelta(seconds=1) < first.end.retry_at <= second.paper.at
    deployment.rest()


@pytest.mark.promise("parked")
@pytest.mark.parametrize(("text", "least", "most"), [("0", 0.9, 2), ("2999-01-01T00:00:00Z", 6 * 86400, 7 * 86400)])
def test_a_task_is_parked_neither_for_no_time_nor_for_ever(
    deployment: Deployment, text: str, least: float, most: float
) -> None:
    deployment.start_worker()
    task = deployment.submit(f"echo {text} > $AGENTQ_OUTPUT/not-before", "exit 75")
    end = ended(deployment, task)
    assert end.retry_at
    assert timedelta(seconds=least) < end.retry_at - end.at < timedelta(seconds=most)


@pytest.mark.promise("parked")
def test_an_agent_may_give_its_task_back(deployment: Deployment) -> None:
    """Whatever its exit code, and nothing is verified; the task is not taken up before the time that it named."""
    deployment.profile(evidence={"verify": ["sh", "-c", "touch $DESK/verified-$AGENTQ_ATTEMPT"]})
    deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 3 ] && { report done; exit; }", "hold go-$AGENTQ_ATTEMPT", "exit $((AGENTQ_ATTEMPT - 1))"
    )
    for attempt in (1, 2):
        deployment.agent_runs(task, attempt)
        claim = deployment.papers(task).running
        assert claim
        when = utc_now() + timedelta(seconds=1.5)
        (output,) = deployment.data.glob(f"scratch/*/{task}/{attempt}/output")
        hand = Hand("agent", "released", reason="not my kind of work", not_before=when if attempt == 1 else None)
        propose(output, task, attempt, claim.token, hand)
        deployment.open_gate(f"go-{attempt}")
        end = ended(deployment, task, attempt)
        assert (end.reason, end.counts) == ("not my kind of work", False)
        assert end.retry_at
        assert end.retry_at == when if attempt == 1 else end.retry_at > end.at
    deployment.check(task, starts=[1, 2, 3], attempt=3)
    assert sorted(path.name for path in deployment.desk.glob("verified-*")) == ["verified-3"]
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
    task = deployment.submit("report done", "echo none > $AGENTQ_OUTPUT/risks.md", expect="risks.md")
    deployment.check(task, starts=[1], attempt=1)
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
    command = "sh -c 'echo checked; test -e good'"
    for attempt, status in ((1, 1), (2, 0)):
        said = deployment.evidence(task, attempt)["test-output.txt"]
        assert said == f"checked\n[{command}: exit status {status}]\n"
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


# ---------------------------------------------------------------------- what is handed over


@pytest.mark.promise("handed-on")
def test_the_next_attempt_gets_the_work_of_the_last_one(deployment: Deployment) -> None:
    """What was altered meanwhile it does not get, and is told so."""
    deployment.profile(retry={"delay_seconds": 2, "longest_seconds": 2, "jitter": 0})
    deployment.start_worker()
    task = deployment.submit(
        "cd $AGENTQ_OUTPUT",
        "[ $AGENTQ_ATTEMPT = 2 ] && { cp $AGENTQ_EARLIER/draft.md report.md; ls $AGENTQ_EARLIER; exit; }",
        "echo half > draft.md",
        "echo none > risks.md",
        "echo no tests >&2",
        "exit 1",
    )
    ended(deployment, task)
    deployment.records.store.put(f"artifacts/{task}/1/risks.md", b"none at all\n")
    deployment.check(task, starts=[1, 2], attempt=2)
    assert deployment.evidence(task, 2)["report.md"] == "half\n"
    assert deployment.evidence(task, 2)["transcript.log"].split() == ["draft.md", "transcript.log"]
    prompt = deployment.prompt(task, 2)
    assert "- attempt 1:\n  > exited with status 1: no tests\n" in prompt
    assert "- risks: no copy: risks is not what the result names" in prompt
    deployment.rest()


@pytest.mark.promise("handed-on")
def test_a_task_gets_the_results_that_it_waited_for(deployment: Deployment) -> None:
    deployment.start_worker()
    first = deployment.submit("report the answer")
    task = deployment.submit(f"cp $AGENTQ_NEEDS/{first}/report.md $AGENTQ_OUTPUT/report.md", after=first)
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.evidence(task, 1)["report.md"] == "the answer\n"
    assert f"## {first}: completed, verified\n\n> the answer\n- report: " in deployment.prompt(task, 1)
    deployment.rest()


def test_an_agent_never_sees_a_context_that_was_not_approved(deployment: Deployment) -> None:
    """Altered between the claim and the start, it has to be approved again."""
    deployment.start_worker("stall after put_new attempts/*/1.json")
    ref = deployment.records.store.ref("tasks/shared.md")
    deployment.records.store.put("tasks/shared.md", b"Do this.")
    asked = foreign(deployment.agent, context_ref=ref, requires_approval=True, instructions=script("report done"))
    task = asked["task_id"]
    deployment.publish_raw(json.dumps(asked).encode())
    until(lambda: deployment.records.envelope(task) and deployment.status(task) == "pending approval")
    assert deployment.cli("approve", task, "--by", "alice").returncode == 0
    deployment.see_flag("stalled")
    deployment.records.store.put("tasks/shared.md", b"Do that.")
    deployment.raise_flag("go")
    assert ended(deployment, task).reason == "the context was altered after it was approved"
    until(lambda: deployment.status(task) == "pending approval")
    assert deployment.cli("approve", task, "--by", "alice").returncode == 0
    deployment.check(task, starts=[2], attempt=2)
    assert "Do that." in deployment.prompt(task, 2)
    deployment.rest()


def ended(deployment: Deployment, task: str, attempt: int = 1) -> End:
    """Wait for the end of an attempt."""
    until(lambda: deployment.records.ended(task, attempt), f"the end of attempt {attempt}")
    end = deployment.records.ended(task, attempt)
    assert end
    return end
