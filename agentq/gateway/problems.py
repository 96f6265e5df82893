"""What went wrong as application/problem+json (RFC 9457): a status for each kind of error, nothing of our insides."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from agentq.errors import (
    AgentqError,
    Conflict,
    CredentialFound,
    EvidenceError,
    ExitCode,
    Invalid,
    NoSuchTask,
    NotFound,
    NothingYet,
    Unavailable,
    WaitTimeout,
)
from agentq.harmless import one_line

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""What a client is told to wait before it tries again."""

TITLES = {
    400: "invalid",
    401: "no token that counts",
    403: "not allowed",
    404: "not found",
    405: "no such method here",
    408: "it took too long",
    409: "conflict",
    413: "too large",
    415: "no JSON",
    416: "no such range",
    421: "not this host",
    426: "another protocol",
    429: "too much at once",
    500: "a bug",
    502: "evidence is missing or altered",
    503: "unavailable",
}
_STATUSES: tuple[tuple[type[AgentqError], int, str], ...] = (
    (CredentialFound, 400, "credential"),
    (Invalid, 400, "invalid"),
    (NotFound, 404, "not-found"),
    (NothingYet, 409, "nothing-yet"),
    (Conflict, 409, "conflict"),
    (WaitTimeout, 408, "wait-timeout"),
    (Unavailable, 503, "unavailable"),
    (EvidenceError, 502, "evidence"),
)
_EXIT_CODES = {
    404: ExitCode.NOT_FOUND,
    408: ExitCode.UNAVAILABLE,
    409: ExitCode.CONFLICT,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.EVIDENCE,
    503: ExitCode.UNAVAILABLE,
}
"""What a refusal with that status ends a command with, for which any other is bad input."""
_ID = "([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)"


def _topics(found: re.Match[str]) -> str:
    return "subscribe to " + " and ".join(f"/tasks/{task_id}" for task_id in found[1].split())


_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    ("--allow-secrets", '"allow_secrets": true'),
    ("repeat the command with --id", 'repeat the request with "id":'),
    ("Repeat the command with --store", "Ask a gateway that serves"),
    (f"agentq status {_ID}", r"GET /api/tasks/\1"),
    (f"agentq (why|result) {_ID}", r"GET /api/tasks/\2/\1"),
    (f"agentq wait ({_ID}(?: {_ID})*)", _topics),
    (f"agentq cancel {_ID} --reason …", r"POST /api/tasks/\1/cancel"),
    ("agentq retry", "POST /api/tasks/{task_id}/retry"),
    ("agentq submit --help", "/openapi.json"),
    ("agentq submit --id", "POST /api/tasks"),
    ("agentq plan submit --id", "POST /api/plans"),
    ("agentq list", "GET /api/tasks"),
    ("agentq thread list", "GET /api/threads"),
    (f"agentq thread show {_ID}", r"GET /api/threads/\1"),
    ("agentq dlq show", "GET /api/dead-letters"),
    (r"--(id|after)\b", r'"\1"'),
)
"""What the commands call something, and what it is called here; other commands are for where the gateway runs."""
SLUGS = (*(slug for _, _, slug in _STATUSES), "bug")


class Refused(AgentqError):
    """A request that is refused before anything is done: no token, not allowed, too large, not for this host."""

    def __init__(self, status: int, what: str, *, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.exit_code = _EXIT_CODES.get(status, ExitCode.INVALID)
        self.headers = dict(headers or {})


def token_needed() -> Refused:
    """What is answered to who brings no token where one is needed."""
    hint = "Bring one: Authorization: Bearer TOKEN. See: agentq token new"
    return Refused(401, "this needs a token", hint=hint)


def problem_of(error: Exception) -> dict[str, Any]:
    """The problem that an error is; of what is no AgentqError it says nothing but that it is a bug, and of a task that
    there is not nothing of this machine's store."""
    if isinstance(error, NoSuchTask):
        error = NotFound(error.what, hint=error.remedy or "See: GET /api/tasks")
    if isinstance(error, Refused):
        return _problem("about:blank", error.status, one_line(str(error)), one_line(error.hint), int(error.exit_code))
    for kind, status, slug in _STATUSES:
        if isinstance(error, kind):
            return _problem(
                f"urn:agentq:{slug}", status, one_line(str(error)), one_line(error.hint), int(error.exit_code)
            )
    return _problem(
        "urn:agentq:bug", 500, "this is a bug", "Look into the gateway's log, and report what it says.", ExitCode.BUG
    )


def _problem(type_: str, status: int, detail: str, hint: str, exit_code: int) -> dict[str, Any]:
    for said, meant in _WORDS:
        detail, hint = re.sub(said, meant, detail), re.sub(said, meant, hint)
    title = "nothing yet" if type_ == "urn:agentq:nothing-yet" else TITLES.get(status, "refused")
    return {
        "type": type_,
        "title": title,
        "status": status,
        "detail": detail,
        "hint": hint,
        "exit_code": int(exit_code),
    }


def response_of(error: Exception) -> JSONResponse:
    """The answer to a request that failed so."""
    body = problem_of(error)
    headers = dict(error.headers) if isinstance(error, Refused) else {}
    if body["status"] == 503:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    if body["status"] == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(body, body["status"], headers, media_type=MEDIA_TYPE)
