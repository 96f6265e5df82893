"""The S3 store beside the bare client in the same run: a commit, a large artifact, and whole commands beside files."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agentq.records import Records
from tests.object_servers import BUCKET, CREDENTIALS, ObjectServer, running
from tests.samples import completion as _completion

ROUNDS = int(os.environ.get("AGENTQ_BENCH_ROUNDS", "15"))
COMMITS = int(os.environ.get("AGENTQ_BENCH_COMMITS", "300"))
LARGE = int(os.environ.get("AGENTQ_BENCH_MIB", "1024")) << 20
BIN = Path(sys.executable).parent

MOVES: Mapping[str, str] = {
    "bare boto3 upload_file": "boto3.client('s3').upload_file(source, bucket, 'bare')",
    "agentq put_file": "open_store(f's3://{bucket}/agentq', S3Section()).put_file('artifacts/a/1/large', Path(source))",
    "bare boto3 download_file": "boto3.client('s3').download_file(bucket, 'bare', source + '.copy')",
    "agentq open, checked": (
        "stream = open_store(f's3://{bucket}/agentq', S3Section()).open('artifacts/a/1/large')\n"
        "while stream.read(1 << 20): pass"
    ),
}
MOVE = """
import json, resource, sys, time
from pathlib import Path
import boto3
from agentq.adapters import open_store
from agentq.config import S3Section
source, bucket = sys.argv[1:]
began = time.perf_counter()
{}
seconds = time.perf_counter() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def bench(folder: Path) -> None:
    """Measure everything against a ministack of its own, and print it."""
    os.environ.update(CREDENTIALS)
    with running(folder / "ministack", "ministack") as server:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **CREDENTIALS}
        environment |= {"AWS_ENDPOINT_URL_S3": server.url, "AWS_DEFAULT_REGION": "us-east-1"}
        _commits(server)
        _commands(folder, environment)
        _large(folder, environment)


def _commits(server: ObjectServer) -> None:
    store, client = server.store("commits"), server.client()
    records, taken = Records(store), _completion()
    body = taken.to_json()
    steps: Mapping[str, Callable[[int], object]] = {
        "bare conditional put": lambda n: client.put_object(Bucket=BUCKET, Key=f"bare/{n}", Body=body, IfNoneMatch="*"),
        "put_new": lambda n: store.put_new(f"results/{n}.json", body),
        "records.commit": lambda n: records.commit(taken.model_copy(update={"task_id": f"commit-{n}"})),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(COMMITS):
        for name, step in steps.items():
            began = time.perf_counter()
            step(number)
            times[name].append(time.perf_counter() - began)
    _print(f"S3: {COMMITS} commits in turn", "bare conditional put", times)


def _commands(folder: Path, environment: Mapping[str, str]) -> None:
    stores = {"files": str(folder / "files"), "S3": f"s3://{BUCKET}/commands"}
    (folder / "report.md").write_text("Done.\n" * 100)
    for where, store in stores.items():
        own = {**environment, "AGENTQ_STORE": store, "AGENTQ_DATA": str(folder / f"data {where}")}
        for command in (
            ("init",),
            ("submit", "--to", "review-worker", "--type", "review", "--id", "known", "-i", "nothing"),
            ("complete", "known", "--from", "me", "--result-file", str(folder / "report.md")),
        ):
            subprocess.run([BIN / "agentq", *command], env=own, cwd=folder, check=True, capture_output=True)
    for command in ("status", "result"):
        times: dict[str, list[float]] = {where: [] for where in stores}
        for count in range(ROUNDS + 1):
            for where, store in stores.items():
                own = {**environment, "AGENTQ_STORE": store, "AGENTQ_DATA": str(folder / f"data {where}")}
                began = time.perf_counter()
                subprocess.run([BIN / "agentq", command, "known"], env=own, cwd=folder, check=True, capture_output=True)
                if count:
                    times[where].append(time.perf_counter() - began)
        _print(f"agentq {command}, whole processes, {ROUNDS} rounds in turn", "files", times)


def _large(folder: Path, environment: Mapping[str, str]) -> None:
    source = folder / "large"
    with source.open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))
    print(f"\nan artifact of {LARGE >> 20} MiB: MiB/s, seconds, and the process's peak memory")
    for name, step in MOVES.items():
        command = [sys.executable, "-c", MOVE.format(step), str(source), BUCKET]
        done = subprocess.run(command, env={**environment, "PYTHONPATH": "."}, check=True, capture_output=True)
        seconds, memory = json.loads(done.stdout)
        print(f"  {name:<26} {(LARGE >> 20) / seconds:6.0f} MiB/s {seconds:7.1f} s {memory:6.0f} MiB")


def _print(title: str, against: str, times: Mapping[str, list[float]]) -> None:
    print(f"\n{title}: median ms, and the median of the ratio to {against}")
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, times[against], strict=True))
        print(f"  {name:<26} {1000 * statistics.median(own):8.1f} ms  {ratio:5.2f}")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="agentq-bench-") as place:
        bench(Path(place))
