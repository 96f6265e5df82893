"""The agents that there are: whom a task may be for, and on what terms it is taken."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from agentq.config import Settings
from agentq.errors import Invalid
from agentq.messages import Envelope
from agentq.profile import Profile, profiles, written


class Agents:
    """Every agent that has a profile or is named in the settings; profiles are read when they are first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def profiles(self) -> Mapping[str, Profile]:
        """All worker profiles that can be found from here."""
        self._written = written(self._settings)
        return profiles(self._settings)

    def now(self) -> "Agents":
        """These, or others when a profile was written since these were read."""
        try:
            stand = "profiles" not in self.__dict__ or self._written == written(self._settings)
        except (Invalid, OSError):  # whoever asks for the profiles is told
            stand = False
        return self if stand else Agents(self._settings)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The agents' names, in order."""
        return tuple(sorted({*self.profiles, *self._settings.agents}))

    def check_target(self, agent: str, task_type: str) -> None:
        """Raise Invalid for an agent that nobody is, or a type that its profile does not take."""
        if agent not in self.names:
            raise Invalid(
                f"there is no agent {agent}",
                hint=f"Known: {', '.join(self.names)}. Others are named in agents = [...] of agentq.toml.",
            )
        profile = self.profiles.get(agent)
        if profile and profile.types and task_type not in profile.types:
            raise Invalid(
                f"{agent} takes no tasks of type {task_type}",
                hint=f"It takes: {', '.join(profile.types)}.",
            )

    def with_approvals(self, request: Envelope) -> Envelope:
        """The request asks for an approval where the profile of its agent takes the type for irreversible."""
        if request.is_group:
            return request.model_copy(update={"plan": tuple(map(self.with_approvals, request.plan))})
        profile = self.profiles.get(request.to)
        demands = profile is not None and request.type in profile.irreversible
        return request.model_copy(update={"requires_approval": True}) if demands else request

    def profile_to_pull(self, agent: str) -> Profile:
        """The terms on which somebody may pull as that agent, its profile if it has one; raises Invalid."""
        profile = self.profiles.get(agent)
        if profile is None and (self._settings.require_profiles or agent not in self.names):
            known = self.profiles if self._settings.require_profiles else self.names
            raise Invalid(
                f"there is no {'profile for' if self._settings.require_profiles else 'agent'} {agent}",
                hint=f"Known: {', '.join(sorted(known))}. See agents and require_profiles in agentq.toml.",
            )
        return profile or Profile(agent=agent, folder=Path(), prompt="")
