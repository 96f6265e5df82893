"""What the commands import: they are started thousands of times, and each pays for its own needs alone."""

import subprocess
import sys

import pytest

from tests.desk import Desk
from tests.object_servers import CREDENTIALS, ObjectServer

AMQP_AND_S3 = {"aio_pika", "aiormq", "pamqp", "yarl", "boto3", "botocore"}
HEAVY = AMQP_AND_S3 | {"asyncio", "ssl", "sqlite3", "ctypes", "tenacity", "rich", "concurrent", "multidict"}
LOOK = """
import json, sys
sys.argv[0] = "agentq"
from agentq.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def imported(desk: Desk, *arguments: str) -> set[str]:
    """The top-level modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments], cwd=desk.project, env=desk.environment, capture_output=True, text=True
    )
    from json import loads

    return set(loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def ended(desk: Desk) -> str:
    task_id = desk.task()
    desk.finish(task_id)
    return task_id


@pytest.mark.parametrize("command", ["status", "result", "inbox", "wait", "why", "cancel"])
def test_what_only_reads_imports_neither_amqp_nor_s3_nor_an_event_loop(desk: Desk, ended: str, command: str) -> None:
    desk.environment["AGENTQ_BROKER"] = "amqp://localhost/"
    assert not imported(desk, command, ended) & HEAVY


def test_status_of_a_waiting_task_imports_nothing_heavy_either(desk: Desk) -> None:
    assert not imported(desk, "status", desk.task()) & HEAVY


@pytest.mark.parametrize("command", ["status", "why"])
@pytest.mark.parametrize("gate", ["--delay=1h", "--after=first", "--requires-approval"])
def test_what_the_papers_can_tell_needs_no_engine(desk: Desk, command: str, gate: str) -> None:
    desk.task("--id", "first", "--delay", "1h")
    assert not imported(desk, command, desk.task(gate)) & HEAVY


@pytest.mark.parametrize("command", ["status", "result", "inbox"])
def test_what_reads_from_a_bucket_imports_the_client_and_no_more(desk: Desk, moto: ObjectServer, command: str) -> None:
    desk.environment |= CREDENTIALS | {"AGENTQ_STORE": moto.store().url, "AWS_ENDPOINT_URL_S3": moto.url}
    desk.ok("submit", "--to", "review-worker", "--type", "review", "-i", "Look.", "--id", "known")
    desk.ok("complete", "known", "--from", "me", "--summary", "done")
    found = imported(desk, command, *(("known",) if command != "inbox" else ()))
    assert "boto3" in found
    assert not found & {"tenacity", "asyncio", "aio_pika", "rich"}


def test_help_and_version_import_no_command(desk: Desk) -> None:
    for arguments in (("--help",), ("--version",)):
        found = imported(desk, *arguments)
        assert not found & HEAVY
        assert "tomllib" not in found


@pytest.mark.parametrize("command", ["submit", "init", "doctor", "dlq"])
def test_the_embedded_engine_imports_neither_amqp_nor_s3(desk: Desk, command: str) -> None:
    task = ("--to", "review-worker", "--type", "review", "-i", "Look.") if command == "submit" else ()
    assert not imported(desk, command, *task) & (AMQP_AND_S3 | {"rich"})


@pytest.mark.parametrize("command", ["list", "history", "tree"])
def test_what_reads_the_ledger_imports_no_event_loop_and_no_client(desk: Desk, ended: str, command: str) -> None:
    desk.environment["AGENTQ_BROKER"] = "amqp://localhost/"
    desk.ok("ledger", "rebuild", "--from-papers")
    found = imported(desk, command, "--cached", *((ended,) if command != "list" else ()))
    assert "sqlite3" in found
    assert not found & (HEAVY - {"sqlite3"})
