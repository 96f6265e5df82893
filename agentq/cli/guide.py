"""`agentq guide`."""

from importlib.resources import files

from agentq.cli.terms import command, echo

app = command()


@app.command()
def guide() -> None:
    """Print how a coordinator agent uses agentq well."""
    echo(files("agentq.cli").joinpath("guide.md").read_text(encoding="utf-8").rstrip())
