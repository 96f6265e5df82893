"""Credentials in texts that are to be written down: found before they are, and told without being repeated.

Three kinds of rules: those of detect-secrets, which is imported only for what its rules could match; formats that it
does not know; and values that look random, or like a password, beside a name that tells what they are. Every rule
starts from a fixed text and looks a bounded way from there, so that the time is linear in the length.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice, pairwise
from math import log2
from typing import NamedTuple

from agentq.errors import CredentialFound

FINDS_TOLD = 10
SECRETS = "Name the place where the worker finds it instead. If it is none: --allow-secrets"
"""What to do about a find."""
_ENOUGH = 1000
_REACH = 1024
_AROUND = 128
_NESTED = 4
"""How often a rule begins anew inside what it has just looked at."""

Value = Callable[["re.Match[bytes]"], "tuple[int, int] | None"]


class Find(NamedTuple):
    """What looks like a credential: its kind, its place in the text (bytes), and no more of it than its format."""

    kind: str
    start: int
    end: int
    shown: str = ""


class Place(NamedTuple):
    """Where a find is, counted from 1, the column in characters."""

    line: int
    column: int


class _Rule(NamedTuple):
    """`pattern` is tried where one of the texts stands (in any case when `folded`); `value` says what of it counts."""

    kind: str
    texts: tuple[bytes, ...]
    pattern: "re.Pattern[bytes]"
    value: Value
    folded: bool = False
    shown: int = 0


def finds(data: bytes) -> list[Find]:
    """What looks like a credential in a text, in its order; what overlaps is told once."""
    folded = data.lower()
    found = chain(_library_finds(data, folded), *(islice(_matches(rule, data, folded), _ENOUGH) for rule in _rules()))
    kept: list[Find] = []
    for find in sorted(found, key=lambda find: (find.start, -find.end)):
        if not kept or find.start >= kept[-1].end:
            kept.append(find)
    return kept


def place_of(data: bytes, find: Find) -> Place:
    """The line and column of a find."""
    begin = data.rfind(b"\n", 0, find.start) + 1
    return Place(data.count(b"\n", 0, begin) + 1, len(data[begin : find.start].decode(errors="replace")) + 1)


def refuse(texts: Mapping[str, str | bytes | None], *, allowed: bool = False) -> None:
    """Raise CredentialFound when a text holds what looks like a credential; the names say where it was given."""
    found = [] if allowed else told(texts)
    if not found:
        return
    if len(found) == 1:
        raise CredentialFound(found[0], hint=SECRETS)
    first = f", the first {FINDS_TOLD} are" if len(found) > FINDS_TOLD else ""
    lines = (f"  {line}" for line in found[:FINDS_TOLD])
    raise CredentialFound("\n".join((f"{len(found)} places look like credentials{first}:", *lines)), hint=SECRETS)


def told(texts: Mapping[str, str | bytes | None]) -> list[str]:
    """A line for everything in the texts that looks like a credential: where it is, and what it looks like."""
    return [line for name, text in texts.items() if text for line in _told(name, text)]


def in_words(find: Find) -> str:
    """What a find looks like, without it."""
    return f"this looks like {find.kind}{f' ({find.shown}…)' if find.shown else ''}"


def masked(text: str) -> str:
    """The text with every credential that is found in it replaced by a word."""
    data = text.encode(errors="backslashreplace")
    return blanked(data, finds(data)).decode()


def blanked(data: bytes, found: Sequence[Find]) -> bytes:
    """The text with a word in the place of each of these, which stand in its order."""
    for find in reversed(found):
        data = b"%s[%s withheld]%s" % (data[: find.start], find.kind.encode(), data[find.end :])
    return data


def _told(name: str, text: str | bytes) -> Iterator[str]:
    data = text if isinstance(text, bytes) else text.encode(errors="backslashreplace")
    for find in finds(data):
        place = place_of(data, find)
        yield f"{name}, line {place.line}, column {place.column}: {in_words(find)}"


def _matches(rule: _Rule, data: bytes, folded: bytes) -> Iterator[Find]:
    for text in rule.texts:
        end, inside = 0, 0
        for position in _positions(folded if rule.folded else data, text):
            inside = inside + 1 if position < end else 0
            if inside > _NESTED:
                continue
            if match := rule.pattern.match(data, position, position + _REACH):
                end = match.end()
                if span := rule.value(match):
                    yield Find(rule.kind, *span, data[span[0] : span[0] + rule.shown].decode(errors="replace"))


def _positions(data: bytes, text: bytes) -> Iterator[int]:
    position = data.find(text)
    while position >= 0:
        yield position
        position = data.find(text, position + 1)


# ---------------------------------------------------------------------- what counts

_STOPGAP = (
    rb"your|placeholder|change[_-]?me|redacted|dummy|sample|insert|(?-i:xxxx|XXXX)"
    rb"|\*\*|\.\.\.|<|>|\$[({]|\{\{|\xe2\x80\xa6"
)
_FILLER = re.compile(rb"(?i)0{8}|" + _STOPGAP)
_STAND_IN = re.compile(rb"(?i)example|" + _STOPGAP)
_WORD = re.compile(rb"[a-z]+[0-9]{0,3}|[A-Z][a-z]*|[A-Z]+[0-9]{0,3}|[0-9]+")
_SEPARATOR = re.compile(rb"[-_./+:, ]")
_CODE = re.compile(rb"[$%@~/.&!(\[{\\|]|[A-Za-z_][\w.]*[(\[]|sha[0-9]+[:-]")


def _is_random(value: bytes) -> bool:
    """Whether a value can hardly have been chosen by a person: letters and digits in an order without words."""
    if len(value) < 16 or all(_WORD.fullmatch(part) for part in _SEPARATOR.split(value) if part):
        return False
    kinds = [_kind(byte) for byte in value]
    changes = sum(one != other for one, other in pairwise(kinds)) / (len(value) - 1)
    if kinds.count("0") >= 2 and ("a" in kinds or "A" in kinds):
        return changes >= 0.25 and _entropy(value) >= 3.0
    return len(value) >= 24 and {"a", "A"} <= {*kinds} and changes >= 0.4 and _entropy(value) >= 4.2


def _kind(byte: int) -> str:
    character = chr(byte)
    return "0" if character.isdigit() else "a" if character.islower() else "A" if character.isupper() else "-"


def _entropy(value: bytes) -> float:
    """Shannon's, in bits per character."""
    return -sum(count / len(value) * log2(count / len(value)) for count in Counter(value).values())


