"""`agentq submit`."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentq.cli.terms import (
    AllowSecrets,
    AsJson,
    Broker,
    NewId,
    Sender,
    Store,
    checked_ids,
    command,
    echo,
    echo_json,
    hand_over,
    not_before,
    say,
    seconds,
)
from agentq.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentq.app import App
    from agentq.context import Context
    from agentq.coordinator import Registered
    from agentq.messages import Envelope

app = command()


def _flag(part: str) -> str:
    return "--id" if part == "task_id" else f"--{part.replace('_', '-')}"


@app.command()
def submit(
    to: Annotated[str, typer.Option(metavar="AGENT", help="The agent that does it.", show_default=False)],
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help="The kind of task.", show_default=False)],
    instructions: Annotated[
        str | None, typer.Option("--instructions", "-i", metavar="TEXT", help="What to do.")
    ] = None,
    file: Annotated[str | None, typer.Option("--file", metavar="PATH", help="A context document; - is stdin.")] = None,
    context_ref: Annotated[
        str | None, typer.Option(metavar="REF", help="A ref into the store, instead of --file.")
    ] = None,
    task_id: NewId = None,
    sender: Sender = None,
    priority: Annotated[str, typer.Option(metavar="LEVEL", help="low, normal, high or urgent.")] = "normal",
    ttl: Annotated[str | None, typer.Option(metavar="TIME", help="Expire unless started within: 90, 10m, 2h.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Stop an attempt after: 90, 10m, 2h.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(metavar="COUNT", help="How often to try.", show_default=False)
    ] = None,
    max_cost_usd: Annotated[
        float | None, typer.Option(metavar="DOLLARS", help="What all its attempts may cost.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="COUNT", help="The tokens that they may take.", show_default=False)
    ] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="Not before that time from now: 10m.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before that time: 2030-01-31T18:00.")] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Not before that task has completed. Repeatable.",
            callback=checked_ids,
            show_default=False,
        ),
    ] = None,
    run_if: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="completed, always, or changes_requested by a review: what --after must come to."
        ),
    ] = None,
    requires_approval: Annotated[
        bool, typer.Option("--requires-approval", help="Not before somebody approved it: agentq approve.")
    ] = False,
    review_by: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Who reviews the work, until it is approved.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Of work and review, at most (1 to 10).", show_default="3")
    ] = None,
    review_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The kind of task that a review is.", show_default="review")
    ] = None,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A piece of evidence that must come back. Repeatable.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", metavar="NAME", help="The report's format.")] = "markdown",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label. Repeatable.")] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="PLACE", help="The folder or URL of the repository to work on (label repo).")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="REVISION", help="The revision to start from (label base).")
    ] = None,
    reply_to: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the notice goes: results.<coordinator>.")
    ] = None,
    traceparent: Annotated[
        str | None, typer.Option(metavar="TEXT", envvar="TRACEPARENT", help="W3C trace context.")
    ] = None,
    allow_secrets: AllowSecrets = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, as `agentq wait` does.")] = False,
    wait_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Wait no longer than: 90, 10m, 2h (exit code 7).")
    ] = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Register a task and hand it to an agent's queue; prints its id once that is durable."""
    from agentq.app import App
    from agentq.asking import Asked, Words, request_for

    app = App.load(broker=broker, store=store, coordinator=sender)
    context, stem = _context(app, file, context_ref)
    limit = _patience(wait_timeout, delay, at)
    asked = Asked(
        to=to,
        type=type_,
        instructions=instructions,
        task_id=task_id or stem,
        priority=priority,
        ttl=ttl,
        timeout=timeout,
        max_attempts=max_attempts,
        max_cost_usd=max_cost_usd,
        max_tokens=max_tokens,
        delay=delay,
        at=at,
        after=after or (),
        run_if=run_if,
        requires_approval=requires_approval,
        review_by=review_by,
        rounds=rounds,
        review_type=review_type,
        expect=expect or (),
        format=output_format,
        labels=_labels(label or []),
        repo=repo,
        base=base,
        reply_to=reply_to,
        traceparent=traceparent,
    )
    words = Words(_flag, "Say what: --instructions TEXT, --file PATH, or both.", "See: agentq submit --help")
    request, contexts = request_for(asked, context, coordinator=app.settings.coordinator, store=app.store, words=words)
    registered = _run(app, request, contexts, allow_secrets=allow_secrets)
    if not registered.new:
        say(f"{registered.envelope.task_id} was registered before, with the same content")
    if wait or limit is not None:
        _wait(app, registered.envelope.task_id, limit, json=json)
    elif json:
        echo_json(registered.envelope)
    else:
        echo(registered.envelope.task_id)


def _run(app: "App", request: "Envelope", contexts: "Mapping[str, bytes]", *, allow_secrets: bool) -> "Registered":
    import asyncio

    if request.is_group:
        return asyncio.run(app.submit_plan(request, contexts, allow_secrets=allow_secrets))
    return asyncio.run(app.submit(request, contexts.get(request.task_id), allow_secrets=allow_secrets))


def _wait(app: "App", task_id: str, seconds: float | None, *, json: bool) -> None:
    from agentq.cli.wait import code_of, show
    from agentq.errors import WaitTimeout
    from agentq.messages import utc_now

    say(f"{task_id} is submitted")
    began = utc_now()
    ended = app.coordinator.wait([task_id], seconds, between=lambda: hand_over(app))
    app.tracing.received(ended, began)
    if not ended:
        raise WaitTimeout(
            f"{task_id} has not ended after {seconds:g} s",
            hint=f"Go on with other work. To wait on: agentq wait {task_id}",
        )
    show(ended, json=json, several=False)
    raise typer.Exit(code_of(ended))


def _context(app: "App", file: str | None, ref: str | None) -> "tuple[Context | None, str | None]":
    """The context document, and the id that its file gives the task."""
    from agentq.context import Context, check_text, context_at, read_context, task_id_of

    if file is not None and ref is not None:
        raise Invalid("--file and --context-ref name two contexts", hint="Give one of them.")
    if ref is not None:
        return context_at(app.store, ref), None
    if file == "-":
        return Context(check_text(sys.stdin.buffer.read(), "standard input")), None
    if file is not None:
        return read_context(app.store, Path(file)), task_id_of(Path(file))
    return None, None


def _patience(wait_timeout: str | None, delay: str | None, at: str | None) -> float | None:
    """The seconds of `--wait-timeout`; raises Invalid when they end before the task may start."""
    start = not_before(delay, at)
    if wait_timeout is None:
        return None
    limit = seconds("--wait-timeout", wait_timeout)
    if start and start > datetime.now(UTC) + timedelta(seconds=limit):
        raise Invalid(
            f"--wait-timeout {wait_timeout} ends before the task may start", hint="Wait longer, or leave it out."
        )
    return limit


def _labels(pairs: list[str]) -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in pairs if _is_pair(pair))


def _is_pair(text: str) -> bool:
    if "=" not in text or text.startswith("="):
        raise Invalid(f"--label {text!r} is no label", hint="Write --label key=value.")
    return True
