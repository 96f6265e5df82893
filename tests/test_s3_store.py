"""What only the S3 store can get wrong: answers that are lost, late, repeated or half; parts; digests; settings."""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agentq.errors import EvidenceError, StoreUnavailable
from agentq.stores.s3 import SHA256, S3Store
from tests.object_faults import (
    Fault,
    Front,
    after,
    cut_after,
    cut_before,
    half,
    meanwhile,
    repeated,
    says,
)
from tests.object_servers import BUCKET, ObjectServer

KEY, MINE, OTHERS = "attempts/a/1.json", b"mine", b"another's"
MIB = 1 << 20
prefixes = itertools.count()


@pytest.fixture
def store(front: Front, moto: ObjectServer) -> S3Store:
    """A store behind the front."""
    return moto.store(f"s3-store-{next(prefixes)}", endpoint=front.url, retry_seconds=2.0)


@pytest.fixture
def hasty(store: S3Store, front: Front, moto: ObjectServer) -> S3Store:
    """The same store, which waits for no answer longer than 0.3 s."""
    return moto.store(store.url.removeprefix(f"s3://{BUCKET}/"), endpoint=front.url, timeout=0.3)


@pytest.fixture
def behind(store: S3Store, moto: ObjectServer) -> S3Store:
    """The same store, past the front: another hand."""
    return moto.store(store.url.removeprefix(f"s3://{BUCKET}/"))


@contextmanager
def heard(store: S3Store, event: str, act: Callable[..., object]) -> Iterator[None]:
    """Act meanwhile whenever the store's client, which others share, says so."""
    events = store._bucket._client("read").meta.events
    events.register(event, act)
    yield
    events.unregister(event, act)


def is_get(asked: Any) -> bool:
    return bool(asked.method == "GET" and "list-type" not in asked.path)


# ---------------------------------------------------------------------- creating once

LOST_OR_LATE: dict[str, Fault] = {
    "the put never arrives": cut_before,
    "its answer is lost": cut_after,
    "it is refused for being too fast": says(503, "SlowDown"),
    "it is done, and a proxy fails": says(502, "BadGateway", done=True),
    "it is done, and the server fails": says(500, "InternalError", done=True),
    "a proxy repeats it": repeated,
    "another request is in its way": says(409, "ConditionalRequestConflict"),
    "it is done, and another request is in its way": says(409, "ConditionalRequestConflict", done=True),
    "it is told to be taken, and is not": says(412, "PreconditionFailed"),
}


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("fault", LOST_OR_LATE.values(), ids=LOST_OR_LATE)
@pytest.mark.parametrize("times", [1, 2])
def test_who_creates_alone_has_won_whatever_became_of_the_answer(
    store: S3Store, behind: S3Store, front: Front, fault: Fault, times: int
) -> None:
    front.will(fault, times=times)
    assert store.put_new(KEY, MINE) is True
    assert behind.get(KEY) == MINE
    assert store.put_new(KEY, b"again") is False
    assert behind.get(KEY) == MINE


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("fault", LOST_OR_LATE.values(), ids=LOST_OR_LATE)
def test_who_comes_second_has_lost_whatever_became_of_the_answer(
    store: S3Store, behind: S3Store, front: Front, fault: Fault
) -> None:
    front.will(meanwhile(lambda: behind.put_new(KEY, OTHERS), fault))
    assert store.put_new(KEY, MINE) is False
    assert behind.get(KEY) == OTHERS


@pytest.mark.parametrize("lost", [cut_before, cut_after, says(503, ""), says(500, "")])
def test_the_question_who_won_may_be_lost_too(store: S3Store, behind: S3Store, front: Front, lost: Fault) -> None:
    front.will(cut_after)
    front.will(lost, lambda asked: asked.method == "HEAD", times=2)
    assert store.put_new(KEY, MINE) is True
    front.will(lost, lambda asked: asked.method == "HEAD", times=2)
    assert store.put_new(KEY, OTHERS) is False
    assert behind.get(KEY) == MINE


