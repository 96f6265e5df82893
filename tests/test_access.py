"""`agentq access`: the roles shown, exported and applied; who gets which password; who is removed."""

import asyncio
import base64
import hashlib
import json
import os
import re
import stat
import urllib.request
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from agentq.access import generate_passwords, read_passwords
from agentq.engines.roles import roles
from agentq.engines.topology import topology
from agentq.errors import ExitCode
from tests.brokers.node import Node
from tests.desk import Desk
from tests.party import AGENTS

URL = "amqp://rabbit-1/agents"
ALL_NAMES = [thing.name for space in ("a.b", "a-b", "b") for thing in topology((4, 3), space, ["w", "w.2"], ["c", "d"])]
ADMIN = {"AGENTQ_MANAGEMENT_USER": "guest", "AGENTQ_MANAGEMENT_PASSWORD": "guest"}


class Office(Desk):
    """A desk with a virtual host of its own on a node, and its administrator's login."""

    def __init__(self, folder: Path, node: Node, vhost: str) -> None:
        broker = f"amqp://guest:guest@127.0.0.1:{node.port}/{vhost}"
        super().__init__(folder, {"AGENTQ_BROKER": broker, **ADMIN})
        self.node, self.vhost = node, vhost
        self.api = f"http://127.0.0.1:{node.management_port}"
        self.ask("PUT", f"vhosts/{vhost}")

    def ask(self, method: str, path: str, **fields: Any) -> Any:
        """Ask the API as its administrator."""
        request = urllib.request.Request(f"{self.api}/api/{path}", json.dumps(fields).encode(), method=method)
        request.add_header("Authorization", f"Basic {base64.b64encode(b'guest:guest').decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def apply(self, *flags: str) -> Any:
        """What `agentq access apply` changed."""
        return self.json("access", "apply", "--management", self.api, *flags)

    def passwords(self, name: str) -> dict[str, str]:
        """What is in a file of passwords."""
        return dict(line.split() for line in (self.project / name).read_text().splitlines())

    def lets_in(self, user: str, password: str) -> bool:
        """Whether the broker takes that login."""

        async def log_in() -> bool:
            url = f"amqp://{user}:{password}@127.0.0.1:{self.node.port}/{self.vhost}"
            try:
                connection = await aio_pika.connect(url)
            except aio_pika.exceptions.AMQPConnectionError:
                return False
            await connection.close()
            return True

        return asyncio.run(log_in())


@pytest.fixture
def office(secured: Node, tmp_path: Path) -> Office:
    """An office at a node."""
    return Office(tmp_path, secured, tmp_path.name)


# --- shown and exported -----------------------------------------------------------------------------------------------


def test_the_roles_are_shown_with_what_each_may_do(desk: Desk) -> None:
    shown = desk.ok("access", "show", "--broker", URL, "--agent", "research.worker", "--coordinator", "alice")
    for user in ("coordinator.alice", "worker.research.worker", *(f"worker.{name}" for name in AGENTS)):
        assert f"user        agentq.{user}\n" in shown
    roles = desk.json("access", "show", "--broker", URL, "--agent", "research.worker")["roles"]
    assert [role["kind"] for role in roles] == ["coordinator", *["worker"] * 4, "observer"]
    worker = next(role for role in roles if role["name"] == "research.worker")
    assert (worker["configure"], worker["read"]) == ("^$", r"^agentq\.(tasks\.research\.worker)$")
    assert r"\.tasks|" not in worker["write"]


def test_any_namespace_is_taken_to_the_letter(desk: Desk) -> None:
    roles = desk.json("access", "show", "--broker", URL, AGENTQ_NAMESPACE="a.b-c")["roles"]
    assert all(role["user"].startswith("a.b-c.") for role in roles)
    assert all(role["read"].startswith(r"^a\.b\-c\.(") for role in roles)


def test_a_pattern_matches_its_own_names_and_none_that_are_like_them() -> None:
    for role in roles("a.b", ["c"], ["w", "w.2"], ["o"]):
        for pattern in (role.configure, role.write, role.read):
            like = re.compile(pattern)
            own = [name for name in ALL_NAMES if like.search(name)]
            assert [name for name in own if not name.startswith("a.b.")] == []
            changed = {f"x{name}" for name in own} | {f"{name}x" for name in own} | {f"{name}.x" for name in own}
            changed |= {name.replace(".", "-", 1) for name in own}
            assert [name for name in changed - set(ALL_NAMES) if like.search(name)] == []
    (worker,) = (role for role in roles("a.b", [], ["w"], []) if role.kind == "worker")
    assert [name for name in ALL_NAMES if re.search(worker.read, name)] == ["a.b.tasks.w"]


def test_sqlite_has_no_users(desk: Desk) -> None:
    for command in (("show",), ("export",), ("apply", "--management", "http://localhost")):
        done = desk.run("access", *command)
        assert (done.code, done.out) == (ExitCode.INVALID, "")
        assert "SQLite engine has no users" in done.err
        assert "mode of the file" in done.err


def test_definitions_hold_hashes_as_the_broker_makes_them(desk: Desk) -> None:
    definitions = json.loads(desk.ok("access", "export", "--broker", URL, "--generate", "new"))
    lines = dict(line.split() for line in (desk.project / "new").read_text().splitlines())
    assert [user["name"] for user in definitions["users"]] == list(lines)
    for user in definitions["users"]:
        kept = base64.b64decode(user["password_hash"])
        assert kept[4:] == hashlib.sha256(kept[:4] + lines[user["name"]].encode()).digest()
    assert len({user["password_hash"][:5] for user in definitions["users"]}) == len(lines)
    assert definitions["vhosts"] == [{"name": "agents"}]


@pytest.mark.promise("no-secrets")
def test_generated_passwords_are_their_owners_alone_and_never_overwritten(desk: Desk) -> None:
    done = desk.run("access", "export", "--broker", URL, "--generate", "new")
    file = desk.project / "new"
    text = file.read_text()
    assert done.code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [line for line in text.splitlines() if line.split()[1] in done.out + done.err] == []
    again = desk.run("access", "export", "--broker", URL, "--generate", "new")
    assert (again.code, again.out) == (ExitCode.CONFLICT, "")
    assert file.read_text() == text
    same = json.loads(desk.ok("access", "export", "--broker", URL, "--passwords", "new"))
    assert len(same["users"]) == len(text.splitlines())


def test_a_file_of_passwords_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = generate_passwords(tmp_path / "new", ["one", "two"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert read_passwords(tmp_path / "new") == made
    assert min(map(len, made.values())) >= 32
    assert made["one"] != made["two"]


def test_without_passwords_the_users_are_left_as_they_are(desk: Desk) -> None:
    done = desk.run("access", "export", "--broker", URL)
    assert json.loads(done.out)["users"] == []
    assert "to exist already: agentq.coordinator.coordinator" in done.err


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("agentq.observer.observer pw\n", 0o644, "chmod 600"),
        ("agentq.observer.observer\n", 0o600, "line 1"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_file_of_passwords_that_will_not_do_is_refused(desk: Desk, text: str | None, mode: int, words: str) -> None:
    file = desk.project / "mine"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    done = desk.run("access", "export", "--broker", URL, "--passwords", "mine")
    assert (done.code, done.out) == (ExitCode.INVALID, "")
    assert words in done.err
    assert " pw" not in done.err


# --- applied ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("least-privilege")
def test_applying_twice_changes_nothing_the_second_time(office: Office) -> None:
    office.ok("init")
    first = office.apply("--generate", "new")
    passwords = office.passwords("new")
    made = {change["user"] for change in first["changes"] if change["did"] == "created"}
    assert made == set(passwords)
    assert all(office.lets_in(user, password) for user, password in passwords.items())
    shown = {role["user"]: role for role in office.json("access", "show")["roles"]}
    for permission in office.ask("GET", f"vhosts/{office.vhost}/permissions"):
        if role := shown.get(permission["user"]):
            assert [permission[key] for key in ("configure", "write", "read")] == [
                role[key] for key in ("configure", "write", "read")
            ]
    for user in made:
        (topics,) = office.ask("GET", f"topic-permissions/{office.vhost}/{user}")
        assert (topics["write"], topics["read"]) == (shown[user]["topics"]["write"], "(?!)")
    assert office.apply("--generate", "unneeded") == {"changes": [], "unneeded": []}
    assert not (office.project / "unneeded").exists()
    remove(office, made)


def test_what_somebody_changed_is_put_right_and_passwords_stay(office: Office) -> None:
    office.ok("init")
    office.apply("--generate", "new")
    passwords = office.passwords("new")
    user = "agentq.worker.review-worker"
    office.ask("PUT", f"permissions/{office.vhost}/{user}", configure=".*", write=".*", read=".*")
    office.ask("DELETE", f"topic-permissions/{office.vhost}/{user}")
    found = office.ask("GET", f"users/{user}")
    office.ask("PUT", f"users/{user}", password_hash=found["password_hash"], tags="administrator")
    done = [change["did"] for change in office.apply()["changes"] if change["user"] == user]
    assert done == ["tag set", "topic permissions set", "permissions set"]
    assert office.ask("GET", f"users/{user}")["tags"] == ["agentq:agentq"]
    assert office.lets_in(user, passwords[user])
    office.apply("--reset-passwords", "--generate", "other")
    assert not office.lets_in(user, passwords[user])
    assert office.lets_in(user, office.passwords("other")[user])
    remove(office, set(passwords))


def test_who_is_gone_is_told_and_removed_when_that_is_asked(office: Office) -> None:
    office.ok("init")
    office.ask("PUT", "users/somebody", password="pw", tags="")
    office.ask("PUT", f"permissions/{office.vhost}/somebody", configure="", write="", read="")
    office.apply("--agent", "old-worker", "--generate", "new")
    user = "agentq.worker.old-worker"
    password = office.passwords("new")[user]
    done = office.run("access", "apply", "--management", office.api)
    assert f"{user}  is not needed any more: --prune removes it" in done.out
    assert office.lets_in(user, password)
    applied = office.apply("--prune")
    assert {"user": user, "did": "removed"} in applied["changes"]
    assert not office.lets_in(user, password)
    assert office.lets_in("somebody", "pw")
    assert office.apply("--prune") == {"changes": [], "unneeded": []}
    remove(office, set(office.passwords("new")) - {user} | {"somebody"})


@pytest.mark.promise("refused-before-written")
def test_nothing_is_applied_before_init_or_without_passwords(office: Office) -> None:
    done = office.run("access", "apply", "--management", office.api, "--generate", "new")
    assert (done.code, done.out) == (ExitCode.UNAVAILABLE, "")
    assert "no topic exchange agentq.events" in done.err
    assert "agentq init" in done.err
    assert not (office.project / "new").exists()
    office.ok("init")
    done = office.run("access", "apply", "--management", office.api)
    assert (done.code, done.out) == (ExitCode.INVALID, "")
    assert "no password for agentq.coordinator.coordinator" in done.err
    assert [user["name"] for user in office.ask("GET", "users") if "agentq" in user["name"]] == []


@pytest.mark.promise("words-not-tracebacks")
def test_an_api_that_cannot_be_used_is_told_in_words(office: Office) -> None:
    api, broker = office.api, f"http://127.0.0.1:{office.node.port}"
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        (api, {"AGENTQ_MANAGEMENT_PASSWORD": "wrong-pw"}, ExitCode.UNAVAILABLE, "refused 'guest'"),
        (api, {"AGENTQ_MANAGEMENT_PASSWORD": ""}, ExitCode.INVALID, "AGENTQ_MANAGEMENT_PASSWORD is not set"),
        ("http://127.0.0.1:1", {}, ExitCode.UNAVAILABLE, "cannot be reached"),
        (broker, {}, ExitCode.UNAVAILABLE, "check host and port"),
        (api.replace("http", "https"), {}, ExitCode.UNAVAILABLE, "fails TLS"),
        ("http://guest:secret-pw@127.0.0.1:1", {}, ExitCode.INVALID, "login does not belong into the URL"),
        ("ftp://127.0.0.1", {}, ExitCode.INVALID, "no URL of a management API"),
        ("http://[::1", {}, ExitCode.INVALID, "no URL of a management API"),
        ("amqp://127.0.0.1:5672", {}, ExitCode.INVALID, "no URL of a management API"),
        ("http://127.0.0.1:x", {}, ExitCode.INVALID, "no URL of a management API"),
    ]
    for url, environment, code, words in cases:
        done = office.run("access", "apply", "--management", url, **environment)
        assert (done.code, done.out) == (code, ""), done
        assert words in done.err
        assert "-pw" not in done.err


def remove(office: Office, users: set[str]) -> None:
    """Users are the node's, not the virtual host's."""
    for user in users:
        office.ask("DELETE", f"users/{user}")
