"""The tools: what each of them does at the desk, answered as text for a model."""

import contextlib
import logging
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentq.agents import Agents
from agentq.asking import Asked, Words, request_for
from agentq.desk import Desk
from agentq.errors import AgentqError, Invalid, NothingYet
from agentq.harmless import one_line, quoted
from agentq.integrations.mcp import arguments
from agentq.integrations.mcp.arguments import checked
from agentq.integrations.mcp.reading import report
from agentq.integrations.mcp.waiting import Progress, Waited, wait
from agentq.integrations.mcp.words import BARS, PERSON, for_tools, shell, told
from agentq.messages import Completion
from agentq.standing import ago, fields, line, outcome

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.context import Context
    from agentq.coordinator import Registered
    from agentq.lifecycle import Status
    from agentq.messages import Envelope

log = logging.getLogger("agentq")

INBOX_SHOWN = 20
MEMBERS_SHOWN = 30
SUMMARY_SHOWN = 300
"""Characters of a summary that the inbox shows."""
TYPES_SHOWN = 600
"""Characters of the list of agents and types in a description."""
_WORDS = Words(
    name=lambda part: "id" if part == "task_id" else part,
    give_something="Say what: instructions, context or context_file.",
    see="Correct it and call submit again: nothing was written.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered."""

    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as a client is told of it; what it does is the method of the toolbox that has its name."""

    name: str
    about: str
    takes: type[arguments.Arguments]
    reads: bool = False
    destroys: bool = False
    repeats: bool = True


TOOLS = (
    Tool(
        "submit",
        "Queue one task for a background agent; answers its id at once. With your own id a repeat is harmless."
        ' Example: {{"to": "implementation-worker", "type": "implementation", "id": "fix-17", "repo": ".",'
        ' "instructions": "Fix the parser, run the tests.", "expect": ["patch"]}}. Agents and their types: {agents}',
        arguments.Submit,
        repeats=False,
    ),
    Tool(
        "plan",
        'Queue tasks that wait for each other, as one with one result. Example: plan = "plan: report\\ndefaults:'
        " {{to: review-worker, type: research}}\\ntasks:\\n  cost: {{instructions: Find the costs.}}\\n  sum:"
        ' {{needs: [cost], instructions: Sum it up.}}"',
        arguments.Plan,
        repeats=False,
    ),
    Tool("status", 'Where tasks stand now. Example: {{"ids": ["fix-17"]}}', arguments.Several, reads=True),
    Tool(
        "wait",
        "Wait until all of the tasks have ended; one call instead of many. Not ended in time: work on, or call again."
        ' Example: {{"ids": ["fix-17", "docs-3"], "seconds": 300}}',
        arguments.Wait,
        reads=True,
    ),
    Tool(
        "result",
        "What a task came to: outcome, report cut to max_tokens, evidence. Check the evidence before you believe the"
        ' report. Example: {{"id": "fix-17"}}',
        arguments.Result,
        reads=True,
    ),
    Tool(
        "inbox",
        'Your tasks that ended and that you have not read. Example: {{"acknowledge": ["fix-17"]}}',
        arguments.Inbox,
    ),
    Tool(
        "cancel",
        'Cancel a task or a whole plan; what runs is stopped. Example: {{"id": "fix-17", "reason": "not needed"}}',
        arguments.Cancel,
        destroys=True,
    ),
    Tool("why", 'Why a task does not move, and what to do. Example: {{"id": "fix-17"}}', arguments.One, reads=True),
    Tool("list", 'Find tasks, newest first. Example: {{"state": ["open"]}}', arguments.List, reads=True),
)


class Toolbox:
    """All tools over one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @cached_property
    def _by_name(self) -> Mapping[str, Tool]:
        return {tool.name: tool for tool in TOOLS}

    # ------------------------------------------------------------------ telling

    def agents(self) -> Agents:
        """The agents that there are now."""
        return self._desk.agents()

    def about(self, tool: Tool, agents: Agents) -> str:
        """A tool's description."""
        return tool.about.format(agents=_types_of(agents))

    def schema(self, tool: Tool, agents: Agents) -> dict[str, Any]:
        """The schema of a tool's arguments; whom a task may be for is a closed list."""
        schema = arguments.schema_of(tool.takes)
        if tool.takes is arguments.Submit and agents.names:
            schema["properties"]["to"] = {"type": "string", "enum": list(agents.names)}
        return schema

    # ------------------------------------------------------------------ calling

    async def call(self, name: str, given: dict[str, Any] | None, progress: Progress) -> Answer:
        """What a call is answered; whatever is wrong with it is told as an error of the tool."""
        try:
            tool = self._by_name.get(name)
            if tool is None:
                raise Invalid(
                    f"there is no tool {one_line(name)[:64]!r}", hint=f"There are: {', '.join(self._by_name)}."
                )
            asked = arguments.read(tool.takes, name, given)
            act: Callable[[Any, Progress], Awaitable[Answer]] = getattr(self, f"_{name}")
            return await act(asked, progress)
        except AgentqError as error:
            return Answer(told(error), is_error=True)
        except Exception as error:
            log.exception("the tool %s ended by a bug", one_line(name)[:64])
            said = f"this is a bug in agentq: {type(error).__name__}: {one_line(str(error))[:300]}"
            return Answer(f"{said}\n→ Try another way, and tell your user; the server's log has more.", is_error=True)

    async def _submit(self, asked: arguments.Submit, _: Progress) -> Answer:
        desk = self._desk

        def prepare(app: "App") -> "tuple[Envelope, dict[str, bytes]]":
            context = _context(app, asked.context, asked.context_file)
            request = _asked(asked)
            return request_for(request, context, coordinator=app.settings.coordinator, store=app.store, words=_WORDS)

        request, contexts = await desk.call(prepare)
        if request.is_group:
            registered = await desk.submit_plan(request, contexts)
        else:
            registered = await desk.submit(request, contexts.get(request.task_id))
        return Answer(_registered(registered))

    async def _plan(self, asked: arguments.Plan, _: Progress) -> Answer:
        from agentq.plans import Planned, read_plan

        def prepare(app: "App") -> Planned:
            return read_plan(
                app.store,
                asked.plan.encode(errors="replace"),
                allow_secrets=False,
                coordinator=app.settings.coordinator,
                check_target=app.agents.check_target,
                plan_id=None if asked.id is None else checked(asked.id),
                called="plan",
            )

        planned = await self._desk.call(prepare)
        return Answer(_registered(await self._desk.submit_plan(planned.request, planned.contexts)))

    async def _status(self, asked: arguments.Several, _: Progress) -> Answer:
        ids = [checked(one) for one in asked.ids]
        return Answer(await self._desk.call(lambda app: "\n".join(_stands(app, one) for one in ids)))

    async def _wait(self, asked: arguments.Wait, progress: Progress) -> Answer:
        return Answer(await wait(self._desk, Waited.of(asked), asked.seconds, progress))

    async def _result(self, asked: arguments.Result, _: Progress) -> Answer:
        task_id = checked(asked.id)

        def read(app: "App") -> str:
            manifest = app.coordinator.result(task_id)
            app.tracing.received([manifest])
            return report(app, manifest, asked.max_tokens)

        try:
            return Answer(await self._desk.call(read))
        except NothingYet as error:
            return Answer(told(error))

    async def _inbox(self, asked: arguments.Inbox, _: Progress) -> Answer:
        ids = [checked(one) for one in asked.acknowledge]
        return Answer(await self._desk.call(lambda app: _read_inbox(app, ids)))

    async def _cancel(self, asked: arguments.Cancel, _: Progress) -> Answer:
        task_id = checked(asked.id)

        def cancel(app: "App") -> str:
            manifest = app.hands.cancel(task_id, app.settings.coordinator, asked.reason)
            if manifest is None:
                return f"{task_id} is being stopped by its worker\n→ To block until it is: the tool wait with {task_id}"
            return f"{task_id} cancelled"

        return Answer(await self._desk.call(cancel))

    async def _why(self, asked: arguments.One, _: Progress) -> Answer:
        task_id = checked(asked.id)
        found = await self._desk.call(lambda app: app.why(task_id))
        waits = "agentq approve" in found.next
        said = [f"{task_id} {found.state}, because {BARS}", quoted(one_line(for_tools(found.reason)))]
        said += [f"→ {for_tools(shell(found.next))}"] if found.next else []
        return Answer("\n".join([*said, PERSON] if waits else said))

    async def _list(self, asked: arguments.List, _: Progress) -> Answer:
        return Answer(await self._desk.call(lambda app: _found(app, asked)))


def _types_of(agents: Agents) -> str:
    if not agents.names:
        return "none are known here; a person sets some up (agentq worker new)"
    profiles = agents.profiles
    told = [
        f"{name} ({', '.join(profiles[name].types)})" if name in profiles and profiles[name].types else name
        for name in agents.names
    ]
    whole = "; ".join(told)
    return whole if len(whole) <= TYPES_SHOWN else f"{whole[:TYPES_SHOWN]}…"


def _asked(asked: arguments.Submit) -> Asked:
    given = asked.model_dump(exclude={"id", "context", "context_file"})
    for task_id in (asked.id, *asked.after):
        if task_id is not None:
            checked(task_id)
    return Asked(task_id=asked.id, **given)


def _context(app: "App", text: str | None, path: str | None) -> "Context | None":
    from agentq.context import Context, check_text, read_context

    if text is not None and path is not None:
        raise Invalid("context and context_file are two contexts", hint="Give one of them.")
    if text is not None:
        return Context(check_text(text.encode(errors="replace"), "context"))
    if path is None:
        return None
    file = Path(path)
    with contextlib.suppress(RuntimeError):  # nobody has that home
        file = file.expanduser()
    if "\0" in path or _is_special(file):
        raise Invalid("context_file names no file", hint="Give the path of a text file.")
    return read_context(app.store, file)


def _is_special(file: Path) -> bool:
    """Whether it is there and no plain file: a pipe would hold this server up for ever."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def _registered(registered: "Registered") -> str:
    envelope = registered.envelope
    said = [f"{envelope.task_id} {'is queued' if registered.new else 'was queued before, with the same content'}"]
    if envelope.plan:
        names = [task.task_id for task in envelope.plan]
        more = f" and {len(names) - MEMBERS_SHOWN} more" if len(names) > MEMBERS_SHOWN else ""
        said.append(f"its tasks: {', '.join(names[:MEMBERS_SHOWN])}{more}")
    if any(task.requires_approval for task in envelope.plan or (envelope,)):
        said.append(f"it waits for an approval. {PERSON}")
    return "\n".join([*said, f"→ the tool wait with {envelope.task_id}, then result"])


def _stands(app: "App", task_id: str) -> str:
    status = app.coordinator.status(task_id)
    members = app.coordinator.members(task_id)[:MEMBERS_SHOWN] if status.tasks else []
    found = [status, *(app.coordinator.status(one) for one in members)]
    said = [f"{'' if one is status else '  '}{where}" for one in found for where in _where(one)]
    if any(one.reason for one in found):
        said.append(BARS)
    if any(one.waits_for == "approval" for one in found):
        said.append(PERSON)
    return "\n".join(said)


def _where(status: "Status") -> list[str]:
    """A status in lines; its reason may be an agent's words."""
    head = line(status.model_copy(update={"reason": None}))
    return [head, quoted(one_line(status.reason))] if status.reason else [head]


def _acknowledge(app: "App", name: str, ids: list[str]) -> list[str]:
    """Mark as read what has ended, also what is not in the inbox yet: a wait may be quicker than that."""
    ended = [manifest for one in ids if (manifest := app.records.manifest(one))]
    for manifest in ended:
        app.coordinator.acknowledge(name, manifest.task_id)
    app.tracing.received(ended)
    done = [manifest.task_id for manifest in ended]
    left = [one for one in ids if one not in done]
    return [
        *([f"acknowledged: {', '.join(done)}"] if done else []),
        *([f"not acknowledged, no such task has ended: {', '.join(left)}"] if left else []),
    ]


def _read_inbox(app: "App", ids: list[str]) -> str:
    name = app.settings.coordinator
    said = _acknowledge(app, name, ids) if ids else []
    unread = list(app.coordinator.inbox(name))
    shown = unread[:INBOX_SHOWN]
    said += [f"unread by {name}, oldest first {BARS}:"] if shown else [f"nothing unread for {name}"]
    said += [_completion(manifest) for manifest in shown]
    if len(unread) > len(shown):
        said.append(f"and {len(unread) - len(shown)} more: acknowledge these to see them")
    return "\n".join(said)


def _completion(manifest: Completion) -> str:
    text = one_line((manifest.status != "completed" and manifest.reason) or manifest.summary)[:SUMMARY_SHOWN]
    head = f"{manifest.task_id} {outcome(manifest)} {ago(manifest.finished_at)}"
    return f"{head}\n{quoted(text)}" if text else head


def _found(app: "App", asked: arguments.List) -> str:
    from agentq.ledger import Filter

    said: list[str] = []
    filters = Filter(
        states=tuple(word for words in asked.state for word in words.split(",")),
        agent=asked.agent,
        group=asked.plan,
        labels=tuple(asked.label),
        text=asked.text,
    )
    ledger = app.caught_up_ledger(said.append)
    try:
        found = ledger.tasks(filters, asked.limit + 1, None if asked.before is None else checked(asked.before))
    finally:
        ledger.close()
    if found:
        said.append(f"id, state, agent, age, what {BARS}:")
    for task_id, state, agent, age, about in map(fields, found[: asked.limit]):
        said.append(f"{task_id} {state} {agent} {age} {quoted(about)}")
    if len(found) > asked.limit:
        said.append(f"there are more: before = {found[asked.limit - 1].task_id}")
    return "\n".join(said if found else [*said, "no such tasks"])
