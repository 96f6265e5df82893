"""Forks agentq's processes for the tests, in 10 ms where starting an interpreter takes 300.

Reads requests as lines of JSON on stdin and answers on stdout with `[pid, null]` for a start and `[pid, code]` for
an end (minus the signal for one that was killed). It adopts what its processes leave behind, as an init would, and all
of them end with it. Modules that are named as arguments are imported before that.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentq.app
import agentq.attempt
import agentq.cli.approve
import agentq.cli.cancel
import agentq.cli.claim
import agentq.cli.complete
import agentq.cli.doctor
import agentq.cli.plan
import agentq.cli.status
import agentq.cli.submit
import agentq.cli.worker
import agentq.cli.workers
import agentq.doctor
import agentq.engines.rabbitmq
import agentq.engines.sqlite
import agentq.hands
import agentq.observing.roster
import agentq.plans
import agentq.puller
import agentq.runners.command
import agentq.stores.file
import agentq.stores.s3
import agentq.worker
from tests.daemons import faults

PDEATHSIG, SUBREAPER = 1, 36


def main() -> None:
    """Serve requests until stdin ends; in a forked child, be the process that was asked for."""
    prctl(SUBREAPER, 1)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    chores, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    child = serve(chores)
    if child:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(chores)
        os.close(wake)
        child()


def serve(chores: int) -> Callable[[], None] | None:
    """None at the end; in a child, what it shall do."""
    nursery, waiting = os.getpid(), b""
    while True:
        ready, _, _ = select.select([0, chores], [], [])
        if chores in ready:
            os.read(chores, 4096)
            reap()
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk:
                return None
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    return lambda request=json.loads(line): become(request, nursery)  # type: ignore[misc]
                answer(pid, None)


def reap() -> None:
    """Take note of every process that ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        answer(pid, os.waitstatus_to_exitcode(status))


def answer(pid: int, code: int | None) -> None:
    """One line to whoever started this."""
    os.write(1, json.dumps([pid, code]).encode() + b"\n")


def become(request: dict[str, Any], nursery: int) -> None:
    """Run one command of agentq as its own process would."""
    prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:
        os._exit(1)
    os.setsid()
    for target, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["agentq", *request["arguments"]]
    faults.install(request["faults"], Path(request["flags"]))
    os._exit(main_of_agentq())


def main_of_agentq() -> int:
    """Its exit code once all its threads have ended too; an interpreter's own end would take 80 ms more of a fork."""
    try:
        agentq.cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def prctl(option: int, value: int) -> None:
    """prctl(2) for this process."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
