"""How a daemon logs: one line for each record, as text or as JSON; nothing in it can pass for another record."""

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from agentq.credentials import masked
from agentq.errors import AgentqError, ExitCode, Invalid
from agentq.harmless import one_line, quoted, visible_json

log = logging.getLogger("agentq")

FORMATS = ("text", "json")
NOISY = ("asyncio", "aio_pika", "aiormq", "aiosqlite", "botocore", "urllib3")

_subject: ContextVar[Mapping[str, object]] = ContextVar("subject")


@contextlib.contextmanager
def about(**what: object) -> Iterator[None]:
    """Let every record of this context, its tasks and its threads say what it is about; None is left out."""
    known = {name: value for name, value in what.items() if value is not None}
    token = _subject.set({**_subject.get({}), **known})
    try:
        yield
    finally:
        _subject.reset(token)


def trace_id(traceparent: str | None) -> str | None:
    """The trace that a W3C `traceparent` belongs to, None without one."""
    fields = (traceparent or "").split("-")
    return fields[1] if len(fields) >= 4 else None


def set_up(format: str = "text", *, verbose: bool = False, **always: object) -> None:
    """Let this process log to stderr, in JSON with what is `always` true of it; raises Invalid for another format."""
    if format not in FORMATS:
        raise Invalid(f"there is no log format {format!r}", hint=f"Write one of: {', '.join(FORMATS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(always) if format == "json" else Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if format == "json":
        _catch_the_rest()


@contextlib.contextmanager
def last_words(format: str) -> Iterator[None]:
    """In JSON what ends the daemon is a record, too, and then its exit code; as text others say it."""
    try:
        yield
    except Exception as error:
        if format != "json":
            raise
        if isinstance(error, AgentqError):
            log.error("%s", f"{error} ({error.hint})" if error.hint else error)
            sys.exit(error.exit_code)
        log.critical("ended by a bug", exc_info=True)
        sys.exit(ExitCode.BUG)


class Lines(logging.Formatter):
    """One line for each record, a bar before each of a traceback: nothing in them can pass for another record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record as one line, without control characters and passwords."""
        record.message = one_line(masked(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """A traceback, quoted."""
        return quoted(masked(super().formatException(ei)))


class JsonLines(logging.Formatter):
    """One JSON object for each record, a traceback in it as `exc`; without control characters and passwords."""

    def __init__(self, always: Mapping[str, object]) -> None:
        super().__init__()
        self._always = {name: value for name, value in always.items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": masked(_message(record)),
            "logger": record.name,
            **self._always,
            **_subject.get({}),
        }
        if record.exc_info:
            said["exc"] = masked(self.formatException(record.exc_info))
        return visible_json(json.dumps(said, ensure_ascii=False, default=str))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # words and values that do not fit: a bug, but no reason to lose the record
        return f"{record.msg} {record.args}"


def _catch_the_rest() -> None:
    """Log what Python itself would print beside the log."""
    logging.captureWarnings(True)
    sys.unraisablehook = lambda what: log.error("%s", what.err_msg or "a bug nobody could handle", exc_info=_of(what))
    threading.excepthook = lambda what: log.error("a thread ended by a bug", exc_info=_of(what))


def _of(what: Any) -> Any:
    return (what.exc_type, what.exc_value, what.exc_traceback) if what.exc_value else None
