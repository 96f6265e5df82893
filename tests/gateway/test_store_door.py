"""The store's door and its adapter when the line, the gateway or whatever stands between misbehaves."""

import contextlib
import hashlib
import io
import json
import os
import ssl
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme

from agentq.config import GatewaySection
from agentq.errors import EvidenceError, Invalid, StoreUnavailable
from agentq.gateway import uploads
from agentq.gateway.uploads import Upload
from agentq.remote import Remote
from agentq.stores.file import FileStore
from agentq.stores.gateway import GatewayStore
from agentq.stores.gateway_wire import CHUNK, STATE, Garbled, Pieces, end, piece
from agentq.tokens import Tokens
from tests.object_faults import (
    Answer,
    Asked,
    Fault,
    Front,
    after,
    cut_after,
    cut_before,
    fronting,
    half,
    meanwhile,
    repeated,
    says,
)
from tests.store_gateways import client, serving, settings_in

MIB, KEY = 1 << 20, "attempts/a/1.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(settings_in(folder)) as url:
        yield url


@pytest.fixture(scope="module")
def shared_front(url: str) -> Iterator[Front]:
    with fronting(url) as front:
        yield front


@pytest.fixture
def front(shared_front: Front, behind: FileStore) -> Front:
    """What stands before the gateway, which holds nothing yet."""
    shared_front.faults.clear()
    shared_front.asked.clear()
    for top in ("attempts/", "results/", "artifacts/", "open/"):
        for key in list(behind.keys(top)):
            behind.delete(key)
    return shared_front


@pytest.fixture
def behind(folder: Path) -> FileStore:
    """The store behind the gateway."""
    return FileStore(folder / "störe")


@pytest.fixture
def store(front: Front) -> GatewayStore:
    return client(front.url)


@pytest.fixture
def hasty(front: Front) -> GatewayStore:
    """A store that waits for half a second."""
    return client(front.url, timeout=0.5, retry_seconds=0.2)


def is_get(asked: Asked) -> bool:
    return asked.method == "GET"


def anything(asked: Asked) -> bool:
    return True


LOST = [cut_before, cut_after, says(503, "no"), says(503, "no", done=True), says(500, "no"), says(502, "no", done=True)]


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("lost", [*LOST, repeated])
@pytest.mark.parametrize("times", [1, 3])
def test_who_creates_alone_has_won_whatever_became_of_the_answer(
    store: GatewayStore, behind: FileStore, front: Front, lost: Fault, times: int
) -> None:
    front.will(lost, times=times)
    assert store.put_new(KEY, b"mine") is (lost is not repeated)
    assert behind.get(KEY) == b"mine"
    assert store.put_new(KEY, b"mine too") is False
    assert behind.get(KEY) == b"mine"


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("lost", LOST)
def test_who_comes_second_has_lost_whatever_became_of_the_answer(
    store: GatewayStore, behind: FileStore, front: Front, lost: Fault
) -> None:
    front.will(meanwhile(lambda: behind.put_new(KEY, b"another's"), lost))
    assert store.put_new(KEY, b"mine") is False
    assert behind.get(KEY) == b"another's"


@pytest.mark.promise("put-if-absent")
def test_the_question_who_won_may_be_lost_too(store: GatewayStore, behind: FileStore, front: Front) -> None:
    front.will(cut_after)
    front.will(cut_before, is_get, 2)
    assert store.put_new(KEY, b"mine") is True


@pytest.mark.promise("put-if-absent")
def test_a_put_that_arrives_late_has_lost_to_who_was_there(
    hasty: GatewayStore, behind: FileStore, front: Front
) -> None:
    front.will(after(0.8))
    assert hasty.put_new(KEY, b"mine")
    front.is_idle()
    assert behind.get(KEY) == b"mine"


