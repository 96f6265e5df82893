"""`agentq thread`: threads, in which people and agents write to each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import (
    AllowSecrets,
    AsJson,
    Broker,
    Store,
    ago,
    checked_id,
    checked_name,
    command,
    echo,
    echo_json,
    one_line,
    quoted,
    say,
)
from agentq.errors import Invalid
from agentq.messages import shorten

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.threads.gathering import Summary
    from agentq.threads.papers import AskType, Version
    from agentq.threads.reading import Proposed, Shown, View

app = command()

LISTED, LONGEST = 20, 4000
"""How many threads are listed, and characters of a message that are shown unless the whole is asked for."""


def _checked(text: str | None) -> str | None:
    from agentq.threads.papers import is_id

    if text is not None and not is_id(text):
        raise Invalid(f"{text!r} is no id", hint="Letters, digits, '_' and '-', at most 63, a letter or digit first.")
    return text


ThreadId = Annotated[str, typer.Argument(metavar="ID", help="The thread.", show_default=False, callback=_checked)]
Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Who is asked.", show_default=False, callback=checked_name)]
Words = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What you say to it.", show_default=False)]
Task = Annotated[
    str, typer.Argument(metavar="TASK", help="The task that proposes it.", show_default=False, callback=checked_id)
]
OwnId = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Your own id; makes repeating safe.", callback=_checked),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="NAME",
        envvar="AGENTQ_AGENT",
        show_envvar=False,
        help="Who writes, and gets the completions.",
        callback=checked_name,
    ),
]


@app.callback()
def thread() -> None:
    """Write in threads: `@agent` in a message asks that agent, whose answer comes into the thread."""


@app.command()
def new(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="A few words.", show_default=False)],
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is about.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="The description, from a file.", show_default=False)
    ] = None,
    thread_id: OwnId = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Descriptions that agents propose hold at once: the gateway sees to it.")
    ] = False,
    by: From = None,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    store: Store = None,
    broker: Broker = None,
) -> None:
    """Open a thread; prints its id."""
    from agentq.context import read_file
    from agentq.threads.reading import Papers, view

    app = _load(store, broker)
    text = read_file(file).decode() if file else description
    opened = app.threads.open(
        title,
        by or app.settings.coordinator,
        description=text,
        thread_id=thread_id,
        refinements="accept" if accept else "ask",
        allow_secrets=allow_secrets,
    ).thread
    if json:
        echo_json(view(Papers(opened)))
    else:
        echo(opened.thread_id)
    _follow_up(app)


@app.command()
def post(
    thread_id: ThreadId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message.", show_default=False)],
    message_id: OwnId = None,
    by: From = None,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    store: Store = None,
    broker: Broker = None,
) -> None:
    """Post a message; prints its id, and the task of every agent that it mentions."""
    _post(_load(store, broker), thread_id, by, text, None, message_id, allow_secrets=allow_secrets, json=json)


def _asks(name: str, kind: "AskType", about: str, words: str) -> None:
    """Make the command that asks one agent in that way; without a text it says those words."""

    @app.command(name, help=about)
    def ask(
        thread_id: ThreadId,
        agent: Agent,
        text: Words = None,
        message_id: OwnId = None,
        by: From = None,
        allow_secrets: AllowSecrets = False,
        json: AsJson = False,
        store: Store = None,
        broker: Broker = None,
    ) -> None:
        said, named = text or words.format(agent=agent), (agent, kind)
        _post(_load(store, broker), thread_id, by, said, named, message_id, allow_secrets=allow_secrets, json=json)


_asks("assign", "assignment", "Assign the thread to an agent.", "Assigned to {agent}.")
_asks("run", "manual", "Have an agent act on the thread now.", "{agent}, have a look at this.")
_asks("refine", "refinement", "Have an agent propose a better description.", "{agent}, refine the description.")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(metavar="N", help="How many, at most.", min=1, max=1000)] = LISTED,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """List threads, the one with the newest message first."""
    from agentq.threads.gathering import summaries

    found = summaries(_load(store).threads.shelf, limit)
    if json:
        echo_json(found)
        return
    for one in found:
        echo(_summary(one))
    if not found:
        say("no threads; begin one: agentq thread new TITLE")


@app.command()
def show(
    thread_id: ThreadId,
    last: Annotated[int | None, typer.Option(metavar="N", help="Only the last messages.", min=1)] = None,
    full: Annotated[bool, typer.Option("--full", help="Long messages too.")] = False,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Show a thread: description, messages, their answers, and what is proposed. Others' words have a bar."""
    from agentq.threads.reading import view

    found = view(_load(store).threads.papers(thread_id))
    if json:
        echo_json(found)
        return
    for line in _lines(found, found.messages[-last:] if last else found.messages, None if full else LONGEST):
        echo(line)


