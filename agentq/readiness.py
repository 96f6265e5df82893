"""Whether a worker could work here: each thing that it needs is looked at before any task is taken."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentq.adapters import make_folder
from agentq.errors import AgentqError, Invalid
from agentq.harmless import one_line
from agentq.papers import new_token
from agentq.profile import PASSED_ENVIRONMENT, Profile
from agentq.proof import prove
from agentq.runner import Job, Ran
from agentq.runner_sections import CommandSection, ToolSection
from agentq.runners.making import make_runner
from agentq.surroundings import credentials
from agentq.trust import of_worker
from agentq.workspace import open_workspace

if TYPE_CHECKING:
    from agentq.app import App

ANSWER_SECONDS = 120.0
"""How long an agent may take to say one word."""
LOGIN = {"claude": "auth", "codex": "login"}
"""Tools with a command whose `status` tells by its exit code, without asking a model, whether they are logged in."""

_TELLING_SECONDS = 20.0
_LITTLE_SECONDS = 2.0
_SLACK_SECONDS = 10.0
_PROMPT = "This only checks that you answer. Reply with the one word OK. Use no tools and change no files.\n"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: whether it is as it must be, None when that was not tried, and what there is."""

    name: str
    well: bool | None
    said: str
    hint: str = ""


class Untried(Exception):
    """What would tell was not asked; in words, with the next thing to do."""

    def __init__(self, said: str, hint: str = "") -> None:
        super().__init__(said)
        self.hint = hint


