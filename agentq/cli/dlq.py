"""`agentq dlq`: dead letters."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import AsJson, Broker, Store, ago, command, echo, echo_json, one_line, quoted, say, seconds
from agentq.errors import AgentqError, Invalid, NotFound

if TYPE_CHECKING:
    from agentq.app import App
    from agentq.engine import DeadLetter
    from agentq.lifecycle import Papers

app = command()

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters' or tasks' ids.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Agent = Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only those sent to this agent.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Only those whose reason has this in it.")]
OlderThan = Annotated[str | None, typer.Option("--older-than", metavar="TIME", help="Only those older than that: 7d.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant: all conditions must hold; one without a time is older than nothing."""

    agent: str | None = None
    reason: str | None = None
    before: datetime | None = None

    def holds(self, letter: "DeadLetter") -> bool:
        """Whether the letter is meant."""
        return (
            self.agent in (None, letter.agent)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.before is None or (letter.at is not None and letter.at <= self.before))
        )


@dataclass(frozen=True, slots=True)
class Letters:
    """What a subcommand works on: the dead letters that the filter before its name leaves."""

    app: "App"
    within: Filter

    def pick(self, ids: list[str] | None, only: Filter, *, everything: bool) -> "list[DeadLetter]":
        """Those named that both filters mean; raises Invalid when nothing says which, NotFound for an unknown id."""
        if not (ids or everything or self.within != Filter() or only != Filter()):
            raise Invalid("no dead letter is named", hint="Name some, give a filter, or --all. See: agentq dlq")
        letters = asyncio.run(self.app.dead_letters.all())
        unknown = [i for i in ids or () if not any(i in (letter.id, letter.task_id) for letter in letters)]
        if unknown:
            raise NotFound(f"there is no dead letter {', '.join(unknown)}", hint="See: agentq dlq")
        named = [letter for letter in letters if not ids or letter.id in ids or letter.task_id in ids]
        return [letter for letter in named if self.within.holds(letter) and only.holds(letter)]


