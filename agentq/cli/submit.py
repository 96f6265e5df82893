"""`agentq submit`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from agentq.cli.terms import AsJson, Broker, Store, command, echo, echo_json, moment, say, seconds
from agentq.errors import Invalid

app = command()

DO_CONTEXT = "Do what the context document asks."


@app.command()
def submit(
    to: Annotated[str, typer.Option(help="The agent that does it.", show_default=False)],
    type_: Annotated[str, typer.Option("--type", help="The kind of task.", show_default=False)],
    instructions: Annotated[str | None, typer.Option("--instructions", "-i", help="What to do.")] = None,
    file: Annotated[str | None, typer.Option("--file", metavar="PATH", help="A context document; - is stdin.")] = None,
    context_ref: Annotated[str | None, typer.Option(help="A ref into the store, instead of --file.")] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="Your own id; makes repeating safe.")] = None,
    sender: Annotated[
        str | None, typer.Option("--from", help="The coordinator; its inbox gets the completion.")
    ] = None,
    priority: Annotated[str, typer.Option(help="low, normal, high or urgent.")] = "normal",
    ttl: Annotated[str | None, typer.Option(help="Expire unless started within: 90, 10m, 2h.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Stop an attempt after: 90, 10m, 2h.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="How often to try.", show_default=False)] = None,
    delay: Annotated[str | None, typer.Option(help="Not before that time from now: 10m.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before that time: 2030-01-31T18:00.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="A piece of evidence that must come back. Repeatable.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="The report's format.")] = "markdown",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label. Repeatable.")] = None,
    repo: Annotated[str | None, typer.Option(help="The git repository to work on (label repo).")] = None,
    base: Annotated[str | None, typer.Option(help="The revision to start from (label base).")] = None,
    reply_to: Annotated[str | None, typer.Option(help="Where the notice goes; results.<coordinator>.")] = None,
    traceparent: Annotated[str | None, typer.Option(envvar="TRACEPARENT", help="W3C trace context.")] = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Register a task and hand it to an agent's queue; prints its id once that is durable."""
    from agentq.app import App
    from agentq.messages import Envelope, explain, new_task_id, utc_now

    app = App.load(broker=broker, store=store, coordinator=sender)
    coordinator = app.settings.coordinator
    context, stem = _context(app.store, file, context_ref)
    request: dict[str, Any] = {
        "task_id": task_id or stem or new_task_id(),
        "from": coordinator,
        "to": to,
        "type": type_,
        "priority": priority,
        "reply_to": reply_to or f"results.{coordinator}",
        "instructions": instructions if instructions is not None else (DO_CONTEXT if context else ""),
        "expected_output": {"format": output_format, "artifacts": expect or []},
        "ttl_seconds": seconds(ttl) if ttl else None,
        "timeout_seconds": seconds(timeout) if timeout else None,
        "max_attempts": max_attempts,
        "not_before": _not_before(delay, at, utc_now()),
        "labels": _labels(label or [], repo, base),
        "traceparent": traceparent,
    }
    if context and context.ref:
        request |= {"context_ref": context.ref, "context_sha256": context.sha256}
    try:
        envelope = Envelope.model_validate(request)
    except ValidationError as error:
        raise Invalid(f"the task cannot be submitted: {explain(error)}", hint="See: agentq submit --help") from error
    registered = _run(app, envelope, context.data if context and not context.ref else None)
    if json:
        echo_json(registered.envelope)
    else:
        echo(registered.envelope.task_id)
    if not registered.new:
        say(f"{registered.envelope.task_id} was registered before, with the same content")


def _run(app: Any, envelope: Any, context: bytes | None) -> Any:
    import asyncio

    return asyncio.run(app.submit(envelope, context))


def _context(store: Any, file: str | None, ref: str | None) -> tuple[Any, str | None]:
    from agentq.context import Context, check_text, context_at, read_context, task_id_of

    if file and ref:
        raise Invalid("--file and --context-ref name two contexts", hint="Give one of them.")
    if ref:
        return context_at(store, ref), None
    if file == "-":
        return Context(check_text(sys.stdin.buffer.read(), "standard input")), None
    if file:
        return read_context(store, Path(file)), task_id_of(Path(file))
    return None, None


def _not_before(delay: str | None, at: str | None, now: Any) -> Any:
    from datetime import timedelta

    if delay and at:
        raise Invalid("--delay and --at name two times", hint="Give one of them.")
    if delay:
        return now + timedelta(seconds=seconds(delay))
    return moment(at) if at else None


def _labels(pairs: list[str], repo: str | None, base: str | None) -> dict[str, str]:
    labels = dict(pair.partition("=")[::2] for pair in pairs if _is_pair(pair))
    if repo:
        labels["repo"] = repo if "://" in repo else str(Path(repo).resolve())
    if base:
        labels["base"] = base
    return labels


def _is_pair(text: str) -> bool:
    if "=" not in text or text.startswith("="):
        raise Invalid(f"{text!r} is no label", hint="Write --label key=value.")
    return True