class Readiness:
    """Looks at what one worker needs; with `live` its agent is run twice, which may cost money."""

    def __init__(self, app: "App", profile: Profile, *, live: bool) -> None:
        self._app, self._profile, self._live = app, profile, live

    async def checks(self) -> AsyncIterator[Check]:
        """One after the other, each as soon as it is known; none is left out because of another."""
        looks: dict[str, Callable[[], Awaitable[str]]] = {
            "profile": self._profile_itself,
            "store": self._store,
            "engine": self._engine,
            "keys": self._keys,
            "workspace": self._workspace,
            "verify": self._verify,
            "agent": self._agent,
        }
        alive = {"answer": self._answer, "limits": self._limits}
        for name, look in (looks | (alive if self._live else {"login": self._login})).items():
            yield await self._check(name, look)

    async def _check(self, name: str, look: Callable[[], Awaitable[str]]) -> Check:
        try:
            return Check(name, True, await look())
        except Untried as reason:
            return Check(name, None, str(reason), reason.hint)
        except AgentqError as error:
            return Check(name, False, str(error), error.hint)

    # ------------------------------------------------------------------ around it

    async def _profile_itself(self) -> str:
        if not self._profile.prompt.strip():
            raise Invalid(f"{self._profile.folder}/prompt.md is missing or empty", hint="Write there what it does.")
        return str(self._profile.folder)

    async def _store(self) -> str:
        await asyncio.to_thread(prove, self._app.store)
        return self._app.store.url

    async def _engine(self) -> str:
        async with self._app.engine() as engine:
            await engine.ready(self._profile.agent)
            return f"{engine.url}, the queue of {self._profile.agent} is there"

    async def _keys(self) -> str:
        _, senders = of_worker(self._app.keyring, self._profile)
        holds = self._app.keyring.holds(self._profile.agent)
        return f"{'signs' if holds else 'signs nothing'}, runs {'only what is signed' if senders else 'everything'}"

    async def _workspace(self) -> str:
        section = self._profile.workspace
        if section.kind == "none":
            return "an empty folder for each attempt"
        if section.repository is None:
            if section.kind != "copy" and shutil.which("git") is None:
                raise Invalid("git is missing", hint="Install it.")
            raise Untried(f"{section.kind} of what each task names (submit --repo)")
        return await asyncio.to_thread(self._try_workspace, section.repository)

    def _try_workspace(self, repository: str) -> str:
        section = self._profile.workspace
        with self._folder() as folder:
            workspace = open_workspace(
                section.kind,
                folder=folder / "work",
                task_id=f"check-{folder.name}",
                attempt=1,
                repository=repository,
                base=section.base,
                cache=self._app.settings.data / "repositories",
            )
            workspace.remove()
        return f"{section.kind} of {repository}"

    async def _verify(self) -> str:
        command = self._profile.evidence.verify
        if not command:
            raise Untried("no verify command: what the agent says of its tests is not checked")
        make_runner(CommandSection(command=command), self._profile.folder).check()
        return shlex.join(command)

    # ------------------------------------------------------------------ the agent itself

    async def _agent(self) -> str:
        section = self._profile.runner
        make_runner(section, self._profile.folder).check()
        if not isinstance(section, ToolSection):
            return shlex.join(section.command) if isinstance(section, CommandSection) else section.kind
        done = await asyncio.to_thread(self._tell, "--version")
        if done.returncode:
            raise Invalid(f"{section.kind} --version fails: {_words(done)}", hint="Install it anew.")
        return f"{section.kind} {_words(done)}"

    async def _login(self) -> str:
        section, hint = self._profile.runner, "--live asks it a question; that may cost money"
        if not isinstance(section, ToolSection):
            raise Untried("it was not run", "--live runs it twice; that may cost money")
        make_runner(section, self._profile.folder).check()
        if section.kind not in LOGIN:
            raise Untried("only a question to it would tell", hint)
        done = await asyncio.to_thread(self._tell, LOGIN[section.kind], "status")
        if done.returncode == 0:
            return f"{section.kind} says that it is logged in"
        if section.kind == "codex" and self._has_own_provider():
            raise Untried("a key or a provider of its own is set, which codex does not look at", hint)
        login = "login" if LOGIN[section.kind] == "login" else f"{LOGIN[section.kind]} login"
        raise Invalid(f"{section.kind} is not logged in", hint=f"As its user: {section.kind} {login}, or set its key.")

    def _has_own_provider(self) -> bool:
        """Whether Codex may do without a login of its own."""
        environment = self._environment()
        home = Path(environment.get("CODEX_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".codex")
        config = home / "config.toml"
        return bool(environment.get("CODEX_API_KEY")) or (config.is_file() and "model_provider" in config.read_text())

    async def _answer(self) -> str:
        ran = await self._run(ANSWER_SECONDS, 1024 * 1024)
        if ran.ended != "done":
            hint = "Run it by hand as its user, then repeat." if ran.ended != "timed_out" else "Look at its network."
            raise Invalid(ran.reason or ran.ended, hint=hint)
        return f"answered after {ran.usage.seconds or 0:.1f} s"

    async def _limits(self) -> str:
        """Run it with hardly any time and no room for output: it has to be stopped, with all that it started."""
        ran = await self._run(_LITTLE_SECONDS, 1)
        longest = _LITTLE_SECONDS + self._profile.runner.grace_seconds + _SLACK_SECONDS
        if (ran.usage.seconds or 0) > longest:
            raise Invalid(f"it took {ran.usage.seconds:.0f} s to stop it", hint="Lower grace_seconds under [runner].")
        if not ran.proven:
            raise Invalid(
                "it was stopped, and something of it may still run", hint="Look with ps; only Linux can prove it."
            )
        return f"stopped after {ran.usage.seconds or 0:.1f} s, and nothing of it is left"

    async def _run(self, seconds: float, output_limit: int) -> Ran:
        with self._folder() as folder:
            token = new_token()
            for name in ("work", "output"):
                (folder / name).mkdir()
            own = {"TASK_ID": "check", "ATTEMPT": "1", "TOKEN": token, "OUTPUT": str(folder / "output")}
            job = Job(
                task_id="check",
                attempt=1,
                token=token,
                prompt=_PROMPT,
                workdir=folder / "work",
                output=folder / "output",
                transcript=folder / "transcript.log",
                environment=self._environment() | {f"AGENTQ_{name}": value for name, value in own.items()},
                timeout_seconds=seconds,
                output_limit=output_limit,
            )
            return await make_runner(self._profile.runner, self._profile.folder).run(job)

    def _tell(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What the tool prints about itself."""
        section = self._profile.runner
        assert isinstance(section, ToolSection)
        words = [*(section.command or (section.kind,)), *arguments]
        try:
            return subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TELLING_SECONDS,
                env=self._environment(),
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Invalid(f"{shlex.join(words)} does not run: {error}", hint="Run it by hand as its user.") from error

    def _environment(self) -> dict[str, str]:
        """What its agents find, but for what belongs to an attempt."""
        section = self._profile.environment
        names = (*PASSED_ENVIRONMENT, *section.let_through)
        passed = {name: os.environ[name] for name in names if name in os.environ}
        path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"
        return {**credentials(self._profile), **passed, **section.set, "PATH": path}

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder where attempts have theirs, for as long as it is used."""
        place = self._app.settings.data / "checks"
        make_folder(place)
        with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def _words(done: "subprocess.CompletedProcess[str]") -> str:
    """The last line of what a tool said of itself: warnings come before it."""
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return one_line(lines[-1]) if lines else "nothing"
