"""Why a tool could not go on: what its words, and the status that the model's API answered, mean for a task."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from agentq.harmless import one_line
from agentq.messages import shorten, utc_now
from agentq.runner import Ran

Kind = Literal["setup", "limit", "later", "refusal", "other"]

SHOWN = 300
FARTHEST = timedelta(days=32)
_EARLIEST = timedelta(minutes=5)

_SETUP = re.compile(
    r"not logged in|please (?:run|use) /?login|/login\b|log ?in again|(?:invalid|incorrect|missing|no|expired|revoked)"
    r" (?:\w+[ -])?(?:api[ -]?key|credential|(?:access |oauth |auth )?token)|api[ -]key (?:is )?(?:not|in)valid"
    r"|api[ -]key not (?:found|valid|set)|token (?:has )?(?:expired|been revoked)|unauthori[sz]ed|unauthenticated"
    r"|authentication[ _](?:failed|error)|credit balance|billing|set an auth method|auth(?:entication)? type"
    r"|selected model|model[^.]{0,80}(?:not found|does not exist|not supported)|model_not_found"
    r"|missing environment variable|environment variable[^.]{0,60}(?:not set|missing|is required)",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:rate|usage|session|weekly|spend(?:ing)?)[ _-]?limit|hit your[^.]{0,30} limit|limit reached|too many requests"
    r"|quota|resource[_ ]exhausted|\b429\b",
    re.IGNORECASE,
)
_UNPAID = re.compile(r"billing|insufficient_quota", re.IGNORECASE)
_REFUSAL = re.compile(r"usage policy|content[ _](?:policy|filter)|prohibited[_ ]content", re.IGNORECASE)

_SETUP_STATUS = frozenset({401, 402, 403})
_LIMIT_STATUS = 429

_EPOCH = re.compile(r"(?:\||resets?_?at\W{0,4})(1[0-9]{9})\b", re.IGNORECASE)
_ISO = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9](?::[0-9.]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})")
_DURATION = re.compile(
    r"(?:(?:retry|try again|resets?|available)(?: your request)?(?: after| in)|retry-?(?:after|delay)[\"':= ]+)"
    r" ?((?:[0-9]{1,9}(?:\.[0-9]{1,9})? ?(?:ms|[a-z]+)?,? ?(?:and )?){1,4})",
    re.IGNORECASE,
)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|[dhms])?", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = re.compile(
    r"(?:again at|resets?(?: at)?) +"
    r"(?:(?P<month>[A-Z]{3})[a-z]* (?P<day>[0-9]{1,2})(?:st|nd|rd|th)?,?(?: (?P<year>20[0-9]{2}))?,?(?: at)? +)?"
    r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2}))? ?(?P<half>[ap]m)(?: \((?P<zone>[A-Za-z_/+-]{1,40})\))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What hindered a tool, in its own words: `setup` hinders every task, `limit` every task until a moment, if that is
    known, `later` this task until a moment, `refusal` this task for ever, `other` perhaps only this time."""

    kind: Kind
    text: str
    until: datetime | None = None

    @property
    def ran(self) -> Ran:
        """How an attempt ends that it ended."""
        if self.until:
            return Ran("parked", self.text, not_before=self.until, limited=self.kind == "limit")
        if self.kind == "setup":
            return Ran("unusable", self.text)
        if self.kind == "refusal":
            return Ran("refused", self.text)
        return Ran("try_again" if self.kind in ("limit", "later") else "failed", self.text)


def trouble(text: str, status: int | None = None, kind: Kind | None = None, until: datetime | None = None) -> Trouble:
    """What a tool's error means; `status` is what the API answered; `kind` and `until` hold where the tool tells it."""
    text = shorten(one_line(text[: 8 * SHOWN]), SHOWN)
    kind = kind or _kind(text, status)
    if kind == "limit":
        until = until or moment(text)
    return Trouble(kind, text, until if kind in ("limit", "later") else None)


def _kind(text: str, status: int | None) -> Kind:
    if status == _LIMIT_STATUS:
        return "limit"
    if status in _SETUP_STATUS:
        return "setup"
    if _REFUSAL.search(text):
        return "refusal"
    if _LIMIT.search(text):
        return "setup" if _UNPAID.search(text) and not moment(text) else "limit"
    return "setup" if _SETUP.search(text) or re.search(r"\b40[13]\b", text) else "other"


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """The moment to come that an error names, in whichever way its API or tool writes one; None when it names none."""
    now = now or utc_now()
    for read in (_epoch, _iso, _duration, _clock):
        found = read(text, now)
        if found and now <= found <= now + FARTHEST:
            return found
    return None


def _epoch(text: str, now: datetime) -> datetime | None:
    found = _EPOCH.search(text)
    return datetime.fromtimestamp(int(found[1]), UTC) if found else None


def _iso(text: str, now: datetime) -> datetime | None:
    found = _ISO.search(text)
    try:
        return datetime.fromisoformat(found[0]).astimezone(UTC) if found else None
    except (ValueError, OverflowError):
        return None


def _duration(text: str, now: datetime) -> datetime | None:
    found = _DURATION.search(text)
    parts = _PART.findall(found[1]) if found else []
    seconds = sum(float(number) * _UNITS[unit.lower() or "s"] for number, unit in parts)
    return now + timedelta(seconds=seconds) if 0 < seconds < FARTHEST.total_seconds() else None


def _clock(text: str, now: datetime) -> datetime | None:
    """A time of day, the next one when it names no day, in this machine's zone when it names none."""
    found = _CLOCK.search(text)
    if not found:
        return None
    try:
        here = now.astimezone(_zone(found["zone"]))
        hour = int(found["hour"]) % 12 + (12 if found["half"].lower() == "pm" else 0)
        when = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            month = _MONTHS.index(found["month"].lower()) + 1
            when = when.replace(month=month, day=int(found["day"]), year=int(found["year"] or here.year))
            if not found["year"] and when < here - _EARLIEST:
                when = when.replace(year=here.year + 1)
        elif when < here:
            when += timedelta(days=1)
        return when.astimezone(UTC)
    except (ValueError, OverflowError, KeyError, OSError):
        return None


def _zone(name: str | None) -> tzinfo | None:
    return ZoneInfo(name) if name else None
