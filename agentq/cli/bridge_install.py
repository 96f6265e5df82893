"""`agentq bridge install`."""

from pathlib import Path
from typing import Annotated

import typer

from agentq.cli.bridge_terms import As, Graph, MessagesKey, RunConfig, TenantKey
from agentq.cli.installing import (
    Force,
    Now,
    RunAs,
    Whose,
    folder_of,
    host,
    manager_of,
    must_run,
    print_units,
    put,
    start,
    tell_secrets,
)


def install(
    graph: Graph,
    coordinator: As = "chat",
    messages_key: MessagesKey = "messages",
    tenant_key: TenantKey = "tenant_id",
    config: RunConfig = None,
    writes: Annotated[
        list[str] | None,
        typer.Option("--writes", metavar="PATH", help="What the graph writes to. Repeatable.", show_default=False),
    ] = None,
    system: Whose = None,
    run_as: RunAs = "agentq",
    now: Now = False,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units and write nothing.")] = False,
) -> None:
    """Write a bridge's unit for systemd, with the folder, paths and settings of here."""
    from agentq.app import App
    from agentq.units import bridge_units

    app = App.load()
    manager = manager_of(system)
    command = ["bridge", "run", "--as", coordinator, "--graph", graph]
    usual = {
        "--messages-key": (messages_key, "messages"),
        "--tenant-key": (tenant_key, "tenant_id"),
        "--config": (config, None),
    }
    command += [
        part for flag, (said, default) in usual.items() if said is not None and said != default for part in (flag, said)
    ]
    files = bridge_units(
        coordinator,
        command,
        app.settings.model_copy(update={"broker": app.passwordless_broker}),
        host(manager, run_as),
        folder_of(manager),
        place=Path.cwd(),
        writes=[Path(path).absolute() for path in writes or ()],
    )
    if dry_run:
        return print_units(files)
    must_run(manager, "agentq bridge run --graph MODULE:NAME")
    put(files, force=force)
    names = "AGENTQ_BROKER_PASSWORD and the graph's own keys" if app.has_password else "the graph's own keys"
    tell_secrets(names, manager, "bridge")
    start(manager, f"agentq-bridge@{coordinator}", now=now)
