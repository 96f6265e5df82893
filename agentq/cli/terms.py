"""What the commands share: their options, ids, durations and times, and how things are printed."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentq.cli.login import passwordless
from agentq.errors import Invalid
from agentq.harmless import one_line as one_line
from agentq.harmless import quoted as quoted
from agentq.harmless import size as size
from agentq.harmless import visible, visible_json
from agentq.messages import Message, is_key
from agentq.request import ahead as ahead
from agentq.request import past as past
from agentq.request import seconds as seconds
from agentq.standing import ago as ago
from agentq.standing import outcome as outcome
from agentq.standing import span as span

if TYPE_CHECKING:
    from agentq.app import App

_RULE = "letters, digits, '.', '_' and '-', starting with a letter or digit, at most {} long."


def _checked(text: str | None, what: str, longest: int) -> str | None:
    if text is not None and not is_key(text, longest):
        raise Invalid(f"{text!r} is no {what}", hint=f"Write {_RULE.format(longest)}")
    return text


def checked_id(text: str | None) -> str | None:
    return _checked(text, "task id", 128)


def checked_ids(texts: list[str] | None) -> list[str]:
    return [text for text in texts or () if checked_id(text)]


def checked_name(text: str | None) -> str | None:
    return _checked(text, "name", 64)


def checked_names(texts: list[str] | None) -> list[str]:
    return [text for text in texts or () if checked_name(text)]


Broker = Annotated[
    str | None,
    typer.Option("--broker", metavar="URL", help="amqp://… or sqlite:///…", show_default=False, callback=passwordless),
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="A folder, file:///… or s3://bucket/prefix", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id.", show_default=False, callback=checked_id)]
TaskIds = Annotated[
    list[str], typer.Argument(metavar="ID", help="The tasks' ids.", show_default=False, callback=checked_ids)
]
SomeIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Only these.", show_default=False, callback=checked_ids)
]
NewId = Annotated[
    str | None,
    typer.Option(
        "--id", metavar="ID", help="Your own id; makes repeating safe.", show_default=False, callback=checked_id
    ),
]
Sender = Annotated[
    str | None,
    typer.Option("--from", metavar="NAME", help="The coordinator, who gets the completion.", callback=checked_name),
]
By = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="NAME",
        envvar="AGENTQ_AGENT",
        show_envvar=False,
        help="Who says so; known inside a running agent.",
        callback=checked_name,
    ),
]
Who = Annotated[
    str | None,
    typer.Option("--by", metavar="WHO", help="Who says so; else the coordinator.", callback=checked_name),
]
Patience = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="Give up after: 90, 10m, 2h.", show_default=False)
]
Whose = Annotated[str | None, typer.Option("--for", metavar="NAME", help="Whose inbox.", callback=checked_name)]
Runner = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        envvar="AGENTQ_RUNNER",
        help="Another agent than the profile's: a kind of runner by its name, or a command.",
    ),
]
AgentNames = Annotated[
    list[str] | None,
    typer.Option(
        "--agent", metavar="NAME", help="An agent without a profile here. Repeatable.", callback=checked_names
    ),
]
TakeOver = Annotated[bool, typer.Option("--take-over", help="End a running attempt too.")]
LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format", metavar="text|json", envvar="AGENTQ_LOG_FORMAT", help="How a daemon logs: one record a line."
    ),
]
AllowSecrets = Annotated[
    bool, typer.Option("--allow-secrets", help="Let through what looks like a credential and is none.")
]


def command(name: str | None = None) -> typer.Typer:
    """A Typer of one module, plain and quick to print."""
    return typer.Typer(name=name, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def words(runner: str | None) -> tuple[str, ...]:
    """What `--runner` says, in words; raises Invalid when it is not quoted as for a shell."""
    import shlex

    try:
        return tuple(shlex.split(runner or ""))
    except ValueError as error:
        raise Invalid(f"the runner's command cannot be read: {error}", hint="Quote it as for a shell.") from error


def not_before(delay: str | None, at: str | None) -> datetime | None:
    """The moment of `--delay` or `--at`, None without them; raises Invalid when there are both."""
    if delay is not None and at is not None:
        raise Invalid("--delay and --at name two times", hint="Give one of them.")
    if delay is not None:
        return datetime.now(UTC) + timedelta(seconds=seconds("--delay", delay))
    return None if at is None else ahead("--at", at)


def patience(timeout: str | None) -> float | None:
    """The seconds of `--timeout`, None for no end."""
    return None if timeout is None else seconds("--timeout", timeout)


def echo(text: str) -> None:
    """Data, to stdout."""
    print(visible(text))


def say(text: str) -> None:
    """Words, to stderr."""
    print(visible(text), file=sys.stderr)


def echo_json(value: Message | Sequence[Message] | dict[str, Any] | list[Any]) -> None:
    """A model, or several, as JSON to stdout."""
    import json

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json", by_alias=True) if isinstance(item, Message) else item

    value = [plain(item) for item in value] if isinstance(value, (list, tuple)) else plain(value)
    print(visible_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def hand_over(app: "App") -> None:
    """Hand to the engine what may start now because of a command; the command itself has done its work."""
    if undone := app.hand_over():
        say(undone)
