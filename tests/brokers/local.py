"""RabbitMQ as processes of this machine: its own package, or a newer one from a root that install.sh has built."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.brokers.node import LOOPBACK, Equipment, Node, NodeFailed, accepts

BINARIES = Path("/usr/lib/rabbitmq/bin")
RELEASES = Path("/usr/lib/rabbitmq/lib")
HOME_IN_ROOT = Path("/srv")

CONFIGURATION = """\
listeners.tcp.1 = {address}:{port}
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 10MB
log.console = true
log.console.use_colors = off
log.file = false
"""

# Two schedulers: by default there is one per core, each with memory of its own.
ERLANG = "+S 2:2 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"

ENTER = """
root=$1 home=$2
shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$home" "$root/srv"
exec setpriv --pdeathsig KILL chroot "$root" "$@"
"""

# The kernel sends the parent-death signal when the *thread* that started a process ends, so one thread that lasts
# as long as the test process starts them all.
_starter = ThreadPoolExecutor(1, thread_name_prefix="broker-starter")


@dataclass(frozen=True)
class LocalInstallation:
    """RabbitMQ below `/`, or below another root."""

    version: str
    root: Path | None = None

    def new(self, equipment: Equipment = Equipment()) -> Node:
        return LocalNode(self, equipment)

    def command(self, home: Path, *command: str) -> list[str]:
        """Returns the command line that runs a command of this installation with `home` within its reach."""
        if self.root is None:
            return ["setpriv", "--pdeathsig", "KILL", *command]
        return [*_own_mounts(), "sh", "-ec", ENTER, "sh", str(self.root), str(home), *command]

    def seen_inside(self, home: Path) -> Path:
        """Returns the path by which the installation's own programs know `home`."""
        return home if self.root is None else HOME_IN_ROOT

    def usable(self) -> bool:
        """Returns whether its programs can be run by this user."""
        with tempfile.TemporaryDirectory() as home:
            probe = self.command(Path(home), "test", "-x", str(BINARIES / "rabbitmq-server"))
            try:
                return subprocess.run(probe, capture_output=True).returncode == 0
            except FileNotFoundError:
                return False


class LocalNode(Node):
    """A node that is one Erlang process and the port mapper (epmd) that only it uses."""

    def __init__(self, installation: LocalInstallation, equipment: Equipment) -> None:
        super().__init__(more_ports=2)
        self._distribution_port, self._epmd_port = self._more_ports
        self._installation = installation
        self._name = f"agentq-{self.port}@localhost"
        self._home = Path(tempfile.mkdtemp(prefix="agentq-rabbitmq-"))
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._furnish(equipment)

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def stop(self) -> None:
        if self._server is not None and self.running:
            self._server.terminate()
            try:
                self._server.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise NodeFailed(f"RabbitMQ did not stop and was killed:\n{self.log()}") from None
        self.kill()

    def kill(self) -> None:
        for process in (self._server, self._epmd):
            if process is not None:
                process.kill()
                process.wait()

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        command = self._command(str(BINARIES / "rabbitmqctl"), "--quiet", "-n", self._name, *arguments)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise NodeFailed(f"rabbitmqctl {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def load(self, definitions: str) -> None:
        file = self._home / "definitions.json"
        file.write_text(definitions)
        self.ctl("import_definitions", str(self._installation.seen_inside(self._home) / file.name))

    def log(self, lines: int = 100) -> str:
        return "\n".join((self._home / "output").read_text(errors="replace").splitlines()[-lines:])

    def _furnish(self, equipment: Equipment) -> None:
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self._home / "plugins").write_text(f"[{'rabbitmq_management' if equipment.management else ''}].\n")
        (self._home / "output").touch()
        for name, content in equipment.tls.items():
            (self._home / name).write_bytes(content)
        folder = str(self._installation.seen_inside(self._home))
        more = equipment.configuration(LOOPBACK, self.management_port, self.tls_port, self.https_port, folder)
        (self._home / "rabbitmq.conf").write_text(CONFIGURATION.format(address=LOOPBACK, port=self.port) + more)

    def _boot(self) -> None:
        self.kill()
        self._epmd = self._spawn("epmd", "-address", LOOPBACK)
        while not accepts(self._epmd_port):
            if _ends_within(self._epmd, 0.01):
                raise NodeFailed(f"epmd ended while it was starting:\n{self.log()}")
        self._server = self._spawn(str(BINARIES / "rabbitmq-server"))

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._home / "output").open("ab") as output:
            return _starter.submit(
                subprocess.Popen,
                self._command(*command),
                env=self._environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    def _command(self, *command: str) -> list[str]:
        return self._installation.command(self._home, *command)

    def _environment(self) -> dict[str, str]:
        home = self._installation.seen_inside(self._home)
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature-flags"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
            "RABBITMQ_CTL_ERL_ARGS": "+S 1:1",
            # Without a shell in between, the process that is started here is the server itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _runs_on(self, seconds: float) -> bool:
        return self._server is not None and not _ends_within(self._server, seconds)

    def _remove(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)


def installations() -> Iterator[LocalInstallation]:
    """Yields what this machine's package manager installed, then the newer root, as far as they are there."""
    for root in (None, cache() / "rabbitmq-4.3"):
        for release in Path(root or "/", *RELEASES.parts[1:]).glob("rabbitmq_server-*"):
            installation = LocalInstallation(release.name.partition("-")[2], root)
            if installation.usable():
                yield installation


def cache() -> Path:
    """Returns the directory where install.sh keeps what it has built."""
    return Path(os.environ.get("AGENTQ_TEST_CACHE") or Path.home() / ".cache" / "agentq-tests")


def _own_mounts() -> list[str]:
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
