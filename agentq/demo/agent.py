"""A scripted agent for the demo: no model, but real work with real files, as any agent would leave it behind."""

import os
import subprocess
import sys
from pathlib import Path

BUG, FIX = "total / (len(values) - 1)", "total / len(values)"


def implement(output: Path) -> None:
    """Find the failing test, mend the function it blames, run the tests again, and say what was done."""
    before = _tests()
    print(f"tests before: exit status {before.returncode}", flush=True)
    source = Path("stats.py")
    source.write_text(source.read_text(encoding="utf-8").replace(BUG, FIX), encoding="utf-8")
    after = _tests()
    print(f"tests after: exit status {after.returncode}", flush=True)
    (output / "summary.md").write_text(
        "`mean` divided by one too few; it divides by the number of values now. The failing test passes.\n",
        encoding="utf-8",
    )
    (output / "report.md").write_text(
        "# Report\n\n`mean([1, 2, 3])` gave 3: the sum was divided by `len(values) - 1`. One line of stats.py changed;"
        f" the tests end with status {after.returncode} now (before: {before.returncode}).\n",
        encoding="utf-8",
    )
    (output / "risks.md").write_text(
        "Callers that made up for the wrong mean will be off now. An empty list still raises ZeroDivisionError.\n",
        encoding="utf-8",
    )


def review(output: Path, patch: str) -> None:
    """Read the patch that came as context, and judge it by what it changes."""
    changed = [line.split(" b/")[-1] for line in patch.splitlines() if line.startswith("diff --git ")]
    added = [line[1:] for line in patch.splitlines() if line.startswith("+") and not line.startswith("+++")]
    removed = [line[1:] for line in patch.splitlines() if line.startswith("-") and not line.startswith("---")]
    sound = changed == ["stats.py"] and any(FIX in line for line in added) and any(BUG in line for line in removed)
    verdict = "accept" if sound else "reject"
    print(f"read {len(patch)} characters of patch: {verdict}", flush=True)
    (output / "summary.md").write_text(
        f"Verdict: {verdict}. The patch changes {', '.join(changed) or 'nothing'}:"
        f" {len(added)} line added, {len(removed)} removed.\n",
        encoding="utf-8",
    )
    (output / "report.md").write_text(
        f"# Review\n\nVerdict: {verdict}\n\n1. `mean([])` still raises ZeroDivisionError; say so in its docstring.\n",
        encoding="utf-8",
    )


def _tests() -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-B", "-m", "unittest", "-q"], check=False)


def main() -> None:
    """Read the prompt, do the work of the agent that the worker says this is."""
    prompt = sys.stdin.read()
    agent, output = os.environ["AGENTQ_AGENT"], Path(os.environ["AGENTQ_OUTPUT"])
    print(f"scripted agent as {agent}: {len(prompt)} characters of prompt", flush=True)
    if agent == "review-worker":
        review(output, Path(os.environ["AGENTQ_CONTEXT"]).read_text(encoding="utf-8"))
    else:
        implement(output)


if __name__ == "__main__":
    main()
