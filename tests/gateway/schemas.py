"""What the OpenAPI document says is what the gateway does: Schemathesis asks every operation well and badly, as `make
test-all` does, which installs it. Whatever is answered is documented, and nothing is an error of the gateway's own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from tests.desk import Desk
from tests.gateway.serving import Served, serving

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
EXAMPLES = 8
MINUTES = 10


def test_the_document_is_valid(served: Served) -> None:
    validate(served.get("/openapi.json").ok())


def _run(gateway: Served, folder: Path, *more: str, without: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    asked = [sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json", "--no-color"]
    flags = ["--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"]
    # What is well-formed may still be refused: an agent that nobody is, a plan that is none, a task with nothing to do.
    limits = [
        "--exclude-checks",
        ",".join(("positive_data_acceptance", *without)),
        "--continue-on-failure",
        "--request-timeout",
        "30",
        "--seed",
        "1",
        "--warnings",
        "off",
    ]
    return subprocess.run(
        [*asked, *flags, *limits, *more], cwd=folder, capture_output=True, text=True, timeout=60 * MINUTES, check=False
    )


def _fill(gateway: Served) -> None:
    """Some things to meet: a task that waits, one for approval, one that completed, a dead letter, a plan, a thread."""
    desk = gateway.desk
    for name, more in (("waits", {}), ("risky", {"requires_approval": True}), ("done", {}), ("dead", {})):
        gateway.post("/api/tasks", {**TASK, "id": name, **more}).ok(201)
    desk.finish("done")
    desk.bury(desk.envelope("dead"))
    gateway.post("/api/plans", {"plan": "plan: p\ntasks: {a: {to: review-worker, type: research, instructions: Go.}}"})
    gateway.post("/api/threads", {"title": "A thread", "id": "thread-1"}).ok(201)


@pytest.mark.timeout(60 * MINUTES + 60)
@pytest.mark.parametrize("with_token", [False, True], ids=["nobody has a token", "with a token"])
def test_every_operation_answers_as_documented(desk: Desk, tmp_path: Path, with_token: bool) -> None:
    with serving(desk) as gateway:
        _fill(gateway)
        if with_token:
            token = gateway.new_token("coordinator", "approver")
            done = _run(gateway, tmp_path, "--header", f"Authorization: Bearer {token}")
        else:
            done = _run(gateway, tmp_path, without=["ignored_auth"])

    assert done.returncode == 0, done.stdout + done.stderr
