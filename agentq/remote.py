"""A gateway as its clients see it: where it is, the token for it, and how TLS is done."""

import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from agentq.config import GatewaySection
from agentq.door import is_loopback, secret
from agentq.errors import Invalid

VARIABLE = "AGENTQ_GATEWAY_TOKEN"


@dataclass(frozen=True, slots=True)
class Remote:
    """One address of a gateway; `tls` is None where it is spoken to in the clear. Times are seconds.

    The token is what its file says now; while that cannot be read, what it said first.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    tls: ssl.SSLContext | None = None
    timeout: float = 10.0
    retry_seconds: float = 10.0

    @classmethod
    def at(cls, url: str, section: GatewaySection) -> "Remote":
        """How to reach that URL (https, wss; on this machine also http, ws); raises Invalid for settings that cannot be
        used. Nothing is connected yet."""
        parts = urlsplit(url)
        in_the_clear = parts.scheme in ("http", "ws")
        if in_the_clear and not is_loopback(parts.hostname or ""):
            raise Invalid(
                f"{url} would send the token, and all else, in clear text",
                hint=f"Write {parts.scheme}s://; only on this machine itself it may be {parts.scheme}://.",
            )
        tls = None if in_the_clear else _tls(section)
        file = section.token_file if section.token is None else None
        return cls(url.rstrip("/"), _token(section), file, tls, section.timeout, section.retry_seconds)

    @property
    def headers(self) -> dict[str, str]:
        """What every request brings."""
        token = self.token
        if self.token_file:
            with suppress(Invalid):
                token = secret(self.token_file, VARIABLE)
        return {"Authorization": f"Bearer {token}"} if token else {}


def _token(section: GatewaySection) -> str | None:
    if section.token is not None:
        return secret_of(section.token.get_secret_value())
    return secret(section.token_file, VARIABLE) if section.token_file else None


def secret_of(token: str) -> str:
    """The token itself when it can stand in a header; raises Invalid, without repeating it."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid(
            f"the token in {VARIABLE} is none", hint="Give what `agentq token new` printed, and nothing more."
        )
    return token


def _tls(section: GatewaySection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=section.ca_file)
    except OSError as error:
        raise Invalid(
            f"the CA certificate {section.ca_file} cannot be used: {error.strerror or error}",
            hint="`ca_file` under [gateway] names the certificates of the authorities that are trusted, as PEM.",
        ) from error
    if not section.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
