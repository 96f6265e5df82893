"""`make bench`: whole-process times beside a neighbour's in one run, latency, throughput and memory of a worker.

Absolute times are of the machine; the ratios are what to compare. Every pair is run in turn, so that both see the
same machine.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agentq.app import App
from agentq.config import load_settings
from agentq.messages import Envelope, utc_now
from tests.brokers.node import Node

ROUNDS = int(os.environ.get("AGENTQ_BENCH_ROUNDS", "15"))
TASKS = int(os.environ.get("AGENTQ_BENCH_TASKS", "100"))
BIN = Path(sys.executable).parent
PROFILE = """agent = "noop"
[runner]
command = ["/bin/echo", "done"]
"""


def main() -> None:
    """Run all benchmarks against a RabbitMQ of their own and print them."""
    with Node.find("4.3") as node, tempfile.TemporaryDirectory(prefix="agentq-bench-") as folder:
        print(f"RabbitMQ {node.version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
        for name, broker in (("rabbitmq", node.url), ("sqlite", f"sqlite://{folder}/queue.db")):
            stage = Stage(Path(folder) / name, broker)
            stage.cli("init")
            if name == "rabbitmq":
                _processes(stage, node.url)
            with stage.worker() as pid:
                _overhead(name, stage, pid)


class Stage:
    """A store, an engine and a worker's profile in a folder."""

    def __init__(self, folder: Path, broker: str) -> None:
        profile = folder / "workers" / "noop"
        profile.mkdir(parents=True)
        (profile / "worker.toml").write_text(PROFILE)
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AGENTQ_BROKER": broker,
            "AGENTQ_STORE": str(folder / "store"),
            "AGENTQ_DATA": str(folder / "data"),
            "AGENTQ_WORKERS": str(folder / "workers"),
        }
        self.app = App(load_settings(environ=self.environment, cwd=folder))

    def cli(self, *arguments: str) -> None:
        """Run the CLI to its end."""
        subprocess.run(
            [BIN / "agentq", *arguments], env=self.environment, cwd=self.folder, check=True, capture_output=True
        )

    @contextmanager
    def worker(self) -> Iterator[int]:
        """A worker daemon that is ready; yields its pid."""
        daemon = subprocess.Popen(
            [BIN / "agentq", "worker", "run", "noop"],
            env=self.environment,
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert daemon.stderr is not None
        while "ready" not in (line := daemon.stderr.readline()):
            if not line:
                raise SystemExit("the worker did not come up")
        drain = subprocess.Popen(["cat"], stdin=daemon.stderr, stdout=subprocess.DEVNULL)
        try:
            yield daemon.pid
        finally:
            daemon.terminate()
            daemon.wait(30)
            drain.wait(5)


def _processes(stage: Stage, broker: str) -> None:
    stage.cli("submit", "--to", "noop", "--type", "noop", "--id", "known", "--instructions", "nothing")
    commands: Mapping[str, list[str]] = {
        "bare python -c pass": [sys.executable, "-c", "pass"],
        "celery call": [str(BIN / "celery"), "-b", broker, "call", "noop", "-a", "[]"],
        "agentq submit": [str(BIN / "agentq"), "submit", "--to", "noop", "--type", "noop", "--instructions", "nothing"],
        "agentq status": [str(BIN / "agentq"), "status", "known"],
        "agentq --help": [str(BIN / "agentq"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for count in range(ROUNDS + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, env=stage.environment, cwd=stage.folder, check=True, capture_output=True)
            if count:
                times[name].append(time.perf_counter() - started)
    celery = times["celery call"]
    print(f"\nwhole processes, {ROUNDS} rounds in turn: median ms, and the median of the ratio to celery call")
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, celery, strict=True))
        print(f"  {name:<20} {1000 * statistics.median(own):7.0f} ms  {ratio:5.2f}")


def _overhead(name: str, stage: Stage, pid: int) -> None:
    starts, wholes = asyncio.run(_one_by_one(stage.app))
    print(f"\n{name}: {TASKS} no-op tasks, one at a time, in ms")
    print(f"  submit to start     median {_ms(starts, 50)}  p99 {_ms(starts, 99)}")
    print(f"  submit to settled   median {_ms(wholes, 50)}  p99 {_ms(wholes, 99)}")
    rate = asyncio.run(_backlog(stage.app))
    print(f"  backlog             {rate:.0f} tasks/s through one worker")
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    print(f"  worker's memory     {kib / 1024:.0f} MiB")


async def _one_by_one(app: App) -> tuple[list[float], list[float]]:
    starts, wholes = [], []
    await _until(lambda: not list(app.records.unsettled()))
    async with app.engine() as engine:
        for number in range(TASKS):
            envelope = Envelope(task_id=f"one-{number}", to="noop", type="noop", instructions="nothing")
            began = time.perf_counter()
            registered = app.coordinator.register(envelope)
            await engine.publish(registered.envelope)
            published = utc_now()
            app.coordinator.published(envelope.task_id)
            await _until(lambda e=envelope: not app.records.is_open(e.task_id))
            wholes.append(time.perf_counter() - began)
            claim = app.records.attempts(envelope.task_id)[0].paper
            starts.append((claim.at - published).total_seconds())
    return starts, wholes


async def _backlog(app: App) -> float:
    async with app.engine() as engine:
        began = time.perf_counter()
        for number in range(TASKS):
            envelope = Envelope(task_id=f"many-{number}", to="noop", type="noop", instructions="nothing")
            await engine.publish(app.coordinator.register(envelope).envelope)
            app.coordinator.published(envelope.task_id)
        await _until(lambda: not list(app.records.unsettled()))
        return TASKS / (time.perf_counter() - began)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the papers have no events
            await asyncio.sleep(0.001)


def _ms(values: list[float], percent: int) -> str:
    value = sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
    return f"{1000 * max(0.0, value):.1f}"


if __name__ == "__main__":
    main()
