"""What a person decides in the page: cancel, approve exactly what is shown, try dead letters again."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.place import Place, Served
from tests.browser.sight import Sight
from tests.daemons.harness import until

Look = Callable[..., Sight]
WORK = {"to": "alice", "type": "work", "instructions": "Do it."}
REPORT = 'echo "All done." > "$AGENTQ_OUTPUT/report.md"'


def state(sight: Sight, words: str) -> None:
    """Wait until the open task is said to stand there."""
    sight.see(sight.page.locator(".task-head .badge"), words)


@pytest.mark.promise("page-decides")
def test_a_running_task_is_watched_and_cancelled(any_place: Place, look: Look) -> None:
    any_place.worker("alice", "echo 'I begin.'\nhold 1\necho 'I go on.'\nhold 2")
    served = any_place.serve()
    task = served.call("POST", "/api/tasks", WORK)["task_id"]
    sight = look(served, f"#/tasks/{task}")
    state(sight, "processing")
    sight.see("I begin.")
    any_place.open_gate("1")
    sight.see("I go on.")
    sight.shot("running")
    sight.page.get_by_role("button", name="Cancel …").click()
    sight.page.get_by_role("dialog").get_by_role("textbox").fill("not needed any more")
    sight.page.get_by_role("dialog").get_by_role("button", name="Cancel the task").click()
    state(sight, "cancelled")
    sight.see(sight.page.locator("main"), "not needed any more")
    assert any_place.json("status", task)["state"] == "cancelled"


def test_who_cancels_is_told_what_becomes_of_a_task_that_has_begun_meanwhile(
    place: Place, gateway: Served, look: Look
) -> None:
    place.agent("alice", "hold 1")
    task = gateway.call("POST", "/api/tasks", WORK)["task_id"]
    sight = look(gateway, f"#/tasks/{task}")
    state(sight, "queued")
    cancel = sight.page.get_by_role("button", name="Cancel …")
    cancel.click()
    sight.see(sight.page.get_by_role("dialog"), "It will not be started.")
    sight.press("Escape")
    place.worker("alice", "hold 1")
    state(sight, "processing")
    cancel.click()
    sight.see(sight.page.get_by_role("dialog"), "Its agent is stopped")


@pytest.mark.promise("page-decides")
def test_what_is_approved_is_what_is_shown(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", REPORT)
    asked = WORK | {"instructions": "Delete the old table.", "context": "The table is `orders_2019`."}
    task = gateway.call("POST", "/api/tasks", asked | {"requires_approval": True})["task_id"]
    sight = look(gateway, "#/approvals")
    sight.page.locator("summary").filter(has_text=task).click()
    panel = sight.page.get_by_role("region", name=f"Approval of {task}")
    sight.see(panel, "Delete the old table.")
    sight.see(panel, "The table is `orders_2019`.")
    digest = gateway.call("GET", f"/api/tasks/{task}/request")["digest"]
    sight.see(panel.locator(".digest"), digest)
    sight.shot("asked")
    panel.get_by_role("button", name="Approve exactly this").click()
    sight.see("Nothing waits for an approval.")
    approved = [key for key in place.keys(f"controls/{task}/") if "/approval-" in key]
    assert approved == [f"controls/{task}/approval-{digest}.json"]
    sight.go(f"#/tasks/{task}")
    state(sight, "completed")


@pytest.mark.promise("page-decides")
def test_who_approves_sees_the_end_of_a_long_request_and_where_it_works(
    place: Place, gateway: Served, look: Look
) -> None:
    place.agent("alice", REPORT)
    hidden = "Tidy the docs.\n" + "\n" * 60 + "Then delete the production database."
    asked = WORK | {"instructions": hidden, "labels": {"repo": "billing", "base": "release"}, "requires_approval": True}
    task = gateway.call("POST", "/api/tasks", asked | {"context": "one\n" + "\n" * 60 + "the end of it"})["task_id"]
    for address in ("#/approvals", f"#/tasks/{task}"):
        sight = look(gateway, address)
        if address == "#/approvals":
            sight.page.locator("summary").filter(has_text=task).click()
        panel = sight.page.get_by_role("region", name=f"Approval of {task}")
        for label in ("repo=billing", "base=release"):
            sight.see(panel.locator(".facts"), label)
        texts = panel.locator(".theirs pre")
        expect(texts).to_have_count(2)
        assert texts.evaluate_all("all => all.map(one => one.scrollHeight - one.clientHeight)") == [0, 0]


def test_who_approves_sees_how_the_tasks_stand_that_it_needs(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", REPORT)
    gateway.call("POST", "/api/tasks", WORK | {"id": "first"})
    gateway.call("POST", "/api/tasks", WORK | {"id": "then", "after": ["first"], "requires_approval": True})
    sight = look(gateway, "#/approvals")
    sight.page.locator("summary").filter(has_text="then").click()
    panel = sight.page.get_by_role("region", name="Approval of then")
    sight.see(panel.locator(".facts .badge"), "completed")
    sight.shot("needs")
    panel.get_by_role("link", name="first").click()
    state(sight, "completed")


@pytest.mark.promise("page-decides")
def test_what_was_altered_is_not_approved(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    task = gateway.call("POST", "/api/tasks", WORK | {"context": "small", "requires_approval": True})["task_id"]
    sight = look(gateway, f"#/tasks/{task}")
    sight.tolerant = True
    sight.see(sight.page.get_by_role("button", name="Approve exactly this"))
    (place.home / "store" / "tasks" / f"{task}.md").write_text("something else")
    sight.page.get_by_role("button", name="Approve exactly this").click()
    sight.see(sight.page.locator(".toast.alert"))
    expect(sight.page.get_by_role("region", name=f"Approval of {task}")).to_be_focused()
    sight.shot("refused")
    assert place.json("status", task)["state"] == "pending"


def test_a_task_is_rejected_with_a_reason(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    task = gateway.call("POST", "/api/tasks", WORK | {"requires_approval": True})["task_id"]
    sight = look(gateway, f"#/tasks/{task}")
    sight.page.get_by_role("button", name="Reject …").click()
    sight.page.get_by_role("dialog").get_by_role("textbox").fill("too dangerous")
    sight.page.get_by_role("dialog").get_by_role("button", name="Reject").click()
    state(sight, "cancelled")
    sight.see(sight.page.locator("main"), "too dangerous")


@pytest.mark.promise("page-decides")
def test_a_dead_letter_is_tried_again(any_place: Place, look: Look) -> None:
    any_place.worker("alice", "exit 1")
    served = any_place.serve()
    task = served.call("POST", "/api/tasks", WORK | {"max_attempts": 1})["task_id"]
    sight = look(served, "#/dead-letters")
    letter = sight.page.locator("li.letter").filter(has_text=task)
    sight.see(letter)
    sight.shot("there")
    any_place.agent("alice", REPORT)
    letter.get_by_role("button", name="Retry").click()
    sight.see(sight.page.locator(".toast"), "tried again")
    sight.gone(letter)
    until(lambda: any(row["retry_of"] == task for row in retries(any_place)), "a task that tries it again")


def retries(place: Place) -> list[dict[str, str | None]]:
    """The tasks that are retries, with their state."""
    app = place.app()
    found = [app.records.envelope(row["task_id"]) for row in place.json("list")["tasks"]]
    return [{"retry_of": one.retry_of} for one in found if one]


def test_a_task_is_created_elsewhere_and_shows_up(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    sight = look(gateway, "#/tasks")
    sight.see("There are no tasks yet.")
    task = place.cli("submit", "--to", "alice", "--type", "work", "--instructions", "Later.")
    sight.see(sight.page.locator("main table"), task)
    sight.page.get_by_label("State").select_option("completed")
    sight.see("No task is like that.")
    sight.page.get_by_label("State").select_option("queued")
    expect(sight.page.locator("main table tbody tr")).to_have_count(1)