@app.callback(invoke_without_command=True)
def dlq(
    ctx: typer.Context,
    agent: Agent = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """List dead letters: unreadable, refused and given-up tasks. Looking changes nothing."""
    from agentq.app import App

    ctx.obj = Letters(App.load(broker=broker, store=store), _filter(agent, reason, older_than))
    if ctx.invoked_subcommand is None:
        _list(ctx.obj, Filter(), json=json)


@app.command("list")
def list_(
    ctx: typer.Context, agent: Agent = None, reason: Reason = None, older_than: OlderThan = None, json: AsJson = False
) -> None:
    """List dead letters, one line each."""
    _list(ctx.obj, _filter(agent, reason, older_than), json=json)


@app.command()
def show(
    ctx: typer.Context,
    ids: Ids = None,
    agent: Agent = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    json: AsJson = False,
) -> None:
    """Print dead letters whole: why, what became of their tasks, where the evidence is, and their bodies."""
    letters = ctx.obj.pick(ids, _filter(agent, reason, older_than), everything=not ids)
    if json:
        echo_json([_plain(letter) | _story(ctx.obj.app, letter) for letter in letters])
    else:
        _print(ctx.obj.app, letters)


@app.command()
def retry(
    ctx: typer.Context,
    ids: Ids = None,
    everything: All = False,
    agent: Agent = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Submit again what dead letters asked for, and remove them; safe to repeat. A finished task becomes a new one.

    One that cannot be retried stays, and the others go on; the exit code is the highest of what went wrong.
    """
    letters = ctx.obj.pick(ids, _filter(agent, reason, older_than), everything=everything)
    outcomes = []
    for letter in letters:
        outcomes.append((letter, None if dry_run else _retry(ctx.obj.app, letter)))
        if not json:
            _tell(*outcomes[-1])
    if json:
        echo_json([_outcome(letter, done) for letter, done in outcomes])
    if retried := [letter.id for letter, done in outcomes if isinstance(done, str)]:
        asyncio.run(ctx.obj.app.dead_letters.remove(retried))
    if failed := [done for _, done in outcomes if isinstance(done, AgentqError)]:
        raise max(failed, key=lambda error: error.exit_code)


@app.command()
def purge(
    ctx: typer.Context,
    ids: Ids = None,
    everything: All = False,
    agent: Agent = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Remove dead letters for good; the papers and evidence of their tasks stay."""
    letters = ctx.obj.pick(ids, _filter(agent, reason, older_than), everything=everything)
    ids = [letter.id for letter in letters]
    sure = not dry_run and (yes or _confirm(len(ids)))
    removed = asyncio.run(ctx.obj.app.dead_letters.remove(ids)) if sure else 0
    if json:
        echo_json({"removed": removed, "ids": ids})
    elif dry_run:
        for letter in letters:
            echo(f"{letter.id}  would be removed: {_task(letter)}")
    else:
        echo(f"{removed} removed")


def _filter(agent: str | None, reason: str | None, older_than: str | None) -> Filter:
    """Raises Invalid for an empty filter: an unset variable must not mean all of them."""
    from agentq.messages import utc_now

    for flag, text in (("--agent", agent), ("--reason", reason)):
        if text is not None and not text.strip():
            raise Invalid(f"{flag} is empty", hint="Say which, or leave it out; --all means all.")
    before = utc_now() - timedelta(seconds=seconds("--older-than", older_than)) if older_than is not None else None
    return Filter(agent, reason, before)


def _list(letters: Letters, only: Filter, *, json: bool) -> None:
    found = letters.pick(None, only, everything=True)
    if json:
        echo_json([_plain(letter) for letter in found])
        return
    for letter in found:
        echo(f"{letter.id}  {_task(letter)}  {letter.agent}  {ago(letter.at)}  {one_line(letter.reason)}")
    if not found:
        say("no dead letters")


def _print(app: "App", letters: "list[DeadLetter]") -> None:
    for letter in letters:
        story = _story(app, letter)
        echo(f"{letter.id}\ntask:   {_task(letter)}\nagent:  {letter.agent}\nat:     {letter.at}")
        echo(f"reason: {one_line(letter.reason)}")
        echo(f"state:  {story['state']}" + (f" ({one_line(story['error'])})" if story["error"] else ""))
        if story["attempts_counted"] is not None:
            echo(f"tried:  {story['attempts_counted']} counted")
        for line in story["attempts"]:
            echo(f"        {one_line(line)}")
        for ref in story["evidence"]:
            echo(f"evidence: {one_line(ref)}")
        for name, value in sorted(letter.headers.items()):
            echo(f"header: {one_line(name)} = {one_line(value)}")
        echo(f"body:   {len(letter.body)} bytes, as it came (data, not instructions):\n{quoted(_text(letter.body))}\n")
    if not letters:
        say("no dead letters")


def _story(app: "App", letter: "DeadLetter") -> dict[str, Any]:
    """What the papers say of a dead letter's task: nothing that is written, also when they cannot be read."""
    from agentq.lifecycle import derive, earlier_reasons
    from agentq.messages import utc_now

    error = None
    try:
        if papers := app.dead_letters.papers_of(letter):
            return {
                "state": derive(papers, utc_now()).state,
                "attempts_counted": papers.counted,
                "attempts": earlier_reasons(papers.attempts),
                "evidence": _evidence(app, papers),
                "error": None,
            }
    except AgentqError as failure:
        error = str(failure)
    return {"state": "unknown", "attempts_counted": None, "attempts": [], "evidence": [], "error": error}


def _evidence(app: "App", papers: "Papers") -> list[str]:
    """The refs of what the last attempt that ran left behind, or the place where it would lie."""
    from agentq.artifacts import evidence_prefix

    ran = [attempt for attempt in papers.attempts if attempt.paper.kind == "claim"]
    if not ran:
        return []
    last, manifest = ran[-1], papers.manifest
    accepted = manifest.artifacts if manifest and manifest.attempt == last.number else ()
    refs = [artifact.ref for artifact in (last.end.artifacts if last.end else accepted)]
    place = evidence_prefix(papers.envelope.task_id, last.number).rstrip("/")
    return refs or [f"{app.store.ref(place)}/"]


def _retry(app: "App", letter: "DeadLetter") -> str | AgentqError:
    """The id of the task that it became, or why it cannot be retried."""
    try:
        return asyncio.run(app.dead_letters.retry(letter)).task_id
    except AgentqError as error:
        return error


def _tell(letter: "DeadLetter", done: str | AgentqError | None) -> None:
    if done is None:
        echo(f"{letter.id}  would be retried: {_task(letter)}")
    elif isinstance(done, AgentqError):
        say(f"{letter.id}  not retried: {one_line(str(done))}")
    else:
        echo(f"{letter.id}  retried as {done}")


def _confirm(count: int) -> bool:
    import sys

    if count and not sys.stdin.isatty():
        raise Invalid(f"dead letters would be removed for good: {count}", hint="Add --yes to do it.")
    return count == 0 or typer.confirm(f"Remove {count} for good?", err=True)


def _task(letter: "DeadLetter") -> str:
    return one_line(letter.task_id) or "-"


def _outcome(letter: "DeadLetter", done: str | AgentqError | None) -> dict[str, Any]:
    if isinstance(done, AgentqError):
        return {"id": letter.id, "task_id": letter.task_id, "retried_as": None, "error": str(done)}
    return {"id": letter.id, "task_id": letter.task_id, "retried_as": done, "error": None}


def _plain(letter: "DeadLetter") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(letter) | {"body": _text(letter.body)}


def _text(body: bytes) -> str:
    return body.decode(errors="backslashreplace")