def _is_password(value: bytes, *, is_quoted: bool) -> bool:
    """Whether a value beside the word password may be one: of several kinds of characters, as people choose them."""
    if len(value) < 8 or b"(" in value or (not is_quoted and b"://" in value):
        return False
    kinds = {_kind(byte) for byte in value}
    return "0" in kinds and len(kinds) >= (2 if is_quoted else 3) and not re.fullmatch(rb"[0-9:.TZ+-]+", value)


def _whole(match: "re.Match[bytes]") -> tuple[int, int] | None:
    """A format that speaks for itself, unless it is filled up with what stands for one."""
    return None if _FILLER.search(match[0]) else match.span()


def _random(match: "re.Match[bytes]") -> tuple[int, int] | None:
    """A format that words may have too."""
    return _whole(match) if _is_random(match[0]) and not _STAND_IN.search(match[0]) else None


def _inside(match: "re.Match[bytes]") -> tuple[int, int] | None:
    """The value of a format that begins with its name."""
    return None if _FILLER.search(match["value"]) else match.span("value")


def _named(match: "re.Match[bytes]") -> tuple[int, int] | None:
    """The value beside a telling name."""
    if match["space"] and not _is_flag(match):
        return None
    value = match["value"].rstrip(b".,;:)]}\\") if not match["quote"] else match["value"]
    if _CODE.match(value) or _STAND_IN.search(value):
        return None
    name = match["name"].lower()
    is_password = name.startswith((b"passw", b"passp", b"pwd"))
    found = _is_random(value) or (is_password and _is_password(value, is_quoted=bool(match["quote"])))
    return (match.start("value"), match.start("value") + len(value)) if found else None


