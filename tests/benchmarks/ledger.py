"""The ledger: how fast a log is brought in beside only parsing it, and how long lists take, small and large."""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agentq.config import load_settings
from agentq.engine import Page
from agentq.events import Event
from agentq.ledger import Filter, Ledger
from agentq.ledger.catching_up import BATCH
from agentq.observer import Observer

SIZES = tuple(int(size) for size in os.environ.get("AGENTQ_BENCH_LEDGER", "10000,1000000").split(","))
ROUNDS = int(os.environ.get("AGENTQ_BENCH_ROUNDS", "15"))
BIN = Path(sys.executable).parent
START = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = {
    "everything": Filter(),
    "of a state": Filter(states=("failed",)),
    "open": Filter(states=("open",)),
    "waiting for approval": Filter(states=("approval",)),
    "of an agent": Filter(agent="agent-3"),
    "agent, state, label": Filter(agent="agent-3", states=("failed",), labels=("team=red",)),
    "two labels, none has both": Filter(labels=("team=red", "team=blue")),
    "a common and a rare word": Filter(text="module 77777"),
    "two common words, none has both": Filter(text="passed tests", states=("failed",)),
    "of one day a year ago": Filter(since=START.timestamp(), until=START.timestamp() + 86400),
    "nothing": Filter(agent="nobody"),
}
COMMANDS = {
    "list": ("list",),
    "list --cached": ("list", "--cached"),
    "list, four filters": (
        "list",
        "--agent",
        "agent-3",
        "--state",
        "failed",
        "--label",
        "team=red",
        "--text",
        "module",
    ),
    "history": ("history", "task-0000077"),
}


def bench(folder: Path) -> None:
    """Build a ledger of each size as a reader would that begins at the log's start, and print it all."""
    for size in SIZES:
        stage = _Stage(folder / f"ledger-{size}")
        print(f"\nthe ledger of {size} tasks")
        with stage.observer.caught_up_ledger(print) as ledger:
            _fill(ledger, size)
            _ask(ledger)
        stage.processes()


class _Stage:
    """A queue without a task, and a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "AGENTQ_DATA": str(folder / "data")}
        self.observer = Observer(load_settings(environ=self.environment, cwd=folder))

    def processes(self) -> None:
        """Print how long whole commands take beyond a bare interpreter, in turn with it."""
        commands = {"a bare interpreter": [str(BIN / "python"), "-c", "pass"]}
        commands |= {name: [str(BIN / "agentq"), *words] for name, words in COMMANDS.items()}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, env=self.environment, cwd=self.folder, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
        bare = times.pop("a bare interpreter")
        for name, taken in times.items():
            beyond = statistics.median(one - other for one, other in zip(taken, bare, strict=True))
            ratio = statistics.median(one / other for one, other in zip(taken, bare, strict=True))
            print(f"  agentq {name:<24} {1000 * beyond:6.0f} ms over a bare interpreter, {ratio:.1f} times its time")


def _fill(ledger: Ledger, size: int) -> None:
    """Bring in the stories of so many tasks, and print how fast, beside only parsing their events."""
    parsing = bringing_in = 0.0
    count, bodies = 0, list[bytes]()
    for number in range(size):
        bodies += [event.to_json() for event in _life(number)]
        if len(bodies) < BATCH and number < size - 1:
            continue
        began = time.perf_counter()
        events = tuple(Event.model_validate_json(body) for body in bodies)
        parsed = time.perf_counter()
        ledger.apply(Page(events, ledger.position or ""))
        parsing, bringing_in = parsing + parsed - began, bringing_in + time.perf_counter() - parsed
        count += len(bodies)
        bodies.clear()
    print(f"  {count} events parsed at {count / parsing:.0f}/s, brought in at {count / bringing_in:.0f}/s:", end=" ")
    print(f"{(parsing + bringing_in) / parsing:.1f} times the time of only parsing; {ledger.bytes >> 20} MiB")


def _ask(ledger: Ledger) -> None:
    for name, asked in FILTERS.items():
        taken = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            found = ledger.tasks(asked, 20)
            taken.append(time.perf_counter() - began)
        print(
            f"  {name:<32} {1000 * statistics.median(taken):7.2f} ms, the slowest {1000 * max(taken):7.2f} ms", end=""
        )
        print(f"  ({len(found)} found)")


def _life(number: int) -> Iterator[Event]:
    """A task as most are, some of which fail, or still wait or run."""
    rng = random.Random(number)
    task, agent, at = f"task-{number:07}", f"agent-{rng.randrange(10)}", START + timedelta(seconds=30 * number)
    known = {"task_id": task, "agent": agent}
    asked = {
        "type": f"type-{rng.randrange(5)}",
        "priority": "normal",
        "title": f"Mend number {number} in the module {rng.choice('abcdefgh')} and test it well",
        "labels": {"team": rng.choice(("red", "green", "blue")), "run": f"run-{number % 1000}"},
        "requires_approval": rng.random() < 0.0001,
    }
    yield Event(id=f"{task}/submitted", kind="submitted", at=at, by="coordinator", data=asked, **known)
    if asked["requires_approval"] or rng.random() < 0.001:
        return
    began, worker = at + timedelta(seconds=rng.uniform(0.1, 30)), f"{agent}@host:{rng.randrange(100)}"
    named = {"attempt": 1, "by": agent, **known}
    yield Event(id=f"{task}/claimed/1", kind="claimed", at=began, worker=worker, host="host", **named)
    if rng.random() < 0.001:
        return
    outcome, over = "failed" if rng.random() < 0.05 else "completed", began + timedelta(seconds=rng.uniform(1, 3600))
    said = {
        "summary": f"Mended number {number}; the tests {'failed' if outcome == 'failed' else 'passed'}.",
        "verified": outcome == "completed",
        "result_ref": f"file:///shared/results/{task}.md",
        "artifacts": [{"name": "report", "ref": f"file:///shared/artifacts/{task}/1/report.md", "bytes": 1200}],
        "usage": {"input_tokens": 12000, "output_tokens": 900, "cost_usd": 0.05, "seconds": 60.0},
    }
    yield Event(id=f"{task}/{outcome}", kind=outcome, at=over, data=said, **named)
    yield Event(id=f"{task}/settled", kind="settled", at=over, task_id=task)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="agentq-bench-") as place:
        bench(Path(place))
