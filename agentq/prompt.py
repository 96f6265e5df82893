"""The prompt of an attempt: the profile's own text, then the task, what is expected, and what was tried before."""

from pathlib import Path
from string import Template

from agentq.config import Profile
from agentq.lifecycle import Papers, earlier_reasons


def render(profile: Profile, papers: Papers, attempt: int, context: Path | None, output: Path, workdir: Path) -> str:
    """The whole prompt. `$task_id`, `$type`, `$workdir`, `$output` and `$attempt` in prompt.md are filled in."""
    envelope = papers.envelope
    own = Template(profile.prompt).safe_substitute(
        task_id=envelope.task_id, type=envelope.type, workdir=workdir, output=output, attempt=attempt
    )
    expected = dict.fromkeys((*envelope.expected_output.artifacts, *profile.evidence.artifacts))
    sections = [
        own.strip(),
        f"# Task {envelope.task_id} ({envelope.type})\n\n{envelope.instructions.strip()}",
        _context(context),
        _expected(list(expected), output),
        _earlier(earlier_reasons(papers.earlier)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _context(context: Path | None) -> str:
    if context is None:
        return ""
    return f"# Context ({context})\n\n{context.read_text(encoding='utf-8', errors='replace').strip()}"


def _expected(names: list[str], output: Path) -> str:
    wanted = f" Expected: {', '.join(names)}." if names else ""
    return (
        f"# What to leave behind\n\nWrite your files to {output} (also in $AGENTQ_OUTPUT): report.md, and one file"
        f" named after each piece of evidence.{wanted} The worker itself makes `patch`, `test-output` (when it has"
        " a verify command) and `transcript`."
    )


def _earlier(reasons: list[str]) -> str:
    if not reasons:
        return ""
    lines = "\n".join(f"- {reason}" for reason in reasons)
    return f"# What was tried before\n\nThese attempts brought no accepted result; mend what they missed.\n\n{lines}"
