"""`agentq why`."""

from agentq.cli.terms import AsJson, Broker, Store, TaskId, command, echo, echo_json, hand_over, one_line, say

app = command()


@app.command()
def why(task_id: TaskId, json: AsJson = False, broker: Broker = None, store: Store = None) -> None:
    """Tell in one sentence why a task stands where it stands, and the next thing to do."""
    from agentq.app import App

    app = App.load(broker=broker, store=store)
    found = app.why(task_id)
    hand_over(app)
    if json:
        echo_json(found)
    else:
        echo(f"{task_id}  {found.state}: {one_line(found.reason)}")
        say(f"  → {found.next}")
