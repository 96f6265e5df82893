"""What agents do to the world: told apart over all attempts, and not done twice where it cannot be undone."""

from collections.abc import Sequence
from signal import SIGKILL
from typing import Any

import pytest

from tests.daemons.harness import Deployment, until

KEY = "note key $AGENTQ_IDEMPOTENCY_KEY"


@pytest.mark.promise("idempotency-key")
def test_one_key_in_all_attempts_of_a_task_and_of_its_retries(deployment: Deployment) -> None:
    deployment.start_worker()
    first = deployment.submit(KEY, "exit 1", max_attempts="2")
    deployment.ended(first)
    assert deployment.notes(first, "key") == [["1", first], ["2", first]]
    done = deployment.cli("retry", first)
    assert done.returncode == 0, done
    again = done.stdout.split()[-1]
    deployment.ended(again)
    assert again != first
    assert deployment.notes(again, "key") == [["1", first], ["2", first]]


def approved(deployment: Deployment, *steps: str, faults: Sequence[str] = (), **profile: Any) -> str:
    """A task that cannot be undone, approved."""
    deployment.profile(irreversible=["work"], **profile)
    deployment.start_worker(*faults)
    task = deployment.submit(*steps)
    until(lambda: deployment.status(task) == "pending approval")
    assert deployment.cli("approve", task, "--by", "alice").returncode == 0
    return task


@pytest.mark.promise("once-at-most")
@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("exit 1", "exited with status 1"),
        ("echo 1s > $AGENTQ_OUTPUT/not-before; exit 75", "asked not to be tried again before"),
        ("agentq release $AGENTQ_TASK_ID --delay 1 --reason later; exit 75", "later"),
    ],
    ids=["fails", "is limited", "gives it back"],
)
def test_what_cannot_be_undone_is_started_once(on_sqlite_alone: Deployment, ending: str, why: str) -> None:
    task = approved(on_sqlite_alone, ending)
    result = on_sqlite_alone.ended(task)
    assert result.status == "failed"
    assert (result.reason or "").startswith("not tried again, for what attempt 1 may have done cannot be undone")
    assert why in (result.reason or "")
    assert on_sqlite_alone.starts(task) == [1]
    on_sqlite_alone.rest()


@pytest.mark.promise("once-at-most")
@pytest.mark.parametrize("fault", ["die after put_new attempts/*/1.json", "die before ack"])
def test_nor_again_when_its_worker_was_killed(deployment: Deployment, fault: str) -> None:
    """Also when its agent was never started: whoever finds the claim cannot know."""
    task = approved(deployment, "hold go", "report done", faults=[fault])
    assert deployment.workers[0].wait() == -SIGKILL
    started = deployment.starts(task)
    deployment.start_worker()
    result = deployment.ended(task)
    assert result.status == "failed"
    assert "its worker's process died" in (result.reason or "")
    assert deployment.starts(task) == started
    deployment.rest()


@pytest.mark.promise("once-at-most")
def test_what_could_not_be_prepared_has_done_nothing_and_is_tried_again(on_sqlite_alone: Deployment) -> None:
    away = {"kind": "git-worktree", "repository": "http://127.0.0.1:9/away.git"}
    task = approved(on_sqlite_alone, "report done", workspace=away)
    result = on_sqlite_alone.ended(task)
    assert (result.reason or "").startswith("tried 3 times, the last time: the attempt could not be prepared")
    assert on_sqlite_alone.starts(task) == []
    on_sqlite_alone.rest()
