"""All of it at once, on both engines: Claude Code and Codex mend one repository side by side and review each other.
One meets a limit and is parked, then lies about its tests and is caught. The daemon of the other is killed and its task
is gone on with, then sent back by its reviewer. The coordinator reads what its commands print, and that is little."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agentq.messages import utc_now
from agentq.papers import Attempt, Claim
from tests.agents.stub import Step, Stub
from tests.agents.tools import IN_TEST_ALL, Installed
from tests.daemons.harness import until
from tests.desk import Desk, on

SECONDS = 60.0
TOKENS = 400
"""What the coordinator reads of one task, at most; a review is one, too."""
CHARACTERS = 4
"""To a token, as is usual for English; no tokenizer is at hand."""

FILES = {
    "mean.py": "def mean(values):\n    return sum(values) / (len(values) - 1)\n",
    "test_mean.py": (
        "import unittest\nfrom mean import mean\n\n\nclass Mean(unittest.TestCase):\n"
        "    def test_of_three(self):\n        self.assertEqual(mean([1, 2, 3]), 2)\n"
    ),
    "median.py": "def median(values):\n    return values[len(values) // 2]\n",
    "test_median.py": (
        "import unittest\nfrom median import median\n\n\nclass Median(unittest.TestCase):\n"
        "    def test_of_three(self):\n        self.assertEqual(median([3, 1, 2]), 2)\n"
    ),
}
FIXES = {
    "mean": ("    return sum(values) / (len(values) - 1)", "    return sum(values) / len(values)"),
    "median": ("    return values[len(values) // 2]", "    return sorted(values)[len(values) // 2]"),
}
CODERS = {"mean": "claude", "median": "codex"}
REVIEWERS = {"mean": "codex", "median": "claude"}
DONE = {"mean": 2, "median": 4}
"""The tasks that come of each: work and review, once and twice."""


def _writes(**pieces: str) -> Step:
    return {"shell": " && ".join(f"echo '{text}' > $AGENTQ_OUTPUT/{name}.md" for name, text in pieces.items())}


def _mends(name: str, *hindrances: Step) -> list[Step]:
    """What a good agent does: read, edit, run the tests, say what was done."""
    return [
        {"read": f"{name}.py"},
        {"edit": [f"{name}.py", *FIXES[name]]},
        *hindrances,
        {"shell": f"python3 -B -m unittest -q test_{name}"},
        _writes(summary=f"{name} was wrong in one line; its test passes.", risks="None known."),
        {"say": f"{name} is right now."},
    ]


def _lies(name: str) -> list[Step]:
    """What a bad one does."""
    claim = _writes(summary="All tests pass.", risks="None known.")
    return [{"shell": f"echo '# it is right' >> {name}.py"}, claim, {"say": "I ran the tests: all of them pass."}]


def _again(name: str) -> list[Step]:
    """What a good one does about a finding."""
    head = f"def {name}(values):"
    edit: Step = {"edit": [f"{name}.py", head, f"{head}  # of no values: IndexError"]}
    return [{"read": f"{name}.py"}, edit, _writes(summary="It says so now.", risks="None known."), {"say": "Done."}]


def _reviews(name: str, **judgement: Any) -> list[Step]:
    """What a reviewer does: it looks for the fix where the patch was applied for it, and says what it finds."""
    verdict = f"echo '{json.dumps(judgement)}' > $AGENTQ_OUTPUT/verdict.json"
    return [{"shell": f"grep -qF '{FIXES[name][1].strip()}' {name}.py && {verdict}"}, {"say": "I read the patch."}]


def _limit(resets: datetime) -> Step:
    """The limit of an account with a plan, once."""
    unified = "anthropic-ratelimit-unified"
    told = {"status": "rejected", "reset": int(resets.timestamp()), "representative-claim": "five_hour"}
    headers = {f"{unified}-{name}": value for name, value in told.items()}
    return {"status": 429, "times": 1, "message": "It is reached.", "headers": headers}


class Stage:
    """The user's checkout, four workers, and the coordinator's command line."""

    def __init__(self, desk: Desk, stub: Stub) -> None:
        self.desk, self.stub = desk, stub
        self.repository = desk.folder / "the user's checkout"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.read: Counter[str] = Counter()
        self._tools = {kind: Installed(kind, stub, desk.folder / f"home of {kind}") for kind in IN_TEST_ALL}
        self._make_repository()
        for task in CODERS:
            verify = {"verify": ["python3", "-B", "-m", "unittest", "-q", f"test_{task}"]}
            evidence = {"artifacts": ["summary", "patch", "risks"], **verify}
            self._profile(f"{CODERS[task]}-coder", CODERS[task], "implementation", "git-worktree", evidence)
            self._profile(f"{REVIEWERS[task]}-reviewer", REVIEWERS[task], "review", "read-only", {})
        paths = (tool.environment["PATH"] for tool in self._tools.values())
        desk.environment["PATH"] = ":".join(dict.fromkeys(":".join(paths).split(":")))
        desk.ok("init")

    def _make_repository(self) -> None:
        self.repository.mkdir()
        for name, text in FILES.items():
            (self.repository / name).write_text(text)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *words], cwd=self.repository, check=True)
        (self.repository / "mean.py").write_text("what the user is just typing\n")

    def _profile(self, agent: str, kind: str, type_: str, workspace: str, evidence: dict[str, Any]) -> None:
        environment = {key: value for key, value in self._tools[kind].environment.items() if key != "PATH"}
        if environment.pop("ANTHROPIC_API_KEY", None):  # only an account with a plan is told when its limit ends
            environment["CLAUDE_CODE_OAUTH_TOKEN"] = "sk-ant-oat01-dummy"
        sections = {
            "runner": self._tools[kind].settings,
            "workspace": {"kind": workspace},
            "evidence": evidence,
            "limits": {"timeout_seconds": SECONDS, "lease_seconds": 4, "renew_seconds": 0.5, "sweep_seconds": 0.5},
            "retry": {"delay_seconds": 4},
            "environment.set": environment,
        }
        lines = [f"agent = {json.dumps(agent)}", f"types = {json.dumps([type_])}"]
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        folder = self.desk.project / "workers" / agent
        folder.mkdir(parents=True)
        (folder / "worker.toml").write_text("\n".join(lines))
        (folder / "prompt.md").write_text("You are one of two agents.")

    # ------------------------------------------------------------------ the daemons

    def start(self, agent: str) -> None:
        """Start a worker, and wait until it says that it is ready."""
        log = self.desk.folder / f"{agent}-{len(list(self.desk.folder.glob('*.log')))}.log"
        with log.open("wb") as stream:
            self.daemons[agent] = self.desk.start("worker", "run", agent, stdout=stream, stderr=stream)
        until(lambda: ": ready" in log.read_text(), f"{agent} to be ready", SECONDS)

    def kill(self, agent: str) -> None:
        """End a worker at once, as a crash would."""
        self.daemons[agent].send_signal(SIGKILL)
        assert self.daemons.pop(agent).wait() == -SIGKILL

    def close(self) -> None:
        """End them all, and show what they said."""
        for daemon in self.daemons.values():
            daemon.send_signal(SIGTERM)
        for daemon in self.daemons.values():
            daemon.wait(SECONDS)
        for log in sorted(self.desk.folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()}")

    # ------------------------------------------------------------------ the coordinator

    def coordinator(self, *words: str, about: tuple[str, ...]) -> str:
        """What a command prints that must succeed; it is counted for the task that a line names, else for each that the
        command is about."""
        done = self.desk.run(*words)
        print(f"$ agentq {' '.join(words)}\n{done.out}{done.err}", end="")
        assert done.code == 0, done
        for line in (done.out + done.err).splitlines(keepends=True):
            named = line.split()[0].partition(".")[0]
            for task in [named] if named in about else about:
                self.read[task] += len(line)
        return done.out

    def attempts(self, task: str) -> list[Attempt]:
        """What the store has of it."""
        papers = self.desk.records.papers(task)
        return list(papers.attempts) if papers else []

    def has_ended(self, task: str, number: int) -> bool:
        """Whether that attempt ended without a result."""
        return any(attempt.end for attempt in self.attempts(task)[number - 1 :])

    def checkout(self) -> dict[str, bytes]:
        """Every file of the user's, git's own included."""
        return {str(path): path.read_bytes() for path in self.repository.rglob("*") if path.is_file()}


@pytest.fixture(params=["sqlite", "rabbitmq"])
def stage(request: pytest.FixtureRequest, stub: Stub) -> Iterator[Stage]:
    """The stage on each engine, in a folder whose name is as short as a user's: paths are read, too."""
    environment = on(request.getfixturevalue("rabbitmq")) if request.param == "rabbitmq" else None
    with TemporaryDirectory(prefix="aq-") as folder:
        stage = Stage(Desk(Path(folder), environment), stub)
        try:
            yield stage
        finally:
            stage.close()


