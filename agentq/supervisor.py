"""What a daemon tells the supervisor that started it, by systemd's protocol: sd_notify(3) and its watchdog."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from agentq.harmless import one_line
from agentq.patience import cancelled

LISTENING_SECONDS = 10.0
"""How often a supervisor without a watchdog hears how things stand."""
PINGS = 3
"""How many pings fit into the time after which the watchdog bites."""
STARTING = "starting: waiting for the store and the engine"


class Supervisor:
    """Whoever started this process and listens, if anybody does. Nothing here waits, and nothing fails."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = _watchdog_seconds(environ)
        self._ready = False
        self._said = ""

    def ready(self) -> None:
        """Say that it works."""
        self._ready = True
        self._tell("READY=1")

    def stopping(self) -> None:
        """Say that it takes nothing more and will end."""
        self._tell("STOPPING=1")

    @asynccontextmanager
    async def hears(self, standing: Callable[[], str]) -> AsyncIterator[None]:
        """Say, from this event loop, that it lives and how things stand; a loop that hangs says nothing.

        Before it is ready that asks for more time to start, so that a server may be away for as long as it likes.
        """
        pinging = asyncio.create_task(self._ping(standing))
        try:
            yield
        finally:
            await cancelled(pinging)

    async def _ping(self, standing: Callable[[], str]) -> None:
        pause = (self._watchdog or LISTENING_SECONDS * PINGS) / PINGS
        while self._address:
            words = one_line(standing() if self._ready else STARTING)
            lines = [] if words == self._said else [f"STATUS={words}"]
            lines += [] if self._ready else [f"EXTEND_TIMEOUT_USEC={int(PINGS * pause * 1e6)}"]
            lines += ["WATCHDOG=1"] if self._watchdog else []
            if lines and self._tell("\n".join(lines)):
                self._said = words
            await asyncio.sleep(pause)

    def _tell(self, state: str) -> bool:
        if not self._address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), self._address)
            return True
        return False


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """After how many seconds of silence this process is to be killed; None when no watchdog is meant for it."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) else None
