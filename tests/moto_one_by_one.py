"""moto's server, made to do one request after the other: `python -m tests.moto_one_by_one PORT`.

By itself moto looks for an object and puts it in two steps, so that two conditional puts at once may both win, and
shows an object before its metadata. No store can make up for that.
"""

import sys
import threading
from typing import Any

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main() -> None:
    """Serve on that port of loopback."""
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_by_one(environ: Any, start_response: Any) -> Any:
        with lock:
            return application(environ, start_response)

    run_simple("127.0.0.1", int(sys.argv[1]), one_by_one, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