PROXY = {"Content-Type": "text/html"}


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 400, 403, 404, 405, 407, 409, 412, 413, 418])
def test_what_a_proxy_answers_is_an_error_and_never_an_answer(hasty: GatewayStore, front: Front, status: int) -> None:
    """A proxy's 404 is no missing object, its 412 no loss, its 200 no object, and it is not repeated."""

    def proxy(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        return Answer(status, PROXY | {"Location": "http://127.0.0.1:1/"}, b"" if status == 204 else b"<html>secret")

    front.will(proxy, anything, 1000)
    calls: list[Callable[[], object]] = [
        lambda: hasty.get(KEY),
        lambda: hasty.open(KEY),
        lambda: hasty.put_new(KEY, b"x"),
        lambda: hasty.put(KEY, b"x"),
        lambda: hasty.delete(KEY),
        lambda: list(hasty.keys("tasks/")),
        lambda: hasty.url,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as refused:
            call()
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("fault", [cut_before, cut_after, says(503, "no"), says(429, "no"), says(408, "no"), half])
def test_what_passes_is_borne(store: GatewayStore, behind: FileStore, front: Front, fault: Fault) -> None:
    data = os.urandom(MIB)
    behind.put(KEY, data)
    behind.put("open/a", b"")
    steps: list[Callable[[], object]] = [
        lambda: store.get(KEY) == data,
        lambda: _read(store, KEY) == data,
        lambda: store.put("results/a.json", b"x") is None,
        lambda: list(store.keys("open/")) == ["open/a"],
        lambda: store.delete("results/a.json") is None,
        lambda: client(front.url).url == behind.url,
    ]
    for step in steps:
        front.will(fault, anything, 2)
        assert step()
        front.faults.clear()


@pytest.mark.parametrize("fault", [cut_before, says(503, "no"), after(2.0)])
def test_what_does_not_pass_ends_within_the_bound(hasty: GatewayStore, front: Front, fault: Fault) -> None:
    front.will(fault, anything, 1000)
    with pytest.raises(StoreUnavailable) as error:
        hasty.get(KEY)
    assert error.value.hint
    front.faults.clear()
    front.is_idle()
    assert hasty.get(KEY) is None


def test_a_gateway_that_is_away_at_the_start_is_told_and_asked_again() -> None:
    away = client("http://127.0.0.1:1", timeout=0.5, retry_seconds=0.5)
    assert away.place == "http://127.0.0.1:1/store"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        away.ref("tasks/a.json")


# ---------------------------------------------------------------------- streams


def _read(store: GatewayStore, key: str) -> bytes | None:
    stream = store.open(key)
    if stream is None:
        return None
    with stream:
        return stream.read()


class Cutting:
    """Cuts an answer after so many bytes, as often as it is asked."""

    def __init__(self, *places: int) -> None:
        self.places = list(places)

    def __call__(self, asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        answer = forward(asked)
        place = self.places.pop(0)
        return answer._replace(cut=max(0, len(answer.body) - place))


@pytest.mark.promise("gateway-whole")
def test_a_stream_that_is_cut_goes_on_where_it_broke(store: GatewayStore, behind: FileStore, front: Front) -> None:
    data = os.urandom(5 * MIB + 17)
    behind.put(KEY, data)
    places = [0, 3, 5, 6, CHUNK + 4, CHUNK + 5, CHUNK + 9, 2 * MIB, 10, 2 * MIB + 1]
    front.will(Cutting(*places), is_get, len(places))
    assert _read(store, KEY) == data
    assert len(front.asked) == len(places) + 1


@pytest.mark.promise("gateway-whole")
@pytest.mark.parametrize("other", [b"another", os.urandom(3 * MIB), b""])
def test_a_stream_whose_object_is_replaced_says_so(
    store: GatewayStore, behind: FileStore, front: Front, other: bytes
) -> None:
    behind.put(KEY, os.urandom(3 * MIB))
    front.will(Cutting(MIB), is_get)
    front.will(meanwhile(lambda: behind.put(KEY, other)), is_get)
    with pytest.raises(StoreUnavailable, match="replaced"):
        _read(store, KEY)


@pytest.mark.promise("gateway-whole")
def test_a_stream_whose_object_is_deleted_says_so(store: GatewayStore, behind: FileStore, front: Front) -> None:
    behind.put(KEY, os.urandom(3 * MIB))
    front.will(Cutting(MIB), is_get)
    front.will(meanwhile(lambda: behind.delete(KEY)), is_get)
    with pytest.raises(StoreUnavailable, match="deleted"):
        _read(store, KEY)


@pytest.mark.promise("gateway-whole")
@pytest.mark.parametrize("size", [0, 1000, 2 * MIB])
@pytest.mark.parametrize("place", [0, 2, 5, -1, -69])
def test_what_is_altered_on_its_way_is_never_taken_for_whole(
    hasty: GatewayStore, behind: FileStore, front: Front, size: int, place: int
) -> None:
    behind.put(KEY, bytes(size))

    def alter(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        answer = forward(asked)
        body = bytearray(answer.body)
        body[place % len(body)] ^= 1
        return answer._replace(body=bytes(body))

    front.will(alter, is_get, 1000)
    for read in (lambda: hasty.get(KEY), lambda: _read(hasty, KEY)):
        with pytest.raises(StoreUnavailable):
            read()


@pytest.mark.promise("gateway-whole")
@pytest.mark.parametrize("size", [0, 1, 1000, 3 * MIB])
def test_an_upload_that_is_cut_or_altered_leaves_nothing(
    hasty: GatewayStore, behind: FileStore, front: Front, size: int, tmp_path: Path
) -> None:
    behind.put(KEY, b"old")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))

    def shortened(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        return forward(_with(asked, asked.body[:-20]))

    def altered(asked: Asked, forward: Callable[[Asked], Answer]) -> Answer:
        middle = len(asked.body) // 2
        return forward(_with(asked, asked.body[:middle] + bytes([asked.body[middle] ^ 1]) + asked.body[middle + 1 :]))

    for fault in (shortened, altered):
        front.will(fault, lambda asked: asked.method == "PUT", 1000)
        with pytest.raises((StoreUnavailable, Invalid)):
            hasty.put_file(KEY, source)
        assert behind.get(KEY) == b"old"
        with pytest.raises((StoreUnavailable, Invalid)):
            hasty.put_new("attempts/a/2.json", source.read_bytes())
        assert behind.get("attempts/a/2.json") is None
        front.faults.clear()


def _with(asked: Asked, body: bytes) -> Asked:
    return asked._replace(body=body, headers=asked.headers | {"content-length": str(len(body))})


@pytest.mark.promise("gateway-whole")
def test_a_file_that_changes_while_it_is_sent_leaves_nothing(
    store: GatewayStore, behind: FileStore, tmp_path: Path
) -> None:
    behind.put(KEY, b"old")
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * MIB))

    def grow(_: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(Invalid, match="changed"):
        store.put_file(KEY, source, progress=grow)
    assert behind.get(KEY) == b"old"


def test_progress_counts_nothing_twice_that_is_sent_again(store: GatewayStore, front: Front, tmp_path: Path) -> None:
    source, moved = tmp_path / "source", list[int]()
    source.write_bytes(os.urandom(3 * MIB))
    front.will(cut_after, lambda asked: asked.method == "PUT", 2)
    assert store.put_file(KEY, source, progress=moved.append).bytes == 3 * MIB
    assert sum(moved) == 3 * MIB


@pytest.mark.parametrize("damage", ["", "Q", "X\xff\xff\xff\xff", "E\x00\x00\x00\x01xD", "D\x00\x00\x00\x01"])
def test_pieces_that_are_none_have_no_end(damage: str) -> None:
    pieces = Pieces()
    try:
        list(pieces.feed(damage.encode("latin-1") + b"\0" * 5))
    except Garbled:
        return
    assert not pieces.is_whole


@pytest.mark.parametrize("step", [1, 2, 5, 64, 1000])
def test_pieces_come_together_however_they_are_split(step: int) -> None:
    data = os.urandom(3000)
    sent = piece(data[:1]) + piece(b"") + piece(data[1:]) + end(hashlib.sha256(data).hexdigest())
    pieces, came = Pieces(), b""
    for start in range(0, len(sent), step):
        assert not pieces.is_whole
        came += b"".join(pieces.feed(sent[start : start + step]))
    assert pieces.is_whole
    assert came == data


# ---------------------------------------------------------------------- what the door refuses


class Got(NamedTuple):
    """An answer, whole."""

    status: int
    state: str | None
    body: bytes


def raw(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> Got:
    with contextlib.closing(HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Got(answer.status, answer.getheader(STATE), answer.read())


WAYS_OUT = [
    *("/store/../tokens", "/store/tasks/../../etc/passwd", "/store/%2e%2e/%2e%2e/etc/passwd", "/store//etc/passwd"),
    *(
        "/store/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/store/tasks/.hidden",
        "/store/tasks/a%00b",
        "/store/tasks/a%0ab",
    ),
    *("/store/tasks/a%5cb", "/store/%2fetc%2fpasswd", "/store/tasks/%c3%a4", "/store/tasks/", "/store/" + "a" * 300),
]


@pytest.mark.promise("gateway-no-path")
@pytest.mark.parametrize("path", WAYS_OUT)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_path_leads_out_of_the_store(url: str, folder: Path, method: str, path: str) -> None:
    before = sorted(folder.rglob("*"))
    answer = raw(url, method, path, piece(b"x") + end(hashlib.sha256(b"x").hexdigest()))
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body
    assert not answer.state
    assert sorted(folder.rglob("*")) == before


@pytest.mark.promise("gateway-no-path")
@pytest.mark.parametrize(
    "prefix", ["../", "/", "", "tasks", "tasks/../../", ".", "tasks//", "access/", "access/tokens/"]
)
def test_no_prefix_leads_out_of_the_store_or_to_tokens(url: str, folder: Path, prefix: str) -> None:
    answer = raw(url, "GET", f"/store?prefix={prefix}")
    assert answer.status in (400, 403)
    assert "keys" not in json.loads(answer.body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"If_None_Match": '"x"'}, piece(b"x")),
        ({"If_Match": "*"}, piece(b"x")),
        ({}, b"no pieces"),
        ({}, b""),
        ({}, piece(b"x")),
        ({}, piece(b"x") + end("0" * 64)),
        ({}, piece(b"x") + end("")),
        ({}, piece(b"x") + end(hashlib.sha256(b"x").hexdigest()) + piece(b"y")),
        ({"Content_Encoding": "gzip"}, b"\x1f\x8b"),
    ],
)
def test_a_put_that_is_none_changes_nothing(
    url: str, behind: FileStore, front: Front, headers: dict[str, str], body: bytes
) -> None:
    answer = raw(url, "PUT", f"/store/{KEY}", body, **headers)
    assert answer.status in (400, 408, 503)
    assert json.loads(answer.body)["detail"]
    assert behind.get(KEY) is None


@pytest.mark.parametrize("wanted", ["bytes=-5", "bytes=1-2", "bytes=1-,3-", "items=1-", "bytes=x-", "bytes=9e9-"])
def test_a_range_that_is_not_all_the_rest_is_refused(url: str, behind: FileStore, front: Front, wanted: str) -> None:
    behind.put(KEY, b"x")
    assert raw(url, "GET", f"/store/{KEY}", Range=wanted).status == 400


def test_damaged_evidence_in_the_store_behind_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: FileStore, key: str) -> io.BytesIO:
        raise EvidenceError("it was altered", hint="Do not use it.")

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > MIB:
                raise EvidenceError("it was altered", hint="Do not use it.")
            return super().read(size)

    with serving(settings_in(tmp_path)) as url:
        store = client(url)
        for opened in (damaged, lambda self, key: Breaking(bytes(3 * MIB))):
            monkeypatch.setattr(FileStore, "open", opened)
            for read in (lambda: store.get(KEY), lambda: _read(store, KEY)):
                with pytest.raises(EvidenceError, match="it was altered") as error:
                    read()
                assert error.value.hint == "Do not use it."