@app.command()
def describe(
    thread_id: ThreadId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The whole new description.", show_default=False)],
    base: Annotated[int, typer.Option(metavar="N", help="The version that it replaces.", min=0, show_default=False)],
    by: From = None,
    allow_secrets: AllowSecrets = False,
    json: AsJson = False,
    store: Store = None,
    broker: Broker = None,
) -> None:
    """Change the description; prints the new version's number."""
    app = _load(store, broker)
    author = by or app.settings.coordinator
    _tell(app, app.threads.describe(thread_id, text, base, author, allow_secrets=allow_secrets), json=json)


@app.command()
def accept(
    thread_id: ThreadId,
    task_id: Task,
    by: From = None,
    json: AsJson = False,
    store: Store = None,
    broker: Broker = None,
) -> None:
    """Let the description hold that a task proposes; prints its number."""
    app = _load(store, broker)
    _tell(app, app.threads.accept(thread_id, task_id, by or app.settings.coordinator), json=json)


@app.command()
def decline(
    thread_id: ThreadId,
    task_id: Task,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why not.", show_default=False)] = None,
    by: From = None,
    allow_secrets: AllowSecrets = False,
    store: Store = None,
    broker: Broker = None,
) -> None:
    """Decline what a task proposes."""
    app = _load(store, broker)
    author = by or app.settings.coordinator
    app.threads.decline(thread_id, task_id, author, reason, allow_secrets=allow_secrets)
    _follow_up(app)


# ---------------------------------------------------------------------- what they share


def _load(store: str | None, broker: str | None = None) -> "App":
    from agentq.app import App

    return App.load(store=store, broker=broker)


def _post(
    app: "App",
    thread_id: str,
    by: str | None,
    text: str,
    named: "tuple[str, AskType] | None",
    message_id: str | None,
    *,
    allow_secrets: bool,
    json: bool,
) -> None:
    from agentq.threads.reading import shown

    author = by or app.settings.coordinator
    posted = app.threads.post(
        thread_id,
        author,
        text,
        message_id=message_id,
        kind=app.threads.kind_of(author),
        named=named,
        allow_secrets=allow_secrets,
    ).post
    if json:
        echo_json(shown(posted))
    else:
        echo(" ".join((posted.message_id, *(ask.task_id for ask in posted.asks))))
    for one in posted.not_asked:
        say(f"not asked: {one.agent}: {one.why}")
    _follow_up(app)


def _tell(app: "App", version: "Version", *, json: bool) -> None:
    if json:
        echo_json(version)
    else:
        echo(str(version.number))
    _follow_up(app)


def _follow_up(app: "App") -> None:
    """Hand on what follows, and remove the marks of what was handed on; what was not is found by its mark."""
    if undone := app.hand_over():
        say(undone)
        return
    for message in app.threads.due:
        app.threads.settle(*message)


def _summary(one: "Summary") -> str:
    said = f"  {one.last.author}, {ago(one.last.at)}: {shorten(one_line(one.last.text), 80)}" if one.last else ""
    writing = f"  writing: {', '.join(one.writing)}" if one.writing else ""
    waiting = f"  waiting for: {', '.join(one.waiting)}" if one.waiting else ""
    return f"{one.thread_id}  {one_line(one.title)}{said}{writing}{waiting}"


def _lines(found: "View", messages: "tuple[Shown, ...]", longest: int | None) -> Iterator[str]:
    described = found.description
    yield f"{found.thread_id}  {one_line(found.title)}"
    yield f"description {described.number}, by {described.by}"
    if described.text:
        yield quoted(_cut(described.text, longest))
    if len(messages) < len(found.messages):
        yield f"{len(found.messages) - len(messages)} older messages are not shown"
    for message in messages:
        yield _head(message)
        if message.text:
            yield quoted(_cut(message.text, longest))
    yield from (line for proposal in found.proposals for line in _proposal(found, proposal, longest))


def _head(message: "Shown") -> str:
    state = "" if message.state == "completed" else f"  {message.state}"
    stands = f"{message.task_state or 'not registered yet'}{', interrupted' if message.interrupted else ''}"
    waits = f" ({stands})" if message.state == "generating" and message.task_id else ""
    decided = f"  {message.decided.decision}" if message.decided else ""
    reason = f": {one_line(message.reason)}" if message.reason else ""
    when = ago(message.finished_at or message.at)
    return f"{message.message_id}  {message.author}  {when}{decided}{state}{waits}{reason}"


def _proposal(found: "View", proposal: "Proposed", longest: int | None) -> Iterator[str]:
    what = f"proposes instead of description {proposal.base}, {proposal.state}"
    yield f"{proposal.task_id} {what}: {one_line(proposal.why)}"
    if proposal.state == "open":
        yield quoted(_cut(proposal.text, longest))
        yield f"→ agentq thread accept {found.thread_id} {proposal.task_id}"


def _cut(text: str, longest: int | None) -> str:
    return text if longest is None else shorten(text, longest)
