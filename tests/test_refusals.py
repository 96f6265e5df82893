"""What is refused: with what words and exit code, and that nothing was written before."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers.node import Node
from tests.desk import IMPLEMENT, REVIEW, Desk, Done, on

TOO_LARGE = 16 * 1024 * 1024 + 1
BAD_IDS = ["a b", "a/b", "..", ".", "", ".hidden", "-x", "a" * 129, "größe", "a\nb", "a\x00b", "a:b", "*"]


@contextmanager
def nothing_written(desk: Desk) -> Iterator[None]:
    """Fail unless store and queues are afterwards what they were before."""
    before = desk.files()
    yield
    assert desk.files() == before
    assert desk.run("dlq", "--json").json == []
    assert [desk.waiting(agent) for agent in ("implementation-worker", "review-worker")] == [0, 0]


def refused(done: Done, code: int, *words: str) -> None:
    """Fail unless it ended so: with these words, a next step, and neither data nor a traceback."""
    assert done.code == code, done
    assert done.out == ""
    assert done.err.startswith("agentq: ")
    assert re.search(r"\n  → \S", done.err), f"no next step: {done.err}"
    assert "Traceback" not in done.err
    assert "bug" not in done.err
    for word in words:
        assert word in done.err, f"{word!r} is not in: {done.err}"


def submit_is_refused(desk: Desk, arguments: tuple[str, ...], *words: str, code: int = 3, stdin: bytes = b"") -> None:
    with nothing_written(desk):
        refused(desk.run("submit", *arguments, stdin=stdin), code, *words)


# ---------------------------------------------------------------------- what is asked


@pytest.mark.promise("refused-before-written")
def test_an_unknown_agent(desk: Desk) -> None:
    submit_is_refused(
        desk,
        ("--to", "nobody", "--type", "review", "-i", "Look."),
        "there is no agent nobody",
        "Known: implementation-worker, mention-worker, review-worker.",
        "agentq.toml",
    )


def test_a_type_that_the_agents_profile_does_not_take(desk: Desk) -> None:
    submit_is_refused(
        desk,
        ("--to", "review-worker", "--type", "cooking", "-i", "Look."),
        "review-worker takes no tasks of type cooking",
        "It takes: review,",
    )


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize("instructions", [(), ("-i", ""), ("-i", " \n\t "), ("--label", "a=b")])
def test_nothing_to_do(desk: Desk, instructions: tuple[str, ...]) -> None:
    submit_is_refused(desk, (*REVIEW, *instructions), "nstructions")


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--priority", "p0"), ["--priority: it should be 'low', 'normal', 'high' or 'urgent'"]),
        (("--priority", ""), ["--priority"]),
        (("--ttl", "-5"), ["--ttl '-5' is no duration", "10m"]),
        (("--ttl", "0"), ["--ttl: it should be greater than 0"]),
        (("--ttl", "nan"), ["--ttl 'nan' is no duration"]),
        (("--ttl", "inf"), ["--ttl 'inf' is no duration"]),
        (("--ttl", "1e400"), ["--ttl '1e400' is no duration"]),
        (("--ttl", "9" * 400), ["is too long", "At most 366 days."]),
        (("--ttl", "367d"), ["--ttl '367d' is too long", "At most 366 days."]),
        (("--ttl", "1y"), ["--ttl '1y' is no duration"]),
        (("--ttl", ""), ["--ttl '' is no duration"]),
        (("--timeout", "0s"), ["--timeout: it should be greater than 0"]),
        (("--timeout", "soon"), ["--timeout 'soon' is no duration"]),
        (("--max-attempts", "0"), ["--max-attempts: it should be greater than or equal to 1"]),
        (("--max-attempts", "1001"), ["--max-attempts: it should be less than or equal to 1000"]),
        (("--delay", "9" * 20), ["is too long"]),
        (("--delay", "-1"), ["--delay '-1' is no duration"]),
        (("--at", "tomorrow"), ["--at 'tomorrow' is no time", "2030-01-31T18:00"]),
        (("--at", "2025-13-01"), ["--at '2025-13-01' is no time"]),
        (("--at", "9999-12-31T23:59"), ["--at '9999-12-31T23:59' is too far off"]),
        (("--at", "0001-01-01T00:00+14:00"), ["is no time"]),
        (("--at", "2026-01-01", "--delay", "1h"), ["--delay and --at name two times"]),
        (("--label", "plain"), ["--label 'plain' is no label", "key=value"]),
        (("--label", "=x"), ["--label '=x' is no label"]),
        (("--expect", "../patch"), ["--expect: letters, digits"]),
        (("--expect", ""), ["--expect"]),
        (("--format", ""), ["--format"]),
        (("--reply-to", ""), ["--reply-to"]),
        (("--repo", ""), ["--repo is empty", "URL"]),
        (("--repo", "https://me:p4ssw0rd-Xy7@example.org/x.git"), ["password"]),
        (("--from", "a b"), ["'a b' is no name"]),
        (("--from", ""), ["'' is no name"]),
        (("--context-ref", "file:///etc/hosts"), ["file:///etc/hosts is nothing in file:///"]),
        (("--context-ref", ""), [" is nothing in file:///"]),
        (("--context-ref", "s3://bucket/key"), ["s3://bucket/key is nothing in file:///"]),
        (("--file", "-", "--context-ref", "x"), ["--file and --context-ref name two contexts"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_flag_that_cannot_be_used(desk: Desk, flags: tuple[str, ...], words: list[str]) -> None:
    submit_is_refused(desk, (*REVIEW, "-i", "Look.", *flags), *words)


@pytest.mark.parametrize("flag", ["--to", "--type"])
def test_a_name_that_cannot_be_a_queues(desk: Desk, flag: str) -> None:
    flags = {"--to": "review-worker", "--type": "review"} | {flag: "../x"}
    submit_is_refused(desk, (*(part for pair in flags.items() for part in pair), "-i", "Look."), f"{flag}: letters,")


def test_a_count_that_is_no_number_is_a_usage_error(desk: Desk) -> None:
    with nothing_written(desk):
        assert desk.run("submit", *REVIEW, "-i", "Look.", "--max-attempts", "many").code == 2


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize("bad", BAD_IDS, ids=lambda text: ascii(text[:12]))
def test_an_id_that_cannot_be_a_key(desk: Desk, bad: str) -> None:
    old = desk.task()
    desk.finish(old)
    before = desk.files()
    for arguments in (
        ("submit", *REVIEW, "-i", "Look.", f"--id={bad}"),
        ("retry", old, f"--id={bad}"),
        ("status", "--", bad),
        ("result", "--", bad),
        ("wait", "--", old, bad),
        ("inbox", "--", bad),
        ("complete", "--from=me", "--summary=Done.", "--", bad),
        ("fail", "--from=me", "--reason=No.", "--", bad),
    ):
        refused(desk.run(*arguments), 3, "is no task id", "letters, digits, '.', '_' and '-'", "128")
    assert desk.files() == before


@pytest.mark.parametrize("command", ["complete", "fail"])
@pytest.mark.parametrize("words", [("--from=a b",), ("--from=me",), ("--from=me", "--summary= ", "--reason= ")])
def test_a_word_on_a_task_that_says_nothing(desk: Desk, command: str, words: tuple[str, ...]) -> None:
    task_id, other = desk.task(), "--reason=" if command == "complete" else "--summary="
    own = [word for word in words if not word.startswith(other)]
    if command == "fail" and len(own) == 1:
        own.append("--reason=")
    before = desk.files()
    refused(desk.run(command, task_id, *own), 3)
    assert desk.files() == before


def test_a_result_file_that_cannot_be_read(desk: Desk) -> None:
    task_id = desk.task()
    before = desk.files()
    (desk.project / "empty.md").write_text("")
    for path, words in (("nope.md", "cannot be read"), (".", "cannot be read"), ("empty.md", "is empty")):
        refused(desk.run("complete", task_id, "--from", "me", "--result-file", path), 3, path, words)
    assert desk.files() == before


@pytest.mark.promise("refused-before-written")
def test_an_envelope_over_the_limit(desk: Desk) -> None:
    (desk.project / "brief.md").write_text("Do it.\n")
    submit_is_refused(
        desk, (*REVIEW, "-i", "x" * 70_000, "--file", "brief.md"), "the envelope would have 70", "65536 is the limit"
    )
    submit_is_refused(desk, (*REVIEW, "-i", "Look.", "--label", f"a={'x' * 70_000}"), "65536 is the limit")


# ---------------------------------------------------------------------- files


def a_missing_file(desk: Desk) -> str:
    return "nope.md"


def no_name(desk: Desk) -> str:
    return ""


def a_folder(desk: Desk) -> str:
    return "."


def a_file_that_cannot_be_read(desk: Desk) -> str:
    return "/proc/self/mem"


def an_empty_file(desk: Desk) -> str:
    (desk.project / "empty.md").write_text(" \n")
    return "empty.md"


def a_file_that_is_not_utf_8(desk: Desk) -> str:
    (desk.project / "latin.md").write_bytes("Größe".encode("latin-1"))
    return "latin.md"


def a_file_that_is_too_large(desk: Desk) -> str:
    with (desk.project / "large.md").open("wb") as stream:
        stream.truncate(TOO_LARGE)
    return "large.md"


def a_link_in_a_circle(desk: Desk) -> str:
    (desk.project / "circle.md").symlink_to("circle.md")
    return "circle.md"


def a_path_that_leaves_the_store(desk: Desk) -> str:
    (desk.folder / "secret").write_text("secret\n")
    return str(desk.shared / "tasks" / ".." / ".." / "secret")


def a_link_that_leaves_the_store(desk: Desk) -> str:
    (desk.folder / "secret").write_text("secret\n")
    (desk.shared / "tasks" / "link.md").symlink_to(desk.folder / "secret")
    return str(desk.shared / "tasks" / "link.md")


def a_folder_link_that_leaves_the_store(desk: Desk) -> str:
    (desk.folder / "secret").write_text("secret\n")
    (desk.shared / "tasks" / "away").symlink_to(desk.folder)
    return str(desk.shared / "tasks" / "away" / "secret")


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_missing_file, "nope.md cannot be read: No such file or directory"),
        (no_name, "cannot be read"),
        (a_folder, ". cannot be read: Is a directory"),
        (a_file_that_cannot_be_read, "/proc/self/mem cannot be read: Input/output error"),
        (an_empty_file, "empty.md is empty"),
        (a_file_that_is_not_utf_8, "latin.md is not UTF-8 (byte 2)"),
        (a_file_that_is_too_large, "large.md is larger than 16 MiB"),
        (a_link_in_a_circle, "circle.md cannot be read: Too many levels of symbolic links"),
        (a_path_that_leaves_the_store, "secret leaves the store"),
        (a_link_that_leaves_the_store, "link.md leaves the store"),
        (a_folder_link_that_leaves_the_store, "away/secret leaves the store"),
    ],
)
def test_a_file_that_cannot_be_a_context(desk: Desk, make: Callable[[Desk], str], words: str) -> None:
    submit_is_refused(desk, (*REVIEW, "--id", "x", f"--file={make(desk)}"), words)


@pytest.mark.parametrize(("data", "words"), [(b"", "is empty"), (b"\xff", "is not UTF-8")])
def test_standard_input_that_cannot_be_a_context(desk: Desk, data: bytes, words: str) -> None:
    submit_is_refused(desk, (*REVIEW, "--file", "-"), f"standard input {words}", stdin=data)


@pytest.mark.parametrize("step", ["../secret", "tasks/../../secret", "tasks/away", "tasks/%2e%2e/%2e%2e/secret"])
def test_a_ref_that_leaves_the_store(desk: Desk, step: str) -> None:
    (desk.folder / "secret").write_text("secret\n")
    (desk.shared / "tasks" / "away").symlink_to(desk.folder / "secret")
    submit_is_refused(desk, (*REVIEW, "-i", "Look.", "--context-ref", f"file://{desk.shared}/{step}"))


def test_a_file_in_the_store_that_belongs_to_another_task(desk: Desk) -> None:
    desk.run("submit", *REVIEW, "--id", "mine", "--file", "-", stdin=b"Mine.\n")
    before = desk.files()
    refused(desk.run("submit", *IMPLEMENT, "--id", "mine", "--file", "-", stdin=b"Yours.\n"), 5, "another content")
    assert desk.files() == before


def test_a_context_that_somebody_put_where_the_tasks_own_would_go(desk: Desk) -> None:
    (desk.shared / "tasks" / "mine.md").write_text("Not this.\n")
    done = desk.run("submit", *REVIEW, "--id", "mine", "--file", "-", stdin=b"This.\n")
    refused(done, 5, "tasks/mine.md is in the store with another content", "Choose another id")
    assert desk.run("status", "mine").code == 4
    assert desk.waiting("review-worker") == 0


# ---------------------------------------------------------------------- settings

SETTINGS = [
    ('broker = "amqp://localhost', "line 1: broker: Unterminated string"),
    ("[broker\n", "line 1: "),
    ('# ours\nagents = ["a",\n', "line 2: agents: Invalid value"),
    ('namespace = "ok"\nnamespace = "twice"\n', "line 2: namespace: Cannot overwrite a value"),
    ("[rabbitmq]\npassword = s3cret\n", "line 2: password: Invalid value"),
    ('# comment\n\nbrocker = "amqp://localhost"\n', "line 3: brocker: there is no such key"),
    ("agents = 5\n", "line 1: agents: it should be a valid tuple"),
    ('agents = ["fine", "not fine"]\n', "line 1: agents.1: letters, digits"),
    ('\nnamespace = "a b"\n', "line 2: namespace: letters, digits"),
    ("data = 5\n", "line 1: data: "),
    ("store = 5\n", "line 1: store: it should be a valid string"),
    ('store = ""\n', "line 1: store: String should have at least 1 character"),
    ("broker = []\n", "line 1: broker: Tuple should have at least 1 item"),
    ('broker = ""\n', "line 1: broker: no engine has such a URL"),
    ('broker = "http://localhost/"\n', "line 1: broker: no engine has such a URL"),
    ('broker = "sqlite://queue.db"\n', "line 1: broker: a SQLite URL has an absolute path"),
    ('broker = ["amqp://a", "sqlite:///b"]\n', "line 1: broker: several URLs must all be amqp://"),
    ('broker = "amqp://:5672/"\n', "line 1: broker: write amqp://user@host:port/vhost"),
    ('broker = "amqp://u:s3cret/x@host/"\n', "line 1: broker: write amqp://user@host:port/vhost"),
    ('broker = "amqp://u:s3cret#x@host/"\n', "line 1: broker: write amqp://user@host:port/vhost"),
    ('broker = "amqp://u:s3cret@host:x/"\n', "line 1: broker: write amqp://user@host:port/vhost"),
    ('broker = "amqp://u:s3cret@[::1/"\n', "line 1: broker: write amqp://user@host:port/vhost"),
    ("[rabbitmq] # ours\nheartbeat = 30\nhartbeat = 30\n", "line 3: rabbitmq.hartbeat: there is no such key"),
    ('[rabbitmq]\nheartbeat = "s3cret"\n', "line 2: rabbitmq.heartbeat: it should be a valid integer"),
    ("[rabbitmq]\npassword = 5\n", "line 2: rabbitmq.password: it should be a valid string"),
    ("[rabbitmq]\ntimeout = 0\n", "line 2: rabbitmq.timeout: it should be greater than 0"),
    ("rabbitmq.timeout = -1\n", "line 1: rabbitmq.timeout: it should be greater than 0"),
    ('rabbitmq = { passwort = "s3cret" }\n', "line 1: rabbitmq.passwort: there is no such key"),
    ("[rabbits]\nx = 1\n", "line 1: rabbits: there is no such key"),
    ("rabbitmq = 5\n", "line 1: rabbitmq: "),
]


@pytest.mark.promise("words-not-tracebacks")
@pytest.mark.parametrize(("text", "words"), SETTINGS, ids=lambda value: value.strip()[:50])
def test_settings_that_cannot_be_used(desk: Desk, text: str, words: str) -> None:
    desk.environment.pop("AGENTQ_STORE")
    path = desk.project / "agentq.toml"
    path.write_text(text)
    for arguments in (("submit", *REVIEW, "-i", "Look."), ("status", "x"), ("init",), ("doctor",)):
        done = desk.run(*arguments)
        refused(done, 3, str(path), words)
        assert "s3cret" not in done.err
    assert not list(desk.home.iterdir())
    assert desk.files() == {}


def test_settings_that_are_not_utf_8(desk: Desk) -> None:
    (desk.project / "agentq.toml").write_bytes(b'namespace = "gr\xf6\xdfe"\n')
    refused(desk.run("status", "x"), 3, "agentq.toml is not UTF-8 (byte 15)")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NAMESPACE", "a b", "AGENTQ_NAMESPACE: letters, digits"),
        ("COORDINATOR", "../x", "AGENTQ_COORDINATOR: letters, digits"),
        ("BROKER", "localhost", "AGENTQ_BROKER: no engine has such a URL"),
        ("BROKER", "amqp://a,http://b", "AGENTQ_BROKER: no engine has such a URL"),
        ("BROKER", "amqp://u:s3cret@host:99999", "AGENTQ_BROKER: write amqp://"),
        ("BROKER", "amqp://u:s3cret@ho\uff0fst/", "AGENTQ_BROKER: write amqp://"),
        ("STORE", "s3://s3cret@bucket", "the store's URL names no bucket"),
        ("STORE", "file://shared", "there is no store behind such file:// URLs"),
        ("WORKERS", "/nowhere/workers", "workers is /nowhere/workers, which is no folder"),
        ("CONFIG", "/nowhere/agentq.toml", "AGENTQ_CONFIG names /nowhere/agentq.toml, which is no file"),
    ],
)
def test_variables_that_cannot_be_used(desk: Desk, name: str, value: str, words: str) -> None:
    with nothing_written(desk):
        done = desk.run("submit", *REVIEW, "-i", "Look.", **{f"AGENTQ_{name}": value})
        refused(done, 3, words)
        assert "s3cret" not in done.err


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--broker", "http://host", "--broker: no engine has such a URL"),
        ("--broker", "amqp://u:s3cret@host", "can read it in the process list"),
        ("--store", "ftp://u:s3cret@host", "there is no store behind such ftp:// URLs"),
        ("--store", "", "--store: String should have at least 1 character"),
    ],
)
def test_places_that_cannot_be_used(desk: Desk, flag: str, value: str, words: str) -> None:
    with nothing_written(desk):
        done = desk.run("submit", *REVIEW, "-i", "Look.", flag, value)
        refused(done, 3, words)
        assert "s3cret" not in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent = \n", "worker.toml, line 1: agent: Invalid value"),
        ('types = ["x"]\n', "worker.toml: agent: this key must be set"),
        ('agent = "a b"\n', "worker.toml, line 1: agent: letters, digits"),
        ('agent = "x"\n[runner]\nkind = "shell"\n', "line 2: runner: there is no such kind; there are command"),
        ('agent = "x"\n[runner]\ncommand = "make"\n', "line 3: runner.command: it should be a valid tuple"),
        ('agent = "x"\n[limits]\nparalel = 2\n', "line 3: limits.paralel: there is no such key"),
        ('agent = "x"\n[limits]\nlease_seconds = 1\n', "line 2: limits: lease_seconds must be at least twice"),
        ('agent = "x"\n[limits]\nsweep_seconds = inf\n', "line 3: limits.sweep_seconds: it should be less than"),
        ('agent = "x"\n[evidence]\nartifacts = ["a/b"]\n', "line 3: evidence.artifacts.0: letters, digits"),
        ('agent = "x"\n[environment]\nset = { A = 1 }\n', "line 3: environment.set.A: it should be a valid string"),
        ('agent = "x"\n[workspace]\nkind = "docker"\n', "line 3: workspace.kind: it should be 'none', 'git-worktree'"),
    ],
)
def test_a_profile_that_cannot_be_used(desk: Desk, text: str, words: str) -> None:
    folder = desk.project / "workers" / "mine"
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(text)
    submit_is_refused(desk, (*REVIEW, "-i", "Look."), words, str(folder))
    refused(desk.run("worker", "run", "review-worker"), 3, words)


def test_a_worker_that_cannot_be_started(desk: Desk) -> None:
    refused(desk.run("worker", "run", "nobody"), 4, "there is no worker profile for nobody", "Known: implementation-")
    desk.environment["PATH"] = "/nowhere"
    refused(desk.run("worker", "run", "review-worker"), 3, "the program 'claude' is missing", "install it")
    refused(desk.run("worker", "run", "review-worker", "--runner", "command"), 3, "'command' is missing")
    refused(desk.run("worker", "run", "review-worker", "--runner", "no-such-program"), 3, "no-such-program")
    refused(desk.run("worker", "run", "review-worker", "--runner", "'"), 3, "the runner's command cannot be read")


def test_a_demo_in_a_folder_that_is_not_empty(desk: Desk) -> None:
    (desk.project / "file").touch()
    refused(desk.run("demo", "--dir", "."), 3, "is not empty")


def test_a_store_that_cannot_be_made(desk: Desk) -> None:
    (desk.folder / "file").write_text("")
    for place in (desk.folder / "file", desk.folder / "file" / "store"):
        refused(desk.run("init", "--store", str(place)), 6, str(place))
    refused(desk.run("submit", *REVIEW, "-i", "Look.", "--store", str(desk.folder / "no" / "where")), 6, "no/where")
    refused(desk.run("submit", *REVIEW, "-i", "x", AGENTQ_STORE="", XDG_DATA_HOME=str(desk.folder / "file")), 6, "file")


# ---------------------------------------------------------------------- brokers


@contextmanager
def quickly(seconds: float = 5) -> Iterator[None]:
    """Fail unless it is done within so many seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def refused_by_the_broker(desk: Desk, *words: str, **environment: str) -> None:
    before = desk.files()
    with quickly():
        done = desk.run("submit", *REVIEW, "-i", "Look.", **environment)
    refused(done, 6, *words)
    assert "s3cret" not in done.err
    assert desk.files() == before