@pytest.mark.promise("gateway-uploads")
def test_an_upload_that_is_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    small = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"upload_bytes": 2_000_000})})
    source = tmp_path / "source"
    source.write_bytes(bytes(3_000_000))
    with serving(small) as url:
        store = client(url)
        with pytest.raises(StoreUnavailable, match="larger than 2000000 bytes"):
            store.put_file(KEY, source)
        with pytest.raises(StoreUnavailable, match="larger than"):
            store.put_new(KEY, source.read_bytes())
        source.write_bytes(bytes(1_500_000))
        assert store.put_file(KEY, source).bytes == 1_500_000
    assert [*(small.data / "uploads").iterdir()] == []


FULL = Path("/dev/full")


@pytest.mark.promise("gateway-uploads")
@pytest.mark.skipif(not FULL.exists(), reason="nothing is always full here")
@pytest.mark.parametrize("size", [1_100_000, 3_000_000])
def test_an_upload_for_which_there_is_no_place_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def full(dir: Path) -> tuple[int, str]:
        name = dir / "upload"
        name.touch()
        return os.open(FULL, os.O_WRONLY), str(name)

    settings, source = settings_in(tmp_path), tmp_path / "source"
    source.write_bytes(bytes(size))
    monkeypatch.setattr("agentq.gateway.uploads.tempfile.mkstemp", full)
    with serving(settings) as url:
        with pytest.raises(StoreUnavailable, match="no place for the upload: No space left") as told:
            client(url, retry_seconds=0.2).put_file(KEY, source)
        assert "data folder" in told.value.hint
        assert FileStore(tmp_path / "störe").get(KEY) is None
    assert [*(settings.data / "uploads").iterdir()] == []


