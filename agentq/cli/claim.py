"""`agentq claim`: work for an agent that is itself interactive."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.terms import (
    AsJson,
    Broker,
    Store,
    checked_name,
    command,
    echo,
    echo_json,
    one_line,
    quoted,
    say,
    seconds,
    span,
)
from agentq.errors import ExitCode, Invalid

if TYPE_CHECKING:
    from agentq.pull import Taken

app = command()

CONTEXT_LIMIT = 16_000
SHORTEST_LEASE = 10.0


@app.command()
def claim(
    agent: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The agent you are.", show_default=False, callback=checked_name)
    ],
    wait: Annotated[str, typer.Option(metavar="TIME", help="Wait for one so long: 60, 10m.")] = "0",
    lease: Annotated[str, typer.Option(metavar="TIME", help="It is yours so long, and again after a renew.")] = "15m",
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Take the agent's next task and print it. Exit code 12 when there is none.

    Unless you renew it in time, somebody else gets it.
    """
    from agentq.app import App

    patience, held_for = seconds("--wait", wait), seconds("--lease", lease)
    if held_for < SHORTEST_LEASE:
        raise Invalid(f"--lease {lease!r} is too short", hint=f"At least {SHORTEST_LEASE:g} s.")
    app = App.load(broker=broker, store=store)
    taken = asyncio.run(app.puller.claim(agent, patience, held_for))
    if taken is None:
        say(f"nothing to do for {agent}")
        raise typer.Exit(ExitCode.NOTHING_YET)
    from agentq.lineage import idempotency_key

    key = idempotency_key(app.records, taken.start.papers.envelope)
    if json:
        echo_json(_plain(taken) | {"idempotency_key": key})
    else:
        _print(taken, agent, key)


def _plain(taken: "Taken") -> dict[str, Any]:
    papers, claim = taken.start.papers, taken.start.claim
    return {
        "task": papers.envelope.model_dump(mode="json", by_alias=True),
        "attempt": claim.attempt,
        "token": claim.token,
        "lease_seconds": claim.lease_seconds,
        "lease_until": taken.until.isoformat(),
        "context": None if taken.context is None else taken.context.decode(errors="replace"),
        "needs": [need.model_dump(mode="json", by_alias=True) for need in papers.needs],
        "earlier": [{"attempt": a.number, "reason": a.end.reason} for a in papers.earlier if a.end],
    }


def _print(taken: "Taken", agent: str, key: str) -> None:
    papers, claim = taken.start.papers, taken.start.claim
    task = papers.envelope
    lease = span(claim.lease_seconds)
    echo(f"{task.task_id}  attempt {claim.attempt}  {task.type} from {task.from_}  yours for {lease}")
    echo(quoted(task.instructions))
    if taken.context is not None:
        text = taken.context.decode(errors="replace")
        echo(f"context {task.context_ref}:\n{quoted(text[:CONTEXT_LIMIT])}")
        if len(text) > CONTEXT_LIMIT:
            echo(f"cut at {CONTEXT_LIMIT} of {len(text)} characters")
    for need in papers.needs:
        if found := need.manifest:
            echo(f"it needed {need.task_id}, which is {found.status}: {found.result_ref or one_line(found.reason)}")
            echo(quoted(one_line(found.summary))) if found.summary else None
    if key != task.task_id:
        echo(f"again for {key}: side effects of both are one")
    for attempt in papers.earlier:
        if attempt.end:
            echo(f"attempt {attempt.number} brought nothing: {one_line(attempt.end.reason)}")
    if task.expected_output.artifacts:
        echo(f"expected: {', '.join(task.expected_output.artifacts)}")
    say(f"  → Before {taken.until:%H:%M:%SZ}, and again in time: agentq renew {task.task_id}")
    pieces = " --artifact NAME=PATH" if task.expected_output.artifacts else ""
    say(f"  → When done: agentq complete {task.task_id} --from {agent} --result-file PATH --summary TEXT{pieces}")
    say(f"  → Else: agentq fail {task.task_id} --from {agent} --reason TEXT, or: agentq release {task.task_id}")
