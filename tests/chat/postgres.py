"""A PostgreSQL of the tests' own: a cluster in a folder of its own, run by a user without rights, on no port at all."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

INSTALL = Path(__file__).with_name("install.sh")
NOBODY = 65534
PATIENCE = 60.0


class Cluster:
    """A server; only its socket leads to it. It ends with whoever started it."""

    def __init__(self, folder: Path) -> None:
        found = subprocess.run([INSTALL], capture_output=True, text=True, check=True)
        self._folder, self._programs = folder, Path(found.stdout.strip())
        self._server: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        flags = ("-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8")
        done = subprocess.run(
            [self._programs / "initdb", "-D", folder / "data", *flags],
            capture_output=True,
            text=True,
            **self._as_nobody(),
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        import psycopg

        settings = ("listen_addresses=", f"unix_socket_directories={self._folder}", "fsync=off", "max_connections=50")
        command = [self._programs / "postgres", "-D", self._folder / "data"]
        command += [part for one in settings for part in ("-c", one)]
        with (self._folder / "log").open("a") as log:
            guarded = ["setpriv", "--pdeathsig", "INT", *command]
            self._server = subprocess.Popen(guarded, **self._as_nobody(), stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                said = (self._folder / "log").read_text()
                assert self._server.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it; its connections are cut."""
        if self._server:
            self._server.send_signal(SIGINT)
            self._server.wait(PATIENCE)
        self._server = None

    def url(self, database: str = "postgres") -> str:
        """How to connect to a database."""
        return f"postgresql://tester@/{database}?host={self._folder}"

    def database(self) -> str:
        """A new database, and how to connect to it."""
        import psycopg

        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url(name)

    def _as_nobody(self) -> dict[str, Any]:
        root = self._programs.parents[4]
        libraries = (*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*"))
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self._folder)}
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(str(path) for path in libraries)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        return {"env": environment, "cwd": self._folder, **user}


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running server, stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="agentq-pg-"))
    try:
        made = Cluster(folder)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
