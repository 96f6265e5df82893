"""RabbitMQ as containers, where a Docker engine answers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from docker.models.containers import Container  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer

from tests.brokers.node import LOOPBACK, Node, NodeFailed

IMAGES = {"4.3": "rabbitmq:4.3-management", "3.10": "rabbitmq:3.10-management"}
FLAGS = "-rabbit disk_free_limit 10000000"


@dataclass(frozen=True)
class ImageInstallation:
    """RabbitMQ from an image; its version is that of the image's tag."""

    version: str
    image: str

    def new(self) -> Node:
        return ContainerNode(self.image)


class ContainerNode(Node):
    """A node that is one container; testcontainers' reaper removes it if the test process is killed."""

    def __init__(self, image: str) -> None:
        super().__init__(ports=1)
        self._image = DockerContainer(image, hostname="rabbit")
        self._image.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", FLAGS)
        # with_bind_ports() takes no address, and would listen on all of them.
        cast(dict[str, object], self._image.ports)["5672/tcp"] = (LOOPBACK, self.port)
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


def installations() -> Iterator[ImageInstallation]:
    """Yields the images; an engine must answer when nodes are made from them."""
    yield from (ImageInstallation(version, image) for version, image in IMAGES.items())
