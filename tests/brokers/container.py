"""RabbitMQ as containers, where a Docker engine answers."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from docker.models.containers import Container  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer

from tests.brokers.node import LOOPBACK, Equipment, Node, NodeFailed

IMAGES = {"4.3": "rabbitmq:4.3-management", "3.10": "rabbitmq:3.10-management"}
INSIDE = Path("/srv/node")
FLAGS = "-rabbit disk_free_limit 10000000"


@dataclass(frozen=True)
class ImageInstallation:
    """RabbitMQ from an image; its version is that of the image's tag."""

    version: str
    image: str

    def new(self, equipment: Equipment = Equipment()) -> Node:
        return ContainerNode(self.image, equipment)


class ContainerNode(Node):
    """A node that is one container; testcontainers' reaper removes it if the test process is killed."""

    def __init__(self, image: str, equipment: Equipment) -> None:
        super().__init__()
        self._image = DockerContainer(image, hostname="rabbit")
        self._image.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", FLAGS)
        # with_bind_ports() takes no address, and would listen on all of them.
        ports = {5672: self.port, 15672: self.management_port, 5671: self.tls_port, 15671: self.https_port}
        cast(dict[str, object], self._image.ports).update(
            {f"{inside}/tcp": (LOOPBACK, outside) for inside, outside in ports.items()}
        )
        self._folder = Path(tempfile.mkdtemp(prefix="agentq-rabbitmq-"))
        self._folder.chmod(0o755)  # the server in the container is another user
        for name, content in equipment.tls.items():
            (self._folder / name).write_bytes(content)
            (self._folder / name).chmod(0o644)
        more = equipment.configuration("0.0.0.0", 15672, 5671, 15671, str(INSIDE))
        (self._folder / "equipment.conf").write_text(more)
        (self._folder / "equipment.conf").chmod(0o644)
        self._image.with_volume_mapping(str(self._folder), str(INSIDE))
        self._image.with_volume_mapping(str(self._folder / "equipment.conf"), "/etc/rabbitmq/conf.d/90-equipment.conf")
        self._container: Container | None = None

    @property
    def running(self) -> bool:
        if self._container is None:
            return False
        self._container.reload()
        return bool(self._container.status == "running")

    def stop(self) -> None:
        if self._container is not None and self.running:
            self._container.stop(timeout=30)

    def kill(self) -> None:
        if self._container is not None and self.running:
            self._container.kill()
            self._container.wait()

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        if self._container is None:
            raise NodeFailed("the node was never started")
        command = ["timeout", f"{timeout:g}", "rabbitmqctl", "--quiet", *arguments]
        code, output = self._container.exec_run(command, demux=True)
        said = [stream.decode() for stream in output if stream]
        if code:
            raise NodeFailed(f"rabbitmqctl {' '.join(arguments)}:\n{''.join(said)}")
        return said[0] if output[0] else ""

    def load(self, definitions: str) -> None:
        (self._folder / "definitions.json").write_text(definitions)
        self.ctl("import_definitions", str(INSIDE / "definitions.json"))

    def log(self, lines: int = 100) -> str:
        return "" if self._container is None else self._container.logs(tail=lines).decode(errors="replace")

    def _boot(self) -> None:
        if self._container is None:
            self._container = self._image.start().get_wrapped_container()
        else:
            self._container.start()

    def _runs_on(self, seconds: float) -> bool:
        time.sleep(seconds)
        return self.running

    def _remove(self) -> None:
        if self._container is not None:
            self._image.stop()
            self._container = None
        shutil.rmtree(self._folder, ignore_errors=True)


def installations() -> Iterator[ImageInstallation]:
    """Yields the images; an engine must answer when nodes are made from them."""
    yield from (ImageInstallation(version, image) for version, image in IMAGES.items())
