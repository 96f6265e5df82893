"""A new worker's profile, drawn from one that comes with agentq."""

import json
import re
from pathlib import Path

from agentq.errors import Conflict, Invalid
from agentq.profile import PROFILE_NAME, Profile, built_in, load_profile
from agentq.runner_sections import CommandSection

_AGENT = re.compile(r"^agent = .*$", re.MULTILINE)
_KIND = re.compile(r"^kind = .*$", re.MULTILINE)
_FIRST_LINE = re.compile(r"\A#.*$", re.MULTILINE)


def models() -> dict[str, Path]:
    """The profiles to draw from, by the names of their folders."""
    return {path.parent.name: path.parent for path in sorted(built_in().glob(f"*/{PROFILE_NAME}"))}


def write_profile(folder: Path, agent: str, model: str, runner: tuple[str, ...] = ()) -> Profile:
    """Write the profile of an agent to a new folder and answer it as it loads.

    Raises Invalid for a model that does not exist or a folder that cannot be made, Conflict for one that exists.
    """
    if model not in models():
        raise Invalid(f"there is no profile {model} to draw from", hint=f"There are: {', '.join(models())}.")
    source = load_profile(models()[model])
    text = _drawn((models()[model] / PROFILE_NAME).read_text(encoding="utf-8"), agent, source.run_by(runner), runner)
    try:
        folder.mkdir(parents=True)
        (folder / PROFILE_NAME).write_text(text, encoding="utf-8")
        (folder / "prompt.md").write_text(source.prompt, encoding="utf-8")
    except FileExistsError as error:
        raise Conflict(f"{folder} exists", hint="Change what is in it, or choose another name or --folder.") from error
    except OSError as error:
        raise Invalid(f"{folder} cannot be written: {error.strerror}", hint="Choose another --folder.") from error
    return load_profile(folder)


def _drawn(text: str, agent: str, profile: Profile, runner: tuple[str, ...]) -> str:
    text = _FIRST_LINE.sub(f"# {agent}: say here what it is for.", text, count=1)
    text = _AGENT.sub(f"agent = {json.dumps(agent)}", text, count=1)
    return _KIND.sub(lambda _: _runner(profile), text, count=1) if runner else text


def _runner(profile: Profile) -> str:
    """The lines that say who runs; the rest of the section holds for every kind."""
    section = profile.runner
    if isinstance(section, CommandSection):
        return f'kind = "command"\ncommand = {json.dumps(section.command, ensure_ascii=False)}'
    return f"kind = {json.dumps(section.kind)}"
