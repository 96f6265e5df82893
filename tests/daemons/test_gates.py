"""Gates, plans, approvals and cancels with real daemons: whoever dies at whichever step, what waits starts once."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from signal import SIGKILL

import pytest

from agentq.messages import Envelope
from tests.brokers.node import Node
from tests.daemons.harness import Deployment, foreign, script, until

STEP = "[pd]*"
"""Every step that writes to the store, or gives the engine a message."""
PATIENT = {"lease_seconds": 10, "renew_seconds": 5}
"""Limits with which an attempt of these tests ends before its first renewal."""

HANDING_ON = tuple(
    f"die {when} {step}"
    for step in (
        "put_new results/*.json",
        "put inbox/*",
        "put outbox/*",
        "put_new controls/*/released.json",
        "delete waits/*",
        "publish task",
        "delete outbox/*",
        "delete open/*",
    )
    for when in ("before", "after")
)


def approve(deployment: Deployment, task: str) -> None:
    """Approve it as alice; that must succeed."""
    done = deployment.cli("approve", task, "--by", "alice")
    assert done.returncode == 0, done


def awaits(deployment: Deployment, task: str, status: str) -> None:
    """Wait until `agentq status` says so."""
    until(lambda: deployment.status(task) == status, f"{task} to be {status}")


def dying(deployment: Deployment, command: Callable[[int], Sequence[str]]) -> Iterator[int]:
    """Kill a command before its first writing step, another one before its second, until one comes through."""
    for n in count(1):
        assert n < 60
        code = deployment.cli(*command(n), faults=(f"die before {n} {STEP}",)).returncode
        assert code in (0, -SIGKILL)
        yield n
        if code == 0:
            assert n > 1
            return


def ran_once(deployment: Deployment, *tasks: str) -> None:
    """Wait until all of them have completed, and no message is left that could start one again."""
    for task in tasks:
        until(lambda task=task: deployment.records.manifest(task), f"the end of {task}")  # type: ignore[misc]
    for task in tasks:
        deployment.ended(task)
        assert deployment.papers(task).attempts[-1].number == 1, task
    until(lambda: deployment.depth() == 0, "an empty queue")
    assert [deployment.starts(task) for task in tasks] == [[1]] * len(tasks)
    assert {deployment.papers(task).manifest.status for task in tasks} == {"completed"}  # type: ignore[union-attr]


def rest(deployment: Deployment) -> None:
    """The same as of the deployment, and nobody waits for anything any more."""
    until(lambda: deployment.keys("waits/") == [], "nobody to wait")
    deployment.rest()
    assert deployment.keys("waits/") == []


# ---------------------------------------------------------------------- dependencies


@pytest.mark.promise("gates")
@pytest.mark.promise("handed-on")
def test_a_diamond_fans_out_and_meets_again(deployment: Deployment) -> None:
    """Both sides start when the first has completed, the last one when both have; each gets what it needs."""
    deployment.profile(limits={"sweep_seconds": 60})
    for _ in range(2):
        deployment.start_worker()
    first = deployment.submit("hold first", "report the plan", id="first")
    sides = [
        deployment.submit("cat $AGENTQ_NEEDS/first/report.md", f"hold {name}", f"report {name}", id=name, after=first)
        for name in ("left", "right")
    ]
    last = deployment.submit("cat $AGENTQ_NEEDS/*/report.md > $AGENTQ_OUTPUT/report.md", id="last", after=sides)
    deployment.agent_runs(first)
    for task in (*sides, last):
        assert deployment.status(task) == "pending dependencies"
    assert deployment.json("status", last)["needs"] == sides
    deployment.open_gate("first")
    for task in sides:
        deployment.agent_runs(task)
    deployment.open_gate("left")
    deployment.ended("left")
    assert deployment.json("status", last)["needs"] == ["right"]
    assert deployment.starts(last) == []
    deployment.open_gate("right")
    ran_once(deployment, first, *sides, last)
    assert deployment.evidence("left", 1)["transcript.log"] == "the plan\n"
    assert deployment.evidence(last, 1)["report.md"] == "left\nright\n"
    assert "# Results of the tasks that this one needed" in deployment.prompt(last, 1)
    for side in sides:
        assert f"## {side}: completed, verified\n\n> {side}\n- report: " in deployment.prompt(last, 1)
    assert "AGENTQ_NEEDS" not in deployment.prompt(first, 1)
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.promise("none-lost")
@pytest.mark.parametrize("fault", HANDING_ON)
def test_a_worker_dies_between_a_commit_and_what_it_releases(deployment: Deployment, fault: str) -> None:
    deployment.profile(limits=PATIENT)
    first = deployment.submit("report done")
    second = deployment.submit(f"test -e $AGENTQ_NEEDS/{first}/report.md && report done", after=first)
    worker = deployment.start_worker(fault, ready=False)
    assert worker.wait() == -SIGKILL
    before = fault == "die before put_new results/*.json"
    assert deployment.status(first) == ("pending lease" if before else "completed")
    assert deployment.starts(second) == []
    deployment.start_worker()
    deployment.check(first, starts=[1, 2] if before else [1], attempt=2 if before else 1)
    ran_once(deployment, second)
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.parametrize("fault", ["die after put_new results/*.json", "die after put outbox/*", "die before publish*"])
def test_another_worker_that_is_up_releases_it(deployment: Deployment, fault: str) -> None:
    deployment.profile(limits=PATIENT)
    first = deployment.submit("hold go", "report done")
    second = deployment.submit("report done", after=first)
    worker = deployment.start_worker(fault)
    deployment.agent_runs(first)
    deployment.start_worker()
    deployment.open_gate("go")
    assert worker.wait() == -SIGKILL
    ran_once(deployment, first, second)
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("put_new results/*.json", "put_new results/*.json"),
        ("put outbox/last", "put outbox/last"),
        ("put_new results/*.json", "delete waits/*"),
        ("put_new controls/last/released.json", "publish task"),
    ],
)
def test_two_dependencies_end_and_both_workers_stand_there(deployment: Deployment, one: str, other: str) -> None:
    """Both have committed, each is stopped at its step of releasing the last task, and both go on at once."""
    deployment.profile(limits={**PATIENT, "sweep_seconds": 60})
    for step in (one, other):
        deployment.start_worker(f"stall after {step}")
    needed = [deployment.submit(f"hold {name}", "report done", id=name) for name in ("left", "right")]
    last = deployment.submit("report done", id="last", after=needed)
    for task in needed:
        deployment.agent_runs(task)
    for name in ("left", "right"):
        deployment.open_gate(name)
    for task in needed:
        until(lambda task=task: deployment.records.manifest(task), f"the end of {task}")  # type: ignore[misc]
    deployment.see_flag("stalled")
    deployment.raise_flag("go")
    ran_once(deployment, *needed, last)
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.promise("not-twice")
def test_twenty_pairs_of_dependencies_end_in_the_same_moment(deployment: Deployment) -> None:
    deployment.profile(limits={"parallel": 5})
    for _ in range(2):
        deployment.start_worker()
    tasks: list[str] = []
    for batch in range(4):
        numbers = [f"{batch}{n}" for n in range(5)]
        deployment.submit_all(
            *(
                deployment.request(f"{side}-{n}", f"hold go-{batch}", "report done")
                for n in numbers
                for side in ("left", "right")
            ),
            *(deployment.request(f"last-{n}", "report done", depends_on=(f"left-{n}", f"right-{n}")) for n in numbers),
        )
        needed = [f"{side}-{n}" for n in numbers for side in ("left", "right")]
        for task in needed:
            deployment.agent_runs(task)
        deployment.open_gate(f"go-{batch}")
        last = [f"last-{n}" for n in numbers]
        ran_once(deployment, *needed, *last)
        tasks += last
    assert [deployment.starts(task) for task in tasks] == [[1]] * 20
    rest(deployment)


@pytest.mark.promise("gates")
def test_what_needs_a_task_that_did_not_complete_ends_with_its_reason(deployment: Deployment) -> None:
    """Also what is another agent's that has no worker up; and what runs in any case runs."""
    deployment.submit("echo no sense >&2; exit 65", id="refused")
    deployment.submit("exit 3", id="exhausted", max_attempts="1")
    deployment.submit("report never", id="cancelled")
    deployment.submit("report never", id="expired", ttl="0.2")
    for name in ("refused", "exhausted", "cancelled", "expired"):
        deployment.submit("report never", id=f"after-{name}", after=name)
        deployment.submit("report never", id=f"then-{name}", after=f"after-{name}", to="review-worker", type="review")
        deployment.submit("report done", id=f"always-{name}", after=name, run_if="always")
    assert deployment.cli("cancel", "cancelled", "--by", "alice", "--reason", "too late").returncode == 0
    awaits(deployment, "expired", "expired")
    deployment.start_worker()
    deployment.check("refused", "failed", starts=[1], attempt=1)
    deployment.check("exhausted", "failed", starts=[1], attempt=2)
    why = {
        "refused": "it needs refused, which has failed: refused the task (status 65): no sense",
        "exhausted": "it needs exhausted, which has failed: tried once, the last time: exited with status 3",
        "cancelled": "it needs cancelled, which was cancelled: cancelled by alice: too late",
        "expired": "it needs expired, which has expired: not started within 0.2 s",
    }
    for name, reason in why.items():
        for task in (f"after-{name}", f"then-{name}"):
            status = "cancelled" if name == "cancelled" else "failed"
            assert deployment.check(task, status, starts=[], attempt=1).reason == reason
        deployment.check(f"always-{name}", starts=[1], attempt=1)
        assert f"## {name}: " in deployment.prompt(f"always-{name}", 1)
    deployment.dead_letters(1)
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.promise("none-lost")
def test_a_hand_that_completes_a_dependency_dies_at_any_step(deployment: Deployment) -> None:
    """What waits for it starts in any case, once: when the hand came to its word, else when the worker has done it."""
    deployment.profile(limits=PATIENT)

    def complete(n: int) -> list[str]:
        deployment.submit_all(
            deployment.request(f"first-{n}", "report done"),
            deployment.request(f"second-{n}", "report done", depends_on=(f"first-{n}",)),
        )
        return ["complete", f"first-{n}", "--from", "alice", "--summary", "Done by hand."]

    numbers = list(dying(deployment, complete))
    sealed = [n for n in numbers if deployment.papers(f"first-{n}").seal or deployment.records.manifest(f"first-{n}")]
    assert 1 not in sealed
    assert len(sealed) > 5
    deployment.start_worker()
    ran_once(deployment, *(f"second-{n}" for n in numbers))
    for n in numbers:
        deployment.ended(f"first-{n}")
        assert deployment.starts(f"first-{n}") == ([] if n in sealed else [1])
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.promise("none-lost")
def test_a_submit_after_what_has_completed_dies_at_any_step(deployment: Deployment) -> None:
    """A worker starts what was registered; what was not is no task, and submitting it again makes it one."""
    worker = deployment.start_worker()
    first = deployment.submit("report done")
    deployment.check(first, starts=[1], attempt=1)
    worker.kill()
    numbers = list(dying(deployment, lambda n: deployment.submission("report done", id=f"second-{n}", after=first)))
    registered = [n for n in numbers if deployment.records.is_registered(f"second-{n}")]
    assert 0 < len(registered) < len(numbers)
    deployment.start_worker()
    ran_once(deployment, *(f"second-{n}" for n in registered))
    for n in (n for n in numbers if n not in registered):
        deployment.submit("report done", id=f"second-{n}", after=first)
    ran_once(deployment, *(f"second-{n}" for n in numbers))
    rest(deployment)


