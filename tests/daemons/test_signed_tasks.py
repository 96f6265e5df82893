"""Workers that run only what is signed: what others put into the store or the queue is never started."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentq.keyring import Keyring
from tests.daemons.harness import Deployment, foreign, script


@pytest.fixture
def guarded(deployment: Deployment) -> Deployment:
    """A deployment whose worker runs only what its coordinator signed; both have keys, on one machine."""
    ring = Keyring(deployment.home / ".config/agentq/keys")
    for name in ("coordinator", deployment.agent):
        ring.make(name)
    deployment.profile(signatures={"required": True, "from": {"coordinator": ["work"]}})
    return deployment


def swap(deployment: Deployment, key: str, **changes: Any) -> None:
    path = Path(deployment.store_path / key)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.promise("signed-only")
def test_only_what_the_coordinator_signed_is_run(guarded: Deployment) -> None:
    good = guarded.submit("report done")
    swapped = guarded.submit("report done")
    swap(guarded, f"tasks/{swapped}.json", instructions=script("report forged"))
    stranger = guarded.submit("report done", **{"from": "stranger"})
    unsigned = guarded.request("unsigned", "report done")
    guarded.submit_all(unsigned)
    message = foreign(guarded.agent)
    guarded.publish_raw(json.dumps(message).encode())
    guarded.start_worker()

    manifest = guarded.check(good, starts=[1], attempt=1)
    assert manifest.signature
    assert manifest.signature.by == guarded.agent
    assert guarded.json("verify", good)["holds"]
    for task, why in (
        (swapped, "it is not what coordinator signed"),
        (stranger, "nothing proves that stranger asked for this: it is not signed"),
        ("unsigned", "nothing proves that coordinator asked for this: it is not signed"),
    ):
        ended = guarded.check(task, "failed", starts=[], attempt=1)
        assert why in (ended.reason or "")
        assert ended.given_up
    reasons = {json.loads(letter.body)["task_id"]: letter.reason for letter in guarded.dead_letters(4)}
    assert set(reasons) == {swapped, stranger, "unsigned", message["task_id"]}
    assert "runs only what is signed" in reasons[message["task_id"]]
    assert guarded.records.envelope(message["task_id"]) is None
    guarded.rest()


@pytest.mark.promise("signed-only")
def test_a_context_that_was_exchanged_is_never_run(guarded: Deployment) -> None:
    brief = guarded.home / "brief.md"
    brief.write_text("Do it well.\n")
    task = guarded.submit("report done", file=str(brief))
    Path(guarded.store_path / f"tasks/{task}.md").write_text("Do harm.\n")
    guarded.start_worker()
    ended = guarded.check(task, "failed", starts=[], attempt=1)
    assert "was altered after the task was submitted" in (ended.reason or "")
    assert guarded.cli("verify", task).returncode == 11
    guarded.rest()


@pytest.mark.promise("signed-only")
def test_a_plans_tasks_are_run_when_whoever_registers_them_has_no_key(guarded: Deployment) -> None:
    """The submit dies when the plan's own paper stands; the worker registers its tasks, signed as they are."""
    tasks = f"tasks:\n  one: {{to: {guarded.agent}, type: work, instructions: '{script('report done')}'}}\n"
    (guarded.home / "plan.yaml").write_text(f"plan: p\n{tasks}".replace("\n$", "\n\n    $"))
    assert guarded.cli("plan", "submit", "plan.yaml").returncode == 0
    Path(guarded.store_path / "tasks/p.one.json").unlink()
    Path(guarded.store_path / "outbox/p").touch()
    (guarded.home / ".config/agentq/keys/coordinator.key").unlink()
    guarded.start_worker()
    guarded.check("p.one", starts=[1], attempt=1)
    assert guarded.ended("p").status == "completed"
    assert guarded.json("verify", "p")["holds"]
    guarded.rest()


@pytest.mark.promise("signed-only")
@pytest.mark.parametrize("state", ["no folder", "nobody", "revoked", "open to others"])
def test_a_worker_that_could_trust_nobody_does_not_start(deployment: Deployment, state: str) -> None:
    ring = Keyring(deployment.home / ".config/agentq/keys")
    if state != "no folder":
        ring.make(deployment.agent if state == "nobody" else "coordinator")
    if state == "revoked":
        ring.revoke("coordinator")
    if state == "open to others":
        (ring.folder / "trusted").chmod(0o777)
    deployment.profile(signatures={"required": True, "from": {"coordinator": ["*"]}})
    done = deployment.cli("worker", "run", deployment.agent)
    assert done.returncode == 3, done
    hint = {"no folder": "AGENTQ_KEYS", "open to others": "chmod go-w"}.get(state, "agentq keys trust LINE")
    assert hint in done.stderr


@pytest.mark.promise("signed-only")
def test_who_pulls_gets_only_what_is_signed(guarded: Deployment) -> None:
    forged = guarded.submit("report done")
    swap(guarded, f"tasks/{forged}.json", instructions=script("report forged"))
    assert guarded.cli("claim", "--as", guarded.agent).returncode == 12
    assert "it is not what coordinator signed" in (guarded.ended(forged).reason or "")
    good = guarded.submit("report done")
    assert guarded.json("claim", "--as", guarded.agent)["task"]["task_id"] == good
    guarded.cli("complete", good, "--from", guarded.agent, "--summary", "Did it.")
    manifest = guarded.ended(good)
    assert manifest.signature
    assert manifest.signature.by == guarded.agent


def test_a_trusted_file_that_breaks_while_the_worker_runs_kills_no_task(guarded: Deployment) -> None:
    worker = guarded.start_worker()
    (path,) = (p for p in (guarded.home / ".config/agentq/keys/trusted").iterdir() if "coordinator" in p.read_text())
    whole = path.read_text()
    path.write_text("{")
    task = guarded.submit("report done")
    worker.says("trying again: ")
    assert f"{path} is damaged" in worker.said()
    assert guarded.papers(task).attempts == ()
    assert guarded.dead_letters(0) == []
    path.write_text(whole)
    guarded.check(task, starts=[1], attempt=1)
    guarded.rest()
