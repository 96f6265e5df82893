"""A password in the broker's URL: nobody but the broker ever sees it, whatever goes well or wrong."""

import time
from pathlib import Path

import pytest

from tests.brokers.node import Node
from tests.desk import Desk
from tests.object_servers import BUCKET, CREDENTIALS, ObjectServer

PASSWORD = "pw-" + "kX7qZ2mP9sL4"
WORKER = """
agent = "leaky"
[runner]
command = ["sh", "-c", '''
cat /proc/[0-9]*/cmdline > processes 2> /dev/null
cat /proc/self/environ processes > $AGENTQ_OUTPUT/seen.txt
echo done > $AGENTQ_OUTPUT/report.md
''']
[limits]
lease_seconds = 1.0
renew_seconds = 0.2
"""
COMMANDS = (
    ("init",), ("init", "--json"), ("init", "--write"), ("doctor",), ("doctor", "--json"), ("dlq",), ("dlq", "--json"),
    ("submit", "--to", "leaky", "--type", "work", "-i", "Do it.", "--json"), ("why", "first"), ("inbox", "--json"),
    ("claim", "--as", "leaky"), ("access", "show"),
)  # fmt: skip


@pytest.fixture
def leaky(rabbit_desk: Desk, rabbitmq: Node) -> Desk:
    """A desk whose broker URL holds a password, with a worker's profile of its own."""
    folder = rabbit_desk.project / "workers" / "leaky"
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(WORKER)
    (folder / "prompt.md").write_text("Do it.")
    rabbit_desk.environment["AGENTQ_BROKER"] = f"amqp://leaky:{PASSWORD}@127.0.0.1:{rabbitmq.port}/"
    rabbit_desk.environment["AGENTQ_DEBUG"] = "1"
    return rabbit_desk


def everything_of(desk: Desk) -> str:
    """All that lies in its folders, as text."""
    files = [path for path in desk.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


def worker_says(desk: Desk, words: str, then: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> str:
    """All that a verbose worker prints until these words come, and while it drains; its command line too."""
    log = desk.folder / "worker.log"
    with log.open("wb") as file:
        worker = desk.start("worker", "run", "leaky", "--verbose", *flags, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 30
            while words not in log.read_text() and worker.poll() is None:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            line = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode() if worker.poll() is None else ""
            if then:
                desk.ok(*then)
        finally:
            for _ in range(2):
                worker.terminate()
            worker.wait(30)
    return line + log.read_text()


@pytest.mark.promise("no-secrets")
def test_the_brokers_password_is_seen_by_nobody_when_all_goes_well(leaky: Desk, rabbitmq: Node) -> None:
    rabbitmq.ctl("add_user", "leaky", PASSWORD)
    rabbitmq.ctl("set_permissions", "leaky", ".*", ".*", ".*")
    try:
        said = [leaky.run(*command) for command in COMMANDS]
        leaky.ok("submit", "--to", "leaky", "--type", "work", "-i", "Do it.", "--id", "second")
        said.append(worker_says(leaky, "leaky: ready", ("wait", "second", "--timeout", "30")))
        said.append(leaky.run("result", "second", "--json"))
    finally:
        rabbitmq.ctl("delete_user", "leaky")
    assert "AGENTQ_TASK_ID=second" in everything_of(leaky)
    assert PASSWORD not in f"{said}{everything_of(leaky)}"


@pytest.mark.promise("no-secrets")
@pytest.mark.parametrize("wrong", ["password", "host", "virtual host", "scheme"])
def test_nor_when_it_goes_wrong(leaky: Desk, rabbitmq: Node, wrong: str) -> None:
    url = {
        "password": f"amqp://guest:{PASSWORD}@127.0.0.1:{rabbitmq.port}/",
        "host": f"amqp://guest:{PASSWORD}@127.0.0.1:1/",
        "virtual host": f"amqp://guest:{PASSWORD}@127.0.0.1:{rabbitmq.port}/elsewhere",
        "scheme": f"amqps://guest:{PASSWORD}@127.0.0.1:{rabbitmq.port}/",
    }[wrong]
    leaky.environment["AGENTQ_BROKER"] = url
    (leaky.project / "agentq.toml").write_text("[rabbitmq]\ntimeout = 2.0\n")
    said = [leaky.run(*command) for command in COMMANDS if "--write" not in command]
    assert {done.code for done in said} & {3, 6}
    said.append(worker_says(leaky, "RabbitMQ at"))
    assert PASSWORD not in f"{said}{everything_of(leaky)}"


@pytest.mark.promise("no-secrets")
@pytest.mark.parametrize("joined", [True, False])
def test_a_password_given_as_a_flag_leaves_the_command_line(leaky: Desk, rabbitmq: Node, joined: bool) -> None:
    url = leaky.environment.pop("AGENTQ_BROKER")
    rabbitmq.ctl("add_user", "leaky", PASSWORD)
    rabbitmq.ctl("set_permissions", "leaky", ".*", ".*", ".*")
    try:
        flags = (f"--broker={url}",) if joined else ("--broker", url)
        assert PASSWORD not in worker_says(leaky, "leaky: ready", flags=flags)
    finally:
        rabbitmq.ctl("delete_user", "leaky")


@pytest.mark.promise("no-secrets")
@pytest.mark.parametrize("wrong", ["nothing", "bucket", "host"])
def test_the_buckets_credentials_are_seen_by_nobody(desk: Desk, moto: ObjectServer, wrong: str) -> None:
    folder = desk.project / "workers" / "leaky"
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(WORKER)
    (desk.project / "agentq.toml").write_text("[s3]\ntimeout = 2.0\nretry_seconds = 0.5\n")
    desk.environment |= CREDENTIALS | {
        "AGENTQ_STORE": f"s3://{'elsewhere' if wrong == 'bucket' else BUCKET}/leaks",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1" if wrong == "host" else moto.url,
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_SESSION_TOKEN": f"session-{PASSWORD}",
        "AGENTQ_DEBUG": "1",
    }
    said = [desk.run(*command) for command in COMMANDS if "access" not in command]
    if wrong == "nothing":
        desk.ok("submit", "--to", "leaky", "--type", "work", "-i", "Do it.", "--id", "second")
        said.append(worker_says(desk, "leaky: ready", ("wait", "second", "--timeout", "30")))
        said.append(desk.run("result", "second", "--artifact", "seen"))
        assert "AGENTQ_TASK_ID=second" in str(said)
    else:
        assert {done.code for done in said} & {3, 6}
        said.append(worker_says(desk, "the store s3://"))
    assert PASSWORD not in f"{said}{everything_of(desk)}"
