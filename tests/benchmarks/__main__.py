"""`make bench`: whole-process times beside a neighbour's in one run, latency, throughput and memory of a worker, and
how soon nothing is left of an agent that is cancelled and does what it can against it; what a chat pays for its jobs,
and a race of its notices against random kills; how soon a gateway tells what happens, to how many.

Absolute times are of the machine; the ratios are what to compare. Every pair is run in turn, so that both see the
same machine.
"""

import asyncio
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from agentq.app import App
from agentq.config import load_settings
from agentq.messages import Envelope, utc_now
from tests.benchmarks import chat, gateway, ledger, log, object_store, page, watching
from tests.brokers.node import Node

ROUNDS = int(os.environ.get("AGENTQ_BENCH_ROUNDS", "15"))
TASKS = int(os.environ.get("AGENTQ_BENCH_TASKS", "100"))
CANCELS = int(os.environ.get("AGENTQ_BENCH_CANCELS", "50"))
GRACE = 0.2
BIN = Path(sys.executable).parent
PROFILES = {
    "noop": """agent = "noop"
[runner]
command = ["/bin/echo", "done"]
""",
    # Ignores what it is asked, as do its children: one in a session of its own, one that forgot whose child it is too.
    "deaf": f"""agent = "deaf"
[runner]
command = ["sh", "-c", '''
trap "" TERM HUP INT
setsid sleep 600 & child=$!
env -i setsid sleep 600 & hidden=$!
echo $$ $child $hidden > "$AGENTQ_OUTPUT/pids.txt"
mv "$AGENTQ_OUTPUT/pids.txt" "$PIDS/$AGENTQ_TASK_ID"
while :; do sleep 0.1; done
''']
grace_seconds = {GRACE}
[environment]
let_through = ["PIDS"]
""",
}


def main() -> None:
    """Run all benchmarks against a RabbitMQ of their own and print them."""
    with Node.find("4.3") as node, tempfile.TemporaryDirectory(prefix="agentq-bench-") as folder:
        print(f"RabbitMQ {node.version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
        for name, broker in (("rabbitmq", node.url), ("sqlite", f"sqlite://{folder}/queue.db")):
            stage = Stage(Path(folder) / name, broker)
            stage.cli("init")
            if name == "rabbitmq":
                _processes(stage, node.url)
            with stage.worker("noop") as pid:
                _overhead(name, stage, pid)
            with stage.worker("deaf"):
                _cancelling(name, stage)
        log.bench(Path(folder), node.url)
        ledger.bench(Path(folder))
        watching.bench(Path(folder), node.url)
        object_store.bench(Path(folder))
        chat.bench(Path(folder), node.url)
        gateway.bench(Path(folder), node.url)
        page.bench(Path(folder), node.url)


class Stage:
    """A store, an engine and workers' profiles in a folder."""

    def __init__(self, folder: Path, broker: str) -> None:
        for name, profile in PROFILES.items():
            (folder / "workers" / name).mkdir(parents=True)
            (folder / "workers" / name / "worker.toml").write_text(profile)
        (folder / "pids").mkdir()
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AGENTQ_BROKER": broker,
            "AGENTQ_STORE": str(folder / "store"),
            "AGENTQ_DATA": str(folder / "data"),
            "AGENTQ_WORKERS": str(folder / "workers"),
            "PIDS": str(folder / "pids"),
        }
        self.app = App(load_settings(environ=self.environment, cwd=folder))

    def cli(self, *arguments: str) -> None:
        """Run the CLI to its end."""
        subprocess.run(
            [BIN / "agentq", *arguments], env=self.environment, cwd=self.folder, check=True, capture_output=True
        )

    @contextmanager
    def worker(self, name: str) -> Iterator[int]:
        """A worker daemon that is ready; yields its pid."""
        daemon = subprocess.Popen(
            [BIN / "agentq", "worker", "run", name],
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
    await _until(lambda: not list(app.records.marks.unsettled()))
    async with app.engine() as engine:
        for number in range(TASKS):
            envelope = Envelope(task_id=f"one-{number}", to="noop", type="noop", instructions="nothing")
            began = time.perf_counter()
            registered = app.coordinator.register(envelope)
            await engine.publish(registered.envelope)
            published = utc_now()
            app.coordinator.published(envelope.task_id)
            await _until(lambda e=envelope: not app.records.marks.is_open(e.task_id))
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
        await _until(lambda: not list(app.records.marks.unsettled()))
        return TASKS / (time.perf_counter() - began)


def _cancelling(name: str, stage: Stage) -> None:
    wholes, written, stops, proven = [], [], [], 0
    for number in range(CANCELS):
        task_id = f"cancel-{number}"
        stage.cli("submit", "--to", "deaf", "--type", "any", "--id", task_id, "--instructions", "never end")
        asyncio.run(_until((stage.folder / "pids" / task_id).exists))
        pids = [int(pid) for pid in (stage.folder / "pids" / task_id).read_text().split()]
        asked, gone = _cancel(stage, task_id, pids)
        cancel = stage.app.records.cancel(task_id)
        assert cancel is not None
        wholes.append((gone - asked).total_seconds() - GRACE)
        written.append((gone - cancel.at).total_seconds() - GRACE)
        asyncio.run(_until(lambda task_id=task_id: not stage.app.records.marks.is_open(task_id)))
        manifest = stage.app.records.manifest(task_id)
        assert manifest is not None
        assert manifest.stop_seconds is not None
        stops.append(manifest.stop_seconds - GRACE)
        proven += manifest.stopped == "proven"
    print(
        f"\n{name}: {CANCELS} deaf agents cancelled, {proven} proven gone; in ms, less the grace of {1000 * GRACE:.0f}"
    )
    print(f"  `agentq cancel` to tree gone    median {_ms(wholes, 50)}  p99 {_ms(wholes, 99)}")
    print(f"  its paper to tree gone          median {_ms(written, 50)}  p99 {_ms(written, 99)}")
    print(f"  worker's notice to tree gone    median {_ms(stops, 50)}  p99 {_ms(stops, 99)}")


def _cancel(stage: Stage, task_id: str, pids: list[int]) -> tuple[datetime, datetime]:
    """When it was asked for, and when the last of these processes had ended."""
    with ExitStack() as stack:
        living = {os.pidfd_open(pid) for pid in pids}
        for descriptor in living:
            stack.callback(os.close, descriptor)
        asked = utc_now()
        command, quiet = [BIN / "agentq", "cancel", task_id], subprocess.DEVNULL
        with subprocess.Popen(command, env=stage.environment, cwd=stage.folder, stdout=quiet, stderr=quiet):
            while living:
                ended = select.select(living, [], [], 60)[0]
                assert ended, "it lives after 60 s"
                living -= set(ended)
            return asked, utc_now()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the papers have no events
            await asyncio.sleep(0.001)


def _ms(values: list[float], percent: int) -> str:
    value = sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
    return f"{1000 * max(0.0, value):.1f}"


if __name__ == "__main__":
    main()