@pytest.mark.skipif(not FULL.exists(), reason="nothing is always full here")
def test_the_little_that_is_left_may_find_no_place_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SMALL", 10)
    monkeypatch.setattr(Upload, "_opened", lambda self: FULL.open("wb"))
    data = bytes(20)
    with Upload(1000, tmp_path) as upload:
        upload.path = tmp_path / "upload"
        upload.path.touch()
        write = upload.add(piece(data) + end(hashlib.sha256(data).hexdigest()))
        assert write
        with pytest.raises(StoreUnavailable, match="no place for the upload"):
            write()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.promise("gateway-refuses")
def test_a_bug_in_the_middle_of_an_object_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > MIB:
                raise ZeroDivisionError
            return super().read(size)

    monkeypatch.setattr(FileStore, "open", lambda self, key: Breaking(bytes(3 * MIB)))
    with serving(settings_in(tmp_path)) as url, pytest.raises(StoreUnavailable, match="bug"):
        client(url, retry_seconds=0.2).get(KEY)
    assert [record.exc_info[0] for record in caplog.records if record.name == "agentq" and record.exc_info] == [
        ZeroDivisionError
    ]


@pytest.mark.promise("gateway-uploads")
def test_many_at_once_with_one_token_wait_for_each_other_and_all_come_through(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with serving(settings_in(tmp_path)) as url:
        store = client(url)
        with ThreadPoolExecutor(64) as pool:
            won = list(pool.map(lambda n: store.put_new(f"open/{n % 50}", str(n).encode()), range(200)))
        assert sum(won) == 50
        assert len(list(store.keys("open/"))) == 50


# ---------------------------------------------------------------------- tokens and TLS


@pytest.mark.promise("gateway-token")
def test_with_a_token_in_the_store_everybody_needs_one_and_only_workers_come(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    tokens = Tokens(FileStore(tmp_path / "störe"))
    worker, paper = tokens.new("w", ["worker"], "review-worker")
    reader, _ = tokens.new("ann", ["observer", "coordinator", "approver"])
    with serving(settings) as url:
        for token, words in ((None, "token"), (reader, "no worker's"), (f"{worker[:-1]}!", "token")):
            store = client(url, token, retry_seconds=0.5)
            for call in (lambda: store.get("tasks/a.json"), lambda: store.put("open/a", b""), lambda: store.url):  # noqa: B023
                with pytest.raises(StoreUnavailable, match=words) as refused:
                    call()
                assert worker not in f"{refused.value}{refused.value.hint}"
        good = client(url, worker)
        assert good.get("tasks/a.json") is None
        assert good.url == (tmp_path / "störe").as_uri()
        for key in (f"access/tokens/{paper.id}.json", "access/x"):
            for act in (good.get, good.delete, lambda key: good.put(key, b"x"), lambda key: good.put_new(key, b"x")):
                with pytest.raises(StoreUnavailable, match="tokens are out of reach"):
                    act(key)
        tokens.revoke("w")
        _until_refused(good)


def _until_refused(store: GatewayStore) -> None:
    import time

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            store.get("tasks/a.json")
        except StoreUnavailable:
            return
        time.sleep(0.05)
    raise AssertionError("a revoked token still counts")


def test_over_tls_with_an_authority_of_ones_own(url: str, behind: FileStore, front: Front, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    for name, ca in (("ca.pem", authority), ("other.pem", other)):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    behind.put(KEY, b"x")
    with fronting(url, context) as tls:

        def over(**section: object) -> GatewayStore:
            told = GatewaySection.model_validate({"timeout": 5.0, "retry_seconds": 0.5, **section})
            return GatewayStore(Remote.at(f"{tls.url}/store", told))

        assert over(ca_file=tmp_path / "ca.pem").get(KEY) == b"x"
        assert over(verify=False).get(KEY) == b"x"
        for unknown in ({}, {"ca_file": tmp_path / "other.pem"}):
            with pytest.raises(StoreUnavailable, match="certificate is not trusted") as refused:
                over(**unknown).get(KEY)
            assert "ca_file" in refused.value.hint
        with pytest.raises(Invalid, match="cannot be used"):
            over(ca_file=tmp_path / "missing.pem")