@pytest.mark.promise("gates")
@pytest.mark.promise("outage")
def test_a_dependency_ends_while_the_broker_is_away(on_broker: Deployment, broker: Node) -> None:
    on_broker.start_worker()
    first = on_broker.submit("hold go", "report done")
    second = on_broker.submit("report done", after=first)
    on_broker.agent_runs(first)
    broker.stop()
    on_broker.open_gate("go")
    until(lambda: on_broker.status(first) == "completed")
    until(lambda: on_broker.papers(second).release)
    assert on_broker.status(second) == "pending queued"
    broker.start()
    ran_once(on_broker, first, second)
    rest(on_broker)


# ---------------------------------------------------------------------- approval


@pytest.mark.promise("approval")
@pytest.mark.promise("none-lost")
def test_an_approve_dies_at_any_step(deployment: Deployment) -> None:
    """Nothing starts before somebody's approval stands; what was approved starts once, whoever publishes it."""

    def command(n: int) -> list[str]:
        deployment.submit_all(deployment.request(f"task-{n}", "report done", requires_approval=True))
        return ["approve", f"task-{n}", "--by", "alice"]

    numbers = list(dying(deployment, command))
    approved = [n for n in numbers if deployment.papers(f"task-{n}").approved]
    assert approved == numbers[1:]
    assert len(numbers) > 4
    deployment.start_worker()
    ran_once(deployment, *(f"task-{n}" for n in approved))
    assert deployment.status("task-1") == "pending approval"
    assert deployment.starts("task-1") == []
    approve(deployment, "task-1")
    ran_once(deployment, "task-1")
    rest(deployment)


