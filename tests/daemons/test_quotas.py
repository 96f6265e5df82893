"""Quotas, with real agents that leave or write too much."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons.conftest import on_sqlite, running
from tests.daemons.harness import Deployment, Nursery, until

SMALL = {"artifact_bytes": 200_000, "attempt_bytes": 500_000}


@pytest.fixture
def deployment(tmp_path: Path, nursery: Nursery) -> Iterator[Deployment]:
    """A deployment on one engine: which one it is makes no difference here."""
    yield from running(on_sqlite(tmp_path, nursery))


def limited(deployment: Deployment, **limits: int) -> None:
    """Start a worker with these limits beside its own."""
    lease = {"lease_seconds": 1.0, "renew_seconds": 0.1, "sweep_seconds": 0.25, "timeout_seconds": 30}
    deployment.profile(limits=lease | SMALL | limits)
    deployment.start_worker()


@pytest.mark.promise("quota")
def test_an_artifact_over_its_quota_is_not_taken_and_the_next_attempt_is_told(deployment: Deployment) -> None:
    limited(deployment)
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 1 ] && head -c 200001 /dev/zero > $AGENTQ_OUTPUT/large.bin",
        "head -c 200000 /dev/zero > $AGENTQ_OUTPUT/fits.bin",
        "report done",
    )
    deployment.check(task, starts=[1, 2], attempt=2)
    assert "large has 200001 bytes, an artifact may have 200000" in deployment.prompt(task, 2)
    assert sorted(deployment.evidence(task, 1)) == ["fits.bin", "report.md", "transcript.log"]
    deployment.rest()


@pytest.mark.promise("quota")
def test_all_of_an_attempt_has_a_quota_too(deployment: Deployment) -> None:
    limited(deployment, attempt_bytes=390_000)
    task = deployment.submit(
        "for part in a b; do truncate -s 199000 $AGENTQ_OUTPUT/$part.bin; done", "report done", max_attempts="1"
    )
    manifest = deployment.ended(task)
    assert manifest.status == "failed"
    assert "b (199000 bytes) is too much: all of an attempt may have 390000 bytes" in (manifest.reason or "")
    assert {"a.bin", "report.md", "transcript.log"} == deployment.evidence(task, 1).keys()


@pytest.mark.promise("quota")
@pytest.mark.parametrize("place", ["$AGENTQ_OUTPUT/deep/er", "$PWD/build"])
def test_a_runaway_is_stopped_and_its_evidence_kept(deployment: Deployment, place: str) -> None:
    limited(deployment)
    task = deployment.submit(
        "echo before",
        "echo small > $AGENTQ_OUTPUT/notes.txt",
        f'mkdir -p "{place}"',
        f'while :; do head -c 100000 /dev/zero >> "{place}/file"; sleep 0.01; done',
        max_attempts="1",
    )
    manifest = deployment.ended(task)
    assert manifest.status == "failed"
    assert "it wrote more than 500000 bytes to its workspace and its output folder" in (manifest.reason or "")
    evidence = deployment.evidence(task, 1)
    assert evidence["notes.txt"] == "small\n"
    assert "before" in evidence["transcript.log"]
    assert not any(len(text) > SMALL["artifact_bytes"] for text in evidence.values())
    deployment.rest()


def test_what_was_there_before_does_not_count(deployment: Deployment) -> None:
    limited(deployment, attempt_bytes=100_000)
    task = deployment.submit("[ $AGENTQ_ATTEMPT = 1 ] && { hold go; exit 75; }", "report done")
    deployment.agent_runs(task)
    deployment.open_gate("go")
    deployment.check(task, starts=[1, 2], attempt=2)


def test_a_claimed_task_has_the_quota_of_its_agent(deployment: Deployment) -> None:
    deployment.profile(limits={"lease_seconds": 1.0, "renew_seconds": 0.1, **SMALL})
    task = deployment.submit("by hand")
    assert deployment.cli("claim", "--as", deployment.agent, "--wait", "10").returncode == 0
    report, large = deployment.home / "report.md", deployment.home / "large.bin"
    report.write_text("Done.\n")
    large.write_bytes(b"x" * 200_001)
    end = ("complete", task, "--from", deployment.agent, "--result-file", str(report), "--summary", "Done.")
    done = deployment.cli(*end, "--artifact", f"large={large}")
    assert done.returncode == 3, done
    assert "large.bin) has 200001 bytes, an artifact may have 200000" in done.stderr
    assert deployment.keys(f"artifacts/{task}/") == []
    large.write_bytes(b"x" * 200_000)
    assert deployment.cli(*end, "--artifact", f"large={large}").returncode == 0
    until(lambda: deployment.records.manifest(task))
