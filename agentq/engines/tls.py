"""TLS to a broker: whom it trusts and what it shows."""

import ssl
from pathlib import Path

from agentq.errors import Invalid

_ALERT = "`cert_file` and `key_file` name the certificate that it knows this client by"
# Words of OpenSSL, what they mean, and the next thing to do.
FAILURES = (
    ("not valid for", "shows a certificate for another name", "use the name that its certificate is for"),
    ("certificate has expired", "shows a certificate that has expired", "have it renewed"),
    ("signed certificate", "is not known to us", "`ca_file` names the certificate of its authority"),
    ("local issuer", "is not known to us", "`ca_file` names the certificate of its authority"),
    ("ALERT", "does not take our certificate, or we show none", _ALERT),
    ("SSL", "refuses or fails TLS", "check the port, `ca_file`, `cert_file` and `verify`"),
)


def client_context(
    ca_file: Path | None, *, cert_file: Path | None = None, key_file: Path | None = None, verify: bool = True
) -> ssl.SSLContext:
    """The TLS of a client; raises Invalid, naming the file, for one that cannot be used."""
    context = _trusting(ca_file)
    if cert_file:
        _show(context, cert_file, key_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        what = f"the TLS file {ca_file} cannot be used: {_reason(error)}"
        raise Invalid(
            what, hint="`ca_file` names the certificates of the authorities that are trusted, as PEM"
        ) from error


def _show(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, _Locked) as error:
        names = " and ".join(str(file) for file in (cert_file, key_file) if file)
        what = f"the TLS files {names} cannot be used: {_reason(error)}"
        raise Invalid(
            what, hint="`cert_file` and `key_file` name a certificate and its unlocked key, as PEM"
        ) from error


class _Locked(Exception):
    """The key asks for a password."""


def _no_password() -> str:
    raise _Locked("the key is locked with a password")


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error)