@pytest.mark.promise("approval")
@pytest.mark.parametrize(
    "step", ["put_new results/first.json", "put outbox/*", "put inbox/*/first.json", "delete waits/*", "publish task"]
)
def test_an_approval_comes_with_the_last_dependency(deployment: Deployment, step: str) -> None:
    """It is given while the worker that settles the dependency stands at that step."""
    deployment.profile(limits={**PATIENT, "sweep_seconds": 60})
    first = deployment.submit("report done", id="first")
    other = deployment.submit("report done", id="other", after=first)
    task = deployment.submit("report done", after=[first], requires_approval=True)
    assert deployment.cli("approve", task, "--by", "alice").returncode == 5
    deployment.start_worker(f"stall after {step}", ready=False)
    deployment.see_flag("stalled")
    assert deployment.status(task) == "pending approval"
    approve(deployment, task)
    deployment.raise_flag("go")
    ran_once(deployment, first, other, task)
    rest(deployment)


@pytest.mark.promise("approval")
def test_an_approval_races_with_the_last_dependency(deployment: Deployment) -> None:
    deployment.start_worker()
    for n in range(3):
        first = deployment.submit(f"hold go-{n}", "report done")
        task = deployment.submit("report done", after=first, requires_approval=True)
        deployment.agent_runs(first)
        deployment.open_gate(f"go-{n}")
        while deployment.cli("approve", task, "--by", "alice").returncode:
            assert deployment.starts(task) == []
        ran_once(deployment, first, task)
    rest(deployment)