@pytest.mark.promise("put-if-absent")
@pytest.mark.parametrize("late", [after(0.6), after(0.6, cut_after), after(0.6, cut_before)])
def test_a_put_that_is_under_way_while_it_is_repeated_wins_once(
    hasty: S3Store, behind: S3Store, front: Front, late: Fault
) -> None:
    front.will(late)
    assert hasty.put_new(KEY, MINE) is True
    assert front.methods()[:3] == ["PUT", "HEAD", "PUT"]
    front.is_idle()
    assert behind.get(KEY) == MINE


def test_a_put_that_arrives_late_has_lost_to_who_was_there(hasty: S3Store, behind: S3Store, front: Front) -> None:
    front.will(meanwhile(lambda: behind.put_new(KEY, OTHERS), after(0.6)))
    assert hasty.put_new(KEY, MINE) is False
    front.is_idle()
    assert behind.get(KEY) == OTHERS


def test_an_object_of_another_tool_is_anothers(store: S3Store, moto: ObjectServer) -> None:
    moto.client().put_object(Bucket=BUCKET, Key=store.ref(KEY).removeprefix(f"s3://{BUCKET}/"), Body=OTHERS)
    assert store.put_new(KEY, MINE) is False
    assert store.get(KEY) == OTHERS


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "NoSuchBucket", "no such bucket"),
        (404, "NoSuchKey", "not there"),
        (501, "NotImplemented", "knows no such request"),
        (400, "NotImplemented", "knows no such request"),
        (503, "SlowDown", "busy"),
    ],
)
def test_what_is_no_answer_is_an_error_and_never_a_loss(
    store: S3Store, behind: S3Store, front: Front, status: int, code: str, words: str
) -> None:
    front.will(says(status, code), times=100)
    with pytest.raises(StoreUnavailable, match=words):
        store.put_new(KEY, MINE)
    front.faults.clear()
    assert behind.get(KEY) is None
    assert store.put_new(KEY, MINE) is True


# ---------------------------------------------------------------------- failures that pass

STEPS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get(KEY),
    "open": lambda store: store.open(KEY),
    "put": lambda store: store.put(KEY, b"x"),
    "put_new": lambda store: store.put_new(KEY, b"x"),
    "delete": lambda store: store.delete(KEY),
    "keys": lambda store: list(store.keys("attempts/")),
}


def anything(asked: Any) -> bool:
    return True


@pytest.mark.promise("bucket-outages")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(
    "fault", [cut_before, cut_after, says(503, "SlowDown"), says(500, "InternalError"), after(0.6)]
)
def test_what_passes_is_borne(hasty: S3Store, front: Front, fault: Fault, step: Callable[[S3Store], object]) -> None:
    front.will(fault, anything)
    step(hasty)
    assert len(front.asked) > 1


@pytest.mark.promise("bucket-outages")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_what_does_not_pass_ends_within_the_bound(
    moto: ObjectServer, front: Front, step: Callable[[S3Store], object]
) -> None:
    store = moto.store(endpoint=front.url, retry_seconds=0.2)
    front.will(says(503, "SlowDown"), anything, times=1000)
    with pytest.raises(StoreUnavailable, match="busy or out of order"):
        step(store)
    assert 1 < len(front.asked) < 100


def test_half_an_answer_is_asked_for_again(store: S3Store, front: Front) -> None:
    store.put(KEY, b"x" * 100_000)
    front.will(half, is_get)
    assert store.get(KEY) == b"x" * 100_000


# ---------------------------------------------------------------------- reading streams


def stream_of(store: S3Store, key: str = "results/a.md") -> io.BufferedReader:
    found = store.open(key)
    assert isinstance(found, io.BufferedReader)
    return found


