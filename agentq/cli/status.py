"""`agentq status`."""

from agentq.cli.terms import AsJson, Store, TaskIds, command, echo, echo_json, hand_over
from agentq.standing import line

app = command()


@app.command()
def status(
    ids: TaskIds,
    json: AsJson = False,
    store: Store = None,
) -> None:
    """Tell where tasks stand, from their papers alone: also with the broker down."""
    from agentq.app import App

    app = App.load(store=store)
    found = [app.coordinator.status(task_id) for task_id in ids]
    if json:
        echo_json(found[0] if len(found) == 1 else found)
    for one in () if json else found:
        echo(line(one))
        for member in app.coordinator.members(one.task_id) if one.tasks else ():
            echo(f"  {line(app.coordinator.status(member))}")
    hand_over(app)