@pytest.mark.promise("approval")
def test_a_type_that_cannot_be_undone_waits_however_it_came(deployment: Deployment) -> None:
    """Submitted here, or published by somebody who knows of no approvals."""
    deployment.profile(irreversible=["work"])
    deployment.start_worker()
    ours = deployment.submit("report done")
    asked = foreign(deployment.agent, instructions=script("report done"), requires_approval=False)
    theirs = asked["task_id"]
    deployment.publish(Envelope.model_validate(asked), copies=3)
    until(lambda: deployment.records.envelope(theirs))
    for task in (ours, theirs):
        awaits(deployment, task, "pending approval")
    until(lambda: deployment.depth() == 0)
    assert deployment.starts(ours) == deployment.starts(theirs) == []
    assert "cannot be undone" in deployment.json("why", theirs)["reason"]
    for task in (ours, theirs):
        approve(deployment, task)
        deployment.check(task, starts=[1], attempt=1)
    assert len([key for key in deployment.keys(f"controls/{ours}/") if "/approval-" in key]) == 1
    rest(deployment)


@pytest.mark.promise("approval")
def test_another_try_of_what_was_approved_needs_no_other_approval(deployment: Deployment) -> None:
    deployment.start_worker()
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 2 ] && { report done; exit; }", "exit 1", requires_approval=True)
    approve(deployment, task)
    deployment.check(task, starts=[1, 2], attempt=2)
    assert len([key for key in deployment.keys(f"controls/{task}/") if "/approval-" in key]) == 1
    rest(deployment)


