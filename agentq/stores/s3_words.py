"""What S3 and the way to it can answer, in words: the one place where an error of botocore becomes one of ours."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    InvalidRegionError,
    LoginError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from agentq.errors import AgentqError, Invalid, StoreUnavailable
from agentq.messages import shorten
from agentq.stores.passing import Passing


class Unclear(Passing):
    """The server says that another object, or another request, is in the way of this one."""


class Absent(StoreUnavailable):
    """There is no such object or upload."""


KEYS = "look at the credentials: AWS_PROFILE, AWS_ACCESS_KEY_ID, or `profile` under [s3] in agentq.toml"
LOGIN = "log in again (`aws sso login`), or renew the credentials"
ROOM = "make room: raise the quota, or `agentq store gc` removes old tasks' evidence"
POLICY = "docs/stores.md lists what a coordinator and a worker must be allowed to do"
REGION = "set `region` under [s3] in agentq.toml, or AWS_REGION, to the bucket's; or name the endpoint's own URL"
ENDPOINT = "look at `endpoint` under [s3] in agentq.toml, or AWS_ENDPOINT_URL_S3, and whether the server is up"
CERTIFICATE = "name the CA's certificate: `ca_file` under [s3] in agentq.toml, or AWS_CA_BUNDLE"
CONDITIONS = "agentq needs conditional puts (If-None-Match): upgrade the server, or choose another store"

_ABSENT = frozenset({"NoSuchKey", "NoSuchUpload", "404"})
_IN_THE_WAY = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "409", "412"})
_PASSING = frozenset(
    {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "BadDigest", "429"}
)

_WORDS = {
    "NoSuchBucket": (
        "there is no such bucket",
        "create it, or correct the store's URL and the endpoint; agentq creates none",
    ),
    "AccessDenied": ("these credentials may not do that", POLICY),
    "403": ("these credentials may not do that", POLICY),
    "AllAccessDisabled": ("the bucket's owner has disabled all access", "ask who keeps the bucket"),
    "AccountProblem": ("something is wrong with the account", "ask who keeps the account"),
    "InvalidAccessKeyId": ("the server does not know the access key", KEYS),
    "SignatureDoesNotMatch": ("the secret key is wrong", KEYS),
    "AuthorizationHeaderMalformed": ("the request is signed for another region", REGION),
    "InvalidToken": ("the session token is not valid", LOGIN),
    "ExpiredToken": ("the credentials have expired", LOGIN),
    "TokenRefreshRequired": ("the credentials have expired", LOGIN),
    "RequestTimeTooSkewed": ("this machine's clock differs too much from the server's", "set the clock (NTP)"),
    "PermanentRedirect": ("the bucket lies in another region", REGION),
    "IllegalLocationConstraintException": ("the bucket lies in another region", REGION),
    "301": ("the bucket lies in another region", REGION),
    "QuotaExceeded": ("the bucket's quota is used up", ROOM),
    "XMinioAdminBucketQuotaExceeded": ("the bucket's quota is used up", ROOM),
    "XMinioStorageFull": ("the server's disk is full", ROOM),
    "InsufficientStorage": ("the server's disk is full", ROOM),
    "507": ("the server's disk is full", ROOM),
    "EntityTooLarge": ("the object is larger than the server takes", "leave less evidence, or choose another store"),
    "NotImplemented": ("the server knows no such request", CONDITIONS),
    "501": ("the server knows no such request", CONDITIONS),
    "405": ("the server does not take such requests: it is no S3 endpoint", ENDPOINT),
    "MethodNotAllowed": ("the server does not take such requests: it is no S3 endpoint", ENDPOINT),
    "InvalidObjectState": ("the object was moved to an archive", "restore it, and keep lifecycle rules off the store"),
}

_KINDS: dict[type[Exception], tuple[type[AgentqError], str, str]] = {
    ProfileNotFound: (Invalid, "there is no such profile in the AWS configuration", KEYS),
    ConfigNotFound: (Invalid, "the AWS configuration cannot be found", "look at AWS_CONFIG_FILE"),
    ConfigParseError: (Invalid, "the AWS configuration cannot be read", "look at ~/.aws/config"),
    InvalidConfigError: (Invalid, "the AWS configuration cannot be used", "look at ~/.aws/config"),
    InvalidRegionError: (Invalid, "the region's name is none", REGION),
    NoCredentialsError: (StoreUnavailable, "no credentials were found", KEYS),
    PartialCredentialsError: (StoreUnavailable, "the credentials are incomplete", KEYS),
    CredentialRetrievalError: (StoreUnavailable, "the credentials cannot be had", KEYS),
    MetadataRetrievalError: (StoreUnavailable, "the credentials cannot be had", KEYS),
    TokenRetrievalError: (StoreUnavailable, "the credentials have expired", LOGIN),
    SSOError: (StoreUnavailable, "the credentials have expired", LOGIN),
    LoginError: (StoreUnavailable, "the credentials have expired", LOGIN),
    ResponseParserError: (StoreUnavailable, "the server's answer is not S3's", ENDPOINT),
    ConnectTimeoutError: (Passing, "no connection within the time allowed", ENDPOINT),
    ReadTimeoutError: (Passing, "no answer within the time allowed", ENDPOINT),
    ProxyConnectionError: (Passing, "the proxy cannot be reached", "look at HTTPS_PROXY and NO_PROXY"),
    SSLError: (Passing, "no secure connection can be made", "look at the endpoint: is it https:// indeed?"),
    ConnectionError: (Passing, "the server cannot be reached", ENDPOINT),
    HTTPClientError: (Passing, "the connection broke", ENDPOINT),
    IncompleteReadError: (Passing, "the answer broke off", ENDPOINT),
    FlexibleChecksumError: (Passing, "the answer was damaged on its way", "repeat it"),
}


def explain(error: Exception, doing: str) -> AgentqError:
    """What went wrong while doing something, such as `read 'open/a' in the store s3://…`; it never holds a secret."""
    if isinstance(error, ClientError):
        return _answer(error.response, doing)
    inner = error.kwargs.get("error") if isinstance(error, BotoCoreError) else error
    if isinstance(inner, AgentqError):  # of the file that was being sent
        return inner
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreUnavailable(f"cannot {doing}: the server's certificate is not trusted", hint=CERTIFICATE)
    unknown = StoreUnavailable, type(error).__name__, ENDPOINT
    kind, why, hint = next((words for known, words in _KINDS.items() if isinstance(error, known)), unknown)
    return kind(f"cannot {doing}: {why}", hint=hint)


def _answer(told: Mapping[str, Any], doing: str) -> AgentqError:
    """The words for an answer of the server, by its code or else its status."""
    code = str(told.get("Error", {}).get("Code", ""))
    status = str(told.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _ABSENT:
        return Absent(f"cannot {doing}: it is not there", hint="look whether somebody deletes objects by hand")
    if code in _IN_THE_WAY:
        return Unclear(f"cannot {doing}: another request is in its way", hint="repeat it")
    if known := _WORDS.get(code) or _WORDS.get(status):
        return StoreUnavailable(f"cannot {doing}: {known[0]}", hint=known[1])
    if code in _PASSING or status.startswith("5"):
        return Passing(f"cannot {doing}: the server is busy or out of order ({code})", hint="repeat it later")
    words = " ".join(str(told.get("Error", {}).get("Message", "")).split())
    what = f"cannot {doing}: the server answers {shorten(f'{code}: {words}', 200)}"
    return StoreUnavailable(what, hint=ENDPOINT)