def patched(stage: Stage, results: list[str], folder: Path) -> Path:
    """A clone of the repository with all patches, from where the printed results say that they lie."""
    subprocess.run(["git", "clone", "-q", str(stage.repository), str(folder)], check=True)
    for result in results:
        below = "".join(re.findall(r"^evidence in file://(.*)$", result, re.MULTILINE))
        (patch,) = re.findall(r"^patch .* (\S+)$", result, re.MULTILINE)
        subprocess.run(["git", "apply", below + patch.removeprefix("file://")], cwd=folder, check=True)
    return folder


def test_two_agents_work_side_by_side_and_their_coordinator_reads_little(stage: Stage, tmp_path: Path) -> None:
    before, names = stage.checkout(), tuple(CODERS)
    for agent in ("claude-coder", "codex-coder", "claude-reviewer", "codex-reviewer"):
        stage.start(agent)
    resets = (utc_now() + timedelta(seconds=10)).replace(microsecond=0)
    finding = {"what": "Say what no values give.", "file": "median.py", "line": 1, "severity": "minor"}
    stage.stub.parts = {
        "Review the work of mean.work-1": _reviews("mean", verdict="approve"),
        "Review the work of median.work-1": _reviews("median", verdict="request-changes", findings=[finding]),
        "Review the work of median.work-2": _reviews("median", verdict="approve"),
        "> - minor median.py:1: Say what": _again("median"),  # it is told what the other one found
        "exited with status 1": _mends("mean"),  # and why it was not believed
        "Mend mean": [_limit(resets), *_lies("mean")],
        "Mend median": _mends("median", {"hang": True, "times": 1}),
    }
    for task, kind in CODERS.items():
        to = ("--to", f"{kind}-coder", "--type", "implementation", "--id", task, "--repo", str(stage.repository))
        review = ("--review-by", f"{REVIEWERS[task]}-reviewer", "--rounds", "2")
        stage.coordinator("submit", *to, *review, "-i", f"Mend {task}: its test fails.", about=(task,))

    until(lambda: stage.stub.hanging and stage.has_ended("mean.work-1", 1), "one hangs, one is parked", SECONDS)
    stage.kill("codex-coder")
    seen = len(stage.stub.requests)
    said = stage.coordinator("status", *names, about=names)
    assert f"delayed until {resets:%Y-%m-%d %H:%M:%SZ}" in said
    assert "codex-coder on" in said
    stage.start("codex-coder")
    until(lambda: stage.has_ended("mean.work-1", 2), "one is caught", SECONDS)
    said = stage.coordinator("status", "mean.work-1", about=("mean",))
    assert "the agent said it was done, but the verify command" in said
    said = stage.coordinator("wait", *names, "--timeout", "60", about=names)
    assert said.count("completed  verified") == len(names), said
    results = [stage.coordinator("result", task, about=(task,)) for task in names]
    stage.coordinator("list", about=names)
    stage.coordinator("tree", "median", about=("median",))
    assert "its worker's process died" in stage.coordinator("history", "median.work-1", about=("median",))

    parked, lied, _ = stage.attempts("mean.work-1")
    killed, _ = stage.attempts("median.work-1")
    assert isinstance(parked.paper, Claim)
    assert isinstance(killed.paper, Claim)
    assert parked.end
    assert lied.end
    assert killed.end
    assert (parked.end.counts, lied.end.counts) == (False, True)
    assert killed.paper.at < parked.end.at, "both worked at once"
    assert parked.paper.at < killed.end.at
    asked = [json.dumps(body) for _, body in stage.stub.requests[seen:]]
    assert max(body.count("Mend median: its test fails.") for body in asked) == 2, "it is the same conversation"

    clone = patched(stage, results, tmp_path / "clone")
    subprocess.run([sys.executable, "-B", "-m", "unittest", "-q"], cwd=clone, check=True)
    assert stage.checkout() == before
    tokens = {task: stage.read[task] / CHARACTERS / count for task, count in DONE.items()}
    assert stage.read.keys() == DONE.keys()
    assert 0 < max(tokens.values()) < TOKENS, tokens