@pytest.mark.promise("approval")
def test_an_approval_that_was_given_before_a_change_starts_nothing(deployment: Deployment) -> None:
    """The context is altered after the approval, with no worker up; then somebody approves what it is now."""
    store = deployment.records.store
    store.put("tasks/shared.md", b"Delete the old files.")
    asked = foreign(deployment.agent, context_ref=store.ref("tasks/shared.md"), requires_approval=True)
    task = asked["task_id"]
    deployment.start_worker()
    deployment.publish(Envelope.model_validate(asked))
    until(lambda: deployment.records.envelope(task))
    awaits(deployment, task, "pending approval")
    deployment.workers[0].kill()
    approve(deployment, task)
    store.put("tasks/shared.md", b"Delete all files.")
    assert deployment.status(task) == "pending approval"
    deployment.start_worker()
    until(lambda: deployment.depth() == 0)
    last = deployment.submit("report last")
    deployment.check(last, starts=[1], attempt=1)
    assert deployment.papers(task).attempts == ()
    assert deployment.status(task) == "pending approval"
    approve(deployment, task)
    deployment.check(task, starts=[1], attempt=1)
    assert "Delete all files." in deployment.prompt(task, 1)
    rest(deployment)


# ---------------------------------------------------------------------- cancel


@pytest.mark.promise("cancel")
@pytest.mark.promise("none-lost")
def test_a_cancel_dies_at_any_step(deployment: Deployment) -> None:
    """From its first word on the task is never started, and what waits for it ends too; also another agent's."""

    def cancel(n: int) -> list[str]:
        deployment.submit_all(
            deployment.request(f"first-{n}", "report done"),
            deployment.request(f"second-{n}", "report done", depends_on=(f"first-{n}",)),
        )
        return ["cancel", f"first-{n}", "--by", "alice"]

    numbers = list(dying(deployment, cancel))
    asked = [n for n in numbers if deployment.records.cancel_asked(f"first-{n}")]
    assert asked == numbers[1:]
    assert len(numbers) > 8
    theirs = deployment.submit("report never", to="review-worker", type="review", requires_approval=True)
    done = deployment.cli("cancel", theirs, faults=("die before put_new attempts/*",))
    assert done.returncode == -SIGKILL
    deployment.start_worker()
    ran_once(deployment, "first-1", "second-1")
    assert deployment.ended(theirs).status == "cancelled"
    for n in asked:
        for task in (f"first-{n}", f"second-{n}"):
            manifest = deployment.ended(task)
            assert (manifest.status, manifest.attempt) == ("cancelled", 1)
            assert deployment.starts(task) == []
            assert f"inbox/coordinator/{task}.json" in deployment.keys("inbox/coordinator/")
    rest(deployment)


# ---------------------------------------------------------------------- plans


def plan_file(deployment: Deployment, plan: str, **tasks: tuple[str, Sequence[str]]) -> str:
    """A plan's file: the steps and the needs of each task."""
    path = deployment.home / f"{plan}.json"
    content = {
        "plan": plan,
        "defaults": {"to": deployment.agent, "type": "work"},
        "tasks": {name: {"instructions": script(step), "needs": needs} for name, (step, needs) in tasks.items()},
    }
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.promise("plan")
@pytest.mark.promise("none-lost")
def test_a_plan_submit_dies_at_any_step(deployment: Deployment) -> None:
    """Before its own paper nothing of it is a task; after it a worker finishes the plan."""

    def submit(n: int) -> list[str]:
        path = plan_file(deployment, f"plan-{n}", first=("report done", ()), second=("report done", ("first",)))
        return ["plan", "submit", path]

    numbers = list(dying(deployment, submit))
    registered = [n for n in numbers if deployment.records.is_registered(f"plan-{n}")]
    unregistered = [n for n in numbers if n not in registered]
    assert len(unregistered) > 3
    assert len(registered) > 8
    for n in unregistered:
        assert not any(key.startswith(f"tasks/plan-{n}.") for key in deployment.keys("tasks/"))
        assert deployment.cli("status", f"plan-{n}").returncode == 4
    deployment.profile(limits={"parallel": 3})
    deployment.start_worker()
    for found in (registered, unregistered):
        for n in unregistered if found is unregistered else ():
            assert deployment.cli(*submit(n)).returncode == 0
        ran_once(deployment, *(f"plan-{n}.{name}" for n in found for name in ("first", "second")))
        for n in found:
            manifest = deployment.ended(f"plan-{n}")
            assert (manifest.status, manifest.summary) == ("completed", "2 of 2 tasks completed")
    assert deployment.keys("inbox/coordinator/") == sorted(f"inbox/coordinator/plan-{n}.json" for n in numbers)
    rest(deployment)


