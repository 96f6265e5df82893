"""The whole walk with the papers in a bucket, and its server killed while an agent runs."""

import json
import secrets
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from signal import SIGKILL
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from agentq.records import Records
from tests.daemons.conftest import on_rabbitmq, on_sqlite, running
from tests.daemons.harness import Deployment, Nursery
from tests.object_faults import Asked, Front, fronting, unconditional
from tests.object_servers import BUCKET, CREDENTIALS, ObjectServer

WORK = ("echo half > $AGENTQ_OUTPUT/half.md", "note working", "hold go", "report done")


@pytest.fixture(scope="module")
def server(aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """One for these tests, which leave it running."""
    from tests.object_servers import running as serving

    with serving(tmp_path_factory.mktemp("objects"), "ministack") as server:
        yield server


def moved(deployment: Deployment, server: ObjectServer, url: str, prefix: str = "") -> Deployment:
    """The deployment with its papers behind that endpoint."""
    prefix = prefix or secrets.token_hex(4)
    store = {"AGENTQ_STORE": f"s3://{BUCKET}/{prefix}", "AWS_ENDPOINT_URL_S3": url}
    deployment._settings = {**deployment._settings, **CREDENTIALS, **store}
    deployment.records = Records(server.store(prefix))
    return deployment


@pytest.fixture(params=["sqlite", "rabbitmq"])
def objects(
    request: pytest.FixtureRequest, server: ObjectServer, tmp_path: Path, nursery: Nursery
) -> Iterator[Deployment]:
    """A deployment on each engine with its store in a bucket."""
    if request.param == "sqlite":
        deployment = on_sqlite(tmp_path, nursery)
    else:
        deployment = on_rabbitmq(request.getfixturevalue("rabbitmq"), tmp_path, nursery)
    yield from running(moved(deployment, server, server.url))


def test_a_task_goes_its_way(objects: Deployment) -> None:
    objects.open_gate("go")
    objects.start_worker()
    task = objects.submit(*WORK)
    manifest = objects.check(task, starts=[1], attempt=1)
    assert manifest.result_ref == f"{objects.records.store.url}/results/{task}.md"
    assert objects.cli("result", task, "--artifact", "report").stdout == "done\n"
    assert objects.cli("inbox").stdout.count(task) == 1
    doctor = objects.cli("doctor")
    assert f"{objects.records.store.place}, put-if-absent proven" in doctor.stdout
    objects.rest()


@pytest.mark.promise("taken-over")
def test_a_killed_workers_task_is_taken_over(objects: Deployment) -> None:
    worker = objects.start_worker()
    task = objects.submit(*WORK)
    objects.noted(task, "working")
    objects.has_guard(task)
    worker.kill()
    assert worker.wait() == -SIGKILL
    objects.open_gate("go")
    objects.start_worker()
    objects.check(task, starts=[1, 2], attempt=2)
    assert objects.evidence(task, 1)["half.md"] == "half\n"
    objects.rest()


@pytest.mark.promise("outage")
@pytest.mark.promise("bucket-outages")
def test_the_server_is_killed_while_an_agent_runs(objects: Deployment, server: ObjectServer) -> None:
    """The agent runs on, nothing is started twice, and its result is accepted when the server is back."""
    (objects.home / "agentq.toml").write_text("[s3]\nretry_seconds = 0.2\n")
    worker = objects.start_worker()
    task = objects.submit(*WORK)
    objects.noted(task, "working")
    objects.has_guard(task)
    server.kill()
    try:
        objects.open_gate("go")
        worker.says("the store is unavailable")
        done = objects.cli("status", task)
        assert done.returncode == 6
        assert "cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        server.start()
    objects.check(task, starts=[1], attempt=1)
    objects.rest()


@pytest.fixture
def careless(moto: ObjectServer) -> Iterator[Front]:
    """A server that does not know If-None-Match."""
    with fronting(moto.url) as front:
        front.will(unconditional, times=10_000)
        yield front


@pytest.mark.promise("bucket-proof")
def test_a_server_that_ignores_conditions_is_refused(
    careless: Front, moto: ObjectServer, tmp_path: Path, nursery: Nursery
) -> None:
    deployment = moved(on_sqlite(tmp_path, nursery), moto, careless.url)
    for command, code in ((("doctor",), 13), (("init",), 3), (("worker", "run", deployment.agent), 3)):
        done = deployment.cli(*command)
        said = done.stdout + done.stderr
        assert done.returncode == code, done
        assert f"{deployment.records.store.url} at {careless.url} lets a second hand replace a paper" in said
        assert "docs/stores.md" in said
    assert not list(deployment.records.store.keys("attempts/"))


def needed(asked: Asked) -> tuple[str, str]:
    """The action that a request takes, and on what: a key, or the prefix of a listing."""
    parts = urlsplit(asked.path)
    query, key = dict(parse_qsl(parts.query, keep_blank_values=True)), parts.path.removeprefix(f"/{BUCKET}/")
    if "list-type" in query:
        return "s3:ListBucket", query["prefix"]
    if "uploads" in query and asked.method == "GET":
        return "s3:ListBucketMultipartUploads", query["prefix"]
    if "uploadId" in query and asked.method == "DELETE":
        return "s3:AbortMultipartUpload", key
    actions = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "DELETE": "s3:DeleteObject"}
    return actions.get(asked.method, "s3:PutObject"), key


def allowed(policy: dict[str, Any], action: str, name: str) -> bool:
    """Whether the documented policy allows that."""
    for statement in policy["Statement"]:
        actions, resources = (
            [given] if isinstance(given := statement[what], str) else given for what in ("Action", "Resource")
        )
        patterns = [statement["Condition"]["StringLike"]["s3:prefix"]] if "Condition" in statement else resources
        if action in actions and any(fnmatch(name, p.removeprefix("arn:aws:s3:::my-bucket/")) for p in patterns):
            return True
    return False


def test_the_documented_policy_is_enough(server: ObjectServer, tmp_path: Path, nursery: Nursery) -> None:
    """Nothing is asked for, by coordinator, worker or doctor, that the policy in docs/stores.md does not allow."""
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    policy = json.loads(text.partition("```json\n")[2].partition("```")[0])
    with fronting(server.url) as front:
        deployment = moved(on_sqlite(tmp_path, nursery), server, front.url, "agents")
        try:
            deployment.start_worker()
            deployment.open_gate("go")
            done = deployment.submit(*WORK, "head -c 9000000 /dev/zero > $AGENTQ_OUTPUT/large.bin")
            after = deployment.submit(*WORK, after=done, ttl="1h")
            for task in (done, after):
                deployment.check(task, starts=[1], attempt=1)
            cancelled = deployment.submit("hold never")
            deployment.agent_runs(cancelled)
            for command in (("cancel", cancelled), ("inbox", "--ack"), ("doctor", "--repair"), ("wait", done)):
                assert deployment.cli(*command).returncode == 0, command
            deployment.ended(cancelled)
            deployment.rest()
        finally:
            deployment.close()
    asked = {needed(request) for request in front.asked}
    assert [one for one in sorted(asked) if not allowed(policy, *one)] == []
    assert {action for action, _ in asked} >= {"s3:ListBucketMultipartUploads", "s3:DeleteObject", "s3:PutObject"}
