"""What an S3 store is told by its URL and its settings, and how everything that goes wrong is told in words."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
import trustme

from agentq.config import S3Section, load_settings
from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.stores.passing import Passing
from agentq.stores.s3 import S3Store
from agentq.stores.s3_words import explain
from tests.desk import Desk
from tests.object_faults import Front, fronting, says
from tests.object_servers import BUCKET, CREDENTIALS, ObjectServer, free_port


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
    ],
)
def test_a_store_is_a_bucket_and_a_prefix(given: str, url: str) -> None:
    store = S3Store(given, S3Section())
    assert store.url == url
    assert store.ref("tasks/a.json") == f"{url}/tasks/a.json"
    assert store.key(f"{url}/tasks/a.json") == "tasks/a.json"


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "s3://",
            "s3:///a",
            "s3://ab",
            "s3://Bucket",
            "s3://a_bucket",
            "s3://-bucket",
            "s3://bucket-",
            "s3://192.168.1.1",
        ),
        *("s3://bu..cket", "s3://bu.-cket", "s3://" + "b" * 64, "s3://bucket?versionId=1", "s3://bucket#a"),
        *("s3://bucket/a?b=c", "s3://bucket/a#b", "s3://bucket//a", "s3://bucket/a/../b", "s3://bucket/%61"),
        *(f"s3://me:{SECRET}@bucket/a", "s3://bucket:9000/a", "http://bucket/a"),
    ],
)
def test_a_url_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        S3Store(url, S3Section())
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_key_too_long_for_s3_is_refused() -> None:
    store = S3Store("s3://bucket/" + "p" * 200, S3Section())
    with pytest.raises(Invalid, match="too long"):
        store.get("/".join(["k" * 250] * 4))


def config_of(**section: Any) -> Any:
    return S3Store("s3://bucket", S3Section(**section))._bucket._client("look").meta


def test_another_server_than_aws_is_asked_as_all_of_them_understand(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = config_of(endpoint="http://127.0.0.1:9000")
    assert (meta.endpoint_url, meta.region_name) == ("http://127.0.0.1:9000", "us-east-1")
    assert meta.config.s3["addressing_style"] == "path"
    assert meta.config.request_checksum_calculation == "when_required"
    assert meta.config.response_checksum_validation == "when_required"
    assert config_of(endpoint="http://minio", addressing="virtual").config.s3["addressing_style"] == "virtual"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    monkeypatch.setenv("AWS_REGION", "here")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    meta = config_of(profile=None)
    assert (meta.endpoint_url, meta.region_name) == ("http://minio:9000", "here")
    assert meta.config.s3["addressing_style"] == "path"
    assert meta.config.request_checksum_calculation == "when_supported"


def test_aws_is_asked_as_every_aws_tool_asks_it(aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile agents]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    meta = config_of(profile="agents")
    assert meta.region_name == "eu-central-1"
    assert meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert meta.config.s3["addressing_style"] == "auto"
    assert meta.config.request_checksum_calculation == "when_supported"
    assert config_of(region="eu-west-1").endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    assert config_of(timeout=3).config.read_timeout == 3


def test_a_role_is_assumed_as_by_every_aws_tool(
    aws: None, moto: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    role = "role_arn = arn:aws:iam::123456789012:role/agents\ncredential_source = Environment\nregion = us-east-1\n"
    (tmp_path / "config").write_text(f"[profile agents]\n{role}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.url)
    store = moto.store(profile="agents")
    assert store.put_new("a", b"x")
    assert store._bucket._client("look")._request_signer._credentials.method == "assume-role"


@pytest.mark.parametrize(
    "section",
    [
        {"endpoint": "minio:9000"},
        {"endpoint": "ftp://minio"},
        {"endpoint": f"http://me:{SECRET}@minio"},
        {"endpoint": "http://minio/a/path"},
        {"endpoint": "http://"},
        {"profile": "nobody"},
        {"region": "no region"},
        {"ca_file": "/missing/ca.pem"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_with_words(aws: None, section: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        S3Store("s3://bucket", S3Section.model_validate(section)).get("a")
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_the_store_is_named_with_its_server(moto: ObjectServer) -> None:
    assert moto.store("a").place == f"s3://{BUCKET}/a at {moto.url}"


def test_a_settings_file_names_its_ca_by_a_path_from_itself(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text(
        'store = "s3://bucket"\n[s3]\nca_file = "ca.pem"\nendpoint = "https://minio"\n'
    )
    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert settings.s3 == S3Section(endpoint="https://minio", ca_file=tmp_path / "ca.pem")


def test_init_keeps_how_the_bucket_is_reached(desk: Desk, moto: ObjectServer) -> None:
    del desk.environment["AGENTQ_STORE"]
    desk.environment |= CREDENTIALS
    settings = desk.project / "agentq.toml"
    settings.write_text(f'store = "{moto.store().url}"\n[s3]\nendpoint = "{moto.url}"\nretry_seconds = 3\n')
    desk.ok("init", "--write", "--force")
    assert f'[s3]\nendpoint = "{moto.url}"\nretry_seconds = 3.0\n' in settings.read_text()
    assert moto.url in desk.ok("doctor")


# ---------------------------------------------------------------------- words

ANSWERS = [
    (403, "AccessDenied", "may not do that", "docs/stores.md"),
    (403, "InvalidAccessKeyId", "does not know the access key", "AWS_PROFILE"),
    (403, "SignatureDoesNotMatch", "secret key is wrong", "AWS_PROFILE"),
    (400, "ExpiredToken", "have expired", "log in again"),
    (400, "InvalidToken", "session token", "log in again"),
    (403, "RequestTimeTooSkewed", "clock", "NTP"),
    (404, "NoSuchBucket", "no such bucket", "create it"),
    (301, "PermanentRedirect", "another region", "AWS_REGION"),
    (400, "AuthorizationHeaderMalformed", "another region", "AWS_REGION"),
    (403, "QuotaExceeded", "quota", "make room"),
    (400, "XMinioAdminBucketQuotaExceeded", "quota", "make room"),
    (507, "InsufficientStorage", "disk is full", "make room"),
    (507, "XMinioStorageFull", "disk is full", "make room"),
    (501, "NotImplemented", "no such request", "conditional puts"),
    (405, "MethodNotAllowed", "no S3 endpoint", "endpoint"),
    (503, "SlowDown", "busy", "later"),
    (418, "ImATeapot", "ImATeapot: no", "[s3]"),
]


@pytest.fixture
def store(front: Front, moto: ObjectServer) -> S3Store:
    """A store behind the front, which tries nothing for long."""
    return moto.store(endpoint=front.url, retry_seconds=0.1)


@pytest.mark.promise("words-not-tracebacks")
@pytest.mark.parametrize(("status", "code", "words", "hint"), ANSWERS, ids=[code for _, code, _, _ in ANSWERS])
def test_what_a_server_refuses_is_told_with_what_to_do(
    store: S3Store, front: Front, status: int, code: str, words: str, hint: str
) -> None:
    front.will(says(status, code), lambda asked: True, times=1000)
    with pytest.raises(StoreUnavailable) as caught:
        store.put("tasks/a.json", b"x")
    assert str(caught.value).startswith(f"cannot write 'tasks/a.json' in the store {store.url}: ")
    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_what_a_server_says_cannot_fill_a_screen(store: S3Store, front: Front) -> None:
    front.will(says(400, "Odd", message="so\n" * 1000), lambda asked: True)
    with pytest.raises(StoreUnavailable) as caught:
        store.get("a")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def refusal(**section: Any) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        S3Store("s3://bucket", S3Section(retry_seconds=0.1, **section)).get("a")
    return caught.value


def test_a_server_that_is_not_there_is_told(aws: None) -> None:
    error = refusal(endpoint=f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in str(error)
    assert "[s3]" in error.hint


def test_a_server_that_is_no_s3_is_told(aws: None, front: Front) -> None:
    front.will(lambda asked, forward: forward(asked)._replace(status=400, body=b"<html>hello"), lambda asked: True)
    assert refusal(endpoint=front.url).hint


def test_missing_credentials_are_told(aws: None, monkeypatch: pytest.MonkeyPatch, moto: ObjectServer) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = refusal(endpoint=moto.url)
    assert "no credentials were found" in str(error)
    assert "AWS_PROFILE" in error.hint
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "credentials are incomplete" in str(refusal(endpoint=moto.url))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(moto: ObjectServer, authority: trustme.CA) -> Iterator[Front]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with fronting(moto.url, context) as front:
        yield front


def test_a_ca_of_ones_own_is_trusted_when_it_is_named(
    secure: Front, authority: trustme.CA, moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(endpoint=secure.url)
    assert "certificate is not trusted" in str(error)
    assert "ca_file" in error.hint
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    assert moto.store(endpoint=secure.url, ca_file=ca_file).put_new("a", b"x")
    assert moto.store(endpoint=secure.url, verify=False).put_new("a", b"x")
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    assert "certificate is not trusted" in str(refusal(endpoint=secure.url, ca_file=ca_file))
    authority.cert_pem.write_to_path(str(ca_file))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    assert moto.store(endpoint=secure.url, timeout=9.0).put_new("a", b"x")


def test_https_to_a_server_without_it_is_told(aws: None, moto: ObjectServer) -> None:
    error = refusal(endpoint=moto.url.replace("http:", "https:"))
    assert "secure connection" in str(error)
    assert "https" in error.hint


class Filled(dict[str, Any]):
    """Whatever an error wants to be told."""

    def __missing__(self, key: str) -> str:
        return key


def kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.promise("words-not-tracebacks")
def test_every_error_of_the_library_has_words() -> None:
    passing = set()
    for kind in sorted(set(kinds(botocore.exceptions.BotoCoreError)), key=lambda kind: kind.__name__):
        error = kind.__new__(kind)
        error.args, error.kwargs = (f"about {SECRET}",), {}  # type: ignore[attr-defined]
        told = explain(error, "do it")
        assert isinstance(told, Invalid | StoreUnavailable), kind
        assert str(told).startswith("cannot do it: ")
        assert told.hint, kind
        assert SECRET not in f"{told} {told.hint}"
        if isinstance(told, Passing):
            passing.add(kind.__name__)
    assert {"EndpointConnectionError", "ReadTimeoutError", "ConnectionClosedError", "ResponseStreamingError"} <= passing
    assert not passing & {"NoCredentialsError", "ProfileNotFound", "ParamValidationError"}


def test_what_a_file_being_sent_says_is_not_covered_by_the_library() -> None:
    ours = AgentqError("the file changed", hint="stop writing")
    assert explain(botocore.exceptions.HTTPClientError(error=ours), "do it") is ours
