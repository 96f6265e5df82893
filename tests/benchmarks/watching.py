"""How soon what an agent prints is on a watcher's screen: from the agent's own write to the line on the stdout of
`agentq watch`, all processes on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LINES = int(os.environ.get("AGENTQ_BENCH_LINES", "300"))
BIN = Path(sys.executable).parent
PACES = {"a line now and then": 0.25, "20 lines a second": 0.05, "500 lines a second": 0.002}
AGENT = f"""
import os, sys, time
pause = float(sys.stdin.read().split("pause:")[1].split()[0])
print("ready", flush=True)
while not os.path.exists(os.environ["START"]):
    time.sleep(0.01)
for _ in range({LINES}):
    print(time.time_ns(), flush=True)
    time.sleep(pause)
"""
PROFILE = f"""agent = "ticker"
[runner]
command = ["{sys.executable}", "{{folder}}/agent.py"]
[environment]
let_through = ["START"]
[evidence]
artifacts = []
"""


def bench(folder: Path, url: str) -> None:
    """Measure both engines, RabbitMQ at that URL, and print it."""
    for name, broker in (("rabbitmq", url), ("sqlite", f"sqlite://{folder}/watching.db")):
        _bench(name, broker, folder / "watching" / name)


def _bench(name: str, broker: str, folder: Path) -> None:
    (folder / "workers" / "ticker").mkdir(parents=True)
    (folder / "workers" / "ticker" / "worker.toml").write_text(PROFILE.format(folder=folder))
    (folder / "agent.py").write_text(AGENT)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AGENTQ_BROKER": broker,
        "AGENTQ_NAMESPACE": "watching",
        "AGENTQ_STORE": str(folder / "store"),
        "AGENTQ_DATA": str(folder / "data"),
        "AGENTQ_WORKERS": str(folder / "workers"),
        "START": str(folder / "start"),
    }
    subprocess.run([BIN / "agentq", "init"], env=environment, cwd=folder, check=True, capture_output=True)
    for words, pause in PACES.items():
        (folder / "start").unlink(missing_ok=True)
        with _worker(environment, folder):
            delays = sorted(_delays(environment, folder, pause))
        p50, p99 = (delays[len(delays) * percent // 100] * 1000 for percent in (50, 99))
        print(f"{name:9} {words:20} to the watcher's screen, of {len(delays)}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def _delays(environment: dict[str, str], folder: Path, pause: float) -> Iterator[float]:
    """The seconds from each line's print to its sight."""
    submit = [BIN / "agentq", "submit", "--to", "ticker", "--type", "x", "-i", f"pause: {pause}"]
    task = subprocess.run(
        submit, env=environment, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()
    watch = [BIN / "agentq", "watch", task]
    with subprocess.Popen(watch, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            _, bar, words = line.partition(f"{task}| ")
            if words == "ready\n":
                Path(environment["START"]).touch()
            elif bar:
                yield (time.time_ns() - int(words)) / 1e9


@contextmanager
def _worker(environment: dict[str, str], folder: Path) -> Iterator[None]:
    worker = [BIN / "agentq", "worker", "run", "ticker"]
    with subprocess.Popen(worker, env=environment, cwd=folder, stderr=subprocess.DEVNULL) as daemon:
        yield
        daemon.terminate()


def main() -> None:
    """Run this benchmark alone."""
    import tempfile

    from tests.brokers.node import Node

    with Node.find("4.3") as node, tempfile.TemporaryDirectory(prefix="agentq-bench-") as folder:
        bench(Path(folder), node.url)


if __name__ == "__main__":
    main()
