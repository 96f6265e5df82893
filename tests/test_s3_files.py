"""Large files on S3: parts that fail, files that change, uploads that nobody completed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentq.errors import Invalid, StoreUnavailable
from agentq.stores.s3 import S3Store
from agentq.stores.s3_upload import PART, PARTS, part_size
from tests.object_faults import Fault, Front, after, cut_after, cut_before, meanwhile, says
from tests.object_servers import BUCKET, ObjectServer

MIB = 1 << 20


@pytest.fixture
def store(front: Front, moto: ObjectServer) -> S3Store:
    """A store behind the front."""
    return moto.store(endpoint=front.url, retry_seconds=1.0)


def is_part(asked: Any) -> bool:
    return "partNumber" in asked.path


def is_completion(asked: Any) -> bool:
    return asked.method == "POST" and "uploadId" in asked.path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of three parts."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        for number in range(20):
            file.write(bytes([number]) * MIB)
    return path


def nothing_is_left(store: S3Store, path: str = "artifacts/a/1/large") -> bool:
    return store.get(path) is None and store.stale_temporaries(-60) == []


def test_parts_are_few_enough_and_long_enough() -> None:
    assert part_size(PART + 1) == PART
    for size in (PART * PARTS, PART * PARTS + 1, 5 << 40):
        assert part_size(size) * PARTS >= size
        assert part_size(size) % MIB == 0
    assert part_size(5 << 40) < 5 << 30


PARTS_FAIL: dict[str, tuple[Fault, Callable[[Any], bool]]] = {
    "a part never arrives": (cut_before, is_part),
    "a part's answer is lost": (cut_after, is_part),
    "a part is refused": (says(503, "SlowDown"), is_part),
    "the completion never arrives": (cut_before, is_completion),
    "the completion's answer is lost": (cut_after, is_completion),
    "the completion is done and fails": (says(500, "InternalError", done=True), is_completion),
    "the completion fails with a good status": (says(200, "InternalError"), is_completion),
    "the upload is begun twice": (cut_after, lambda asked: asked.path.endswith("?uploads")),
}


@pytest.mark.parametrize(("fault", "fits"), PARTS_FAIL.values(), ids=PARTS_FAIL)
def test_an_upload_bears_what_passes(
    store: S3Store, front: Front, large: Path, fault: Fault, fits: Callable[[Any], bool]
) -> None:
    front.will(fault, fits)
    stored = store.put_file("artifacts/a/1/large", large)
    assert stored == (hashlib.sha256(large.read_bytes()).hexdigest(), 20 * MIB)
    assert store.get("artifacts/a/1/large") == large.read_bytes()


@pytest.mark.parametrize("first", [cut_after, cut_before])
def test_an_upload_that_is_gone_was_completed_if_its_object_is_there(
    store: S3Store, front: Front, large: Path, first: Fault
) -> None:
    front.will(first, is_completion)
    front.will(says(404, "NoSuchUpload"), is_completion)
    if first is cut_after:
        assert store.put_file("artifacts/a/1/large", large).bytes == 20 * MIB
        assert store.get("artifacts/a/1/large") == large.read_bytes()
    else:
        with pytest.raises(StoreUnavailable, match="not there"):
            store.put_file("artifacts/a/1/large", large)
        assert nothing_is_left(store)


def test_a_server_may_take_its_time_to_put_the_parts_together(moto: ObjectServer, front: Front, large: Path) -> None:
    store = moto.store(endpoint=front.url, timeout=0.5)
    front.will(after(1.5), is_completion)
    assert store.put_file("artifacts/a/1/large", large).bytes == 20 * MIB
    assert len([asked for asked in front.asked if is_completion(asked)]) == 1


@pytest.mark.parametrize("code", ["SlowDown", "AccessDenied", "NoSuchUpload"])
def test_an_upload_that_fails_leaves_nothing(store: S3Store, front: Front, large: Path, code: str) -> None:
    front.will(says({"SlowDown": 503, "AccessDenied": 403}.get(code, 404), code), is_part, times=1000)
    with pytest.raises(StoreUnavailable):
        store.put_file("artifacts/a/1/large", large)
    front.faults.clear()
    assert nothing_is_left(store)
    assert store.put_file("artifacts/a/1/large", large).bytes == 20 * MIB


@pytest.mark.parametrize("change", [lambda file: file.write(b"!"), lambda file: file.truncate(9 * MIB)])
@pytest.mark.promise("bucket-digests")
def test_a_file_that_changes_while_it_is_sent_is_refused_and_leaves_nothing(
    store: S3Store, front: Front, large: Path, change: Callable[[Any], object]
) -> None:
    def alter() -> None:
        with large.open("r+b") as file:
            file.seek(19 * MIB)
            change(file)

    store.put("artifacts/a/1/large", b"old")
    begun: Callable[[Any], bool] = lambda asked: asked.path.endswith("?uploads")  # noqa: E731
    front.will(meanwhile(alter), begun)
    with pytest.raises(Invalid, match="changed while it was read"):
        store.put_file("artifacts/a/1/large", large)
    assert store.get("artifacts/a/1/large") == b"old"
    assert store.stale_temporaries(-60) == []


def test_only_a_regular_file_is_put(store: S3Store, large: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(large)
    for path in (tmp_path / "link", tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(Invalid, match="cannot read the file"):
            store.put_file("artifacts/a/1/large", path)
    assert nothing_is_left(store)


def test_uploads_of_the_dead_are_found_and_removed_but_not_those_of_the_living(
    ministack: ObjectServer,
) -> None:
    """Not on moto, where every upload was begun in 2010."""
    store, client = ministack.store(), ministack.client()
    whole = store.ref("artifacts/a/1/large").removeprefix(f"s3://{BUCKET}/")
    client.create_multipart_upload(Bucket=BUCKET, Key=whole)
    client.create_multipart_upload(Bucket=BUCKET, Key="elsewhere/large")
    assert store.stale_temporaries(600) == []
    assert [found["Key"] for found in store.stale_temporaries(-60)] == [whole]
    assert store.remove_temporaries(600) == 0
    assert store.remove_temporaries(-60) == 1
    assert store.stale_temporaries(-60) == []
