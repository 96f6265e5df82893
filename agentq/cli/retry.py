"""`agentq retry`."""

from agentq.cli.terms import AsJson, Broker, NewId, Store, TaskId, command, echo, echo_json, say

app = command()


@app.command()
def retry(
    task_id: TaskId,
    new_id: NewId = None,
    json: AsJson = False,
    broker: Broker = None,
    store: Store = None,
) -> None:
    """Submit a finished task again as a new one that cites it; prints the new id."""
    import asyncio

    from agentq.app import App

    app = App.load(broker=broker, store=store)
    registered = asyncio.run(app.submit(app.coordinator.retry(task_id, new_id), allow_secrets=True))
    if json:
        echo_json(registered.envelope)
    else:
        echo(registered.envelope.task_id)
    if thread := registered.envelope.labels.get("thread"):
        to = registered.envelope.to
        say(f"its answer is not shown in {thread}; to ask again there: agentq thread post {thread} '@{to} …'")
