"""`agentq serve`."""

import logging
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.terms import Broker, LogFormat, Sender, Store, command, say
from agentq.errors import Invalid, Unavailable

app = command()

LISTEN = "127.0.0.1:8420"

Listen = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 chooses one. Off this machine: with tokens.")
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A name that clients reach it by, such as a proxy's. Repeatable.",
        show_default=False,
    ),
]
Cert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Serve TLS: the certificate, with its chain.", show_default=False)
]
Key = Annotated[Path | None, typer.Option(metavar="FILE", help="And its key.", show_default=False)]


@app.command()
def serve(
    listen: Listen = LISTEN,
    allow_host: AllowHosts = None,
    cert: Cert = None,
    key: Key = None,
    log_format: LogFormat = "text",
    sender: Sender = None,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Serve the API, the streams, the workers' doors and the page, until stopped. See: docs/gateway.md"""
    needs_gateway()
    from agentq import logs
    from agentq.desk import Desk
    from agentq.door import listen as listen_at
    from agentq.door import names_in, place_of

    logs.set_up(log_format)
    for talkative in ("uvicorn", "websockets"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    tell = say if log_format == "text" else logging.getLogger("agentq").info
    with logs.last_words(log_format):
        host, port = place_of("--listen", listen, LISTEN)
        names, tls = names_in("--allow-host", allow_host), _tls(cert, key)
        desk = Desk.load(broker=broker, store=store, coordinator=sender)
        with suppress(Unavailable):  # which it may be again
            desk.app.store  # noqa: B018 - one that can be none is told now
        listening = listen_at(host, port)  # what cannot be had is told before all else is imported
        try:
            from agentq.gateway.server import Tls
            from agentq.gateway.server import serve as serve_on

            files = Tls(*tls) if tls else None
            if files:
                files.check()
            serve_on(desk, host, listening, more_names=names, tls=files, say=tell)
        finally:
            listening.close()
            desk.close()


def needs_gateway() -> None:
    """Raise Invalid where the extra is not installed."""
    if any(find_spec(name) is None for name in ("starlette", "uvicorn", "websockets")):
        raise Invalid("what the gateway needs is not installed here", hint="pip install 'agentq[gateway]'")


def _tls(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if (cert is None) != (key is None):
        raise Invalid("a certificate and its key go together", hint="Give --cert FILE and --key FILE.")
    return None if cert is None or key is None else (cert, key)
