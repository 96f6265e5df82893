"""Who does the work in the demo: the scripted agent, or a tool of the user's own."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from agentq.errors import Invalid
from agentq.profile import built_in
from agentq.runner_sections import SECTIONS, ToolSection

TOOLS = tuple(kind for kind, section in SECTIONS.items() if issubclass(section, ToolSection))
"""The tools that may be named."""

_VERIFY = json.dumps([sys.executable, "-B", "-m", "unittest"])
_IMPLEMENTATION = """agent = "implementation-worker"
types = ["implementation"]

[runner]
{runner}

[workspace]
kind = "git-worktree"

[evidence]
artifacts = ["summary", "patch", "test-output", "risks"]
verify = {verify}

[limits]
timeout_seconds = {seconds}
"""
_REVIEW = """agent = "review-worker"
types = ["review"]

[runner]
{runner}

[evidence]
artifacts = ["summary"]

[limits]
timeout_seconds = {seconds}
"""


@dataclass(frozen=True, slots=True)
class Cast:
    """What the two workers run: a `tool` or None for the scripted agent, what is said of it before anything begins,
    each worker's prompt by its folder's name, and the seconds in which it has done a task."""

    tool: str | None
    opening: str
    runner: str
    prompts: Mapping[str, str]
    seconds: int

    def profiles(self) -> Mapping[str, str]:
        """Each worker's `worker.toml`, by its folder's name."""
        filled = {"runner": self.runner, "verify": _VERIFY, "seconds": self.seconds}
        return {"implementation": _IMPLEMENTATION.format(**filled), "review": _REVIEW.format(**filled)}


def scripted() -> Cast:
    """No model and no key."""
    names = ("implementation", "review")
    return Cast(
        tool=None,
        opening="two workers with a SCRIPTED agent (no model, no key)",
        runner=f"command = {json.dumps([sys.executable, '-m', 'agentq.demo.agent'])}",
        prompts={name: f"You are the {name} worker of the demo.\n" for name in names},
        seconds=60,
    )


def played_by(tool: str) -> Cast:
    """A tool as its user is logged in to it, with the prompts of the workers that come along.

    Raises Invalid for what is none of TOOLS.
    """
    if tool not in TOOLS:
        raise Invalid(f"the demo knows no agent {tool!r}", hint=f"It knows {', '.join(TOOLS)}.")
    names = ("implementation", "review")
    return Cast(
        tool=tool,
        opening=f"two workers that run YOUR {tool}: this costs money with its provider, as any use of it does",
        runner=f"kind = {json.dumps(tool)}",
        prompts={name: (built_in() / name / "prompt.md").read_text(encoding="utf-8") for name in names},
        seconds=900,
    )