def _is_flag(match: "re.Match[bytes]") -> bool:
    """Whether a name before a mere space is one that a value follows: `--token …`, `Bearer …`."""
    before = match.string[max(0, match.start() - 28) : match.end("name")]
    return _FLAG.search(before[: -len(match["name"])]) is not None or match["name"].lower() == b"bearer"


def _in_url(match: "re.Match[bytes]") -> tuple[int, int] | None:
    """The password of a URL, unless it is a word that stands for one, or a server's well-known first one."""
    user, value = match["user"], match["value"]
    stands_in = re.fullmatch(
        rb"(?i)[\W_]*(?:my|the|some)?[\W_]*(?:pass(?:word|wd|phrase)?|pwd?|secret|token|key)?[\W_]*", value
    )
    if stands_in or _STAND_IN.search(value) or value == user or len(value) < 4 or value[:1] in b"$%{[":
        return None
    return match.span("value")


# ---------------------------------------------------------------------- rules

_NAMES = (
    rb"passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|account[_-]?key|private[_-]?key"
    rb"|signing[_-]?key|encryption[_-]?key|credentials?|bearer|authorization"
)
_NAME_TEXTS = (
    *(b"passw", b"passphrase", b"pwd", b"secret", b"token", b"credential", b"bearer", b"authorization"),
    *(kind + b"key" for kind in (b"api", b"access", b"auth", b"account", b"private", b"signing", b"encryption")),
    *(kind + b"_key" for kind in (b"api", b"access", b"auth", b"account", b"private", b"signing", b"encryption")),
    *(kind + b"-key" for kind in (b"api", b"access", b"auth", b"account", b"private", b"signing", b"encryption")),
)
_NAMED = re.compile(
    rb"(?i)(?P<name>" + _NAMES + rb")"
    rb"(?![\w-]{0,32}[_-](?:id|ids|name|file|path|url|uri|type|count|hash|digest|sha256|fingerprint)\b)"
    rb"[\w-]{0,32}[\"'`\])]{0,3}"
    rb"(?:[ \t]{0,4}(?::=|=>|={1,3}|:)[ \t]{0,4}(?:(?:bearer|basic|token)[ \t]{1,4})?|(?P<space>[ \t]{1,4}))"
    rb"(?P<quote>[\"'`]?)(?P<value>[^\"'`\s\x00-\x1f<>=]{6,256}={0,2})"
)
_FLAG = re.compile(rb"(?<![\w-])--[\w-]{0,24}$")
_URL = re.compile(rb"://(?P<user>[^\s/?#@:\"'`<>]{0,128}):(?P<value>[^\s/@\"'`<>]{1,256})@(?=[\w\[.$%{-])")
_START = rb"(?:(?<![\w-])|(?<=\\[nrt]))"
_PEM = (
    rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[ \t]*$|(?:\\[nr]|\s|[\w-]{1,32}: [^\n\\]{1,128}(?:\n|\\n)){1,12}(?:[A-Za-z0-9+/=]{4,}|-----END|$))"
)
_AWS_SECRET = re.compile(
    rb"(?i)secret_?(?:access_?)?key[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)

_FORMATS: tuple[tuple[str, tuple[bytes, ...], bytes, Value], ...] = (
    ("an API key", (b"sk-ant-", b"sk-proj-", b"sk-or-v1-"), _START + rb"sk-(?:ant|proj|or-v1)-[\w-]{40,256}", _whole),
    ("an API key", (b"sk-",), _START + rb"sk-(?:ant-|proj-|svcacct-|admin-|or-v1-|lf-)?[\w-]{24,256}", _random),
    ("a GitHub token", (b"github_pat_",), rb"github_pat_\w{36,255}", _whole),
    ("a Google API key", (b"AIza",), rb"AIza[\w-]{35}(?![\w-])", _whole),
    ("a Google OAuth secret", (b"GOCSPX-",), rb"GOCSPX-[\w-]{28}", _whole),
    ("a Google access token", (b"ya29.",), rb"ya29\.[\w-]{32,512}", _whole),
    ("a Hugging Face token", (b"hf_",), rb"hf_[A-Za-z0-9]{30,64}(?!\w)", _whole),
    ("an npm token", (b"npm_",), rb"npm_[A-Za-z0-9]{36}(?!\w)", _whole),
    (
        "a Slack token",
        (b"xapp-", b"xoxe-", b"xoxe.", b"xoxc-", b"xoxd-"),
        rb"x(?:app|ox[cde])[-.][\w.%-]{24,512}",
        _random,
    ),
    ("a Stripe key", (b"sk_test_", b"rk_test_", b"whsec_"), rb"(?:[rs]k_test|whsec)_[0-9A-Za-z+/=]{20,255}", _whole),
    ("a DigitalOcean token", (b"dop_v1_", b"doo_v1_", b"dor_v1_"), rb"do[opr]_v1_[a-f0-9]{64}(?!\w)", _whole),
    ("a Databricks token", (b"dapi",), rb"dapi[a-f0-9]{32}(?!\w)", _whole),
    ("a Shopify token", (b"shp",), rb"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}(?!\w)", _whole),
    ("a Linear key", (b"lin_api_",), rb"lin_api_[A-Za-z0-9]{40}", _whole),
    ("a Notion token", (b"ntn_",), rb"ntn_[A-Za-z0-9]{40,64}(?!\w)", _whole),
    ("a Postman key", (b"PMAK-",), rb"PMAK-[a-f0-9]{24}-[a-f0-9]{34}", _whole),
    ("an Atlassian token", (b"ATATT3",), rb"ATATT3[\w=-]{60,512}", _whole),
    ("a Vault token", (b"hvs.", b"hvb.", b"hvr."), rb"hv[sbr]\.[\w-]{24,512}", _whole),
    ("a Sentry token", (b"sntrys_", b"sntryu_"), rb"sntry[su]_[\w+/=-]{40,512}", _whole),
    ("an xAI key", (b"xai-",), rb"xai-[A-Za-z0-9]{60,128}(?!\w)", _whole),
    ("a Groq key", (b"gsk_",), rb"gsk_[A-Za-z0-9]{40,64}(?!\w)", _whole),
    ("a Replicate token", (b"r8_",), rb"r8_[A-Za-z0-9]{37}(?!\w)", _whole),
    ("a Perplexity key", (b"pplx-",), rb"pplx-[A-Za-z0-9]{40,64}(?!\w)", _whole),
    ("a Supabase token", (b"sbp_",), rb"sbp_[a-f0-9]{40}(?!\w)", _whole),
    ("a Grafana token", (b"glsa_", b"glc_"), rb"gl(?:sa|c)_[\w=+/]{30,512}", _random),
    ("a New Relic key", (b"NRAK-",), rb"NRAK-[A-Z0-9]{27}", _whole),
    ("an age key", (b"AGE-SECRET-KEY-1",), rb"AGE-SECRET-KEY-1[0-9A-Z]{58}", _whole),
    ("a JSON Web Token", (b"eyJ",), _START + rb"eyJ[\w-]{10,512}\.eyJ[\w-]{8,480}(?:\.[\w-]{16,512})?", _whole),
    ("a Telegram token", (b":AA",), rb":AA[\w-]{33}(?![\w-])", _whole),
    ("a signed URL", (b"X-Amz-Signature=",), rb"X-Amz-Signature=[0-9a-f]{64}", _whole),
    ("a signed URL", (b"&sig=", b"?sig="), rb"[&?]sig=[\w%+/=-]{40,128}", _random),
    ("a private key", (b"-----BEGIN ",), _PEM, _whole),
    ("a private key", (b"PuTTY-User-Key-File-",), rb"PuTTY-User-Key-File-[0-9]: [\s\S]{0,900}Private-Lines", _whole),
)

_AWS = (
    rb"A[3BCKS]\w{2}[0-9A-Z]{16}"
    rb"|(?i:aws.{0,20}?(?:key|pwd|pw|password|pass|token).{0,20}?['\"][0-9a-z/+]{40}['\"])"
)
LIBRARY: tuple[tuple[str, str, str, tuple[bytes, ...], bytes], ...] = (
    (
        "an Artifactory key",
        "artifactory",
        "ArtifactoryDetector",
        (b"AKC", b"AP"),
        rb"AKC[a-zA-Z0-9]|AP[0-9A-F][a-zA-Z0-9]{8}",
    ),
    ("an AWS key", "aws", "AWSKeyDetector", (b"a3t", b"abia", b"acca", b"akia", b"asia", b"aws"), _AWS),
    ("an Azure storage key", "azure_storage_key", "AzureStorageKeyDetector", (b"AccountKey=",), rb"AccountKey="),
    ("a GitHub token", "github_token", "GitHubTokenDetector", (b"gh",), rb"gh[pousr]_"),
    ("a GitLab token", "gitlab_token", "GitLabTokenDetector", (b"gl", b"GR1348941"), rb"gl[a-z]{2,5}-|GR1348941"),
    ("a Mailchimp key", "mailchimp", "MailchimpDetector", (b"-us",), rb"-us[0-9]"),
    ("an npm token", "npm", "NpmDetector", (b":_authToken=",), rb":_authToken="),
    ("a PyPI token", "pypi_token", "PypiTokenDetector", (b"pypi-AgE",), rb"pypi-AgE"),
    ("a SendGrid key", "sendgrid", "SendGridDetector", (b"SG.",), rb"SG\.[\w-]{22}\."),
    (
        "a Slack token",
        "slack",
        "SlackDetector",
        (b"xox", b"https://hooks.slack"),
        rb"(?i)xox[a-z]-|https://hooks\.slack",
    ),
    ("a Square secret", "square_oauth", "SquareOAuthDetector", (b"sq0csp-",), rb"sq0csp-"),
    ("a Stripe key", "stripe", "StripeDetector", (b"k_live_",), rb"k_live_"),
    ("a Twilio key", "twilio", "TwilioKeyDetector", (b"AC", b"SK"), rb"(?:AC|SK)[a-z0-9]{32}"),
)
FOLDED = ("aws", "slack")
"""Rules of detect-secrets: kind, module, class, and the text and the pattern without which they find nothing.

Of FOLDED modules the text stands for any case."""


@cache
def _rules() -> tuple[_Rule, ...]:
    formats = (_Rule(kind, texts, re.compile(pattern), value, shown=4) for kind, texts, pattern, value in _FORMATS)
    return (
        *formats,
        _Rule(
            "an AWS key",
            (b"secretkey", b"secret_key", b"secret_access", b"secretaccess"),
            _AWS_SECRET,
            _inside,
            folded=True,
        ),
        _Rule("a secret beside its name", _NAME_TEXTS, _NAMED, _named, folded=True),
        _Rule("a password in a URL", (b"://",), _URL, _in_url),
    )


def _library_finds(data: bytes, folded: bytes) -> Iterator[Find]:
    """What the rules of detect-secrets find in the neighbourhood of what they need."""
    for kind, module, name, texts, needed in LIBRARY:
        seen, pattern = 0, re.compile(needed)
        for position in sorted(p for text in texts for p in _positions(folded if module in FOLDED else data, text)):
            if position >= seen and pattern.match(data, position):
                begin, end = _neighbourhood(data, position)
                yield from _asked(kind, _denylist(module, name), data[begin:end], begin)
                seen = end if end < position + _REACH else end - _AROUND


def _neighbourhood(data: bytes, position: int) -> tuple[int, int]:
    """What of the line a rule is asked about."""
    end = data.find(b"\n", position, position + _REACH)
    begin = max(0, position - _AROUND, data.rfind(b"\n", 0, position) + 1)
    return begin, min(len(data), position + _REACH) if end < 0 else end


def _asked(kind: str, rules: "Iterable[re.Pattern[str]]", around: bytes, begin: int) -> Iterator[Find]:
    text = around.decode("latin-1")
    for found in (found for rule in rules for found in rule.finditer(text)):
        if _is_meant(found[0].encode("latin-1"), kind):
            yield Find(kind, begin + found.start(), begin + found.end(), found[0].strip()[:4])


def _is_meant(secret: bytes, kind: str) -> bool:
    return not _FILLER.search(secret) and ("Artifactory" not in kind or _is_random(secret))


@cache
def _denylist(module: str, name: str) -> "tuple[re.Pattern[str], ...]":
    from importlib import import_module

    return tuple(getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist)
