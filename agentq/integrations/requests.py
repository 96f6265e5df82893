"""What a chat asks for, made into tasks: roles, labels, limits, and jobs of other tenants that do not exist for it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from agentq.agents import Agents
from agentq.app import App
from agentq.errors import Invalid
from agentq.integrations.jobs import SILENT, Bounds, Options, Task, Where, unknown
from agentq.integrations.threads import NOTICE, TENANT
from agentq.messages import Envelope, Priority, Review, explain, is_key, shorten
from agentq.request import budget_of, is_url

INPUT_BYTES = 32 * 1024
TYPE = "task"
"""The type of a task for a role that takes any."""
_NOWHERE = "This conversation has no thread id, so nobody could be told."
_LABEL_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be registered, with its contexts, and the tasks that count as open jobs of the thread."""

    envelope: Envelope
    contexts: Mapping[str, bytes] = field(default_factory=dict)
    counted: tuple[str, ...] = ()


def visible(app: App, where: Where, job_id: str) -> Envelope | None:
    """A job as registered; None for an unknown one, and for one of another tenant."""
    envelope = app.records.envelope(job_id) if is_key(job_id, 128) else None
    return envelope if envelope and envelope.labels.get(TENANT) == where.tenant else None


@dataclass(frozen=True, slots=True)
class Requests:
    """Makes requests of what a model says; raises Invalid, and NotFound for jobs that are not there for it."""

    coordinator: str
    roles: tuple[str, ...] | None
    mode: str
    modes: tuple[str, ...]
    priority: Priority

    # ------------------------------------------------------------------ roles

    def known(self, agents: Agents) -> dict[str, tuple[str, ...]]:
        """The roles that there are, and the types of each, the usual one first; none for any type."""
        names = agents.names if self.roles is None else self.roles
        return {name: _types(agents, name) for name in names}

    def _target(self, agents: Agents, role: str, kind: str | None) -> dict[str, str]:
        known = self.known(agents)
        if role not in known:
            raise Invalid(f"there is no role {shorten(role, 64)}", hint=f"Known: {', '.join(known)}.")
        kind = kind or next(iter(known[role]), TYPE)
        agents.check_target(role, kind)
        return {"to": role, "type": kind}

    # ------------------------------------------------------------------ one job

    def single(self, app: App, where: Where, role: str, text: str, options: Options) -> Request:
        """The request for one job, of a review loop its group."""
        check_where(where)
        mode = self._mode(options)
        values = {
            **self._target(app.agents, role, options.type),
            "task_id": where.job_id,
            "from": self.coordinator,
            "priority": self.priority,
            "reply_to": self._reply_to(mode),
            "instructions": _bounded(text),
            "expected_output": {"artifacts": options.expect},
            "depends_on": self._needs(app, where, options.after),
            "budget": budget_of(options.max_cost_usd, options.max_tokens),
            "labels": self._labels(where, mode) | _repository(options),
            **{name: getattr(options, name) for name in ("timeout_seconds", "ttl_seconds", "delay_seconds")},
        }
        try:
            envelope = Envelope.model_validate(values)
            return self._loop(app, envelope, options) if options.review_by else self._plain(envelope, options)
        except ValidationError as error:
            raise Invalid(explain(error), hint="Correct that.") from error

    def _plain(self, envelope: Envelope, options: Options) -> Request:
        if options.rounds is not None:
            raise Invalid("rounds is about reviews, and nobody reviews", hint="Name a role in review_by.")
        return Request(envelope, counted=(envelope.task_id,))

    def _loop(self, app: App, envelope: Envelope, options: Options) -> Request:
        from agentq.loops import unrolled

        assert options.review_by
        types = self.known(app.agents).get(options.review_by, ())
        kind = "review" if not types or "review" in types else types[0]
        self._target(app.agents, options.review_by, kind)
        review = (
            Review(by=options.review_by)
            if options.rounds is None
            else Review(by=options.review_by, rounds=options.rounds)
        )
        group, contexts = unrolled(envelope, review, kind, None, app.store.ref)
        return Request(group, contexts, (group.task_id,))

    # ------------------------------------------------------------------ a plan

    def plan(self, app: App, where: Where, tasks: Sequence[Task], bounds: Bounds) -> Request:
        """The request for a plan; all that is wrong with it is told together."""
        from agentq.plans import read_plan

        check_where(where)
        if not tasks:
            raise Invalid("the plan has no tasks", hint="Give each a name, a role and an input_summary.")
        mode, names = self._mode(bounds), {task.name for task in tasks}
        said = {
            "plan": where.job_id,
            "description": shorten(f"A plan of a chat: {', '.join(task.name for task in tasks)}", _LABEL_SHOWN),
            "labels": self._labels(where, mode),
            "defaults": {"labels": where.labels(), "priority": self.priority},
            "tasks": [self._task(app, where, task, names) for task in tasks],
        }
        if budget := budget_of(bounds.max_cost_usd, bounds.max_tokens):
            said["budget"] = {name: str(value) for name, value in budget.items()}
        source = json.dumps(said).replace("\x7f", "\\u007f").encode()  # YAML has no bare DEL
        try:
            planned = read_plan(
                app.store,
                source,
                coordinator=self.coordinator,
                check_target=app.agents.check_target,
                plan_id=where.job_id,
            )
        except Invalid as error:
            raise Invalid(re.sub(r"(standard input)?,? ?\bline \d+,? ?", "", str(error)).lstrip(" :")) from error
        envelope = planned.request.model_copy(update={"reply_to": self._reply_to(mode)})
        return Request(envelope, planned.contexts, tuple(task.task_id for task in envelope.plan))

    def _task(self, app: App, where: Where, task: Task, names: set[str]) -> dict[str, Any]:
        jobs = [one for one in task.after if one not in names]
        self._needs(app, where, jobs)
        return {
            "name": task.name,
            **self._target(app.agents, task.role, task.type),
            "instructions": _bounded(task.input_summary),
            "needs": [one for one in task.after if one in names],
            "after": jobs,
            "expect": list(task.expect),
        }

    # ------------------------------------------------------------------ what all of them share

    def _mode(self, bounds: Bounds) -> str:
        mode = bounds.notice or self.mode
        if mode not in self.modes:
            raise Invalid(f"notice cannot be {shorten(mode, 40)!r} here", hint=f"One of: {', '.join(self.modes)}.")
        return mode

    def _reply_to(self, mode: str) -> str | None:
        return None if mode == SILENT else f"results.{self.coordinator}"

    def _labels(self, where: Where, mode: str) -> dict[str, str]:
        told = {} if mode == SILENT else {NOTICE: mode}
        call = {"tool_call": shorten(where.tool_call, _LABEL_SHOWN)} if where.tool_call else {}
        return where.labels() | told | call

    def _needs(self, app: App, where: Where, job_ids: Sequence[str]) -> tuple[str, ...]:
        for job_id in job_ids:
            if visible(app, where, job_id) is None:
                raise unknown(job_id)
        return tuple(dict.fromkeys(job_ids))


