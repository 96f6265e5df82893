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

INSTALL = Path(__file__).with_name("install.sh")
NOBODY = 65534
PATIENCE = 60.0


class Cluster:
    """A running server; only its socket leads to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server for this process, stopped at the end."""
    programs = Path(subprocess.run([INSTALL], capture_output=True, text=True, check=True).stdout.strip())
    folder = Path(tempfile.mkdtemp(prefix="agentq-pg-"))
    data = folder / "data"
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        _as_nobody([programs / "initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"])
        settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=50")
        command = [programs / "postgres", "-D", data, *(part for one in settings for part in ("-c", one))]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, **_nobody(programs, folder), stderr=log)
        try:
            _wait(server, Cluster(folder), folder / "log")
            yield Cluster(folder)
        finally:
            server.send_signal(SIGINT)
            server.wait(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nobody(programs: Path, folder: Path) -> dict[str, object]:
    root = programs.parents[4]
    libraries = os.pathsep.join(
        str(path) for path in (*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*"))
    )
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder), "LD_LIBRARY_PATH": libraries}
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return {"env": environment, "cwd": folder, **user}


def _as_nobody(command: list[object]) -> None:
    programs = Path(str(command[0])).parent
    folder = Path(str(command[2])).parent
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, **_nobody(programs, folder))
    assert done.returncode == 0, done.stderr


def _wait(server: "subprocess.Popen[bytes]", cluster: Cluster, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(cluster.url()).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
