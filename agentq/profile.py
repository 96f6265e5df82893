"""Worker profiles: folders with `worker.toml` and `prompt.md`, each of which is a worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from agentq.config import Settings
from agentq.errors import Invalid, NotFound
from agentq.messages import LONGEST_SECONDS, Name, Seconds
from agentq.runner_sections import CommandSection, RunnerSection, as_written, section_for
from agentq.tomlfile import Section, place_of, text_of, validated, values_of

PROFILE_NAME, PROMPT_NAME = "worker.toml", "prompt.md"
PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "USER", "SHELL", "TZ", "SSL_CERT_FILE")


class WorkspaceSection(Section):
    """Where the agent works; a task's labels `repo` and `base` hold over these. `repository` is a path or a URL; with
    `keep`, what an attempt leaves stays on this machine."""

    kind: Literal["none", "git-worktree", "copy", "read-only"] = "none"
    repository: str | None = None
    base: str | None = None
    keep: bool = False


class EvidenceSection(Section):
    """What an attempt must bring beside what the task asks for, and the command that proves it."""

    artifacts: tuple[Name, ...] = ()
    verify: tuple[str, ...] = ()
    verify_seconds: Seconds = 900.0


class LimitsSection(Section):
    """How long, how much and how many at once. Times are seconds; `attempt_bytes` bounds all that an attempt leaves,
    `live_bytes` what of its output goes into the log, `max_cost_usd` and `max_tokens` all attempts of a task.
    `away_seconds` is how long the line to a gateway may be cut before a running attempt is taken over."""

    timeout_seconds: Seconds = 7200.0
    silence_seconds: Seconds | None = None
    max_cost_usd: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    output_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    artifact_bytes: Annotated[int, Field(gt=0)] = 1024**3
    attempt_bytes: Annotated[int, Field(gt=0)] = 4 * 1024**3
    live_bytes: Annotated[int, Field(ge=0)] = 8 * 1024 * 1024
    live_bytes_per_second: Annotated[int, Field(ge=0)] = 64 * 1024
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    drain_seconds: Seconds | None = None
    lease_seconds: Seconds = 20.0
    renew_seconds: Seconds = 5.0
    away_seconds: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)] = 90.0
    sweep_seconds: Seconds = 30.0
    look_seconds: Seconds = 0.5
    heartbeat_seconds: Seconds = 10.0

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease_seconds < 2 * self.renew_seconds:
            raise ValueError("lease_seconds must be at least twice renew_seconds")
        return self


class RetrySection(Section):
    """How often a task is tried, and how long it waits between attempts."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    delay_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    longest_seconds: Seconds = 600.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.2


class EnvironmentSection(Section):
    """What of the daemon's environment reaches the agent, beside `AGENTQ_*` of its attempt."""

    let_through: tuple[str, ...] = ()
    set: dict[str, str] = Field(default_factory=dict)


class SignaturesSection(Section):
    """Whose tasks are run: with `required` only signed ones, of the keys' names in `from` for the types named there."""

    model_config = ConfigDict(populate_by_name=True)

    required: bool = False
    from_: dict[Name, tuple[Name | Literal["*"], ...]] = Field(default_factory=dict, alias="from")

    @model_validator(mode="after")
    def _says_both(self) -> Self:
        if self.from_ and not self.required:
            raise ValueError("`from` says whose tasks are run, but not that only those are: add required = true")
        if self.required and not any(self.from_.values()):
            raise ValueError('signatures are required, but of nobody: add a line such as from.coordinator = ["*"]')
        return self


class Profile(Section):
    """A worker: a folder with `worker.toml` and `prompt.md`."""

    agent: Name
    types: tuple[Name, ...] = ()
    irreversible: tuple[Name, ...] = ()
    runner: RunnerSection = CommandSection()
    workspace: WorkspaceSection = WorkspaceSection()
    evidence: EvidenceSection = EvidenceSection()
    limits: LimitsSection = LimitsSection()
    retry: RetrySection = RetrySection()
    environment: EnvironmentSection = EnvironmentSection()
    signatures: SignaturesSection = SignaturesSection()
    folder: Path
    prompt: str

    def keeping(self) -> "Profile":
        """The same worker, which leaves what its attempts leave on the machine."""
        return self.model_copy(update={"workspace": self.workspace.model_copy(update={"keep": True})})

    def far_away(self) -> "Profile":
        """The same worker over a gateway: cut off is not dead, so its leases are as much longer as it may be away."""
        lease = self.limits.lease_seconds + self.limits.away_seconds
        return self.model_copy(update={"limits": self.limits.model_copy(update={"lease_seconds": lease})})

    def run_by(self, words: tuple[str, ...]) -> "Profile":
        """The same worker with another agent, as `--runner` says: a kind by its name, or a command; as it is without
        words. Raises Invalid.
        """
        return self.model_copy(update={"runner": section_for(words, self.runner)}) if words else self


def profiles(settings: Settings, cwd: Path | None = None) -> dict[str, Profile]:
    """All worker profiles by agent, the nearest folder first: current folder, settings, built-in."""
    found: dict[str, Profile] = {}
    for folder in _profile_folders(settings, cwd or Path.cwd()):
        profile = load_profile(folder)
        found.setdefault(profile.agent, profile)
    return found


def written(settings: Settings, cwd: Path | None = None) -> tuple[tuple[Path, int, int], ...]:
    """What the profiles' files are like, and differs once one of them was written: path, time and size."""
    folders = _profile_folders(settings, cwd or Path.cwd())
    files = [folder / name for folder in folders for name in (PROFILE_NAME, PROMPT_NAME)]
    stats = [(path, path.stat()) for path in files if path.is_file()]
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def find_profile(name: str, settings: Settings, cwd: Path | None = None) -> Profile:
    """The profile of an agent; raises NotFound with those that exist."""
    found = profiles(settings, cwd)
    if name not in found:
        raise NotFound(
            f"there is no worker profile for {name}",
            hint=f"Known: {', '.join(sorted(found))}. A profile is workers/<name>/ with {PROFILE_NAME} and prompt.md.",
        )
    return found[name]


def load_profile(folder: Path) -> Profile:
    """Read a worker's folder; raises Invalid with the file, line and key that cannot be used."""
    path = folder / PROFILE_NAME
    text, prompt = text_of(path), folder / PROMPT_NAME
    values = values_of(text, path) | {"folder": folder, "prompt": text_of(prompt) if prompt.is_file() else ""}
    return validated(Profile, values, lambda keys: place_of(path, text, as_written(keys)))


def built_in() -> Path:
    """The folder of the profiles that come with agentq: in the installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    return packaged if (packaged := here / "profiles").is_dir() else here.parent / "workers"


def _profile_folders(settings: Settings, cwd: Path) -> Iterator[Path]:
    if settings.workers and not settings.workers.is_dir():
        raise Invalid(f"workers is {settings.workers}, which is no folder", hint="Correct or remove that setting.")
    for root in dict.fromkeys((cwd / "workers", settings.workers, built_in())):
        if root and root.is_dir():
            yield from sorted(path.parent for path in root.glob(f"*/{PROFILE_NAME}"))
