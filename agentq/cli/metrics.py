"""`agentq metrics`."""

import logging
import signal
import sys
import threading
from typing import Annotated

import typer

from agentq.cli.reading import ledger_of
from agentq.cli.terms import Broker, LogFormat, command, say
from agentq.errors import ExitCode

app = command()

Port = Annotated[int, typer.Option(metavar="PORT", help="The TCP port.", min=0, max=65535)]
Address = Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 for every host that asks.")]


@app.callback()
def metrics() -> None:
    """Serve metrics to Prometheus."""


@app.command()
def serve(
    port: Port = 9464, address: Address = "127.0.0.1", log_format: LogFormat = "text", broker: Broker = None
) -> None:
    """Serve the metrics of this broker and namespace at http://ADDRESS:PORT/metrics, until stopped."""
    from prometheus_client import CollectorRegistry

    from agentq import logs
    from agentq.app import App
    from agentq.observing.exposition import place, serving

    logs.set_up(log_format)
    tell = say if log_format == "text" else logging.getLogger("agentq").info
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.OK))
    app, registry = App.load(broker=broker), CollectorRegistry()
    with logs.last_words(log_format), serving(registry, address, port) as chosen:
        ledger_of(app, partly=True).close()
        registry.register(app.exporter())
        tell(f"serving metrics at http://{place(address, chosen)}/metrics")
        threading.Event().wait()
