"""A line between two processes that a test can cut: it goes on in no time, takes everything and gives nothing, or is
reset."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class Line:
    """A TCP proxy on this machine, in a thread for each direction of each connection."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._whole = threading.Event()
        self._whole.set()
        self._refuses = self._closed = False
        self._ends: set[socket.socket] = set()
        self.carried = 0
        """How many connections were made through it."""
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        """From now on nothing arrives, in neither direction, and nobody is told."""
        self._whole.clear()

    def reset(self) -> None:
        """Reset all connections, and every new one."""
        self._refuses = True
        for end in [*self._ends]:
            _reset(end)

    def mend(self) -> None:
        """Carry again: what was swallowed and still has both its ends arrives late."""
        self._refuses = False
        self._whole.set()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self.reset()
        self._whole.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self._refuses:
                _reset(near)
                continue
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        self._ends.add(near)
        self._whole.wait()
        if self._refuses:
            return _reset(near)
        try:
            far = socket.create_connection(("127.0.0.1", self._to), 5)
        except OSError:
            return _reset(near)
        far.settimeout(None)
        self.carried += 1
        self._ends.add(far)
        if self._refuses:  # since then
            _reset(near)
            return _reset(far)
        threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
        self._copy(near, far)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                target.sendall(data)
        self._whole.wait()
        if not self._refuses:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # else who waits in recv keeps it open
    end.close()


@contextlib.contextmanager
def line_to(port: int) -> Iterator[Line]:
    """A line to a port of this machine."""
    line = Line(port)
    try:
        yield line
    finally:
        line.close()