def check_where(where: Where) -> None:
    """Raise Invalid for a chat without a thread, or one whose name is no name."""
    if not where.thread.strip():
        raise Invalid(_NOWHERE, hint="Whoever runs this chat must set one: configurable.thread_id.")
    if where.tenant is not None and not where.tenant.strip():
        raise Invalid("the tenant of this conversation is empty", hint="Whoever runs this chat must name it.")
    for what, text in (("thread id", where.thread), ("tenant", where.tenant)):
        if text is not None and len(text) > 512:
            raise Invalid(f"the {what} of this conversation is longer than 512 characters", hint="Use a shorter one.")


def _types(agents: Agents, role: str) -> tuple[str, ...]:
    """The types that a role takes, those first that need nobody's approval."""
    profile = agents.profiles.get(role)
    if profile is None:
        return ()
    return tuple(sorted(profile.types, key=lambda kind: kind in profile.irreversible))


def _bounded(text: str) -> str:
    size = len(text.encode(errors="surrogatepass"))
    if size > INPUT_BYTES:
        raise Invalid(
            f"input_summary has {size} bytes, {INPUT_BYTES} is the limit",
            hint="Say where the role finds the rest, or make several jobs.",
        )
    return text


def _repository(options: Options) -> dict[str, str]:
    repo = options.repo
    if repo is not None and not is_url(repo) and not PurePath(repo).is_absolute():
        raise Invalid("repo is neither a URL nor an absolute path", hint="Name the repository so, or leave it out.")
    return {name: value for name, value in (("repo", repo), ("base", options.base)) if value is not None}
