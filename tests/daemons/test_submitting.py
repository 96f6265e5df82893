"""`submit` dies or is refused half-way: nothing is registered and forgotten, and nothing is done twice."""

from signal import SIGKILL

import pytest

from tests.daemons.harness import Deployment

UNPUBLISHED = ("die after put_new tasks/*.json", "die before publish task")
HALF_PUBLISHED = (*UNPUBLISHED, "die after publish task", "die before delete outbox/*")


def half_submit(deployment: Deployment, fault: str) -> str:
    done = deployment.cli(*deployment.submission("report done", id="task-1"), faults=(fault,))
    assert done.returncode == -SIGKILL
    return "task-1"


@pytest.mark.promise("none-lost")
@pytest.mark.parametrize("fault", HALF_PUBLISHED)
def test_an_idle_worker_publishes_what_was_only_registered(deployment: Deployment, fault: str) -> None:
    deployment.start_worker()
    task = half_submit(deployment, fault)
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.parametrize("fault", UNPUBLISHED)
def test_repeating_the_command_publishes_it(deployment: Deployment, fault: str) -> None:
    task = half_submit(deployment, fault)
    assert deployment.status(task) == "pending queued"
    assert deployment.submit("report done", id=task) == task
    assert deployment.keys("outbox/") == []
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


def test_doctor_publishes_it(deployment: Deployment) -> None:
    task = half_submit(deployment, "die before publish task")
    assert deployment.cli("doctor").returncode == 13
    done = deployment.cli("doctor", "--repair")
    assert done.returncode == 0, done
    assert deployment.keys("outbox/") == []
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.parametrize("fault", ["die after put outbox/*", "die after put open/*"])
def test_what_was_never_registered_is_no_task(deployment: Deployment, fault: str) -> None:
    task = half_submit(deployment, fault)
    deployment.start_worker()
    assert deployment.cli("status", task).returncode == 4
    assert deployment.cli("doctor").returncode == 13
    done = deployment.cli("doctor", "--repair")
    assert done.returncode == 0, done
    assert deployment.submit("report done", id=task) == task
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("submit-idempotent")
def test_a_repeated_submit_is_the_same_task_and_another_content_a_conflict(deployment: Deployment) -> None:
    task = deployment.submit("report done", id="task-1")
    assert deployment.submit("report done", id=task) == task
    other = deployment.cli(*deployment.submission("report other", id=task))
    assert other.returncode == 5
    deployment.start_worker()
    deployment.check(task, starts=[1], attempt=1)
    assert deployment.submit("report done", id=task) == task
    deployment.check(task, starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.parametrize("step", ["put_new tasks/*.json", "put outbox/*", "put open/*"])
def test_a_lost_answer_to_submit_is_repeated_by_its_caller(deployment: Deployment, step: str) -> None:
    done = deployment.cli(*deployment.submission("report done", id="task-1"), faults=(f"lose after {step}",))
    assert done.returncode in (0, 6), done
    if done.returncode:
        deployment.submit("report done", id="task-1")
    deployment.start_worker()
    deployment.check("task-1", starts=[1], attempt=1)
    deployment.rest()


@pytest.mark.promise("refused-before-written")
def test_a_full_disk_registers_nothing(deployment: Deployment) -> None:
    deployment.raise_flag("away")
    done = deployment.cli(*deployment.submission("report done", id="task-1"), faults=("refuse before put*",))
    assert done.returncode == 6
    assert "full" in done.stderr
    assert deployment.keys("tasks/") == deployment.keys("open/") == deployment.keys("outbox/") == []
    assert deployment.cli("status", "task-1").returncode == 4
    assert deployment.cli("doctor").returncode == 0