def test_a_stream_that_breaks_goes_on_where_it_broke(store: S3Store, front: Front) -> None:
    data = hashlib.sha256(b"").digest() * (MIB // 8)
    store.put("results/a.md", data)
    front.asked.clear()
    front.will(half, is_get, times=3)
    with stream_of(store) as stream:
        assert stream.read() == data
    ranges = [asked.headers.get("range") for asked in front.asked]
    assert ranges[0] is None
    assert len({range_ for range_ in ranges[1:] if range_}) == 3
    assert all(asked.headers["if-match"] for asked in front.asked[1:])


@pytest.mark.parametrize(
    "act", [lambda store: store.put("results/a.md", b"new"), lambda store: store.delete("results/a.md")]
)
def test_a_stream_whose_object_is_replaced_says_so(
    store: S3Store, behind: S3Store, front: Front, act: Callable[[S3Store], object]
) -> None:
    store.put("results/a.md", b"old" * MIB)
    front.will(half, is_get)
    with stream_of(store) as stream:
        act(behind)
        with pytest.raises(StoreUnavailable, match="replaced or deleted while it was read"):
            stream.read()


def test_a_server_that_cannot_read_from_the_middle_is_not_believed(store: S3Store, front: Front) -> None:
    store.put("results/a.md", b"old" * MIB)
    bodies: list[Any] = []
    front.will(half, is_get)
    front.will(
        lambda asked, forward: forward(
            asked._replace(headers={name: value for name, value in asked.headers.items() if name != "range"})
        ),
        is_get,
    )
    with (
        heard(store, "after-call.s3.GetObject", lambda parsed, **_: bodies.append(parsed["Body"])),
        stream_of(store) as stream,
        pytest.raises(StoreUnavailable, match="from the middle"),
    ):
        stream.read()
    assert [body._raw_stream.closed for body in bodies] == [True, True]


@pytest.mark.promise("bucket-digests")
@pytest.mark.parametrize("data", [b"", b"altered", b"x" * MIB])
def test_an_altered_object_is_told_when_it_is_read(store: S3Store, moto: ObjectServer, data: bytes) -> None:
    store.put(KEY, b"what was put")
    client, whole = moto.client(), store.ref(KEY).removeprefix(f"s3://{BUCKET}/")
    metadata = client.head_object(Bucket=BUCKET, Key=whole)["Metadata"]
    assert metadata[SHA256] == hashlib.sha256(b"what was put").hexdigest()
    client.put_object(Bucket=BUCKET, Key=whole, Body=data, Metadata=metadata)
    with pytest.raises(EvidenceError, match=r"attempts/a/1\.json"):
        store.get(KEY)
    stream = store.open(KEY)
    assert stream is not None
    with stream, pytest.raises(EvidenceError, match=r"attempts/a/1\.json"):
        assert stream.read(3) is None


# ---------------------------------------------------------------------- listing


def test_a_listing_of_many_pages_shows_every_key_in_order_and_nothing_else(store: S3Store, moto: ObjectServer) -> None:
    keys = sorted(f"open/task-{number}" for number in range(17))
    for key in keys:
        store.put(key, b"")
    client, top = moto.client(), store.url.removeprefix(f"s3://{BUCKET}/")
    for foreign in ("open/", "open/.hidden", "open/a b", "open//x"):
        client.put_object(Bucket=BUCKET, Key=f"{top}/{foreign}")
    with heard(store, "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3)):
        assert list(store.keys("open/")) == keys


# ---------------------------------------------------------------------- requests


def test_what_each_call_costs(store: S3Store, front: Front) -> None:
    """Every request is a round trip of each of thousands of commands."""
    costs: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: store.put_new(KEY, b"x"), ["PUT"]),
        (lambda: store.put_new(KEY, b"y"), ["PUT", "HEAD"]),
        (lambda: store.put(KEY, b"x"), ["PUT"]),
        (lambda: store.get(KEY), ["GET"]),
        (lambda: store.get("nothing"), ["GET"]),
        (lambda: stream_of(store, KEY).read(), ["GET"]),
        (lambda: list(store.keys("attempts/")), ["GET"]),
        (lambda: store.delete(KEY), ["DELETE"]),
    ]
    for call, methods in costs:
        front.asked.clear()
        call()
        assert front.methods() == methods
        assert not any("expect" in asked.headers for asked in front.asked)
