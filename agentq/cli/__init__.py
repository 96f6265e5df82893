"""The command line: parse, call the app, print. Every command is a module of its own, imported when it is called."""

import functools
import io
import os
import signal
import sys
import warnings
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from agentq.errors import AgentqError, ExitCode

COMMANDS = {
    "submit": "Register a task and hand it to an agent's queue; prints its id.",
    "plan": "Submit tasks that wait for each other, as one.",
    "status": "Tell where a task stands, from its papers alone.",
    "why": "Tell why a task does not move, and what to do.",
    "list": "List tasks by state, agent, type, label, time or words.",
    "history": "Tell what happened to a task, and what its time went into.",
    "tree": "Show a task's plan, dependencies and retries.",
    "watch": "Show what happens to tasks as it happens, and what their agents print.",
    "top": "Show queues, workers and running tasks, live in the terminal.",
    "stats": "Tell what waits and since when, and how what ended went.",
    "wait": "Wait for tasks to end.",
    "result": "Check a task's evidence and print its result.",
    "verify": "Check the whole chain from a request to its result.",
    "inbox": "List unread completions.",
    "thread": "Write in threads, and ask agents there.",
    "claim": "Take an agent's next task, to do it yourself.",
    "renew": "Keep a task that you claimed.",
    "release": "Give back a task for another try.",
    "note": "Say what you are doing now, inside a running agent.",
    "say": "Add to your answer, inside a running agent; it is read as you write.",
    "complete": "Say that a task is done, inside its agent or by hand.",
    "fail": "Say that a task cannot be done, inside its agent or by hand.",
    "cancel": "Cancel a task or a plan, and stop what runs of it.",
    "approve": "Let a task start that waits for an approval.",
    "reject": "End a task that waits for an approval.",
    "retry": "Submit a finished task again as a new one that cites it.",
    "dlq": "Look at, retry and purge dead letters.",
    "keys": "Make keys that sign, and say whose signatures count.",
    "worker": "Make, check, install and run workers.",
    "workers": "List who is up, what each works on, and who went silent.",
    "metrics": "Serve metrics to Prometheus.",
    "store": "Bring tasks to another store; remove the evidence of old ones.",
    "ledger": "Show what lists and figures are read from, or make it anew.",
    "init": "Declare the engine's queues; safe to repeat.",
    "access": "Tell and set who may do what on RabbitMQ.",
    "token": "Make, list and revoke the tokens for the gateway.",
    "doctor": "Check engine, store and papers, and mend what can be mended.",
    "bridge": "Tell chat threads that their jobs have ended.",
    "serve": "Serve the API, live streams, workers elsewhere, and a page to look at.",
    "mcp": "Serve these tools to an agent over MCP.",
    "guide": "Print how a coordinator agent uses agentq well.",
    "demo": "Do the whole walk-through with a scripted agent.",
}


STEP_SECONDS = 1.0
"""How long a step of an event loop may go on after Ctrl-C: longer ones wait for a disk or a server."""


class Commands(TyperGroup):
    """The group of all commands; importing one is put off until it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"agentq.cli.{cmd_name}")
        command = get_command(module.app)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List all commands in `--help` without importing one of them."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, no_args_is_help=True)
def agentq(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """A durable work queue for AI agents: submit, stay responsive, read the evidence later."""
    if version:
        from agentq import __version__

        typer.echo(f"agentq {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point: runs the command and turns what went wrong into words and an exit code."""
    os.umask(0o077)  # until the settings are read
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, functools.partial(_interrupt, interrupts))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs more than most commands
    try:
        try:
            app()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except AgentqError as error:
        _end_interrupted(interrupts)
        _fail(f"agentq: {error}", error.hint, error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.BUG)
    except Exception as error:
        _end_interrupted(interrupts)
        if os.environ.get("AGENTQ_DEBUG"):
            raise
        _fail(
            f"agentq: this is a bug: {type(error).__name__}: {error}",
            "Run it again with AGENTQ_DEBUG=1 and report what it prints.",
            ExitCode.BUG,
        )


def _interrupt(interrupts: list[int], number: int, _: object) -> None:
    interrupts.append(number)
    warnings.simplefilter("ignore")  # what is broken off while it is made complains of it when it goes
    sys.unraisablehook = lambda _: None
    loop = _running_loop()
    if loop and len(interrupts) == 1:  # between two steps: inside one it may leave a pool with a thread it knows not of
        leaving = loop.call_soon_threadsafe(_leave)
        signal.signal(signal.SIGALRM, functools.partial(_break_off, leaving))
        signal.setitimer(signal.ITIMER_REAL, STEP_SECONDS)
    else:
        sys.exit(ExitCode.INTERRUPTED)


def _leave() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(ExitCode.INTERRUPTED)


def _break_off(leaving: Any, *_: object) -> None:
    leaving.cancel()
    sys.exit(ExitCode.INTERRUPTED)


def _running_loop() -> Any:
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return running and running()


def _end_interrupted(interrupts: list[int]) -> None:
    """End as interrupted when that was the cause: libraries in compiled code make errors of their own of it."""
    if interrupts:
        sys.exit(ExitCode.INTERRUPTED)


def _fail(what: str, hint: str, code: ExitCode) -> None:
    from agentq.cli.terms import say

    first, *more = what.replace("\r\n", "\n").split("\n")
    say("\n".join([first, *(line if line.startswith("  ") else f"  | {line}" for line in more)]))
    if hint:
        say(f"  → {hint}")
    sys.exit(code)
