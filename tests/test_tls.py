"""TLS to a real broker that asks for a client's certificate, as commands, a worker and the management API use it."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agentq.errors import ExitCode
from tests.brokers.node import LOOPBACK, Installation, Node
from tests.brokers.secured import served
from tests.desk import REVIEW, Desk

EXPIRED = datetime.now(UTC) - timedelta(days=1)


@dataclass(frozen=True)
class Papers:
    """The files of a client: whom it trusts and who it is; and of authorities that nobody knows."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")


@pytest.fixture(scope="module")
def papers(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Papers:
    papers = Papers(tmp_path_factory.mktemp("papers"))
    stranger = trustme.CA()
    authority.cert_pem.write_to_path(papers.ca)
    stranger.cert_pem.write_to_path(papers.other_ca)
    for name, issuer, until in (("mine", authority, None), ("strange", stranger, None), ("old", authority, EXPIRED)):
        issued = issuer.issue_cert("worker@example.org", not_after=until)
        issued.cert_chain_pems[0].write_to_path(getattr(papers, name))
        issued.private_key_pem.write_to_path(getattr(papers, f"{name}_key"))
    key = load_pem_private_key(Path(papers.mine_key).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret"))
    Path(papers.locked_key).write_bytes(locked)
    Path(papers.empty).touch()
    return papers


@pytest.fixture(scope="module")
def expired(rabbitmq_installations: dict[str, Installation], authority: trustme.CA) -> Iterator[Node]:
    """A node whose certificate was good until yesterday."""
    newest = next(iter(rabbitmq_installations.values()))
    with newest.new(served(authority, "localhost", not_after=EXPIRED)) as node:
        yield node


@pytest.fixture
def desk(secured: Node, tmp_path: Path) -> Desk:
    return Desk(tmp_path, {"AGENTQ_BROKER": at(secured), "AGENTQ_NAMESPACE": tmp_path.name})


def at(node: Node, host: str = "localhost") -> str:
    return f"amqps://guest:guest@{host}:{node.tls_port}/"


def settings(desk: Desk, **values: str | bool) -> None:
    """Write the settings file."""
    lines = (
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in values.items()
    )
    (desk.project / "agentq.toml").write_text("\n".join(("[rabbitmq]", *lines)) + "\n")


@pytest.mark.promise("tls")
def test_commands_and_a_worker_reach_the_broker_with_their_certificate(desk: Desk, papers: Papers) -> None:
    settings(desk, ca_file=papers.ca, cert_file=papers.mine, key_file=papers.mine_key)
    desk.ok("init")
    task = desk.task(to=REVIEW)
    agent = desk.project / "agent.sh"
    agent.write_text('#!/bin/sh\ncat > /dev/null\ncd "$AGENTQ_OUTPUT" && echo done | tee report.md summary.md\n')
    agent.chmod(0o755)
    worker = desk.start("worker", "run", "review-worker", "--runner", str(agent))
    try:
        manifest = desk.json("wait", task, "--timeout", "60")
    finally:
        worker.send_signal(signal.SIGTERM)
        said = worker.communicate(timeout=30)[1].decode()
    assert manifest
    assert "attempt 1 started" in said
    assert desk.json("doctor")["engine"]["missing"] == []
    key = Path(papers.mine_key).read_text().splitlines()[1]
    assert key not in said


@pytest.mark.promise("tls")
def test_whom_we_do_not_know_is_refused_and_only_verify_false_lets_it_pass(desk: Desk, papers: Papers) -> None:
    mine = {"cert_file": papers.mine, "key_file": papers.mine_key}
    for wrong in ({}, {"ca_file": papers.other_ca}):
        settings(desk, **mine, **wrong)
        done = desk.run("init")
        assert (done.code, done.out) == (ExitCode.UNAVAILABLE, "")
        assert "is not known to us" in done.err
        assert "`ca_file`" in done.err
        assert "guest:guest" not in done.err
    settings(desk, **mine, verify=False)
    desk.ok("init")


@pytest.mark.promise("tls")
def test_a_broker_of_another_name_is_refused(desk: Desk, secured: Node, papers: Papers) -> None:
    mine = {"ca_file": papers.ca, "cert_file": papers.mine, "key_file": papers.mine_key}
    settings(desk, **mine)
    done = desk.run("init", AGENTQ_BROKER=at(secured, LOOPBACK))
    assert (done.code, done.out) == (ExitCode.UNAVAILABLE, "")
    assert "another name" in done.err
    settings(desk, **mine, verify=False)
    desk.ok("init", AGENTQ_BROKER=at(secured, LOOPBACK))


@pytest.mark.promise("tls")
def test_a_broker_whose_certificate_has_expired_is_refused(desk: Desk, expired: Node, papers: Papers) -> None:
    settings(desk, ca_file=papers.ca, cert_file=papers.mine, key_file=papers.mine_key)
    done = desk.run("init", AGENTQ_BROKER=at(expired))
    assert (done.code, done.out) == (ExitCode.UNAVAILABLE, "")
    assert "expired" in done.err


@pytest.mark.promise("tls")
def test_without_a_certificate_that_the_broker_takes_nothing_is_done(desk: Desk, papers: Papers) -> None:
    clients: list[dict[str, str]] = [
        {},
        {"cert_file": papers.strange, "key_file": papers.strange_key},
        {"cert_file": papers.old, "key_file": papers.old_key},
    ]
    for client in clients:
        settings(desk, ca_file=papers.ca, **client)
        done = desk.run("init")
        assert (done.code, done.out) == (ExitCode.UNAVAILABLE, ""), done
        assert "`cert_file`" in done.err
    assert desk.files() == {}


@pytest.mark.promise("tls")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ca_file": "missing.pem"}, "missing.pem"),
        ({"ca_file": "empty.pem"}, "empty.pem"),
        ({"cert_file": "missing.pem"}, "missing.pem"),
        ({"cert_file": "mine.pem", "key_file": "strange_key.pem"}, "strange_key.pem"),
        ({"cert_file": "mine.pem", "key_file": "locked_key.pem"}, "locked with a password"),
    ],
    ids=str,
)
def test_files_that_cannot_be_used_are_named(desk: Desk, papers: Papers, wrong: dict[str, str], words: str) -> None:
    files = {"ca_file": papers.ca, **{key: str(papers.folder / name) for key, name in wrong.items()}}
    settings(desk, **files)
    done = desk.run("init")
    assert (done.code, done.out) == (ExitCode.INVALID, "")
    assert words in done.err
    assert "_file`" in done.err
    assert "BEGIN" not in done.err


@pytest.mark.promise("tls")
def test_the_management_api_is_trusted_by_the_same_authorities(desk: Desk, secured: Node, papers: Papers) -> None:
    mine = {"cert_file": papers.mine, "key_file": papers.mine_key}
    settings(desk, ca_file=papers.ca, **mine)
    desk.ok("init")
    login: dict[str, Any] = {"AGENTQ_MANAGEMENT_USER": "guest", "AGENTQ_MANAGEMENT_PASSWORD": "guest"}
    apply = ("access", "apply", "--generate", "new", "--management")
    for host, words in ((LOOPBACK, "another name"), ("localhost", "")):
        done = desk.run(*apply, f"https://{host}:{secured.https_port}", **login)
        assert (done.code, words in done.err) == (ExitCode.UNAVAILABLE if words else ExitCode.OK, True), done
    settings(desk, ca_file=papers.other_ca, **mine)
    done = desk.run(*apply, f"https://localhost:{secured.https_port}", **login)
    assert (done.code, "not known" in done.err) == (ExitCode.UNAVAILABLE, True)
