"""Tokens: what is kept of them, what they grant and for how long, and the commands that make and revoke them."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from agentq.config import load_settings
from agentq.errors import Invalid, NotFound, StoreUnavailable
from agentq.messages import utc_now
from agentq.store import Store
from agentq.stores.file import FileStore
from agentq.tokens import FRESH_SECONDS, LATE_SECONDS, PREFIX, STALE_SECONDS, UNKNOWN_SECONDS, Grant, Tokens
from tests.desk import Desk


class Counting(FileStore):
    """A store that counts what it is asked, and may be away."""

    asked = 0
    away = False
    slow: threading.Event | None = None
    """While it is not set, nothing is listed; how things stand is looked at before."""

    def keys(self, prefix: str) -> Iterator[str]:
        self._ask()
        found = list(super().keys(prefix))
        if self.slow:
            self.slow.wait(10)
        return iter(found)

    def get(self, key: str) -> bytes | None:
        self._ask()
        return super().get(key)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("the store is away")


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: Counting, clock: Clock) -> Tokens:
    return Tokens(store, clock=clock)


def papers(store: Store) -> list[bytes]:
    return [store.get(key) or b"" for key in store.keys(PREFIX)]


def test_a_token_grants_what_it_was_made_for(tokens: Tokens) -> None:
    text, token = tokens.new("ann", ["approver", "observer"])
    assert tokens.grant(text) == Grant("ann", frozenset({"approver", "observer"}), None, token.id)
    worker, paper = tokens.new("build-host", ["worker"], "review-worker")
    grant = tokens.grant(worker)
    assert grant == Grant("build-host", frozenset({"worker"}), "review-worker", paper.id)
    assert grant.has("worker")
    assert not grant.has("observer", "coordinator", "approver")


@pytest.mark.promise("token-hashed")
def test_the_store_holds_no_token(tokens: Tokens, store: Counting) -> None:
    text, token = tokens.new("ann", ["observer"])
    secret = text.rpartition("_")[2] if text.count("_") == 2 else text.split("_", 2)[2]
    (paper,) = papers(store)
    assert text.encode() not in paper
    assert secret.encode() not in paper
    assert json.loads(paper)["sha256"] == token.sha256
    assert text != tokens.new("ann", ["observer"])[0]


@pytest.mark.promise("token-hashed")
def test_a_digest_that_was_read_from_the_store_is_no_token(tokens: Tokens) -> None:
    text, token = tokens.new("ann", ["observer"])
    for guess in (token.sha256, f"aqt_{token.id}_{token.sha256}", f"aqt_{token.id}_{token.sha256[:43]}"):
        assert tokens.grant(guess) is None
    assert tokens.grant(text)


@pytest.mark.parametrize(
    "text", [None, "", "aqt_", "aqt__", "aqt_000000000000_", "Bearer x", "aqt_../../x_" + "a" * 43, "ä" * 60, "\0"]
)
def test_what_is_no_token_grants_nothing(tokens: Tokens, text: str | None) -> None:
    tokens.new("ann", ["observer"])
    assert tokens.grant(text) is None


def test_a_token_altered_anywhere_grants_nothing(tokens: Tokens) -> None:
    text, _ = tokens.new("ann", ["observer"])
    for place in range(len(text)):
        other = text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]
        assert tokens.grant(other) is None
        assert tokens.grant(text[:place]) is None
    assert tokens.grant(f"{text}a") is None
    assert tokens.grant(f"{text}\n") is None


def test_an_expired_token_grants_nothing(tokens: Tokens, store: Counting) -> None:
    text, token = tokens.new("ann", ["observer"], expires=utc_now() + timedelta(hours=1))
    grant = tokens.grant(text)
    assert grant
    past = token.model_copy(update={"expires_at": utc_now() - timedelta(seconds=1)})
    store.put(f"{PREFIX}{token.id}.json", past.to_json())
    later = Tokens(store)
    assert later.grant(text) is None
    assert not later.holds(grant)
    assert later.any()


def test_what_cannot_be_a_token_is_refused_before_anything_is_written(tokens: Tokens, store: Counting) -> None:
    with pytest.raises(Invalid, match="agent"):
        tokens.new("w", ["worker"])
    with pytest.raises(Invalid, match="agent"):
        tokens.new("w", ["observer"], "review-worker")
    with pytest.raises(Invalid, match="roles"):
        tokens.new("w", [])
    with pytest.raises(Invalid, match="roles"):
        tokens.new("w", [])
    with pytest.raises(Invalid, match="name"):
        tokens.new("../w", ["observer"])
    with pytest.raises(Invalid, match="expired"):
        tokens.new("w", ["observer"], expires=utc_now())
    assert papers(store) == []


def test_a_new_token_counts_at_once(store: Counting, tokens: Tokens, clock: Clock) -> None:
    tokens.new("ann", ["observer"])
    assert tokens.any()
    text, _ = Tokens(store).new("bob", ["observer"])
    clock.now += UNKNOWN_SECONDS
    assert tokens.grant(text)


@pytest.mark.promise("token-revoked")
def test_a_revoked_token_counts_no_more_after_a_second(tokens: Tokens, store: Counting, clock: Clock) -> None:
    text, token = tokens.new("ann", ["observer"])
    grant = tokens.grant(text)
    assert grant
    assert tokens.holds(grant)
    assert Tokens(store).revoke(token.id) == (token.id,)
    clock.now += FRESH_SECONDS
    assert tokens.grant(text) is None
    assert not tokens.holds(grant)
    assert tokens.any(), "revoking the last one opens no gateway that runs"


def test_all_tokens_of_a_name_are_revoked_at_once_and_unknown_ones_are_told(tokens: Tokens) -> None:
    made = [tokens.new(name, ["observer"])[1].id for name in ("ann", "ann", "bob")]
    assert sorted(tokens.revoke("ann")) == sorted(made[:2])
    assert [token.id for token in tokens.list()] == made[2:]
    with pytest.raises(NotFound):
        tokens.revoke("ann")


def test_nobody_needs_a_token_until_there_is_one(tokens: Tokens, clock: Clock) -> None:
    everything = Grant("coordinator", frozenset())
    assert everything.is_everything
    assert not tokens.any()
    assert tokens.holds(everything)
    tokens.new("ann", ["observer"])
    assert tokens.any()
    assert not tokens.holds(everything)


@pytest.mark.promise("token-damaged")
@pytest.mark.parametrize(
    "damage", ["", "{}", "null", "[]", "not json", "another's", "no roles", "no digest", "no agent"]
)
def test_a_damaged_token_lets_nobody_in_and_opens_nothing(
    tokens: Tokens, store: Counting, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, token = tokens.new("ann", ["observer"])
    good = token.model_dump(mode="json")
    instead = {
        "another's": json.dumps(good | {"id": "0" * 12}),
        "no roles": json.dumps(good | {"roles": []}),
        "no digest": json.dumps(good | {"sha256": ""}),
        "no agent": json.dumps(good | {"roles": ["worker"]}),
    }.get(damage, damage)
    store.put(f"{PREFIX}{token.id}.json", instead.encode())
    again = Tokens(store, clock=(clock := Clock()))
    with caplog.at_level(logging.WARNING, "agentq"):
        for _ in range(3):
            assert again.grant(text) is None
            assert again.any()
            clock.now += FRESH_SECONDS
    assert [record.message for record in caplog.records if token.id in record.message][1:] == []
    assert "damaged" in caplog.text
    assert again.revoke(token.id) == (token.id,)
    assert papers(store) == []


@pytest.mark.promise("token-cheap")
def test_a_flood_of_requests_is_no_flood_at_the_store(tokens: Tokens, store: Counting, clock: Clock) -> None:
    good = [tokens.new(f"w{number}", ["observer"])[0] for number in range(5)]
    wrong = [f"aqt_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}" for _ in range(500)]
    store.asked = 0
    assert all(map(tokens.grant, good))
    assert store.asked == 6
    assert not any(map(tokens.grant, wrong))
    assert store.asked == 6
    for _ in range(10):
        clock.now += FRESH_SECONDS / 10
        assert not any(map(tokens.grant, wrong))
    assert store.asked <= 6 + 5
    store.asked = 6
    for _ in range(3):
        clock.now += FRESH_SECONDS
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(tokens.grant, good * 20))
    assert store.asked == 6 + 3


def test_a_store_that_is_away_for_a_moment_cuts_nobody_off(tokens: Tokens, store: Counting, clock: Clock) -> None:
    text, _ = tokens.new("ann", ["observer"])
    assert tokens.grant(text)
    store.away, store.asked = True, 0
    for _ in range(100):
        clock.now += FRESH_SECONDS / 10
        assert tokens.grant(text)
    assert store.asked <= 11
    clock.now += STALE_SECONDS
    with pytest.raises(StoreUnavailable):
        tokens.grant(text)
    store.away = False
    clock.now += FRESH_SECONDS
    assert tokens.grant(text)


@contextmanager
def reading(store: Counting, asking: Callable[[], object]) -> Iterator[ThreadPoolExecutor]:
    """Somebody asks of the store, which answers only once this is over."""
    with ThreadPoolExecutor(9) as pool:
        asked, store.slow = store.asked, threading.Event()
        first = pool.submit(asking)
        while store.asked == asked:
            time.sleep(0.001)
        try:
            yield pool
        finally:
            threading.Timer(0.1, store.slow.set).start()
        first.result()


@pytest.mark.promise("token-at-once")
def test_a_new_token_counts_at_once_however_many_bring_it(tokens: Tokens, store: Counting, clock: Clock) -> None:
    old, _ = tokens.new("ann", ["observer"])
    assert tokens.grant(old)
    clock.now += FRESH_SECONDS
    with reading(store, lambda: tokens.grant(old)) as pool:
        clock.now += 0.001
        new, _ = Tokens(FileStore(store.root)).new("bob", ["observer"])
        grants = [pool.submit(tokens.grant, new) for _ in range(8)]
    assert all(each.result() for each in grants)


def test_nobody_is_refused_for_having_come_while_another_one_asks_after_a_long_silence(
    tokens: Tokens, store: Counting, clock: Clock
) -> None:
    text, _ = tokens.new("ann", ["observer"])
    assert tokens.grant(text)
    clock.now += STALE_SECONDS + 1
    with reading(store, tokens.any) as pool:
        grants = [pool.submit(tokens.grant, text) for _ in range(8)]
    assert all(each.result() for each in grants)


@pytest.mark.promise("token-revoked")
def test_a_revoked_token_is_not_let_in_beside_one_that_asks(tokens: Tokens, store: Counting, clock: Clock) -> None:
    text, token = tokens.new("ann", ["observer"])
    assert tokens.grant(text)
    store.delete(f"{PREFIX}{token.id}.json")
    clock.now += LATE_SECONDS + 0.1
    with reading(store, tokens.any) as pool:
        grants = [pool.submit(tokens.grant, text) for _ in range(8)]
    assert not any(each.result() for each in grants)


def test_a_token_that_is_not_known_is_not_refused_while_the_store_is_away(
    tokens: Tokens, store: Counting, clock: Clock
) -> None:
    assert not tokens.any()
    new, _ = Tokens(store).new("bob", ["observer"])
    store.away = True
    clock.now += 0.001
    with pytest.raises(StoreUnavailable):
        tokens.grant(new)


def test_a_token_that_is_not_known_is_not_refused_while_the_store_does_not_answer(
    tokens: Tokens, store: Counting, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentq.tokens.WAIT_SECONDS", 0.01)
    assert not tokens.any()
    clock.now += FRESH_SECONDS
    with reading(store, tokens.any), pytest.raises(StoreUnavailable, match="in time"):
        tokens.grant(f"aqt_{'0' * 12}_{'a' * 43}")


def test_a_store_that_is_away_from_the_start_lets_nobody_in(tokens: Tokens, store: Counting) -> None:
    store.away = True
    for ask in (tokens.any, lambda: tokens.grant("x"), lambda: tokens.holds(Grant("coordinator", frozenset()))):
        with pytest.raises(StoreUnavailable):
            ask()


# ---------------------------------------------------------------------- commands


@pytest.mark.promise("token-hashed")
def test_a_new_token_is_printed_once_on_stdout_alone(desk: Desk) -> None:
    done = desk.run("token", "new", "ann", "--role", "approver", "--role", "observer", "--expires", "30d")
    assert done.code == 0
    text = done.out.strip()
    assert text.startswith("aqt_")
    assert text not in done.err
    grant = Tokens(desk.store).grant(text)
    assert grant
    assert grant == Grant("ann", frozenset({"approver", "observer"}), None, grant.id)
    listed = desk.ok("token", "list")
    assert "ann" in listed
    assert "until" in listed
    (told,) = desk.json("token", "list")
    assert text.split("_", 2)[2] not in listed + json.dumps(told)
    assert "sha256" not in told
    assert told["roles"] == ["observer", "approver"]


def test_a_workers_token_is_of_the_agent_or_of_its_own_name(desk: Desk) -> None:
    made = desk.json("token", "new", "host-1", "--role", "worker", "--agent", "review-worker")
    assert made["agent"] == "review-worker"
    assert made["token"].startswith(f"aqt_{made['id']}_")
    assert desk.json("token", "new", "review-worker", "--role", "worker")["agent"] == "review-worker"


def test_revoking_from_the_command_line(desk: Desk) -> None:
    text = desk.ok("token", "new", "ann", "--role", "observer")
    done = desk.run("token", "revoke", "ann")
    assert (done.code, done.out.split()[1]) == (0, "revoked")
    assert "everybody on its own machine" in done.err
    assert Tokens(desk.store).grant(text) is None
    assert desk.run("token", "revoke", "ann").code == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("new", "ann"), 2),
        (("new", "ann", "--role", "king"), 3),
        (("new", "../ann", "--role", "observer"), 3),
        (("new", "ann", "--role", "observer", "--agent", "review-worker"), 3),
        (("new", "ann", "--role", "observer", "--expires", "soon"), 3),
        (("new", "ann", "--role", "observer", "--expires", "0s"), 3),
        (("revoke", "nobody"), 4),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(desk: Desk, arguments: tuple[str, ...], code: int) -> None:
    done = desk.run("token", *arguments)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert not any(name.startswith("access/") for name in desk.files())


def test_what_tidies_and_moves_leaves_tokens_alone(desk: Desk, tmp_path: Path) -> None:
    desk.ok("token", "new", "ann", "--role", "observer")
    desk.finish(desk.task())
    before = {key: data for key, data in desk.files().items() if key.startswith("access/")}
    assert before
    desk.ok("store", "gc", "--older-than", "0s", "--unread")
    desk.run("doctor", "--repair")
    desk.ok("store", "copy", "--all", "--to", str(tmp_path / "other"))
    assert {key: data for key, data in desk.files().items() if key.startswith("access/")} == before
    assert not (tmp_path / "other" / "access").exists()


# ---------------------------------------------------------------------- settings

SECRET = "aqt_0123456789ab_" + "s" * 43


def test_via_names_engine_and_store(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text('broker = "amqp://x"\nstore = "here"\n[gateway]\ntoken_file = "token"\n')
    environ = {"HOME": str(tmp_path), "AGENTQ_VIA": "https://gate.example:8443/agentq/"}
    settings = load_settings(environ=environ, cwd=tmp_path)
    assert settings.via == "https://gate.example:8443/agentq"
    assert settings.broker == ("wss://gate.example:8443/agentq/engine",)
    assert settings.store == "https://gate.example:8443/agentq/store"
    assert settings.gateway.token_file == tmp_path / "token"
    assert load_settings({"store": str(tmp_path)}, environ=environ, cwd=tmp_path).store == str(tmp_path)


@pytest.mark.parametrize(
    "via",
    [
        "gate.example",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?y=1",
        "https://x/../y z",
        "https://:80",
        "https://x:y",
        "https://x:99999",
    ],
)
def test_what_is_no_gateway_is_refused(tmp_path: Path, via: str) -> None:
    with pytest.raises(Invalid, match="via") as refused:
        load_settings({"via": via}, environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert "u:p" not in f"{refused.value} {refused.value.hint}"


def test_a_token_shows_in_no_repr_and_no_error(tmp_path: Path) -> None:
    from agentq.remote import Remote

    environ = {"HOME": str(tmp_path), "AGENTQ_GATEWAY_TOKEN": SECRET, "AGENTQ_VIA": "https://gate.example"}
    settings = load_settings(environ=environ, cwd=tmp_path)
    remote = Remote.at(settings.store, settings.gateway)
    assert remote.headers == {"Authorization": f"Bearer {SECRET}"}
    assert SECRET not in f"{settings!r} {settings} {remote!r} {remote}"
    for bad in (f"{SECRET} x", f"{SECRET}\n{SECRET}", f"ä{SECRET}"):
        bad_settings = load_settings(environ=environ | {"AGENTQ_GATEWAY_TOKEN": bad}, cwd=tmp_path)
        with pytest.raises(Invalid) as refused:
            Remote.at(settings.store, bad_settings.gateway)
        assert SECRET not in f"{refused.value} {refused.value.hint}"


def test_a_token_comes_from_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    from agentq.remote import Remote

    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    environ = {"HOME": str(tmp_path), "AGENTQ_GATEWAY_TOKEN_FILE": str(path)}
    section = load_settings(environ=environ, cwd=tmp_path).gateway
    assert Remote.at("https://x/store", section).token == SECRET
    path.chmod(0o644)
    with pytest.raises(Invalid, match="others may read"):
        Remote.at("https://x/store", section)
    with pytest.raises(Invalid, match="cannot be read"):
        Remote.at("https://x/store", section.model_copy(update={"token_file": tmp_path / "missing"}))


def test_a_token_is_what_its_file_says_now(tmp_path: Path) -> None:
    from agentq.remote import Remote

    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(0o600)
    section = load_settings(
        environ={"HOME": str(tmp_path), "AGENTQ_GATEWAY_TOKEN_FILE": str(path)}, cwd=tmp_path
    ).gateway
    remote = Remote.at("https://x/store", section)
    path.write_text(f"{SECRET}2\n")
    assert remote.headers == {"Authorization": f"Bearer {SECRET}2"}
    for unreadable in (lambda: path.chmod(0o644), lambda: path.write_text("short"), path.unlink):
        unreadable()
        assert remote.headers == {"Authorization": f"Bearer {SECRET}"}, "what it said first"


@pytest.mark.promise("token-in-the-clear")
@pytest.mark.parametrize("url", ["http://gate.example/store", "ws://192.0.2.1/engine", "http://[2001:db8::1]/store"])
def test_no_token_goes_in_clear_text_to_another_machine(url: str) -> None:
    from agentq.config import GatewaySection
    from agentq.remote import Remote

    with pytest.raises(Invalid, match="clear text"):
        Remote.at(url, GatewaySection())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/store", "ws://localhost/engine", "http://[::1]:1/store"])
def test_on_this_machine_it_may_be_plain(url: str) -> None:
    from agentq.config import GatewaySection
    from agentq.remote import Remote

    assert Remote.at(url, GatewaySection()).tls is None
