"""`agentq keys`: making, trusting, listing and revoking, and what is refused about keys on a disk."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agentq.app import App
from agentq.config import load_settings
from agentq.keyring import Keyring
from tests.desk import Desk


@pytest.fixture
def keys(desk: Desk) -> Path:
    """The folder where a user's keys are, unless settings say another."""
    return desk.home / ".config" / "agentq" / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.promise("private-keys")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_key_is_for_its_owners_eyes_alone_and_trusted_here(desk: Desk, keys: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        done = desk.run("keys", "new", "coordinator")
    finally:
        os.umask(before)
    assert done.code == 0
    prefix, public, name = done.out.split()
    assert (prefix, name, len(public)) == ("agentq-ed25519", "coordinator", 44)
    assert f"agentq keys trust '{done.out.strip()}'" in done.err
    assert [mode(path) for path in (keys, keys / "trusted", keys / "coordinator.key")] == [0o700, 0o700, 0o600]
    (listed,) = desk.json("keys", "list")
    assert (listed["name"], listed["own"], listed["trusted"]) == ("coordinator", True, True)
    assert listed["line"] == done.out.strip()
    assert [path.name for path in keys.iterdir() if path.name.startswith(".")] == []


@pytest.mark.promise("private-keys")
def test_making_it_again_overwrites_nothing_and_prints_the_same_line(desk: Desk, keys: Path) -> None:
    first = desk.ok("keys", "new", "coordinator")
    before = (keys / "coordinator.key").read_bytes()
    again = desk.run("keys", "new", "coordinator")
    assert (again.code, again.out.strip()) == (0, first)
    assert "had a key already" in again.err
    assert (keys / "coordinator.key").read_bytes() == before


@pytest.mark.parametrize("how", ["line", "words", "file", "stdin"])
def test_a_key_is_trusted_by_its_line_however_it_comes(desk: Desk, tmp_path: Path, how: str) -> None:
    key, _ = Keyring(tmp_path / "theirs").make("review-worker")
    (tmp_path / "keys.txt").write_text(f"# theirs\n\n{key.line}\n")
    given = {"line": [key.line], "words": key.line.split(), "file": [str(tmp_path / "keys.txt")], "stdin": ["-"]}[how]
    assert desk.ok("keys", "trust", *given, stdin=key.line.encode()) == f"review-worker  {key.id}  trusted"
    assert desk.ok("keys", "trust", *given, stdin=key.line.encode()).endswith("was trusted before")
    assert desk.ok("keys", "list") == f"review-worker  {key.id}  trusted"


def test_another_key_of_a_trusted_name_is_trusted_too_and_said_so(desk: Desk, tmp_path: Path) -> None:
    old, new = (Keyring(tmp_path / folder).make("boss")[0] for folder in ("old", "new"))
    desk.ok("keys", "trust", old.line)
    done = desk.run("keys", "trust", new.line)
    assert f"boss has other trusted keys, which count as well: {old.id}" in done.err
    assert desk.ok("keys", "revoke", old.id).startswith(f"boss  {old.id}  revoked 20")
    states = {one["id"]: one["trusted"] for one in desk.json("keys", "list")}
    assert states == {old.id: False, new.id: True}


def test_a_name_may_be_given_but_one_key_is_one_names(desk: Desk, tmp_path: Path) -> None:
    key, _ = Keyring(tmp_path / "theirs").make("worker")
    desk.ok("keys", "trust", key.line, "--name", "their-worker")
    done = desk.run("keys", "trust", key.line)
    assert done.code == 5
    assert f"{key.id} is trusted as their-worker's, not worker's" in done.err


def test_a_revoked_key_is_not_trusted_again_by_the_way(desk: Desk, tmp_path: Path, keys: Path) -> None:
    key, _ = Keyring(tmp_path / "theirs").make("worker")
    desk.ok("keys", "trust", key.line)
    first = desk.json("keys", "revoke", "worker")
    assert desk.json("keys", "revoke", key.id) == first
    done = desk.run("keys", "trust", key.line)
    assert done.code == 5
    assert "was revoked 20" in done.err
    assert str(keys / "trusted" / f"{key.id}.json") in done.err


@pytest.mark.promise("private-keys")
def test_an_own_key_that_is_revoked_signs_no_more_and_a_new_one_can_be_made(desk: Desk, keys: Path) -> None:
    first = desk.ok("keys", "new", "coordinator")
    (old,) = desk.json("keys", "revoke", "coordinator")
    assert not (keys / "coordinator.key").exists()
    assert (keys / f"coordinator.{old['id']}.revoked").exists()
    assert desk.envelope(desk.task()).signature is None
    second = desk.ok("keys", "new", "coordinator")
    assert second != first
    signature = desk.envelope(desk.task()).signature
    assert isinstance(signature, dict)
    assert signature["key"] != old["id"]


def test_a_name_that_nobody_has_cannot_be_revoked(desk: Desk) -> None:
    done = desk.run("keys", "revoke", "nobody")
    assert (done.code, "See: agentq keys list" in done.err) == (4, True)


def test_without_keys_the_list_is_empty_and_says_where_it_looked(desk: Desk, keys: Path) -> None:
    done = desk.run("keys", "list")
    assert (done.code, done.out) == (0, "")
    assert str(keys) in done.err
    assert desk.json("keys", "list") == []
    assert not keys.exists()


@pytest.mark.parametrize("where", ["AGENTQ_KEYS", "XDG_CONFIG_HOME", "file"])
def test_the_folder_can_be_another_one(desk: Desk, tmp_path: Path, where: str) -> None:
    environment = {} if where == "file" else {where: str(tmp_path / "there")}
    if where == "file":
        (desk.project / "agentq.toml").write_text('keys = "../there"\n')
    desk.ok("keys", "new", "me", **environment)
    folder = tmp_path / "there" / ("agentq/keys" if where == "XDG_CONFIG_HOME" else "")
    assert (folder / "me.key").exists()


def test_a_user_without_a_home_has_them_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", homeless)
    app = App(load_settings(environ={"XDG_DATA_HOME": str(tmp_path)}, cwd=tmp_path))
    assert app.keyring.folder == tmp_path / "agentq/keys"


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("agentq-ed25519 AAAA worker", "32 bytes"),
        ("agentq-ed25519 !!!! worker", "cannot be used"),
        (f"agentq-ed25519 {'A' * 42}B= worker", "base64"),
        (f"agentq-ed25519 {'A' * 43}=", "whose key it is"),
        (f"agentq-ed25519 {'A' * 43}= ../x", "name"),
        (f"agentq-ed25519 {'A' * 43}= a b", "is no public key"),
        ("ssh-ed25519 AAAA me", "neither a key nor a file"),
        ("no-such-file", "neither a key nor a file"),
        ("-", "no public key in it"),
    ],
)
def test_what_is_no_key_is_refused(desk: Desk, keys: Path, given: str, why: str) -> None:
    done = desk.run("keys", "trust", given, stdin=b"\n# nothing\n")
    assert done.code == 3
    assert why in done.err
    assert not keys.exists()