@pytest.mark.promise("no-secrets")
def test_a_broker_that_refuses_the_login(rabbit_desk: Desk, rabbitmq: Node) -> None:
    refused_by_the_broker(
        rabbit_desk, "refused the login", "password", AGENTQ_BROKER=f"amqp://nobody:s3cret@127.0.0.1:{rabbitmq.port}/"
    )
    refused_by_the_broker(
        rabbit_desk, "refused the login", AGENTQ_BROKER_USER="nobody", AGENTQ_BROKER_PASSWORD="s3cret"
    )


def test_a_virtual_host_that_is_missing(rabbit_desk: Desk) -> None:
    refused_by_the_broker(rabbit_desk, "no such virtual host", AGENTQ_BROKER_VHOST="elsewhere")


def test_a_queue_that_is_missing(rabbit_desk: Desk) -> None:
    refused_by_the_broker(rabbit_desk, "queue", "agentq init")


def test_a_broker_that_is_not_there(rabbit_desk: Desk) -> None:
    refused_by_the_broker(rabbit_desk, "cannot be reached", AGENTQ_BROKER="amqp://u:s3cret@127.0.0.1:1/")


def test_a_server_that_is_no_broker(rabbit_desk: Desk) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        refused_by_the_broker(rabbit_desk, "RabbitMQ at", AGENTQ_BROKER=f"amqp://u:s3cret@127.0.0.1:{port}/")


@pytest.mark.promise("refused-before-written")
def test_a_broker_that_blocks_publishers(tmp_path: Path, broker_of_my_own: Callable[[], Node]) -> None:
    node = broker_of_my_own()
    desk = Desk(tmp_path, on(node))
    desk.ok("init")
    (desk.project / "agentq.toml").write_text("[rabbitmq]\ntimeout = 1.0\n")
    desk.task()
    before = desk.files()

    node.ctl("set_vm_memory_high_watermark", "0.00001")
    refused_by_the_broker(desk, "RabbitMQ", "alarm")
    assert desk.json("status", next(iter(before)).removeprefix("tasks/").removesuffix(".json"))["state"] == "pending"

    node.ctl("set_vm_memory_high_watermark", "0.6")
    desk.task()
    assert desk.waiting() == 2
