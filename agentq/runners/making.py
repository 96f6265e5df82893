"""Which runner a profile's section stands for; each is imported when it is asked for."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from agentq.errors import Invalid
from agentq.profile import Profile
from agentq.runner import Runner
from agentq.runner_sections import AnySection, CommandSection, PythonSection, ToolSection

if TYPE_CHECKING:
    from agentq.runners.stream import Tool


def make_runners(profile: Profile) -> tuple[Runner, Runner | None]:
    """The profile's agent, and what runs its verify command, both of which are there.

    Raises Invalid when it names no agent, or one that is not installed.
    """
    agent, verify = make_runner(profile.runner, profile.folder), profile.evidence.verify
    agent.check()
    if not verify:
        return agent, None
    verifier = _command(CommandSection(command=verify, grace_seconds=profile.runner.grace_seconds), profile.folder)
    verifier.check()
    return agent, verifier


def make_runner(section: AnySection, folder: Path) -> Runner:
    """The runner of a profile in that folder; raises Invalid when its section names no agent."""
    if isinstance(section, CommandSection):
        return _command(section, folder)
    from agentq.runners.stream import StreamRunner

    grace = section.grace_seconds
    if isinstance(section, PythonSection):
        from agentq.runners.python import Python

        return StreamRunner(Python(section, folder), sys.executable, grace_seconds=grace)
    tool, program = _tool(section, section.kind), (section.command or (section.kind,))[0]
    return StreamRunner(tool, program, grace_seconds=grace, answer_seconds=section.answer_seconds)


def _command(section: CommandSection, folder: Path) -> Runner:
    from agentq.runners.command import CommandRunner

    if not section.command:
        raise Invalid(
            f"{folder}/worker.toml names no agent to run",
            hint="Set kind, or command = [...], under [runner], or give --runner (AGENTQ_RUNNER).",
        )
    return CommandRunner(section.command, prompt_via=section.prompt, grace_seconds=section.grace_seconds)


def _tool(section: ToolSection, kind: str) -> "Tool":
    """Each kind has a module of its name, with a class of its name."""
    tool: Tool = getattr(import_module(f"agentq.runners.{kind}"), kind.capitalize())(section)
    return tool