def test_what_is_no_text_is_refused(desk: Desk) -> None:
    done = desk.run("keys", "trust", "-", stdin=b"\xff\xfe")
    assert (done.code, "it is no text" in done.err) == (3, True)


def readable(keys: Path) -> None:
    (keys / "coordinator.key").chmod(0o640)


def empty(keys: Path) -> None:
    (keys / "coordinator.key").write_bytes(b"")


def of_another_kind(keys: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (keys / "coordinator.key").write_bytes(pem)


@pytest.mark.promise("private-keys")
@pytest.mark.parametrize(
    ("harm", "why"),
    [(readable, "Run: chmod 600"), (empty, "keys new NAME"), (of_another_kind, "not of Ed25519")],
)
def test_a_private_key_that_is_no_use_is_refused_before_anything_is_written(
    desk: Desk, keys: Path, harm: Callable[[Path], None], why: str
) -> None:
    desk.ok("keys", "new", "coordinator")
    harm(keys)
    before = desk.files()
    done = desk.run("submit", "--to", "review-worker", "--type", "review", "-i", "Look.")
    assert done.code == 3
    assert why in done.err
    assert str(keys / "coordinator.key") in done.err
    assert desk.files() == before


@pytest.mark.promise("private-keys")
@pytest.mark.parametrize("place", ["", "trusted", "file"])
def test_a_folder_into_which_others_can_put_keys_is_not_believed(desk: Desk, keys: Path, place: str) -> None:
    desk.ok("keys", "new", "coordinator")
    target = next((keys / "trusted").glob("*.json")) if place == "file" else keys / place
    target.chmod(0o777 if place != "file" else 0o666)
    done = desk.run("keys", "list")
    assert done.code == 3
    assert "may be written by others" in done.err
    assert f"chmod go-w {target}".rstrip("/") in done.err


def test_a_trusted_key_that_was_exchanged_is_not_believed(desk: Desk, keys: Path, tmp_path: Path) -> None:
    desk.ok("keys", "new", "coordinator")
    other, _ = Keyring(tmp_path / "theirs").make("coordinator")
    path = next((keys / "trusted").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"public": other.public}))
    done = desk.run("keys", "list")
    assert done.code == 3
    assert "which is another one" in done.err