@pytest.mark.promise("plan")
@pytest.mark.parametrize(
    "fault",
    [
        "die after put_new results/plan.last.json",
        "die before put_new results/plan.json",
        "die after put_new results/plan.json",
        "die before put inbox/*/plan.json",
        "die before delete open/plan",
    ],
)
def test_a_worker_dies_while_a_plan_ends(deployment: Deployment, fault: str) -> None:
    deployment.profile(limits=PATIENT)
    path = plan_file(deployment, "plan", first=("report done", ()), last=("exit 65", ("first",)))
    assert deployment.cli("plan", "submit", path).returncode == 0
    assert deployment.start_worker(fault, ready=False).wait() == -SIGKILL
    deployment.start_worker()
    manifest = deployment.ended("plan")
    assert (manifest.status, manifest.summary) == ("failed", "1 of 2 tasks completed")
    assert manifest.reason == "plan.last failed: refused the task (status 65)"
    assert deployment.cli("result", "plan").returncode == 8
    assert [one["task_id"] for one in deployment.json("inbox")] == ["plan"]
    assert deployment.starts("plan.first") == deployment.starts("plan.last") == [1]
    rest(deployment)


@pytest.mark.promise("plan")
@pytest.mark.promise("none-lost")
def test_a_plan_of_twelve_tasks_survives_a_kill(deployment: Deployment) -> None:
    """Three workers; one is killed with its agent, one between a commit and what follows. One result, one notice."""
    layers = {
        "start": ("report start", ()),
        **{f"side-{n}": (f"{'hold go; ' if n == 3 else ''}report side", ("start",)) for n in range(5)},
        **{f"check-{n}": ("report check", (f"side-{n}", f"side-{n + 1}")) for n in range(4)},
        "meet": ("cat $AGENTQ_NEEDS/*/report.md; report met", tuple(f"check-{n}" for n in range(4))),
        "end": ("report end", ("meet",)),
    }
    assert len(layers) == 12
    for faults in ((), ("die after 4 put_new results/*.json",), ()):
        deployment.start_worker(*faults)
    path = plan_file(deployment, "plan", **layers)
    assert deployment.cli("plan", "submit", path).returncode == 0
    deployment.agent_runs("plan.side-3")
    claim = deployment.papers("plan.side-3").running
    assert claim
    until(lambda: deployment.json("status", "plan")["tasks"].get("completed", 0) > 4)
    assert deployment.status("plan") == "processing"
    holder = next(worker for worker in deployment.workers if worker.pid == claim.owner.pid)
    holder.kill()
    deployment.open_gate("go")
    deployment.start_worker()
    manifest = deployment.ended("plan")
    assert (manifest.status, manifest.verified) == ("completed", True)
    assert manifest.summary == "12 of 12 tasks completed"
    for name in layers:
        deployment.ended(f"plan.{name}")  # its manifest ends the plan, also before all that follows it
        attempts = deployment.papers(f"plan.{name}").attempts
        assert len([a for a in attempts if a.end is None]) == 1, name
        assert len(deployment.starts(f"plan.{name}")) == len(attempts), name
    assert deployment.starts("plan.side-3") == [1, 2]
    assert deployment.evidence("plan.meet", 1)["transcript.log"].split() == ["check"] * 4
    done = deployment.cli("result", "plan")
    assert done.returncode == 0, done
    assert deployment.keys("inbox/coordinator/") == ["inbox/coordinator/plan.json"]
    assert sorted(deployment.keys("results/")) == sorted(
        f"results/{task}.{kind}" for task in ("plan", *(f"plan.{name}" for name in layers)) for kind in ("json", "md")
    )
    rest(deployment)
